// AVX-512 without VPOPCNTDQ: nibble lookups by vpshufb, 64 filters in the bytes of a register.
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
#pragma GCC target("avx2,avx512f,avx512bw,avx512dq,avx512vl")

namespace bitconv {
namespace {

using Vector = __m512i;
constexpr Encoding encoding = Encoding::nibbles;
constexpr int lanes = 64;

inline Vector zero() { return _mm512_setzero_si512(); }
inline Vector load(const void* from) { return _mm512_loadu_si512(from); }
inline void store(void* to, Vector v) { _mm512_storeu_si512(to, v); }
inline Vector broadcast_row(const std::uint8_t* row) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
}
inline Vector look_up(Vector row, Vector indices) { return _mm512_shuffle_epi8(row, indices); }
inline __attribute__((always_inline)) void look_up_and_add(Vector& sum, Vector row,
                                                           Vector indices) {
    sum = _mm512_add_epi8(sum, look_up(row, indices));
    __asm__("" : "+v"(sum));  // added here: gcc would collect the lookups first, and spill
}
inline Vector lower_nibbles(Vector v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
template <int Bits>  // words of 16 bits
inline Vector right16(Vector v) {
    return _mm512_srli_epi16(v, Bits);
}
inline Vector to_upper_nibbles(Vector v) {  // modulo 256
    return _mm512_and_si512(_mm512_slli_epi16(v, 4), _mm512_set1_epi8(-16));
}
inline Vector add8(Vector a, Vector b) { return _mm512_add_epi8(a, b); }
inline Vector sub8(Vector a, Vector b) { return _mm512_sub_epi8(a, b); }
inline Vector sub16(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
inline Vector widen_low(Vector v) { return _mm512_unpacklo_epi8(v, zero()); }
inline Vector widen_high(Vector v) { return _mm512_unpackhi_epi8(v, zero()); }

// The inverse of the order that unpacking within 128-bit quarters leaves: sums come out in filter
// order.
const std::uint8_t lane_of[lanes] = {
    0,  1,  2,  3,  4,  5,  6,  7,  16, 17, 18, 19, 20, 21, 22, 23, 32, 33, 34, 35, 36, 37,
    38, 39, 48, 49, 50, 51, 52, 53, 54, 55, 8,  9,  10, 11, 12, 13, 14, 15, 24, 25, 26, 27,
    28, 29, 30, 31, 40, 41, 42, 43, 44, 45, 46, 47, 56, 57, 58, 59, 60, 61, 62, 63};

#include "transpose_avx2.inc"
#include "avx512.inc"
#include "nibble_kernel.inc"

bool supported() {
    return cpu_has({cpu::avx2, cpu::avx512f, cpu::avx512bw, cpu::avx512dq, cpu::avx512vl});
}

}  // namespace

const Implementation avx512bw = {
    "avx512bw",
    supported,
    encoding,
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
