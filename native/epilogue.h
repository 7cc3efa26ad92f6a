// The epilogue of sums with filters in lanes, one value at a time; its vector versions compute the
// same two roundings.
#pragma once
#include "contract.h"

// Forces the value into a register (float32 or a vector of them) before it is used: whatever the
// flags, the compiler cannot fuse the multiplication that made it with the addition that follows.
#if defined(__x86_64__)
#define BITCONV_KEEP_ROUNDED(value) __asm__("" : "+v"(value))
#else
#define BITCONV_KEEP_ROUNDED(value) __asm__("" : "+m"(value))
#endif

#define BITCONV_INLINE __attribute__((always_inline))

namespace bitconv {

constexpr int sum_stride = 128;

struct EpilogueArguments {
    const void* sums;  // [pixels][sum_stride], int16 or int32
    int pixels;
    int filters;
    float* y;  // y[f * filter_stride + p]
    std::size_t filter_stride;
    const float* scale;  // [filters]
    const float* bias;   // [filters]
};

template <typename Sum>
inline void scalar_epilogue(const EpilogueArguments& a) {
    const Sum* sums = static_cast<const Sum*>(a.sums);
    for (int f = 0; f < a.filters; ++f) {
        for (int p = 0; p < a.pixels; ++p) {
            float product = float(sums[p * sum_stride + f]) * a.scale[f];
            BITCONV_KEEP_ROUNDED(product);
            a.y[f * a.filter_stride + p] = product + a.bias[f];
        }
    }
}

}  // namespace bitconv
