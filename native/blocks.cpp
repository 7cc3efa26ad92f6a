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

// Writes filter s of a block's row.
void place(std::uint8_t* block, int row, int s, std::uint32_t bits,
           const Implementation& implementation) {
    const int lanes = implementation.lanes;
    std::uint8_t* from = block + std::size_t(row) * 4 * lanes;
    std::uint8_t* word = from + 4 * s;
    switch (implementation.encoding) {
        case Encoding::pairs:
            if (row % 2 == 0) {
                std::memcpy(word + 4 * lanes, &bits, 4);  // stays, if no second row follows
            } else {
                std::uint32_t first;
                std::memcpy(&first, word - 4 * lanes, 4);
                bits ^= first;
            }
            std::memcpy(word, &bits, 4);
            break;
        case Encoding::words: std::memcpy(word, &bits, 4); break;
        case Encoding::nibbles:
            for (int j = 0; j < 4; ++j)
                from[j * lanes + (implementation.lane_of ? implementation.lane_of[s] : s)] =
                    (bits >> (4 * j)) & 15;
            break;
    }
}

}  // namespace

Blocks::Blocks(const Layer& layer, const Implementation& implementation) {
    const Shape& shape = layer.shape;
    const int lanes = implementation.lanes, taps = shape.taps(), words64 = shape.words64();
    const int channels = channels_per_word(implementation.encoding),
              step = rows_per_step(implementation.encoding);
    planes = (shape.channels + channels - 1) / channels;
    rows = (taps * planes + step - 1) / step * step;
    per_group = (shape.filters + lanes - 1) / lanes;
    block_bytes = std::size_t(rows) * 4 * lanes;
    const std::size_t size = std::size_t(shape.groups) * per_group * block_bytes;
    std::memset(bytes.reserve(size), 0, size + slack_bytes);
    tap_bits.assign(std::size_t(shape.groups) * taps * per_group * lanes, 0);

    for (int f = 0; f < shape.total_filters(); ++f) {
        const int group = f / shape.filters, in_group = f % shape.filters;
        std::uint8_t* of_block = const_cast<std::uint8_t*>(block(group, in_group / lanes));
        for (int tap = 0, row = 0; tap < taps; ++tap) {
            const std::uint64_t* bits = &layer.words[(std::size_t(f) * taps + tap) * words64];
            for (int q = 0; q < planes; ++q, ++row)
                place(of_block, row, in_group % lanes, channel_bits(bits, q * channels, channels),
                      implementation);
            std::int32_t& count =
                tap_bits[(std::size_t(group) * taps + tap) * per_group * lanes + in_group];
            for (int w = 0; w < words64; ++w) count += __builtin_popcountll(bits[w]);
        }
    }
}

}  // namespace bitconv
