// The part of ONNX Runtime's C interface that a library of operators needs, by position: OrtApi is
// a table of functions that only ever grows at its end, OrtCustomOp a struct that does, whose
// `version` says how far the runtime may read. So one library, built without ONNX Runtime, works
// with all of its versions from 1.10 on. `checked_api` (ort_api.cpp) tries the positions before
// they are relied on.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

extern "C" {
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;

struct OrtApi {
    void* entry[1];  // more than one: how many goes with the version
};

struct OrtApiBase {
    const OrtApi* (*GetApi)(std::uint32_t version) noexcept;
    const char* (*GetVersionString)() noexcept;
};

struct OrtCustomOp {
    std::uint32_t version;
    void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
    const char* (*GetName)(const OrtCustomOp*);
    const char* (*GetExecutionProviderType)(const OrtCustomOp*);
    int (*GetInputType)(const OrtCustomOp*, std::size_t);
    std::size_t (*GetInputTypeCount)(const OrtCustomOp*);
    int (*GetOutputType)(const OrtCustomOp*, std::size_t);
    std::size_t (*GetOutputTypeCount)(const OrtCustomOp*);
    void (*KernelCompute)(void*, OrtKernelContext*);
    void (*KernelDestroy)(void*);
    int (*GetInputCharacteristic)(const OrtCustomOp*, std::size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp*, std::size_t);
    // read where version is at least 13
    int (*GetInputMemoryType)(const OrtCustomOp*, std::size_t);
    // at least 14
    int (*GetVariadicInputMinArity)(const OrtCustomOp*);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
    // at least 16
    OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
    OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
    void* later[8];
};
}

namespace ort {

enum ElementType { float_element = 1, uint8_element = 2 };
// Of an operator's input or output. variadic: read where version is at least 14
enum Characteristic { required = 0, optional = 1, variadic = 2 };

constexpr int fail = 1, invalid_argument = 2;  // OrtErrorCode

// Name, position in OrtApi, signature, first version (1.x) that has it.
#define ORT_FUNCTIONS(X)                                                                           \
    X(CreateStatus, 0, OrtStatus* (*)(int, const char*), 1)                                        \
    X(GetErrorCode, 1, int (*)(const OrtStatus*), 1)                                               \
    X(GetErrorMessage, 2, const char* (*)(const OrtStatus*), 1)                                    \
    X(CreateCustomOpDomain, 26, OrtStatus* (*)(const char*, OrtCustomOpDomain**), 1)               \
    X(CustomOpDomain_Add, 27, OrtStatus* (*)(OrtCustomOpDomain*, const OrtCustomOp*), 1)           \
    X(AddCustomOpDomain, 28, OrtStatus* (*)(OrtSessionOptions*, OrtCustomOpDomain*), 1)            \
    X(GetTensorMutableData, 51, OrtStatus* (*)(OrtValue*, void**), 1)                              \
    X(GetTensorElementType, 60, OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, int*), 1)         \
    X(GetDimensionsCount, 61, OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, std::size_t*), 1)   \
    X(GetDimensions, 62,                                                                           \
      OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t), 1)             \
    X(GetTensorTypeAndShape, 65, OrtStatus* (*)(const OrtValue*, OrtTensorTypeAndShapeInfo**), 1)  \
    X(KernelContext_GetInputCount, 88, OrtStatus* (*)(const OrtKernelContext*, std::size_t*), 1)   \
    X(KernelContext_GetOutputCount, 89, OrtStatus* (*)(const OrtKernelContext*, std::size_t*), 1)  \
    X(KernelContext_GetInput, 90,                                                                  \
      OrtStatus* (*)(const OrtKernelContext*, std::size_t, const OrtValue**), 1)                   \
    X(KernelContext_GetOutput, 91,                                                                 \
      OrtStatus* (*)(OrtKernelContext*, std::size_t, const std::int64_t*, std::size_t,             \
                     OrtValue**),                                                                  \
      1)                                                                                           \
    X(ReleaseStatus, 93, void (*)(OrtStatus*), 1)                                                  \
    X(ReleaseTensorTypeAndShapeInfo, 99, void (*)(OrtTensorTypeAndShapeInfo*), 1)                  \
    X(HasSessionConfigEntry, 237, OrtStatus* (*)(const OrtSessionOptions*, const char*, int*), 14) \
    X(GetSessionConfigEntry, 238,                                                                  \
      OrtStatus* (*)(const OrtSessionOptions*, const char*, char*, std::size_t*), 14)              \
    X(KernelInfoGetConstantInput_tensor, 249,                                                      \
      OrtStatus* (*)(const OrtKernelInfo*, std::size_t, int*, const OrtValue**), 15)               \
    X(KernelContext_ParallelFor, 274,                                                              \
      OrtStatus* (*)(const OrtKernelContext*, void (*)(void*, std::size_t), std::size_t,           \
                     std::size_t, void*),                                                          \
      17)

constexpr int oldest = 10, newest_needed = 17;  // versions 1.x of ONNX Runtime

// The functions of one runtime in the process.
struct Api {
    const OrtApi* table;
    int minor;  // of the runtime's version 1.x; INT_MAX for 2 and beyond

#define ORT_FUNCTION(name, position, signature, since) \
    using name##_type = signature;                     \
    bool has_##name() const { return minor >= since; } \
    name##_type name() const { return reinterpret_cast<name##_type>(table->entry[position]); }
    ORT_FUNCTIONS(ORT_FUNCTION)
#undef ORT_FUNCTION

    // Throws what a status says, which is null where all went well.
    void check(OrtStatus* status) const {
        if (status == nullptr) return;
        const std::string message = GetErrorMessage()(status);
        ReleaseStatus()(status);
        throw std::runtime_error(message);
    }
};

// The functions of this runtime. Throws std::runtime_error, with a sentence, for a runtime that is
// too old, or whose functions are not where this file says.
Api checked_api(const OrtApiBase* base);

}  // namespace ort
