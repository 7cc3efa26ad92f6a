// What depends on the image's size: which pixel every tap of every output pixel reads, and the bases of border cases.
#pragma once
#include <cstdint>
#include <vector>

#include "contract.h"
#include "layer.h"

namespace bitconv {

struct OutputSize {
    std::int64_t height, width;
};

// Height and width of the output. Throws std::invalid_argument where the kernel does not fit or a size overflows.
OutputSize output_size(const Shape& shape, std::int64_t height, std::int64_t width);

struct Plan {
    std::int64_t height, width;
    std::int32_t pixels, output_pixels;
    std::size_t offset_stride;          // output_pixels and room for one whole tile
    std::vector<std::int32_t> offsets;  // [tap][offset_stride], bytes; beyond output_pixels: the zero pixel
    std::vector<std::int32_t> border_case;  // [offset_stride]; beyond output_pixels: any case
    std::vector<std::uint8_t> padded;       // [case][tap]: 1 where the tap lies outside the image
    int cases;

    Plan(const Shape& shape, std::int64_t height, std::int64_t width);
};

}  // namespace bitconv
