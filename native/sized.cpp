#include "sized.h"

#include <limits>
#include <stdexcept>
#include <utility>

namespace bitconv {
namespace {

Layout chosen(const Shape& shape, const Implementation& implementation, int rows,
              const OutputSize& size) {
    if (implementation.pixels_in_lanes &&
        implementation.pixels_in_lanes(rows, int(size.height * size.width), shape.filters))
        return Layout::pixels;
    const bool narrow = std::int64_t(shape.taps()) * shape.channels <= int16_dot_limit;
    return narrow ? Layout::filters_int16 : Layout::filters_int32;
}

// A base is at most twice a dot product's length, and a threshold may take off one length and one
// more.
Layout chosen_for_ending(const Shape& shape, bool thresholds) {
    const std::int64_t length = std::int64_t(shape.taps()) * shape.channels;
    return (thresholds ? 3 * length + 1 : length) <= int16_dot_limit ? Layout::filters_int16
                                                                     : Layout::filters_int32;
}

// The bases of one group and border case, for the filters of all its blocks.
std::vector<std::int32_t> bases_of_case(const Shape& shape, const std::int32_t* tap_bits,
                                        int filters, const std::uint8_t* padded) {
    std::vector<std::int32_t> bases(filters, 0);
    for (int tap = 0; tap < shape.taps(); ++tap, tap_bits += filters)
        for (int f = 0; f < filters; ++f)
            bases[f] += padded[tap] ? 2 * tap_bits[f] : shape.channels;
    return bases;
}

}  // namespace

Sized::Sized(const Layer& layer, const Blocks& blocks, const Implementation& implementation,
             std::int64_t height, std::int64_t width)
    : Sized(
          Plan(layer.shape, height, width),
          chosen(layer.shape, implementation, blocks.rows, output_size(layer.shape, height, width)),
          layer, blocks, implementation, nullptr) {}

Sized::Sized(const Layer& layer, const Blocks& blocks, const Implementation& implementation,
             std::int64_t height, std::int64_t width, const std::int32_t* thresholds)
    : Sized(Plan(layer.shape, height, width), chosen_for_ending(layer.shape, thresholds), layer,
            blocks, implementation, thresholds) {}

Sized::Sized(Plan planned, Layout chosen, const Layer& layer, const Blocks& blocks,
             const Implementation& implementation, const std::int32_t* thresholds)
    : plan(std::move(planned)),
      layout(chosen),
      plane_words(plane_pixels(plan.pixels)),
      image_bytes(std::size_t(layer.shape.groups) * blocks.planes * plane_words * 4) {
    const int filters = blocks.per_group * implementation.lanes, cases = plan.cases;
    const bool by_filter = layout == Layout::pixels;
    base_stride = by_filter ? (std::size_t(cases) + 15) / 16 * 16 : std::size_t(filters);
    group_bases_ = by_filter ? base_stride * filters : base_stride * cases;
    const std::size_t size = group_bases_ * layer.shape.groups;
    if (layout == Layout::filters_int16) narrow_bases.resize(size);
    else wide_bases.resize(size);
    for (int group = 0; group < layer.shape.groups; ++group) {
        const std::int32_t* tap_bits =
            &blocks.tap_bits[std::size_t(group) * layer.shape.taps() * filters];
        for (int border = 0; border < cases; ++border) {
            const std::uint8_t* padded = &plan.padded[std::size_t(border) * layer.shape.taps()];
            const std::vector<std::int32_t> here =
                bases_of_case(layer.shape, tap_bits, filters, padded);
            for (int f = 0; f < filters; ++f) {
                const int base = here[f] - (thresholds && f < layer.shape.filters
                                                ? thresholds[group * layer.shape.filters + f]
                                                : 0);
                const std::size_t at =
                    group * group_bases_ +
                    (by_filter ? f * base_stride + border : border * base_stride + f);
                if (layout == Layout::filters_int16)
                    narrow_bases[at] = std::int16_t(std::uint16_t(base));
                else wide_bases[at] = base;
            }
        }
    }
}

const void* Sized::bases(int group, int filter) const {
    const std::size_t at =
        group * group_bases_ + filter * (layout == Layout::pixels ? base_stride : 1);
    if (layout == Layout::filters_int16) return &narrow_bases[at];
    return &wide_bases[at];
}

}  // namespace bitconv
