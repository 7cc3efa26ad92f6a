// The two speeds of the machine that a call is judged by: its binary multiply-adds and its memory.
#pragma once
#include <cstddef>

#include "contract.h"

namespace bitconv {

// Binary multiply-adds per second of the implementation's loop in registers: the best of the tries
// that fit in `seconds`.
double peak(const Implementation& implementation, double seconds);

// Binary multiply-adds per second that the clock and the ports allow (contract.h, Ports), or 0
// where that is not known.
double port_limit(const Implementation& implementation, double seconds);

// Seconds to read `inputs` floats once and write `outputs` floats once, and nothing else.
double stream(const float* x, std::size_t inputs, float* y, std::size_t outputs);

// Clock frequency in Hz, from a chain of dependent additions: one per cycle on every processor
// there is.
double clock_rate(double seconds);

}  // namespace bitconv
