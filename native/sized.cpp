#include "sized.h"

#include <algorithm>
#include <limits>

namespace bitconv {
namespace {

constexpr int chunk_pixels = 96;  // small maps share a chunk until it has this many output pixels: fuller tiles

// The bases of one group and border case, for the filters of all its blocks.
std::vector<std::int32_t> bases(const Shape& shape, const std::int32_t* tap_bits, int filters, const std::uint8_t* padded) {
    std::vector<std::int32_t> sums(filters, 0);
    for (int tap = 0; tap < shape.taps(); ++tap, tap_bits += filters)
        for (int f = 0; f < filters; ++f) sums[f] += padded[tap] ? 2 * tap_bits[f] : shape.channels;
    return sums;
}

}  // namespace

Sized::Sized(const Layer& layer, const Blocks& blocks, const Implementation& implementation, bool wide,
             std::int64_t height, std::int64_t width)
    : plan(layer.shape, height, width), plane_words(plane_pixels(plan.pixels)),
      image_bytes(std::size_t(layer.shape.groups) * blocks.words * plane_words * 4) {
    const std::size_t fitting = std::numeric_limits<std::int32_t>::max() / image_bytes;  // offsets are int32
    const std::size_t wanted = (chunk_pixels - 1) / plan.output_pixels + 1;
    images_per_chunk = int(std::max<std::size_t>(1, std::min(fitting, wanted)));

    const int filters = blocks.per_group * implementation.lanes;
    for (int group = 0; group < layer.shape.groups; ++group) {
        const std::int32_t* tap_bits = &blocks.tap_bits[std::size_t(group) * layer.shape.taps() * filters];
        for (int border = 0; border < plan.cases; ++border) {
            const std::uint8_t* padded = &plan.padded[std::size_t(border) * layer.shape.taps()];
            const std::vector<std::int32_t> sums = bases(layer.shape, tap_bits, filters, padded);
            if (wide) {
                wide_bases.insert(wide_bases.end(), sums.begin(), sums.end());
            } else {
                for (std::int32_t sum : sums) narrow_bases.push_back(std::int16_t(std::uint16_t(sum)));
            }
        }
    }
}

}  // namespace bitconv
