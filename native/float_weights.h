// What the plans of float convolutions share: the weights of a layer, and the copy of what lies
// around its image.
#pragma once
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "buffer.h"
#include "endings.h"
#include "layer.h"

namespace bitconv {

// In which order the terms of a sum are taken: in runs of terms that lie next to each other in an
// image, from a channel of a tap on, and in blocks of runs.
struct Order {
    struct Run {
        int tap, channel;
    };
    std::vector<Run> runs;
    std::vector<FloatBlock> blocks;
    bool rounded = false;
    // Not 0: the last pixels of an image, their number modulo this one, take all terms as one
    // block.
    int last_pixels = 0;

    // For each tap, for each channel of a block. The taps of a row of the kernel are one run where
    // they lie next to each other.
    static Order by_taps(const Shape& shape, int block) {
        Order order;
        const bool rows = block == shape.channels && shape.groups == 1 && shape.dilation[1] == 1;
        const int taps = rows ? shape.kernel[1] : 1;
        for (int channel = 0; channel < shape.channels; channel += block) {
            for (int tap = 0; tap < shape.taps(); tap += taps) order.runs.push_back({tap, channel});
            order.blocks.push_back(
                {shape.taps() / taps, std::min(block, shape.channels - channel) * taps});
        }
        return order;
    }

    // For each channel, for each tap, beginning with the term `first` and ending with the one
    // before it. The first block has `first_block` terms, the others have `block`, the last perhaps
    // fewer.
    static Order by_channels(const Shape& shape, int block, int first, int first_block) {
        Order order;
        const int terms = shape.taps() * shape.channels;
        order.runs.reserve(std::size_t(terms));
        for (int term = 0; term < terms; ++term)
            order.runs.push_back(
                {(first + term) % terms % shape.taps(), (first + term) % terms / shape.taps()});
        for (int at = 0, size = first_block; at < terms; at += size, size = block)
            order.blocks.push_back({std::min(size, terms - at), 1});
        return order;
    }
};

// Weights in units of filters, [group][unit][term][channel_unit], terms as they are summed.
struct FloatWeights {
    Shape shape;
    Order order;
    int units;  // of a group
    Buffer<float> filled;

    FloatWeights(const Shape& of, Order in, const std::vector<float>& weights)
        : shape(of), order(std::move(in)), units((of.filters + channel_unit - 1) / channel_unit) {
        const std::size_t size = std::size_t(shape.groups) * units * terms() * channel_unit;
        std::fill_n(filled.reserve(size), size, 0.0f);
        const int taps = shape.taps();
        for (int f = 0; f < shape.total_filters(); ++f) {
            const float* from = weights.data() + std::size_t(f) * terms();
            float* to =
                filled.get() + f % shape.filters % channel_unit +
                (std::size_t(f / shape.filters) * units + f % shape.filters / channel_unit) *
                    terms() * channel_unit;
            auto run = order.runs.begin();
            for (const FloatBlock& block : order.blocks)
                for (auto end = run + block.runs; run < end; ++run)
                    for (int t = run->channel; t < run->channel + block.terms; ++t)
                        *std::exchange(to, to + channel_unit) =
                            from[t % shape.channels * taps + run->tap + t / shape.channels];
        }
    }

    int terms() const { return shape.taps() * shape.channels; }

    const float* of(int group, int unit) const {
        return filled.get() + (std::size_t(group) * units + unit) * terms() * channel_unit;
    }

    // Where the runs of a pixel begin, from the first tap on, in an image of that many floats a row
    // and a column.
    std::vector<std::int64_t> runs_at(std::int64_t row, std::int64_t column) const {
        std::vector<std::int64_t> at;
        at.reserve(order.runs.size());
        for (const Order::Run& run : order.runs)
            at.push_back(run.tap / shape.kernel[1] * row * shape.dilation[0] +
                         run.tap % shape.kernel[1] * column * shape.dilation[1] + run.channel);
        return at;
    }

    // The arguments that are the weights' own, from a unit of filters of a group on.
    FloatArguments arguments(int group, int unit) const {
        FloatArguments a = {};
        a.blocks = order.blocks.data();
        a.block_count = int(order.blocks.size());
        a.terms = terms();
        a.rounded = order.rounded;
        a.weights = of(group, unit);
        return a;
    }
};

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
