#include "blocks.h"

#include <algorithm>
#include <cstring>

namespace bitconv {
namespace {

// Channels [first, first + count) of a filter's tap, count 32 or 16 and first a multiple of it.
std::uint32_t channel_bits(const std::uint64_t* tap, int first, int count) {
    const std::uint64_t bits = tap[first / 64] >> (first % 64);
    return std::uint32_t(bits) & (count == 32 ? ~0u : 0xffffu);
}

std::size_t row_bytes(const Implementation& implementation) {
    return implementation.weights == Weights::bytes ? 32 * std::size_t(implementation.lanes)
                                                    : 4 * std::size_t(implementation.lanes);
}

// Writes filter s of a block's row.
void place(std::uint8_t* block, int row, int s, std::uint32_t bits, const Implementation& implementation) {
    const int lanes = implementation.lanes;
    std::uint8_t* from = block + row * row_bytes(implementation);
    switch (implementation.weights) {
    case Weights::pairs:
        if (row % 2 == 0) std::memcpy(from + 4 * (lanes + s), &bits, 4);  // first xor second, if that stays 0
        if (row % 2 == 1) {
            std::uint32_t first;
            std::memcpy(&first, from + 4 * (s - lanes), 4);
            bits ^= first;
        }
        std::memcpy(from + 4 * s, &bits, 4);
        break;
    case Weights::words:
        std::memcpy(from + 4 * s, &bits, 4);
        break;
    case Weights::nibbles:
        for (int j = 0; j < 4; ++j)
            from[j * lanes + (implementation.lane_of ? implementation.lane_of[s] : s)] = (bits >> (4 * j)) & 15;
        break;
    case Weights::bytes:
        from = block + row / 2 * 2 * row_bytes(implementation) + s * 64 + row % 2 * 32;
        for (int c = 0; c < 32; ++c) from[c] = (bits >> c) & 1 ? 0xff : 1;
        break;
    }
}

}  // namespace

Blocks::Blocks(const Layer& layer, const Implementation& implementation) {
    const Shape& shape = layer.shape;
    const int lanes = implementation.lanes, taps = shape.taps(), words64 = shape.words64();
    const int channels = channels_per_word(implementation.encoding), step = implementation.rows_per_step;
    planes = (shape.channels + channels - 1) / channels;
    rows = (taps * planes + step - 1) / step * step;
    per_group = (shape.filters + lanes - 1) / lanes;
    block_bytes = rows * row_bytes(implementation);
    const std::size_t size = std::size_t(shape.groups) * per_group * block_bytes;
    const int absent = implementation.weights == Weights::bytes ? 1 : 0;
    std::memset(bytes.reserve(size), absent, size + slack_bytes);
    tap_bits.assign(std::size_t(shape.groups) * taps * per_group * lanes, 0);

    for (int f = 0; f < shape.total_filters(); ++f) {
        const int group = f / shape.filters, in_group = f % shape.filters;
        std::uint8_t* of_block = const_cast<std::uint8_t*>(block(group, in_group / lanes));
        for (int tap = 0, row = 0; tap < taps; ++tap) {
            const std::uint64_t* bits = &layer.words[(std::size_t(f) * taps + tap) * words64];
            for (int q = 0; q < planes; ++q, ++row)
                place(of_block, row, in_group % lanes, channel_bits(bits, q * channels, channels), implementation);
            std::int32_t& count = tap_bits[(std::size_t(group) * taps + tap) * per_group * lanes + in_group];
            for (int w = 0; w < words64; ++w) count += __builtin_popcountll(bits[w]);
        }
    }
}

}  // namespace bitconv
