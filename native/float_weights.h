// What the plans of float convolutions share: the weights of a layer, and the copy of what lies
// around its image.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "buffer.h"
#include "endings.h"
#include "layer.h"

namespace bitconv {

struct Order {
    bool by_channels, rounded;
    int first_term, first_block;  // FloatArguments says what these are
    int block;                    // at most what a sum has
    int last_pixels;  // the last pixels of an image, their number modulo this one, make one sum
};

// Weights in units of filters, [group][unit][term][channel_unit], terms as they are summed.
struct FloatWeights {
    Shape shape;
    Order order;
    int units;  // of a group
    Buffer<float> filled;

    FloatWeights(const Shape& of, const Order& in, const std::vector<float>& weights)
        : shape(of), order(in), units((of.filters + channel_unit - 1) / channel_unit) {
        const std::size_t taps = std::size_t(shape.taps()), channels = std::size_t(shape.channels);
        const std::size_t size = std::size_t(shape.groups) * units * taps * channels * channel_unit;
        std::fill_n(filled.reserve(size), size, 0.0f);
        for (int f = 0; f < shape.total_filters(); ++f) {
            const std::size_t unit =
                std::size_t(f / shape.filters) * units + f % shape.filters / channel_unit;
            for (std::size_t c = 0; c < channels; ++c)
                for (std::size_t tap = 0; tap < taps; ++tap)
                    filled.get()[(unit * taps * channels + term(c, tap)) * channel_unit +
                                 f % shape.filters % channel_unit] =
                        weights[(std::size_t(f) * channels + c) * taps + tap];
        }
    }

    int terms() const { return shape.taps() * shape.channels; }
    bool one_sum_by_taps() const {
        return !order.by_channels && !order.rounded && order.block == shape.channels;
    }

private:
    std::size_t term(std::size_t channel, std::size_t tap) const {
        if (order.by_channels)
            return (channel * shape.taps() + tap + terms() - order.first_term) % terms();
        const std::size_t first = channel / order.block * order.block;
        const std::size_t in_block = std::min<std::size_t>(order.block, shape.channels - first);
        return first * shape.taps() + tap * in_block + channel - first;
    }
};

// Where the taps of a pixel are, from its first one on, in an image of that many floats a row and a
// column; of `columns` taps in each row of the kernel.
inline std::vector<std::int64_t> taps_at(const Shape& shape, std::int64_t row, std::int64_t column,
                                         int columns) {
    std::vector<std::int64_t> at;
    for (int ky = 0; ky < shape.kernel[0]; ++ky)
        for (int kx = 0; kx < columns; ++kx)
            at.push_back(ky * row * shape.dilation[0] + kx * column * shape.dilation[1]);
    return at;
}

// Copies rows of an image, with zeros for what is beyond it, to `copy`, `pitch` floats a row. Of
// each pixel the first `channels` floats.
inline void copy_padded(const float* x, const Extent& in, std::int64_t channels, std::int64_t top,
                        std::int64_t left, std::int64_t rows, std::int64_t columns, float* copy,
                        std::int64_t pitch) {
    const std::int64_t first = std::min(std::max<std::int64_t>(left, 0), left + columns),
                       end = std::max(first, std::min(left + columns, in.width));  // inside
    for (std::int64_t iy = top; iy < top + rows; ++iy, copy += pitch) {
        if (iy < 0 || iy >= in.height) {
            std::fill_n(copy, columns * channels, 0.0f);
            continue;
        }
        const float* from = x + (iy * in.width + first) * in.channels;
        float* to = std::fill_n(copy, (first - left) * channels, 0.0f);
        if (channels == in.channels) to = std::copy_n(from, (end - first) * channels, to);
        else
            for (std::int64_t ix = first; ix < end; ++ix, from += in.channels)
                to = std::copy_n(from, channels, to);
        std::fill_n(to, (left + columns - end) * channels, 0.0f);
    }
}

}  // namespace bitconv
