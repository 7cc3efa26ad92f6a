// The portable implementation: plain C++, any processor; what the others are compared with when
// there is no oracle.
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "contract.h"
#include "filters_in_lanes.h"
#include "implementations.h"

namespace bitconv {
namespace {

constexpr int lanes = 16;

bool supported() { return true; }

// Floats of an ending.
typedef float Floats __attribute__((vector_size(16)));
constexpr int float_lanes = 4;
constexpr Encoding encoding = Encoding::words;

inline Floats splat(float v) { return Floats{v, v, v, v}; }
inline Floats load_first(const float* from, int count) {
    Floats v = {};
    std::memcpy(&v, from, 4 * std::size_t(count < float_lanes ? count : float_lanes));
    return v;
}
inline Floats load_lanes(const float* from, int first, int count) {
    Floats v = {};
    for (int i = 0; i < count; ++i) v[first + i] = from[i];
    return v;
}
inline Floats load_whole(const float* from) { return load_first(from, float_lanes); }
inline void store_first(float* to, Floats v, int count) {
    std::memcpy(to, &v, 4 * std::size_t(count < float_lanes ? count : float_lanes));
}
inline Floats fused(Floats a, Floats b, Floats c) {
    for (int i = 0; i < float_lanes; ++i) a[i] = std::fma(a[i], b[i], c[i]);
    return a;
}
template <typename Sum>
inline Floats converted(const Sum* sums) {
    return Floats{float(sums[0]), float(sums[1]), float(sums[2]), float(sums[3])};
}
inline unsigned within(Floats v, Floats low, Floats high) {
    unsigned bits = 0;
    for (int i = 0; i < float_lanes; ++i) bits |= unsigned(low[i] <= v[i] && v[i] <= high[i]) << i;
    return bits;
}
template <typename Sum>
inline unsigned above_zero(const Sum* sums) {
    unsigned bits = 0;
    for (int i = 0; i < channel_unit; ++i) bits |= unsigned(sums[i] > 0) << i;
    return bits;
}

#include "ending.inc"
#include "floats.inc"
#include "winograd.inc"

void pack(const PackArguments& a) {
    for (std::size_t p = 0; p < a.pixels; ++p) a.plane[p] = a.highs ? a.flip : 0;
    for (int c = 0; c < a.channels; ++c) {
        const float* x = a.x + c * a.channel_stride;
        const float threshold = a.thresholds[c];
        if (a.highs) {
            const float high = a.highs[c];
            for (std::size_t p = 0; p < a.pixels; ++p)
                a.plane[p] ^= std::uint32_t(threshold <= x[p] && x[p] <= high) << c;
            continue;
        }
        for (std::size_t p = 0; p < a.pixels; ++p)
            a.plane[p] |= std::uint32_t(x[p] > threshold) << c;
    }
}

void gather(const GatherArguments& a) {
    std::uint32_t* row = reinterpret_cast<std::uint32_t*>(a.panel);
    for (int tap = 0; tap < a.taps; ++tap) {
        const Window& window = a.windows[tap];
        for (int q = 0; q < a.planes; ++q, row += panel_width) {
            const std::uint8_t* plane = a.x + q * a.plane_bytes;
            for (int p = 0; p < panel_width; ++p) {
                row[p] = 0;
                if (!(window.inside >> p & 1)) continue;
                std::memcpy(
                    row + p,
                    plane + (window.scattered ? a.offsets[window.start + p] : window.start + 4 * p),
                    4);
            }
        }
    }
}

// Bits of a word, counted in parallel: pairs, nibbles, bytes; the multiplication adds the four
// bytes.
inline std::uint32_t popcount(std::uint32_t v) {
    v = v - ((v >> 1) & 0x55555555u);
    v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0fu;
    return (v * 0x01010101u) >> 24;
}

template <typename Sum>
void tiles(const Tile<Sum>& tile) {
    for (int block = 0; block < tile.blocks; ++block) {
        for (int p = 0; p < tile.pixels; ++p) {
            std::uint32_t mismatches[lanes] = {};
            const std::uint32_t* x = reinterpret_cast<const std::uint32_t*>(words_of(tile, p));
            const std::uint32_t* w =
                reinterpret_cast<const std::uint32_t*>(tile.weights + block * tile.block_bytes);
            for (int row = 0; row < tile.rows; ++row, x += panel_width, w += lanes)
                for (int s = 0; s < lanes; ++s) mismatches[s] += popcount(*x ^ w[s]);
            const Sum* bases = bases_of(tile, p) + block * lanes;
            Sum* sums = tile.sums + p * sum_stride + block * lanes;
            for (int s = 0; s < lanes; ++s)
                sums[s] = Sum(std::uint32_t(bases[s]) - 2 * mismatches[s]);
        }
    }
}

template <typename Sum>
constexpr auto multiply =
    multiply_filters_in_lanes<lanes, 2, Sum, tiles<Sum>, scalar_epilogue<Sum>, end_sums<Sum>>;

std::uint64_t peak(std::uint64_t rounds, std::uint64_t* sink) {
    std::uint32_t x = std::uint32_t(rounds), counts[lanes] = {};
    for (std::uint64_t round = 0; round < rounds; ++round, ++x)
        for (int s = 0; s < lanes; ++s) counts[s] += popcount(x ^ (0x9e3779b9u * s));
    for (int s = 0; s < lanes; ++s) *sink += counts[s];
    return rounds * lanes * 32;
}

}  // namespace

const Implementation portable = {
    "portable",
    supported,
    Encoding::words,
    lanes,
    nullptr,
    nullptr,
    pack,
    gather,
    map,
    multiply_floats,
    multiply_winograd,
    pool,
    {multiply<std::int16_t>, multiply<std::int32_t>, nullptr},
    peak,
    {},
};

}  // namespace bitconv
