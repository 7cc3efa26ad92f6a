// Run-time dispatch over the one ordered list of implementations.h.
#include <stdexcept>

#include "implementations.h"

namespace bitconv {

const std::vector<const Implementation*>& implementations() {
#define BITCONV_ADDRESS(name) &name,
    static const std::vector<const Implementation*> list = {
        BITCONV_IMPLEMENTATIONS(BITCONV_ADDRESS)};
#undef BITCONV_ADDRESS
    return list;
}

const Implementation& implementation_named(const std::string& name) {
    std::string known;
    for (const Implementation* candidate : implementations()) {
        if (name == candidate->name) {
            if (candidate->supported()) return *candidate;
            throw std::runtime_error("this machine cannot run the native implementation '" + name +
                                     "'");
        }
        known += (known.empty() ? "'" : ", '") + std::string(candidate->name) + "'";
    }
    throw std::invalid_argument("unknown native implementation '" + name + "'; known: " + known);
}

}  // namespace bitconv
