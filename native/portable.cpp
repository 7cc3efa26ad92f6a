// The portable implementation: plain C++, any processor; what the others are compared with when there is no oracle.
#include "contract.h"
#include "epilogue.h"
#include "implementations.h"

namespace bitconv {
namespace {

constexpr int lanes = 16;
constexpr int large = 4, small = 1;

bool supported() { return true; }

void pack(const PackArguments& a) {
    for (std::size_t p = 0; p < a.pixels; ++p) a.plane[p] = 0;
    for (int c = 0; c < a.channels; ++c) {
        const float* x = a.x + c * a.channel_stride;
        const float threshold = a.thresholds[c];
        for (std::size_t p = 0; p < a.pixels; ++p) a.plane[p] |= std::uint32_t(x[p] > threshold) << c;
    }
}

// Bits of a word, counted in parallel: pairs, nibbles, bytes; the multiplication adds the four bytes.
inline std::uint32_t popcount(std::uint32_t v) {
    v = v - ((v >> 1) & 0x55555555u);
    v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0fu;
    return (v * 0x01010101u) >> 24;
}

template <typename Sum>
void pixel(const TileArguments& a, int p, int vector) {
    std::uint32_t mismatches[lanes] = {};
    const std::uint32_t* weights = reinterpret_cast<const std::uint32_t*>(a.weights + vector * a.block_bytes);
    for (int tap = 0; tap < a.taps; ++tap) {
        const std::uint8_t* x = a.x + a.offsets[tap * a.offset_stride + p];
        for (int q = 0; q < a.words; ++q, weights += lanes) {
            const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(x + q * a.plane_bytes);
            for (int s = 0; s < lanes; ++s) mismatches[s] += popcount(word ^ weights[s]);
        }
    }
    const Sum* bases = bases_of<Sum>(a, p, vector, lanes);
    Sum* sums = sums_of<Sum>(a, p, vector, lanes);
    for (int s = 0; s < lanes; ++s) sums[s] = Sum(std::uint32_t(bases[s]) - 2 * mismatches[s]);
}

template <int Pixels, int Vectors, typename Sum>
void tile(const TileArguments& a) {
    for (int p = 0; p < Pixels; ++p)
        for (int vector = 0; vector < Vectors; ++vector) pixel<Sum>(a, p, vector);
}

std::uint64_t peak(std::uint64_t rounds, std::uint64_t* sink) {
    std::uint32_t x = std::uint32_t(rounds), counts[lanes] = {};
    for (std::uint64_t round = 0; round < rounds; ++round, ++x)
        for (int s = 0; s < lanes; ++s) counts[s] += popcount(x ^ (0x9e3779b9u * s));
    for (int s = 0; s < lanes; ++s) *sink += counts[s];
    return rounds * lanes * 32;
}

}  // namespace

const Implementation portable = {
    "portable", supported, Encoding::dense, lanes, {large, small}, nullptr, pack,
    {{{tile<large, 1, std::int16_t>, tile<large, 1, std::int32_t>},
      {tile<large, 2, std::int16_t>, tile<large, 2, std::int32_t>}},
     {{tile<small, 1, std::int16_t>, tile<small, 1, std::int32_t>},
      {tile<small, 2, std::int16_t>, tile<small, 2, std::int32_t>}}},
    {scalar_epilogue<std::int16_t>, scalar_epilogue<std::int32_t>},
    peak,
};

}  // namespace bitconv
