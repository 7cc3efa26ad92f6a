// What this processor and this operating system can run; the only place that asks.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace bitconv {

// A bit of CPUID leaf 7, or of leaf 1 for `base`, and the register state (bits of XCR0) that the
// operating system has to save for its instructions.
struct CpuFeature {
    enum Word { ebx, ecx, edx, base } word;
    int bit;
    std::uint64_t states;
};

constexpr std::uint64_t ymm_state = 0x06;  // SSE and AVX registers
constexpr std::uint64_t zmm_state =
    0xe6;  // and the mask registers and both halves of the ZMM registers

namespace cpu {
constexpr CpuFeature avx2 = {CpuFeature::ebx, 5, ymm_state};
constexpr CpuFeature fma = {CpuFeature::base, 12, ymm_state};
constexpr CpuFeature avx512f = {CpuFeature::ebx, 16, zmm_state};
constexpr CpuFeature avx512dq = {CpuFeature::ebx, 17, zmm_state};
constexpr CpuFeature avx512bw = {CpuFeature::ebx, 30, zmm_state};
constexpr CpuFeature avx512vl = {CpuFeature::ebx, 31, zmm_state};
constexpr CpuFeature avx512vnni = {CpuFeature::ecx, 11, zmm_state};
constexpr CpuFeature avx512vpopcntdq = {CpuFeature::ecx, 14, zmm_state};
}  // namespace cpu

// Whether all of these can be used here. Asked of the processor once.
bool cpu_has(std::initializer_list<CpuFeature> features);

// The processor's name as it gives it itself, or "" where it gives none.
const char* cpu_name();

}  // namespace bitconv
