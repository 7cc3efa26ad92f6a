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
// Leaf 7, ecx of leaf 1, and XCR0; all 0 where there is no AVX or the operating system does not
// save its registers.
struct Answers {
    std::uint32_t words[4];
    std::uint64_t states;
};

std::uint64_t saved_states() {
    std::uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t(high) << 32) | low;
}

bool bit(std::uint32_t word, int index) { return (word >> index) & 1; }

Answers ask() {
    Answers answers = {};
    std::uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return answers;
    const std::uint32_t base = c;
    const bool os_saves = bit(c, 27), avx = bit(c, 28);
    if (!os_saves || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return answers;
    return {{b, c, d, base}, saved_states()};
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
struct Name {
    char text[1];
    Name() : text() {}
};
#endif

}  // namespace

bool cpu_has(std::initializer_list<CpuFeature> features) {
#ifdef BITCONV_X86
    static const Answers answers = ask();
    for (const CpuFeature& feature : features) {
        const bool saved = (answers.states & feature.states) == feature.states;
        if (!saved || !bit(answers.words[feature.word], feature.bit)) return false;
    }
    return true;
#else
    return features.size() == 0;
#endif
}

const char* cpu_name() {
    static const Name name;
    return name.text;
}

}  // namespace bitconv
