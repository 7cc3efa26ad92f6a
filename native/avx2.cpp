// AVX2: nibble lookups by vpshufb, 32 filters in the bytes of a register.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "contract.h"
#include "cpu.h"
#include "filters_in_lanes.h"
#include "implementations.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace bitconv {
namespace {

using Vector = __m256i;
constexpr Encoding encoding = Encoding::nibbles;
constexpr int lanes = 32;

inline Vector zero() { return _mm256_setzero_si256(); }
inline Vector load(const void* from) {
    return _mm256_loadu_si256(static_cast<const Vector*>(from));
}
inline void store(void* to, Vector v) { _mm256_storeu_si256(static_cast<Vector*>(to), v); }
inline Vector broadcast_row(const std::uint8_t* row) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
}
inline Vector look_up(Vector row, Vector indices) { return _mm256_shuffle_epi8(row, indices); }
inline __attribute__((always_inline)) void look_up_and_add(Vector& sum, Vector row,
                                                           Vector indices) {
    sum = _mm256_add_epi8(sum, look_up(row, indices));
    __asm__("" : "+x"(sum));  // added here: gcc would add pairs of lookups first
}

inline Vector lower_nibbles(Vector v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
template <int Bits>  // words of 16 bits
inline Vector right16(Vector v) {
    return _mm256_srli_epi16(v, Bits);
}
// By four bits, as a product of which the upper half is kept. Where shuffles and shifts have the
// same two of four ports (AMD's Zen), multiplications have the other two.
inline Vector right4(Vector v) { return _mm256_mulhi_epu16(v, _mm256_set1_epi16(1 << 12)); }
template <int Bits>
inline Vector left16(Vector v) {
    return _mm256_slli_epi16(v, Bits);
}
inline Vector lower_bytes(Vector v) { return _mm256_and_si256(v, _mm256_set1_epi16(255)); }
inline Vector add8(Vector a, Vector b) { return _mm256_add_epi8(a, b); }
inline Vector add16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
inline Vector sub16(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }

// Even bytes are widened to words first, then odd ones: sums come out in filter order.
const std::uint8_t lane_of[lanes] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                     1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};

#include "transpose_avx2.inc"

bool supported() { return cpu_has({cpu::avx2, cpu::fma}); }

inline __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Floats of an ending.
using Floats = __m256;
constexpr int float_lanes = 8;

inline Floats splat(float v) { return _mm256_set1_ps(v); }
inline Floats load_whole(const float* from) { return _mm256_loadu_ps(from); }
inline Floats load_first(const float* from, int count) {
    return _mm256_maskload_ps(from, first_lanes(count));
}
inline Floats load_lanes(const float* from, int first, int count) {
    return _mm256_maskload_ps(from - first,
                              _mm256_andnot_si256(first_lanes(first), first_lanes(first + count)));
}
inline void store_first(float* to, Floats v, int count) {
    if (count >= float_lanes) _mm256_storeu_ps(to, v);
    else _mm256_maskstore_ps(to, first_lanes(count), v);
}
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats converted(const std::int32_t* sums) { return _mm256_cvtepi32_ps(load(sums)); }
inline Floats converted(const std::int16_t* sums) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sums))));
}
inline unsigned within(Floats v, Floats low, Floats high) {
    return unsigned(_mm256_movemask_ps(
        _mm256_and_ps(_mm256_cmp_ps(v, low, _CMP_GE_OQ), _mm256_cmp_ps(v, high, _CMP_LE_OQ))));
}
inline unsigned above_zero(const std::int16_t* sums) {
    const __m256i above = _mm256_cmpgt_epi16(load(sums), zero());
    return unsigned(_mm_movemask_epi8(
        _mm_packs_epi16(_mm256_castsi256_si128(above), _mm256_extracti128_si256(above, 1))));
}
inline unsigned above_zero(const std::int32_t* sums) {
    const auto eight = [](const std::int32_t* from) {
        return unsigned(
            _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(load(from), zero()))));
    };
    return eight(sums) | eight(sums + 8) << 8;
}

#include "ending.inc"
#include "floats.inc"
#include "winograd.inc"

// Eight pixels of up to 16 channels. The comparison's -1 is subtracted as a 1; doubling moves it
// up, channel by channel from the last to the first, and a shift by five steps over the empty half
// of a byte.
template <bool Whole, bool Ranges>
inline __attribute__((always_inline)) __m256i pack8(const PackArguments& a, const float* x,
                                                    int channels, __m256i mask) {
    __m256i word = zero();
#pragma GCC unroll 16
    for (int c = channels - 1; c >= 0; --c) {
        const float* from = x + c * a.channel_stride;
        const __m256 values = Whole ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, mask);
        const __m256 bound = _mm256_broadcast_ss(a.thresholds + c);
        const __m256 above =
            !Ranges ? _mm256_cmp_ps(values, bound, _CMP_GT_OQ)
                    : _mm256_and_ps(
                          _mm256_cmp_ps(values, bound, _CMP_GE_OQ),
                          _mm256_cmp_ps(values, _mm256_broadcast_ss(a.highs + c), _CMP_LE_OQ));
        word = c % 4 == 3 ? _mm256_slli_epi32(word, 5) : _mm256_add_epi32(word, word);
        word = _mm256_sub_epi32(word, _mm256_castps_si256(above));
    }
    word = _mm256_slli_epi32(word, 4);
    return Ranges ? _mm256_xor_si256(word, _mm256_set1_epi32(int(a.flip))) : word;
}

template <bool Ranges>
void pack_all(const PackArguments& a) {
    std::size_t p = 0;
    for (; p + 8 <= a.pixels; p += 8) {
        const __m256i word = a.channels == 16 ? pack8<true, Ranges>(a, a.x + p, 16, zero())
                                              : pack8<true, Ranges>(a, a.x + p, a.channels, zero());
        store(a.plane + p, word);
    }
    if (p < a.pixels)
        store(a.plane + p,
              pack8<false, Ranges>(a, a.x + p, a.channels, first_lanes(int(a.pixels - p))));
}

void pack(const PackArguments& a) { a.highs ? pack_all<true>(a) : pack_all<false>(a); }

// All ones in the lanes of eight pixels that lie inside.
inline __m256i lanes_inside(const Window& window, int first) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(window.inside >> first), bits),
                              bits);
}

inline __m256i scattered_words(const std::uint8_t* plane, const std::int32_t* offsets) {
    alignas(32) std::uint32_t words[8];
    for (int p = 0; p < 8; ++p) std::memcpy(words + p, plane + offsets[p], 4);
    return load(words);
}

// Half a row as panels of nibbles have it (contract.h).
inline __m256i woven(__m256i words) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    return _mm256_shuffle_epi8(_mm256_srlv_epi32(words, _mm256_set1_epi64x(std::int64_t(4) << 32)),
                               order);
}

// What lies outside is not read, wherever that is.
void gather(const GatherArguments& a) {
    std::uint8_t* row = a.panel;
    for (int tap = 0; tap < a.taps; ++tap) {
        const Window window = a.windows[tap];
        const __m256i low = lanes_inside(window, 0), high = lanes_inside(window, 8);
        const std::uint8_t* plane = a.x;
        for (int q = 0; q < a.planes; ++q, row += panel_row_bytes, plane += a.plane_bytes) {
            if (window.scattered) {
                store(row, woven(_mm256_and_si256(scattered_words(plane, a.offsets + window.start),
                                                  low)));
                store(row + 32, woven(_mm256_and_si256(
                                    scattered_words(plane, a.offsets + window.start + 8), high)));
            } else {
                const int* words = reinterpret_cast<const int*>(plane + window.start);
                store(row, woven(_mm256_maskload_epi32(words, low)));
                store(row + 32, woven(_mm256_maskload_epi32(words + 8, high)));
            }
        }
    }
}

// Eight pixels of one filter; the last ones of a run are stored through a mask.
template <bool Whole>
inline __attribute__((always_inline)) void write8(float* y, int pixels, __m128i sums, __m256 scale,
                                                  __m256 bias) {
    if (!Whole && pixels <= 0) return;
    __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums)), scale);
    BITCONV_KEEP_ROUNDED(product);
    const __m256 value = _mm256_add_ps(product, bias);
    if (Whole) _mm256_storeu_ps(y, value);
    else _mm256_maskstore_ps(y, first_lanes(pixels), value);
}

// Up to sixteen pixels by eight filters. Everything by value: a store to y could alias what a
// reference leads to.
template <bool Whole>
inline __attribute__((always_inline)) void write16x8(const std::int16_t* sums, int pixels,
                                                     int filters, float* y,
                                                     std::size_t filter_stride, const float* scales,
                                                     const float* biases) {
    __m256i rows[8];
    load_turned(rows, sums, sum_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        if (!Whole && i >= filters) break;
        const __m256 scale = _mm256_broadcast_ss(scales + i),
                     bias = _mm256_broadcast_ss(biases + i);
        write8<Whole>(y, pixels, _mm256_castsi256_si128(rows[i]), scale, bias);
        write8<Whole>(y + 8, pixels - 8, _mm256_extracti128_si256(rows[i], 1), scale, bias);
        y += filter_stride;
    }
}

void epilogue16(const EpilogueArguments& arguments) {
    const EpilogueArguments a = arguments;
    for (int p = 0; p < a.pixels; p += 16) {
        for (int f = 0; f < a.filters; f += 8) {
            const std::int16_t* sums =
                static_cast<const std::int16_t*>(a.sums) + p * sum_stride + f;
            float* y = a.y + f * a.filter_stride + p;
            const int pixels = a.pixels - p, filters = a.filters - f;
            if (pixels >= 16 && filters >= 8)
                write16x8<true>(sums, pixels, filters, y, a.filter_stride, a.scale + f, a.bias + f);
            else
                write16x8<false>(sums, pixels, filters, y, a.filter_stride, a.scale + f,
                                 a.bias + f);
        }
    }
}

#define BITCONV_OWN_COUNT "count_avx2.inc"
#include "nibble_kernel.inc"

}  // namespace

const Implementation avx2 = {
    "avx2",
    supported,
    Encoding::nibbles,
    lanes,
    lane_of,
    nullptr,
    pack,
    gather,
    map,
    multiply_floats,
    multiply_winograd,
    pool,
    {multiply<std::int16_t, epilogue16>, multiply<std::int32_t, scalar_epilogue<std::int32_t>>,
     nullptr},
    nibble_peak,
    nibble_ports,
};

}  // namespace bitconv

#pragma GCC pop_options
#endif
