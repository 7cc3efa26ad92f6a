// AVX-512 without VPOPCNTDQ: nibble lookups by vpshufb, 64 filters in the bytes of a register.
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
inline Vector right4(Vector v) { return right16<4>(v); }
template <int Bits>
inline Vector left16(Vector v) {
    return _mm512_slli_epi16(v, Bits);
}
inline Vector lower_bytes(Vector v) { return _mm512_and_si512(v, _mm512_set1_epi16(255)); }
inline Vector add8(Vector a, Vector b) { return _mm512_add_epi8(a, b); }
inline Vector add16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
inline Vector sub16(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }

// Even bytes are widened to words first, then odd ones: sums come out in filter order.
const std::uint8_t lane_of[lanes] = {
    0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
    44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23,
    25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};

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
