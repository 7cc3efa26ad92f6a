// AVX-512 VPOPCNTDQ: exclusive or and a counted word, 16 filters in the 32-bit lanes of a register.
#if defined(__x86_64__)
#include <immintrin.h>

#include "contract.h"
#include "cpu.h"
#include "epilogue.h"
#include "implementations.h"

#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")

namespace bitconv {
namespace {

constexpr Encoding encoding = Encoding::dense;
constexpr int lanes = 16;
constexpr int large = 8, small = 2;  // 16 registers of counts, 2 of weights, a pixel's word and temporaries, 8 pointers

inline void subtract_twice(std::int16_t* sums, const std::int16_t* bases, __m512i counts) {
    const __m256i narrow = _mm512_cvtepi32_epi16(counts);  // modulo 2^16, as the contract allows
    const __m256i base = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bases));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm256_sub_epi16(_mm256_sub_epi16(base, narrow), narrow));
}

inline void subtract_twice(std::int32_t* sums, const std::int32_t* bases, __m512i counts) {
    _mm512_storeu_si512(sums, _mm512_sub_epi32(_mm512_sub_epi32(_mm512_loadu_si512(bases), counts), counts));
}

// Three operations a register: xor, count, add. The input's word is broadcast, the weights' row is shared by all pixels.
template <int Pixels, int Vectors, typename Sum>
void tile(const TileArguments& a) {
    __m512i counts[Pixels][Vectors];
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) counts[p][v] = _mm512_setzero_si512();
    const std::uint8_t* weights = a.weights;
    for (int tap = 0; tap < a.taps; ++tap) {
        const std::uint8_t* x[Pixels];
#pragma GCC unroll 8
        for (int p = 0; p < Pixels; ++p) x[p] = a.x + a.offsets[tap * a.offset_stride + p];
        std::size_t at = 0;
        for (int q = 0; q < a.words; ++q, at += a.plane_bytes, weights += 4 * lanes) {
            __m512i w[Vectors];
#pragma GCC unroll 2
            for (int v = 0; v < Vectors; ++v) w[v] = _mm512_loadu_si512(weights + v * a.block_bytes);
#pragma GCC unroll 8
            for (int p = 0; p < Pixels; ++p) {
                const __m512i word = _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(x[p] + at));
#pragma GCC unroll 2
                for (int v = 0; v < Vectors; ++v) {
                    const __m512i bits = _mm512_popcnt_epi32(_mm512_xor_si512(word, w[v]));
                    counts[p][v] = _mm512_add_epi32(counts[p][v], bits);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v)
            subtract_twice(sums_of<Sum>(a, p, v, lanes), bases_of<Sum>(a, p, v, lanes), counts[p][v]);
}

#include "transpose_avx2.inc"
#include "avx512.inc"

bool supported() {
    return cpu_has({cpu::avx2, cpu::avx512f, cpu::avx512bw, cpu::avx512dq, cpu::avx512vl, cpu::avx512vpopcntdq});
}

// The yardstick: xor, vpopcntq, vpaddq, three operations for eight 64-bit words.
std::uint64_t peak(std::uint64_t rounds, std::uint64_t* sink) {
    constexpr int chains = 16;
    __m512i counts[chains], x = _mm512_set1_epi64(0x0123456789abcdef), w[2] = {_mm512_set1_epi64(-3), _mm512_set1_epi64(77)};
#pragma GCC unroll 16
    for (int i = 0; i < chains; ++i) counts[i] = _mm512_setzero_si512();
    for (std::uint64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (int i = 0; i < chains; ++i) {
            __asm__ volatile("" : "+v"(x));  // computed anew every time
            counts[i] = _mm512_add_epi64(counts[i], _mm512_popcnt_epi64(_mm512_xor_si512(x, w[i % 2])));
        }
    }
    for (int i = 1; i < chains; ++i) counts[0] = _mm512_add_epi64(counts[0], counts[i]);
    *sink += std::uint64_t(_mm512_reduce_add_epi64(counts[0]));
    return rounds * chains * 512;
}

}  // namespace

const Implementation avx512vpopcntdq = {
    "avx512vpopcntdq", supported, encoding, lanes, {large, small}, nullptr, pack,
    {{{tile<large, 1, std::int16_t>, tile<large, 1, std::int32_t>},
      {tile<large, 2, std::int16_t>, tile<large, 2, std::int32_t>}},
     {{tile<small, 1, std::int16_t>, tile<small, 1, std::int32_t>},
      {tile<small, 2, std::int16_t>, tile<small, 2, std::int32_t>}}},
    {epilogue16, scalar_epilogue<std::int32_t>},
    peak,
};

}  // namespace bitconv

#pragma GCC pop_options
#endif
