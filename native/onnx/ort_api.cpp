#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "ort_abi.h"

namespace ort {
namespace {

int minor_of(const char* version) {
    char* end;
    const long major = std::strtol(version, &end, 10);
    if (major > 1) return INT_MAX;
    return major == 1 && *end == '.' ? int(std::strtol(end + 1, nullptr, 10)) : 0;
}

// What a status is made of comes out of it again only if the three functions are where they are
// looked for.
bool status_works(const Api& api) {
    static const char message[] = "netopt: a trial, not an error";
    OrtStatus* status = api.CreateStatus()(invalid_argument, message);
    if (status == nullptr) return false;
    const char* found = api.GetErrorMessage()(status);
    const bool same = api.GetErrorCode()(status) == invalid_argument && found != nullptr &&
                      std::strcmp(found, message) == 0;
    api.ReleaseStatus()(status);
    return same;
}

}  // namespace

Api checked_api(const OrtApiBase* base) {
    const char* version = base->GetVersionString();
    const int minor = minor_of(version ? version : "");
    if (minor < oldest)
        throw std::runtime_error("netopt: this is ONNX Runtime " +
                                 std::string(version ? version : "of no version") +
                                 ", the library needs 1." + std::to_string(oldest) + " or newer");
    const OrtApi* table = base->GetApi(std::uint32_t(std::min(minor, newest_needed)));
    bool whole = table != nullptr;
    const Api api = {table, minor};
#define ORT_IS_THERE(name, position, signature, since) \
    whole = whole && (minor < since || api.name() != nullptr);
    ORT_FUNCTIONS(ORT_IS_THERE)
#undef ORT_IS_THERE
    if (!whole || !status_works(api))
        throw std::runtime_error("netopt: ONNX Runtime " + std::string(version) +
                                 " does not have the C interface that its "
                                 "versions from 1." +
                                 std::to_string(oldest) +
                                 " on had, so the library cannot be used with it");
    return api;
}

}  // namespace ort
