// What depends on the image's size: which pixel every tap of every output pixel reads, and which
// border case that is.
#pragma once
#include <cstdint>
#include <vector>

#include "contract.h"
#include "layer.h"

namespace bitconv {

struct OutputSize {
    std::int64_t height, width;
};

// Height and width of the output. Throws std::invalid_argument where the kernel does not fit or a
// size overflows.
OutputSize output_size(const Shape& shape, std::int64_t height, std::int64_t width);

struct Plan {
    std::int64_t height, width;
    std::int32_t pixels, output_pixels;
    int panels;                         // of panel_width output pixels each, the last perhaps fewer
    std::vector<Window> windows;        // [panel][tap]
    std::vector<std::int32_t> offsets;  // of scattered windows, panel_width each
    std::vector<std::int32_t>
        border_case;                   // [output_pixels], and room for the lanes of a last panel
    std::vector<std::uint8_t> padded;  // [case][tap]: 1 where the tap lies outside the image
    int cases;

    Plan(const Shape& shape, std::int64_t height, std::int64_t width);
};

}  // namespace bitconv
