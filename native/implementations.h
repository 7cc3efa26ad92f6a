// The implementations there are, and the list that dispatch chooses from.
#pragma once
#include <string>
#include <vector>

#include "contract.h"

namespace bitconv {

// Best first. A new instruction set is a file that defines its Implementation, and a line here.
#if defined(__x86_64__)
#define BITCONV_IMPLEMENTATIONS(X) \
    X(avx512vpopcntdq)             \
    X(avx512bw)                    \
    X(avx2)                        \
    X(portable)
#else
#define BITCONV_IMPLEMENTATIONS(X) X(portable)
#endif

#define BITCONV_DECLARE(name) extern const Implementation name;
BITCONV_IMPLEMENTATIONS(BITCONV_DECLARE)
#undef BITCONV_DECLARE

// All that were compiled, best first; supported() says which this machine can run.
const std::vector<const Implementation*>& implementations();

// The implementation of that name. Throws std::invalid_argument for an unknown name,
// std::runtime_error for one that this machine cannot run; never another one instead.
const Implementation& implementation_named(const std::string& name);

}  // namespace bitconv
