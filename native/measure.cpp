#include "measure.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace bitconv {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Where results go that only keep the compiler from dropping a loop.
volatile std::uint64_t kept = 0;

// The best rate of work(rounds), which returns what it has done, in tries of about a tenth of a
// millisecond: short, so that some run undisturbed on a busy machine.
template <typename Work>
double best_rate(double seconds, Work work) {
    double best = 0;
    std::uint64_t rounds = 1 << 8;
    for (const auto start = Clock::now(); seconds_since(start) < seconds;) {
        const auto begin = Clock::now();
        const double done = double(work(rounds)), elapsed = seconds_since(begin);
        best = std::max(best, done / elapsed);
        if (elapsed < 1e-4) rounds *= 2;
    }
    return best;
}

double best_rate_of(Loop loop, double seconds) {
    std::uint64_t sink = 0;
    const double best =
        best_rate(seconds, [&](std::uint64_t rounds) { return loop(rounds, &sink); });
    kept = sink;
    return best;
}

}  // namespace

double peak(const Implementation& implementation, double seconds) {
    return best_rate_of(implementation.peak, seconds);
}

double port_limit(const Implementation& implementation, double seconds) {
    const Ports& ports = implementation.ports;
    if (!ports.common) return 0;
    const double common = best_rate_of(ports.common, seconds / 2),
                 scarce = best_rate_of(ports.scarce, seconds / 2);
    return ports.macs / std::max(ports.operations / common, ports.scarce_operations / scarce);
}

// Eight streams at a time: one alone does not keep the prefetchers busy, and would make the ideal
// too easy.
double stream(const float* x, std::size_t inputs, float* y, std::size_t outputs) {
    constexpr int streams = 8, step = 16;
    const auto begin = Clock::now();
    const std::uint32_t* words = reinterpret_cast<const std::uint32_t*>(x);
    std::uint32_t seen[step] = {};
    const std::size_t read = inputs / streams / step * step,
                      written = outputs / streams / step * step;
    for (std::size_t i = 0; i < read; i += step)
        for (int s = 0; s < streams; ++s)
            for (int j = 0; j < step; ++j) seen[j] |= words[s * read + i + j];
    for (std::size_t i = streams * read; i < inputs; ++i) seen[0] |= words[i];
    for (int j = 1; j < step; ++j) seen[0] |= seen[j];
    const float value = seen[0] == 0 ? 1.0f : 2.0f;
    for (std::size_t i = 0; i < written; i += step)
        for (int s = 0; s < streams; ++s)
            for (int j = 0; j < step; ++j) y[s * written + i + j] = value;
    for (std::size_t i = streams * written; i < outputs; ++i) y[i] = value;
    return seconds_since(begin);
}

double clock_rate(double seconds) {
    return best_rate(seconds, [](std::uint64_t rounds) {
        std::uint64_t chain = rounds;
        for (std::uint64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
            for (int step = 0; step < 16; ++step) {
                chain += i;
                __asm__ volatile("" : "+r"(chain));
            }
        kept = chain;
        return rounds * 16;
    });
}

}  // namespace bitconv
