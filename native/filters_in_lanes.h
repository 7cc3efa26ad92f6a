// Filters in lanes: the sums of a run of pixels against some blocks of filters, then their
// epilogue, which turns them.
#pragma once
#include <algorithm>

#include "contract.h"
#include "epilogue.h"

namespace bitconv {

// The panels of a run against some blocks.
template <typename Sum>
struct Tile {
    const std::uint8_t* panels;
    std::size_t panel_bytes;  // distance to the next
    int pixels;
    int rows;
    const std::uint8_t* weights;  // the first block
    std::size_t block_bytes;      // distance to the next
    int blocks;
    const Sum* bases;  // [case][base_stride]
    std::size_t base_stride;
    const std::int32_t* border_case;
    Sum* sums;  // [pixel][sum_stride], written; whole tiles of the kernel's size may be
};

// The first word of a pixel.
template <typename Sum>
inline const std::uint8_t* words_of(const Tile<Sum>& tile, unsigned pixel) {
    return tile.panels + pixel / panel_width * tile.panel_bytes + 4 * (pixel % panel_width);
}

template <typename Sum>
inline const Sum* bases_of(const Tile<Sum>& tile, int pixel) {
    return tile.bases + tile.border_case[pixel] * tile.base_stride;
}

// Sums of a call with an ending: pixels [0, pixels) of the call's filters [first, first + count).
struct SumsToEnd {
    const void* sums;  // [pixels][sum_stride], int16 or int32
    int pixels;
    int first, count;
};

// Lanes is the implementation's, `Blocks` the most that its tiles take; `tiles`, `epilogue` and
// `end` are entered with this machine's instructions.
template <int Lanes, int Blocks, typename Sum, void (*tiles)(const Tile<Sum>&),
          void (*epilogue)(const EpilogueArguments&), void (*end)(const SumsToEnd&, const Ending&)>
void multiply_filters_in_lanes(const MultiplyArguments& a) {
    static_assert(Blocks * Lanes <= sum_stride, "sums of a pixel overlap");
    static_assert((run_panels + 1) * panel_width * sum_stride * sizeof(Sum) <= scratch_bytes,
                  "sums do not fit");
    Sum* sums = reinterpret_cast<Sum*>(a.scratch);
    const int at_once =
        a.pixels == 1 ? sum_stride : Blocks * Lanes;  // one pixel: many blocks against its words
    for (int filter = 0; filter < a.filters; filter += at_once) {
        const int filters = std::min(at_once, a.filters - filter);
        Tile<Sum> tile;
        tile.rows = a.rows;
        tile.weights = a.weights + filter / Lanes * a.block_bytes;
        tile.block_bytes = a.block_bytes;
        tile.blocks = (filters - 1) / Lanes + 1;
        tile.bases = static_cast<const Sum*>(a.bases) + filter;
        tile.base_stride = a.base_stride;
        tile.panels = a.panels;
        tile.panel_bytes = a.panel_bytes;
        tile.pixels = a.pixels;
        tile.border_case = a.border_case;
        tile.sums = sums;
        tiles(tile);
        if (a.ending) end({sums, a.pixels, filter, filters}, *a.ending);
        else
            epilogue({sums, a.pixels, filters, a.y + filter * a.filter_stride, a.filter_stride,
                      a.scale + filter, a.bias + filter});
    }
}

}  // namespace bitconv
