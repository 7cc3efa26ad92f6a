// Run-time dispatch: one ordered list.
#include <stdexcept>

#include "implementations.h"

namespace bitconv {

const std::vector<const Implementation*>& implementations() {
    static const std::vector<const Implementation*> list = {
#if defined(__x86_64__)
        &avx512vpopcntdq,
        &avx512bw,
        &avx2,
#endif
        &portable,
    };
    return list;
}

const Implementation& implementation_named(const std::string& name) {
    std::string known;
    for (const Implementation* candidate : implementations()) {
        if (name == candidate->name) {
            if (candidate->supported()) return *candidate;
            throw std::runtime_error("this machine cannot run the native implementation '" + name + "'");
        }
        known += (known.empty() ? "'" : ", '") + std::string(candidate->name) + "'";
    }
    throw std::invalid_argument("unknown native implementation '" + name + "'; known: " + known);
}

}  // namespace bitconv
