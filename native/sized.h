// A layer and one image size: the plan, the layout, and the bases (contract.h, "Padding" and
// "Endings").
#pragma once
#include "blocks.h"
#include "contract.h"
#include "layer.h"
#include "plan.h"

namespace bitconv {

struct Sized {
    Plan plan;
    Layout layout;
    std::size_t plane_words, image_bytes;  // of a packed image
    std::size_t base_stride;
    std::vector<std::int32_t>
        wide_bases;  // [group], then by layout [case][filters of all blocks] or
    std::vector<std::int16_t>
        narrow_bases;  // [filter of all blocks][cases, filled up]; one of the two is filled

    Sized(const Layer& layer, const Blocks& blocks, const Implementation& implementation,
          std::int64_t height, std::int64_t width);

    // For multiplications with an ending, which have filters in lanes; `thresholds` [groups *
    // filters], each at most one beyond a dot product, are taken off the bases; null: none.
    Sized(const Layer& layer, const Blocks& blocks, const Implementation& implementation,
          std::int64_t height, std::int64_t width, const std::int32_t* thresholds);

    // The bases of a group from one of its filters on.
    const void* bases(int group, int filter) const;

private:
    Sized(Plan planned, Layout chosen, const Layer& layer, const Blocks& blocks,
          const Implementation& implementation, const std::int32_t* thresholds);

    std::size_t group_bases_;
};

}  // namespace bitconv
