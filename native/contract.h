// The contract of the bit convolution: what every instruction set receives, computes and owns.
//
// Arithmetic
//   One bit per value: b(v) = 1 where v > threshold, else 0; 1 stands for +1 and 0 for -1. NaN compares false: -1.
//   For +-1 values x, w with bits b(x), b(w):  x * w = 1 - 2 * (b(x) xor b(w)).  Summed over the n values of the
//   taps that lie inside the image:
//
//       dot = n - 2 * mismatches,   mismatches = number of positions where the bits differ.
//
// Tail bits: channels beyond the last one are 0 in inputs and weights alike, so they never mismatch and need no mask.
//
// Padding: a padded tap contributes exactly 0. It reads the zero pixel (all bits 0) that closes every plane, and so
//   counts popcount(w_tap) mismatches. The base takes them back, at no cost in the inner loop:
//
//       dot = base - 2 * mismatches,   base = n + 2 * sum over padded taps of popcount(w_tap).
//
//   base depends on the filter and on which taps are padded (the border case); it is computed once per image size.
//
// Packed input: planes of 32-bit words, one word per pixel; plane q holds the channels [q*c, (q+1)*c) of a group,
//   c = channels_per_word of the encoding:
//     dense    c = 32: bit i is channel i.
//     nibbles  c = 16: byte j is 16 * (bits of channels 4j .. 4j+3, the lowest bit the lowest channel), which is the
//              byte offset of row (those bits) in a table of sixteen rows of 16 bytes.
//   A plane has plane_pixels(height*width) words, a multiple of 16 (64 bytes) above height*width; word height*width is
//   the zero pixel. Planes of an image: [group][q].
//
// Packed weights: blocks of `lanes` filters of one group, [block][tap][q], each entry one vector row:
//     dense    `lanes` 32-bit words, word s is filter s's channels, encoded as the input's.
//     nibbles  4 rows of `lanes` bytes; byte lane_of[s] of row j is filter s's channels 4j .. 4j+3, 0 .. 15.
//   A last block's missing filters are 0; their sums are computed and not written.
//
// Sums: dot products in filter order, [pixel][sum_stride] int16 or int32: the base of the pixel's border case less twice
//   the mismatches. int16 where the dot product fits, |dot| <= taps * channels <= 32767; bases and partial sums may wrap
//   there, and being taken modulo 2^16 they still end in the dot product. int32 above. Every path gives the same integers.
//
// Epilogue: y = float(dot) * scale, rounded, then + bias, rounded: two IEEE float32 operations, never one fused
//   multiply-add. float(dot) is exact up to 2^24. Absent scale is 1 and absent bias is -0, both exact identities.
//
// Ownership: kernels allocate nothing, throw nothing, keep nothing. Buffers are the caller's, 64-byte aligned, and end
//   in slack_bytes that may be read or, where they are written, overwritten.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bitconv {

enum class Encoding { dense, nibbles };

constexpr std::size_t alignment = 64;
constexpr std::size_t slack_bytes = 256;
constexpr int int16_dot_limit = 32767;
constexpr int max_lanes = 64;
constexpr int max_tile_pixels = 16;

constexpr int channels_per_word(Encoding encoding) { return encoding == Encoding::dense ? 32 : 16; }
constexpr std::size_t plane_pixels(std::size_t pixels) { return (pixels + 16) / 16 * 16; }

// Channels [0, channels) of one group's plane, pixels [0, pixels): x[c * channel_stride + p] against thresholds[c].
struct PackArguments {
    const float* x;
    std::size_t channel_stride;
    const float* thresholds;  // channels_per_word of them (those past `channels` are ignored)
    int channels;             // 1 .. channels_per_word
    std::size_t pixels;
    std::uint32_t* plane;
};

// One tile: some output pixels (Implementation::tile_pixels) against one or two adjacent blocks of filters.
struct TileArguments {
    const std::uint8_t* x;           // packed planes of one group
    const std::int32_t* offsets;     // [tap][offset_stride]: byte offset of the tap's pixel in a plane, per output pixel
    std::size_t offset_stride;
    int taps;
    int words;                       // planes per group
    std::size_t plane_bytes;
    const std::uint8_t* weights;     // the first block
    std::size_t block_bytes;         // distance to the next
    const void* bases;               // [case][base_stride], from the first block's first filter on; of the sums' type
    std::size_t base_stride;
    const std::int32_t* border_case; // [pixels]
    void* sums;                      // [pixels][sum_stride], written
    std::size_t sum_stride;
};

// The bases of the tile's pixel p for its block `vector`.
template <typename Sum>
inline const Sum* bases_of(const TileArguments& a, int p, int vector, int lanes) {
    return static_cast<const Sum*>(a.bases) + a.border_case[p] * a.base_stride + vector * lanes;
}

template <typename Sum>
inline Sum* sums_of(const TileArguments& a, int p, int vector, int lanes) {
    return static_cast<Sum*>(a.sums) + p * a.sum_stride + vector * lanes;
}

struct EpilogueArguments {
    const void* sums;                // [pixels][sum_stride]
    std::size_t sum_stride;
    int pixels;
    int filters;
    float* y;                        // y[f * filter_stride + p]
    std::size_t filter_stride;
    const float* scale;              // [filters]
    const float* bias;               // [filters]
};

// A loop that lives in registers: the most binary multiply-adds this instruction set can do, for the bench's ideal.
// Runs `rounds` rounds and returns the binary multiply-adds done; `sink` keeps the result alive.
using PeakLoop = std::uint64_t (*)(std::uint64_t rounds, std::uint64_t* sink);

// One instruction set. A new one is a file that defines an Implementation and a line in implementations.h.
struct Implementation {
    const char* name;
    bool (*supported)();
    Encoding encoding;
    int lanes;                       // filters per block
    int tile_pixels[2];              // of a large tile and of a small one, for the last pixels of a run
    const std::uint8_t* lane_of;     // nibbles: which byte of a row holds filter s; null: s
    void (*pack)(const PackArguments&);
    // [0: large, 1: small][blocks - 1][0: int16 sums, 1: int32 sums]
    void (*tile[2][2][2])(const TileArguments&);
    void (*epilogue[2])(const EpilogueArguments&);
    PeakLoop peak;
};

}  // namespace bitconv
