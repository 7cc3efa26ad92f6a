#include "cpu.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define BITCONV_X86 1
#endif

namespace bitconv {
namespace {

#ifdef BITCONV_X86
constexpr std::uint64_t ymm_state = 0x06;  // XCR0: SSE and AVX registers
constexpr std::uint64_t zmm_state = 0xe6;  // and the mask registers and both halves of the ZMM registers

std::uint64_t saved_states() {
    std::uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t(high) << 32) | low;
}

bool bit(std::uint32_t word, int index) { return (word >> index) & 1; }

CpuFeatures detect() {
    CpuFeatures features = {};
    std::uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
    const bool os_saves = bit(c, 27), avx = bit(c, 28);
    if (!os_saves || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
    const std::uint64_t states = saved_states();
    features.avx2 = bit(b, 5) && (states & ymm_state) == ymm_state;
    const bool f = bit(b, 16), dq = bit(b, 17), bw = bit(b, 30), vl = bit(b, 31), vpopcntdq = bit(c, 14);
    features.avx512bw = features.avx2 && f && dq && bw && vl && (states & zmm_state) == zmm_state;
    features.avx512vpopcntdq = features.avx512bw && vpopcntdq;
    return features;
}

struct Name {
    char text[49];
    Name() : text() {
        std::uint32_t words[12] = {};
        for (std::uint32_t leaf = 0; leaf < 3; ++leaf) {
            std::uint32_t* w = words + 4 * leaf;
            if (!__get_cpuid(0x80000002u + leaf, w, w + 1, w + 2, w + 3)) return;
        }
        std::memcpy(text, words, 48);
    }
};
#else
CpuFeatures detect() { return CpuFeatures(); }
struct Name {
    char text[1];
    Name() : text() {}
};
#endif

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

const char* cpu_name() {
    static const Name name;
    return name.text;
}

}  // namespace bitconv
