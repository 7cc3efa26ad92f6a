// IEEE float32 whatever the process has set: libraries built with -ffast-math switch a thread to
// flushing subnormals to zero, where a positive subnormal would no longer compare greater than 0.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace bitconv {

class DefaultFloatMode {
public:
#if defined(__x86_64__)
    DefaultFloatMode() : saved_(_mm_getcsr()) {
        _mm_setcsr(0x1f80);
    }  // round to nearest, no flushing, no traps
    ~DefaultFloatMode() { _mm_setcsr(saved_); }
#else
    DefaultFloatMode() : saved_(0) {}
    ~DefaultFloatMode() { (void)saved_; }
#endif
    DefaultFloatMode(const DefaultFloatMode&) = delete;
    DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

private:
    unsigned saved_;
};

}  // namespace bitconv
