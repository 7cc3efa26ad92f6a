// AVX-512 VPOPCNTDQ: exclusive or and counted words, in the sixteen 32-bit lanes of a register.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <limits>
#include <utility>

#include "contract.h"
#include "cpu.h"
#include "filters_in_lanes.h"
#include "implementations.h"

#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx512vnni")

namespace bitconv {
namespace {

constexpr Encoding encoding = Encoding::pairs;
constexpr int lanes = 16;
constexpr int at_once =
    8;  // words broadcast against a row of lanes: 16 registers of counts, 2 of lanes, temporaries

// Pairs. With bits a = x1 ^ w1 and b = x2 ^ w2 of two rows and s, the sum's low bit so far, a full
// adder gives
//     s' = s ^ a ^ b = s ^ (x1 ^ x2) ^ (w1 ^ w2),   carry = majority(a, b, s) = (a & s) | ((a ^ s)
//     & ~s'),
// and only the carry is counted, for two. Stored as first and first ^ second, two rows take five
// operations, not six: two ternary ones, an exclusive or, a count, an addition.
constexpr int sum_bit = 0x96,
              carry_bit = 0xb2;  // truth tables of s ^ x12 ^ w12 and of carry(a, s', s)

// One step, two rows of lanes with two words each of `Count`: the low bits go from one array to the
// other, and so stay where they are; in place they would have to be copied, which is not free.
template <int Count>
inline __attribute__((always_inline)) void count_pair(const std::uint8_t* in_lanes,
                                                      const std::uint8_t* words,
                                                      __m512i (&carries)[Count],
                                                      const __m512i (&low)[Count],
                                                      __m512i (&next)[Count]) {
    const __m512i first = _mm512_load_si512(in_lanes),
                  both = _mm512_load_si512(in_lanes + panel_row_bytes);
    const std::int32_t* word = reinterpret_cast<const std::int32_t*>(words);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        next[i] = _mm512_ternarylogic_epi32(_mm512_set1_epi32(word[panel_width + i]), both, low[i],
                                            sum_bit);
        const __m512i mismatch = _mm512_xor_si512(first, _mm512_set1_epi32(word[i]));
        const __m512i carry = _mm512_ternarylogic_epi32(mismatch, next[i], low[i], carry_bit);
        carries[i] = _mm512_add_epi32(carries[i], _mm512_popcnt_epi32(carry));
        __asm__(""
                : "+v"(carries[i]));  // added here: gcc would collect the counts first, and spill
    }
}

// The mismatches of one row of lanes with each of `Count` words, over all rows of two [row][16]
// arrays: 2 * carries + ones.
template <int Count>
struct Mismatches {
    __m512i carries[Count], ones[Count];
    __m512i twice(int i) const {
        return _mm512_slli_epi32(_mm512_add_epi32(_mm512_slli_epi32(carries[i], 1), ones[i]), 1);
    }
};

template <int Count>
inline __attribute__((always_inline)) Mismatches<Count> count_pairs(const std::uint8_t* in_lanes,
                                                                    const std::uint8_t* words,
                                                                    int rows) {
    constexpr std::size_t step = 2 * panel_row_bytes;
    __m512i carries[Count], low[Count], other[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) carries[i] = low[i] = _mm512_setzero_si512();
    int row = 0;
    for (; row + 4 <= rows; row += 4, in_lanes += 2 * step, words += 2 * step) {
        count_pair<Count>(in_lanes, words, carries, low, other);
        count_pair<Count>(in_lanes + step, words + step, carries, other, low);
    }
    if (row < rows) {
        count_pair<Count>(in_lanes, words, carries, low, other);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) low[i] = other[i];
    }
    Mismatches<Count> found;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        found.carries[i] = carries[i];
        found.ones[i] = _mm512_popcnt_epi32(low[i]);
    }
    return found;
}

inline void store_sums(std::int16_t* sums, const std::int16_t* bases, __m512i twice) {
    const __m256i base = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bases));
    const __m256i narrow = _mm512_cvtepi32_epi16(twice);  // modulo 2^16, as the contract allows
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm256_sub_epi16(base, narrow));
}

inline void store_sums(std::int32_t* sums, const std::int32_t* bases, __m512i twice) {
    _mm512_storeu_si512(sums, _mm512_sub_epi32(_mm512_loadu_si512(bases), twice));
}

inline __m512i wide_bases(const std::int16_t* bases) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bases)));
}

inline __m512i wide_bases(const std::int32_t* bases) { return _mm512_loadu_si512(bases); }

// Filters in lanes, one pixel: `Count` blocks at once, so that their sums need not wait for each
// other.
template <int Count, typename Sum>
void blocks_of(const Tile<Sum>& tile, int block) {
    __m512i carries[Count], low[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) carries[i] = low[i] = _mm512_setzero_si512();
    const std::uint8_t* weights = tile.weights + block * tile.block_bytes;
    const std::int32_t* words = reinterpret_cast<const std::int32_t*>(tile.panels);
    for (int row = 0; row < tile.rows;
         row += 2, weights += 2 * panel_row_bytes, words += 2 * panel_width) {
        const __m512i first = _mm512_set1_epi32(words[0]),
                      both = _mm512_set1_epi32(words[panel_width]);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            const std::uint8_t* w = weights + i * tile.block_bytes;
            const __m512i next = _mm512_ternarylogic_epi32(
                both, _mm512_load_si512(w + panel_row_bytes), low[i], sum_bit);
            const __m512i mismatch = _mm512_xor_si512(first, _mm512_load_si512(w));
            const __m512i carry = _mm512_ternarylogic_epi32(mismatch, next, low[i], carry_bit);
            carries[i] = _mm512_add_epi32(carries[i], _mm512_popcnt_epi32(carry));
            low[i] = next;
        }
    }
    Mismatches<1> found;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        found.carries[0] = carries[i];
        found.ones[0] = _mm512_popcnt_epi32(low[i]);
        store_sums(tile.sums + (block + i) * lanes, bases_of(tile, 0) + (block + i) * lanes,
                   found.twice(0));
    }
}

// Filters in lanes: `Count` pixels, of one panel, from `first` on.
template <int Count, typename Sum>
void pixels_of(const Tile<Sum>& tile, int first) {
    for (int block = 0; block < tile.blocks; ++block) {
        const auto found = count_pairs<Count>(tile.weights + block * tile.block_bytes,
                                              words_of(tile, first), tile.rows);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i)
            store_sums(tile.sums + (first + i) * sum_stride + block * lanes,
                       bases_of(tile, first + i) + block * lanes, found.twice(i));
    }
}

template <typename Sum>
void tiles(const Tile<Sum>& tile) {
    static void (*const of[])(const Tile<Sum>&, int) = {pixels_of<1>, pixels_of<2>, pixels_of<3>,
                                                        pixels_of<4>, pixels_of<5>, pixels_of<6>,
                                                        pixels_of<7>, pixels_of<8>};
    if (tile.pixels == 1) {
        int block = 0;
        for (; block + at_once <= tile.blocks; block += at_once) blocks_of<at_once>(tile, block);
        for (; block < tile.blocks; ++block) blocks_of<1>(tile, block);
        return;
    }
    for (int first = 0; first < tile.pixels; first += at_once)
        of[(tile.pixels - first < at_once ? tile.pixels - first : at_once) - 1](tile, first);
}

#include "transpose_avx2.inc"
#include "avx512.inc"

// An ending in bits alone needs no sums: bits of `Count` pixels of a panel, from `first` on,
// against a block.
template <int Count, typename Sum>
void signs_of(const MultiplyArguments& a, int block, int pixel, int first) {
    const std::uint8_t* panel = a.panels + pixel / panel_width * a.panel_bytes + 4 * first;
    const auto found = count_pairs<Count>(a.weights + block * a.block_bytes, panel, a.rows);
    const int filter = block * lanes, left = a.filters - filter;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        const int p = pixel + first + i;
        const Sum* bases =
            static_cast<const Sum*>(a.bases) + a.border_case[p] * a.base_stride + filter;
        const __mmask16 bits = _mm512_mask_cmpgt_epi32_mask(first_lanes(std::size_t(left)),
                                                            wide_bases(bases), found.twice(i));
        write_unit(*a.ending, p, block, left <= lanes, bits);
    }
}

template <typename Sum>
void multiply_signs(const MultiplyArguments& a) {
    static void (*const of[])(const MultiplyArguments&, int, int, int) = {
        signs_of<1, Sum>, signs_of<2, Sum>, signs_of<3, Sum>, signs_of<4, Sum>,
        signs_of<5, Sum>, signs_of<6, Sum>, signs_of<7, Sum>, signs_of<8, Sum>};
    for (int pixel = 0; pixel < a.pixels; pixel += panel_width) {
        const int pixels = a.pixels - pixel < panel_width ? a.pixels - pixel : panel_width;
        for (int first = 0; first < pixels; first += at_once) {
            const int count = pixels - first < at_once ? pixels - first : at_once;
            for (int block = 0; block * lanes < a.filters; ++block)
                of[count - 1](a, block, pixel, first);
        }
    }
}

template <typename Sum, void (*epilogue)(const EpilogueArguments&)>
void multiply_filters(const MultiplyArguments& a) {
    if (a.ending && a.ending->sign_of_sum && a.pixels > 1) return multiply_signs<Sum>(a);
    multiply_filters_in_lanes<lanes, 2, Sum, tiles<Sum>, epilogue, end_sums<Sum>>(a);
}

// base - 2 * (2 * carries + ones) in two operations, on the low 16 bits of each lane: carries fit
// them up to rows_of_pixels rows of 16 carries, and the high 16 bits, which are 0, meet a 0.
constexpr int rows_of_pixels = 32767 / 16;

inline __m512i dot_of(__m512i base, __m512i carries, __m512i ones) {
    const __m512i without = _mm512_dpwssd_epi32(base, carries, _mm512_set1_epi32(-4 & 0xffff));
    return _mm512_dpwssd_epi32(without, ones, _mm512_set1_epi32(-2 & 0xffff));
}

// Pixels in lanes: output of `Count` filters from `filter` on, of the panel's pixels from `pixel`
// on.
template <int Count>
inline __attribute__((always_inline)) void write_pixels(const MultiplyArguments& a, int filter,
                                                        int pixel, const Mismatches<Count>& found) {
    const __mmask16 pixels = first_lanes(std::size_t(a.pixels - pixel));
    const __m512i cases = _mm512_loadu_si512(a.border_case + pixel);
    const bool inside =
        _mm512_cmpeq_epi32_mask(cases, _mm512_set1_epi32(a.border_case[pixel])) == 0xffff;
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
        const std::int32_t* bases =
            static_cast<const std::int32_t*>(a.bases) + (filter + i) * a.base_stride;
        const __m512i base = inside ? _mm512_set1_epi32(bases[a.border_case[pixel]])
                             : a.cases <= 16
                                 ? _mm512_permutexvar_epi32(cases, _mm512_loadu_si512(bases))
                                 : _mm512_i32gather_epi32(cases, bases, 4);
        const __m512i dot = dot_of(base, found.carries[i], found.ones[i]);
        __m512 product =
            _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(a.scale[filter + i]));
        BITCONV_KEEP_ROUNDED(product);
        const __m512 value = _mm512_add_ps(product, _mm512_set1_ps(a.bias[filter + i]));
        _mm512_mask_storeu_ps(a.y + (filter + i) * a.filter_stride + pixel, pixels, value);
    }
}

// Pixels in lanes: `Count` filters of a block, from `first` on, against all panels of a run.
template <int Count>
void filters_of(const MultiplyArguments& a, int first) {
    const std::uint8_t* weights = a.weights + first / lanes * a.block_bytes + 4 * (first % lanes);
    for (int pixel = 0; pixel < a.pixels; pixel += panel_width)
        write_pixels<Count>(
            a, first, pixel,
            count_pairs<Count>(a.panels + pixel / panel_width * a.panel_bytes, weights, a.rows));
}

void multiply_pixels(const MultiplyArguments& a) {
    static void (*const of[])(const MultiplyArguments&, int) = {
        filters_of<1>, filters_of<2>, filters_of<3>, filters_of<4>,
        filters_of<5>, filters_of<6>, filters_of<7>, filters_of<8>};
    for (int first = 0; first < a.filters; first += at_once)
        of[(a.filters - first < at_once ? a.filters - first : at_once) - 1](a, first);
}

// Lanes cost alike, full or empty. Pixels in lanes need no turning at the end, which is worth some
// empty ones.
bool pixels_in_lanes(int rows, int pixels, int filters) {
    const auto filled = [](int count) { return (count + lanes - 1) / lanes * lanes; };
    return rows <= rows_of_pixels &&
           32.0 * filled(pixels) * filters <= 33.0 * pixels * filled(filters);
}

bool supported() {
    return cpu_has({cpu::avx2, cpu::avx512f, cpu::avx512bw, cpu::avx512dq, cpu::avx512vl,
                    cpu::avx512vpopcntdq, cpu::avx512vnni});
}

// The plain way: xor, vpopcntq, vpaddq, three operations for eight 64-bit words. Pairs of words do
// better.
std::uint64_t peak(std::uint64_t rounds, std::uint64_t* sink) {
    constexpr int chains = 16;
    __m512i counts[chains], x = _mm512_set1_epi64(0x0123456789abcdef),
                            w[2] = {_mm512_set1_epi64(-3), _mm512_set1_epi64(77)};
#pragma GCC unroll 16
    for (int i = 0; i < chains; ++i) counts[i] = _mm512_setzero_si512();
    for (std::uint64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (int i = 0; i < chains; ++i) {
            __asm__ volatile("" : "+v"(x));  // computed anew every time
            counts[i] =
                _mm512_add_epi64(counts[i], _mm512_popcnt_epi64(_mm512_xor_si512(x, w[i % 2])));
        }
    }
    for (int i = 1; i < chains; ++i) counts[0] = _mm512_add_epi64(counts[0], counts[i]);
    *sink += std::uint64_t(_mm512_reduce_add_epi64(counts[0]));
    return rounds * chains * 512;
}

using Vector = __m512i;
#include "ports.inc"
BITCONV_PORT_LOOP(exclusive_ors, "vpxord %1, %0, %0")
BITCONV_PORT_LOOP(bit_counts, "vpopcntd %0, %0")

}  // namespace

const Implementation avx512vpopcntdq = {
    "avx512vpopcntdq",
    supported,
    encoding,
    lanes,
    nullptr,
    pixels_in_lanes,
    pack,
    gather,
    map,
    multiply_floats,
    multiply_winograd,
    pool,
    {multiply_filters<std::int16_t, epilogue16>,
     multiply_filters<std::int32_t, scalar_epilogue<std::int32_t>>, multiply_pixels},
    peak,
    {exclusive_ors, bit_counts, 3, 1, 512},
};

}  // namespace bitconv

#pragma GCC pop_options
#endif
