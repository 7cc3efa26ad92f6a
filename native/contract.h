// The contract of the bit convolution: what every instruction set receives, computes and owns.
//
// Arithmetic
//   One bit per value: b(v) = 1 where v > threshold, else 0; 1 stands for +1 and 0 for -1. NaN
//   compares false: -1. For +-1 values x, w with bits b(x), b(w):  x * w = 1 - 2 * (b(x) xor b(w)).
//   Summed over the n values of the taps that lie inside the image:
//
//       dot = n - 2 * mismatches,   mismatches = number of positions where the bits differ.
//
// Tail bits: channels beyond the last one are 0 in inputs and weights alike, so they never mismatch
// and need no mask.
//
// Padding: a padded tap contributes exactly 0. Its input bits are all 0, and so it counts
// popcount(w_tap) mismatches.
//   The base takes them back, at no cost in the inner loop:
//
//       dot = base - 2 * mismatches,   base = n + 2 * sum over padded taps of popcount(w_tap).
//
//   base depends on the filter and on which taps are padded (the border case); it is computed once
//   per image size.
//
// Three steps, a function each: an image is packed to bits (pack); the words that the taps of some
// output pixels read
//   are gathered from it (gather); they are multiplied with filters, and the output is written
//   (multiply).
//
// Packed input: planes of 32-bit words, one word per pixel; plane q holds the channels [q*c,
// (q+1)*c) of a group,
//   c = channels_per_word of the encoding:
//     words, pairs   c = 32: bit i is channel i.
//     nibbles        c = 16: byte j is 16 * (bits of channels 4j .. 4j+3, the lowest bit the lowest
//     channel).
//   A plane has plane_pixels(height*width) words, a multiple of 16 (64 bytes). Planes of an image:
//   [group][q].
//
// Panel: the words that up to panel_width output pixels read, [row][panel_width]; row tap*planes +
// q is tap's word of
//   plane q, 0 where the tap is padded or the pixel beyond the last. The rows are filled up with
//   rows of 0 to a multiple of rows_per_step; in pairs, the second row of a step then holds first
//   xor second. In nibbles, the words of pixels 2k and 2k + 1 are woven: byte 2j is byte j of the
//   first, byte 2j + 1 is byte j of the second / 16, so that the two are the offset of a row in a
//   table of 256.
//
// Packed weights: blocks of `lanes` filters of one group, [block][row], the rows as in a panel:
//     words    `lanes` 32-bit words, word s is filter s's channels
//     pairs    the same, and the second row of a step holds first xor second
//     nibbles  4 rows of `lanes` bytes; byte lane_of[s] of row j is filter s's channels 4j .. 4j+3,
//     0 .. 15
//   A last block's missing filters are 0; what they give is not written.
//
// Layouts: filters in the lanes of a register and pixels one after the other, or pixels in the
// lanes and filters one after
//   the other. Bases come in the order that is read: [case][base_stride] or [filter][base_stride].
//   Sums of filters in lanes are dot products in filter order: int16 where the dot product fits,
//   |dot| <= taps * channels <= 32767; bases and partial sums may wrap there, and being taken
//   modulo 2^16 they still end in the dot product. int32 above and for pixels in lanes. Every path
//   gives the same integers.
//
// Epilogue: y = float(dot) * scale, rounded, then + bias, rounded: two IEEE float32 operations,
// never one fused
//   multiply-add. float(dot) is exact up to 2^24. Absent scale is 1 and absent bias is -0, both
//   exact identities.
//
// Endings: in a program, what follows the sums of filters in lanes is data (Ending): float steps in
// order, each rounded by
//   itself, then the value is stored [pixel][channel] or compared, or both; what is compared gives
//   the packed bits that the next gather reads. Where only a sign reads the sums, an integer
//   threshold T per filter replaces all steps; it is taken off the bases beforehand, and the bit is
//   sum > 0. Sums then fit int16 where 3 * taps * channels + 1 does. map() ends float values
//   [pixel][channel] in the same way. Per-filter vectors are filled up to whole units of 16.
//
// Ownership: kernels allocate nothing, throw nothing, keep nothing. Buffers are the caller's,
// 64-byte aligned, and end
//   in slack_bytes that may be read or, where they are written, overwritten.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bitconv {

enum class Encoding { words, pairs, nibbles };
enum class Layout { filters_int16, filters_int32, pixels };

constexpr std::size_t alignment = 64;
constexpr std::size_t slack_bytes = 256;
constexpr int int16_dot_limit = 32767;
constexpr int panel_width = 16;
constexpr std::size_t panel_row_bytes = 4 * panel_width;
constexpr int run_panels = 4;  // at most this many panels are multiplied at once
constexpr std::size_t scratch_bytes = 64 << 10;

constexpr int channels_per_word(Encoding encoding) {
    return encoding == Encoding::nibbles ? 16 : 32;
}
constexpr int bit_of(Encoding encoding, int channel) {  // of a plane's word
    return encoding == Encoding::nibbles ? channel / 4 * 8 + 4 + channel % 4 : channel;
}
constexpr int rows_per_step(Encoding encoding) { return encoding == Encoding::pairs ? 2 : 1; }
constexpr int channel_unit = 16;  // what an ending works on at once
constexpr int max_steps = 24;

constexpr std::size_t plane_pixels(std::size_t pixels) { return (pixels + 15) / 16 * 16; }

// Channels [0, channels) of one group's plane, pixels [0, pixels), of v = x[c * channel_stride +
// p]. The bit is v > thresholds[c]; or, where there are highs, thresholds[c] <= v <= highs[c], and
// then the word is xored with flip.
struct PackArguments {
    const float* x;
    std::size_t channel_stride;
    const float* thresholds;  // channels_per_word of them (those past `channels` are ignored)
    int channels;             // 1 .. channels_per_word
    std::size_t pixels;
    std::uint32_t* plane;
    const float* highs;  // channels_per_word of them, or null
    std::uint32_t flip;  // bits as in a plane
};

// What a tap reads for the pixels of a panel: bit p of `inside` says that pixel p reads a word at
// all. Those words follow one another, pixel p's at byte start + 4 * p of a plane; or they are
// scattered, at the bytes offsets[start + p].
struct Window {
    std::int32_t start;
    std::uint16_t inside;
    std::uint16_t scattered;
};

// One panel, of one group of one image.
struct GatherArguments {
    const std::uint8_t* x;  // its packed planes
    std::size_t plane_bytes;
    int planes;
    int taps;
    const Window* windows;  // [tap]
    const std::int32_t* offsets;
    std::uint8_t* panel;
};

// One float32 step on v, the value of a pixel and channel. A NaN stays one, but where a comparison
// says otherwise.
enum class StepKind {
    multiply,   // v * a
    add,        // v + a
    normalize,  // fma(v - a, b, c), the form of CNTK's BatchNormalization where there is a fused
                // multiply-add
    normalize_apart,  // (v - a) * b + c, rounded three times
    relu,             // v < 0 ? 0 : v
    relu_halves,      // 0.5 * v + 0.5 * |v|, rounded three times, the form of CNTK's ReLU: infinity
                      // for infinity, NaN for -infinity
    relu_fused,       // fma(v, 0.5, 0.5 * |v|), its form where MKL runs AVX2 code: of some
                      // negative subnormal numbers it is -0
    leaky,            // v > 0 ? v : v * a
    clip,             // v < a ? a : v, then v > b ? b : v
    add_value,        // v + value[pixel][channel]
    multiply_value,   // v * value[pixel][channel]
};

struct Step {
    StepKind kind;
    const float *a, *b, *c;  // [channel], filled up to whole units
    const float* value;  // value[pixel * pixel_stride + channel * channel_stride]; the last unit's
                         // may be read whole
    std::size_t pixel_stride;
    int channel_stride;  // 1, or 0 for one value to all channels
};

// Everything from the first pixel and channel of the call on; the first channel begins a plane.
struct Ending {
    const Step* steps;
    int count;         // up to max_steps
    bool sign_of_sum;  // only bits, of sum > 0: no steps, no y, no low and high
    float* y;          // y[pixel * pixel_stride + channel], or null
    std::size_t pixel_stride;
    std::uint32_t* plane;  // plane[q * plane_words + pixel * word_stride], or null
    std::size_t plane_words, word_stride;
    const float *low,
        *high;  // the bit is low <= v <= high, xored with flip; past the last channel low > high
    const std::uint16_t* flip;  // [unit], bit i is channel i of the unit
};

// Ends float values x[pixel * pixel_stride + channel]; none past the last channel is read.
struct MapArguments {
    const float* x;
    std::size_t pixel_stride;
    int pixels, channels;
    const Ending* ending;
};

// A float32 convolution of pixels with filters: fma(x, weight, sum), or where products are rounded
// sum + x * weight, from 0, term by term. Each block of terms makes a sum of its own, and these are
// added up in turn. The same order on every implementation. Then the ending.
struct FloatBlock {
    int runs, terms;  // so many runs, each of so many terms whose values lie next to each other
};
constexpr int float_run = 64;  // at most this many pixels at once
struct FloatArguments {
    const float* const* pixels_at;  // [pixel]: the channels that its first tap reads
    const std::int64_t* runs_at;    // [run]: where it begins, in floats from there, block by block
    const FloatBlock* blocks;
    int pixels, block_count;
    int terms;  // of all blocks
    bool rounded;
    const float* weights;  // [unit][term][channel_unit], filled up to whole units of filters; terms
                           // as they are summed
    int filters;
    float* sums;  // [pixels][filters filled up], scratch
    const Ending* ending;
};

// A float32 convolution by tiles, with fewer multiplications (Winograd, Arithmetic Complexity of
// Computations, 1980; Lavin and Gray, arXiv:1509.09308). A tile of 6 x 6 values gives the outputs x
// outputs of a kernel of 7 - outputs rows and columns: both become polynomials, known at the points
// 0, 1, -1, 1/2, -2 and infinity of each line, where multiplying them is one product a place and
// channel. A value of a tile is what one stride spans, `rows` rows of the image, channels / rows
// floats of each: these are its channels, row by row. The same operations in the same order on
// every implementation. Where a value is not finite, or something overflows on the way, no output
// of the tile that should not be finite is; others may be so, too.
constexpr int tile_side = 6;
constexpr int tile_places = tile_side * tile_side;
constexpr int tile_group = 10;  // at most this many tiles are multiplied at once
struct WinogradArguments {
    const float* const* tiles_at;  // [tile]: its first value
    std::int64_t row;              // floats from one row of the image to the next
    int tiles, rows, channels, outputs;
    const float* weights;  // at the points, [unit][place][channel][channel_unit]
    int filters;
    float* values;                      // scratch, [place][tiles][channels]
    float* products;                    // scratch, [place][tile_group][2 * channel_unit]
    float* const* sums_at;              // [tile]: its first output, of filters filled up
    std::size_t sums_row, sums_column;  // floats to the next
    std::uint8_t* not_finite;           // [unit][tile]: becomes 1 where an output is not finite
};

// Pools windows of x[row * row_stride + column * channels + channel], one row of outputs. What lies
// beside the columns [0, width) is not read. The maximum begins with -infinity and takes what is
// greater; the average is the sum, row by row from 0, divided by how many were read.
struct PoolArguments {
    const float* x;  // the first row of the windows
    float* y;        // y[output * channels + channel]
    bool maximum;
    int channels, rows;  // rows: of a window, all inside the image
    std::size_t row_stride;
    int outputs, width, kernel, stride, padding;  // along a row
};

// The pixels of up to run_panels panels against the filters of adjacent blocks.
struct MultiplyArguments {
    const std::uint8_t* panels;
    std::size_t panel_bytes;
    int pixels;  // of all panels; only the last may hold fewer than it has room for
    int rows;
    const std::uint8_t* weights;  // the first block
    std::size_t block_bytes;      // distance to the next
    int filters;
    const void* bases;  // from the first filter on; int16 for Layout::filters_int16, else int32
    std::size_t base_stride;
    int cases;
    const std::int32_t* border_case;  // [pixels]
    const float* scale;               // [filters]
    const float* bias;                // [filters]
    float* y;                         // y[f * filter_stride + p]
    std::size_t filter_stride;
    std::uint8_t* scratch;  // scratch_bytes, for whatever lies between
    const Ending* ending;   // not with Layout::pixels; null: scale, bias and y as above
};

// A loop that lives in registers. Runs `rounds` rounds and returns how much it has done; `sink`
// keeps the result alive.
using Loop = std::uint64_t (*)(std::uint64_t rounds, std::uint64_t* sink);

// What the processor's ports allow, to check a peak with: `macs` binary multiply-adds take
// `operations` instructions. `scarce_operations` of them are `scarce`: fewer ports may take one
// than a `common` one. The loops count instructions; null: no such check.
struct Ports {
    Loop common, scarce;
    int operations, scarce_operations, macs;
};

// One instruction set. A new one is a file that defines an Implementation and a line in
// implementations.h.
struct Implementation {
    const char* name;
    bool (*supported)();
    Encoding encoding;
    int lanes;                    // filters per block
    const std::uint8_t* lane_of;  // nibbles: which byte of a row holds filter s; null: s
    bool (*pixels_in_lanes)(int rows, int pixels, int filters);  // the better layout for so many
    void (*pack)(const PackArguments&);
    void (*gather)(const GatherArguments&);
    void (*map)(const MapArguments&);
    void (*multiply_floats)(const FloatArguments&);
    void (*multiply_winograd)(const WinogradArguments&);
    void (*pool)(const PoolArguments&);
    void (*multiply[3])(
        const MultiplyArguments&);  // by Layout; null where pixels_in_lanes never asks for it
    Loop peak;  // binary multiply-adds, the most this instruction set can do: for the bench's ideal
    Ports ports;
};

}  // namespace bitconv
