// The implementations there are, and the list that dispatch chooses from.
#pragma once
#include <string>
#include <vector>

#include "contract.h"

namespace bitconv {

extern const Implementation portable;
#if defined(__x86_64__)
extern const Implementation avx2;
extern const Implementation avx512bw;
extern const Implementation avx512vpopcntdq;
#endif

// All that were compiled, best first; supported() says which this machine can run.
const std::vector<const Implementation*>& implementations();

// The implementation of that name. Throws std::invalid_argument for an unknown name, std::runtime_error for one that
// this machine cannot run; never another one instead.
const Implementation& implementation_named(const std::string& name);

}  // namespace bitconv
