// What this processor and this operating system can run; the only place that asks.
#pragma once

namespace bitconv {

struct CpuFeatures {
    bool avx2;
    bool avx512bw;         // with F, DQ and VL
    bool avx512vpopcntdq;  // with avx512bw
};

// Detected once. A feature counts only if the operating system saves its registers too (XGETBV).
const CpuFeatures& cpu_features();

// The processor's name as it gives it itself, or "" where it gives none.
const char* cpu_name();

}  // namespace bitconv
