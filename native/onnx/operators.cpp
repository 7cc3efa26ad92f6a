// The operators of domain "netopt": Segment0 to Segment127, each a program (native/program.h) on
// float32 tensors. That there are so many is for the sake of runtimes without this library: they
// take a node for a call of the function of its name in the file, and every segment has a function
// of its own. To this library all are the same.
//
// A node reads the state first: uint8 [bytes], an initializer, the program (native/state.h). After
// it the node reads what the program does, x0, x1 and so on, and it gives what the program does,
// y0, y1 and so on. Each is float32 [batch, channels, height, width] or [batch, channels], and all
// have one batch.
//
// One operator takes any number of values. To a runtime from 1.15 on x and y are one variadic input
// and output, of which 1.15 and 1.16 find no types: the file has to say that y is float32. To an
// older one what comes after x0 and y0 is optional, up to most_values. A kernel demands those of
// its program.
#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "implementations.h"
#include "ort_abi.h"
#include "program.h"
#include "threads.h"

namespace {

using bitconv::Program;

// Each takes a runtime 15 to 70 us when a session is made, and 1 ms under a sanitizer: the tests
// build a library of fewer, too.
#ifndef NETOPT_MOST_OPERATORS
#define NETOPT_MOST_OPERATORS 128
#endif
constexpr int most_operators = NETOPT_MOST_OPERATORS;
constexpr std::size_t most_values = 32;  // that a node reads beside its state, and that it gives
constexpr std::size_t head_bytes = 24;   // of a state, its checksum among them

[[noreturn]] void refuse(const std::string& message) {
    throw std::invalid_argument("netopt: " + message);
}

const bitconv::Implementation& implementation() {
    const char* forced = std::getenv("NETOPT_NATIVE");
    if (forced != nullptr && *forced != 0) return bitconv::implementation_named(forced);
    for (const bitconv::Implementation* candidate : bitconv::implementations())
        if (candidate->supported()) return *candidate;
    throw std::runtime_error("netopt: this machine can run no implementation");
}

struct Tensor {
    int type;
    std::vector<std::int64_t> shape;
    void* data;
};

std::vector<std::int64_t> shape_of(const ort::Api& api, const OrtTensorTypeAndShapeInfo* info) {
    std::size_t rank = 0;
    api.check(api.GetDimensionsCount()(info, &rank));
    if (rank > 8) refuse("a tensor has rank " + std::to_string(rank));
    std::vector<std::int64_t> shape(rank);
    if (rank > 0) api.check(api.GetDimensions()(info, shape.data(), rank));
    return shape;
}

Tensor tensor_of(const ort::Api& api, const OrtValue* value) {
    if (value == nullptr) refuse("a tensor is missing");
    OrtTensorTypeAndShapeInfo* info = nullptr;
    api.check(api.GetTensorTypeAndShape()(value, &info));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
        info, api.ReleaseTensorTypeAndShapeInfo());
    Tensor tensor = {0, shape_of(api, info), nullptr};
    api.check(api.GetTensorElementType()(info, &tensor.type));
    api.check(api.GetTensorMutableData()(const_cast<OrtValue*>(value), &tensor.data));
    return tensor;
}

std::string text_of(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (const std::int64_t side : shape)
        text += (text.size() > 1 ? ", " : "") + std::to_string(side);
    return text + "]";
}

std::string number_of(std::size_t count, const char* what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

// The operators as one way of running them sees them: OrtCustomOp has no room of its own for what
// belongs to it.
struct Operators {
    struct Operator : OrtCustomOp {
        const Operators* all;
        char name[24];
    };

    ort::Api api;
    int threads;
    OrtCustomOpDomain* domain = nullptr;
    std::vector<Operator> each;  // never grows: the runtime holds pointers

    Operators(const ort::Api& api_of, int most_threads, int count);
};

class Kernel {
public:
    Kernel(const Operators& all, const OrtKernelInfo* info) : all_(all) {
        if (!all.api.has_KernelInfoGetConstantInput_tensor()) return;  // known when it first runs
        int constant = 0;
        const OrtValue* value = nullptr;
        all.api.check(all.api.KernelInfoGetConstantInput_tensor()(info, 0, &constant, &value));
        if (!constant || value == nullptr)
            refuse("the state of a segment must be an initializer of the file");
        program_ = made(tensor_of(all.api, value));
    }

    void compute(OrtKernelContext* context) {
        const ort::Api& api = all_.api;
        const std::shared_ptr<const Program> program = program_of(context);
        check_counts(context, *program);
        const std::size_t inputs = program->inputs().size();
        std::vector<const float*> from(inputs);
        std::vector<bitconv::ImageSize> sizes(inputs);
        std::int64_t batch = 0;
        for (std::size_t i = 0; i < inputs; ++i) {
            const Tensor x = input(context, 1 + i);
            check(i, x, program->inputs()[i]);
            if (i == 0) batch = x.shape[0];
            if (x.shape[0] != batch)
                refuse("input x" + std::to_string(i) + " of a segment has a batch of " +
                       std::to_string(x.shape[0]) + ", x0 one of " + std::to_string(batch));
            from[i] = static_cast<const float*>(x.data);
            const bool is_image = x.shape.size() == 4;
            sizes[i] = {is_image ? x.shape[2] : 1, is_image ? x.shape[3] : 1};
        }
        const std::vector<bitconv::Extent> extents = program->output_extents(sizes);
        std::vector<float*> to(extents.size());
        for (std::size_t o = 0; o < to.size(); ++o)
            to[o] = output(context, o, batch, extents[o], program->outputs()[o].rank);
        if (batch == 0) return;
        const bitconv::SessionThreads threads(api, context, all_.threads);
        program->run(from.data(), sizes, batch, to.data());
    }

private:
    Tensor input(const OrtKernelContext* context, std::size_t index) const {
        const OrtValue* value = nullptr;
        all_.api.check(all_.api.KernelContext_GetInput()(context, index, &value));
        return tensor_of(all_.api, value);
    }

    float* output(OrtKernelContext* context, std::size_t index, std::int64_t batch,
                  const bitconv::Extent& extent, int rank) const {
        const bool flat = rank == 1 && extent.height == 1 && extent.width == 1;
        const std::int64_t shape[] = {batch, extent.channels, extent.height, extent.width};
        OrtValue* value = nullptr;
        all_.api.check(
            all_.api.KernelContext_GetOutput()(context, index, shape, flat ? 2 : 4, &value));
        // A node may leave out the name of an output before the last one.
        if (value == nullptr)
            refuse("output y" + std::to_string(index) + " of a segment is missing");
        void* data = nullptr;
        all_.api.check(all_.api.GetTensorMutableData()(value, &data));
        return static_cast<float*>(data);
    }

    void check_counts(const OrtKernelContext* context, const Program& program) const {
        std::size_t read = 0, given = 0;
        all_.api.check(all_.api.KernelContext_GetInputCount()(context, &read));
        all_.api.check(all_.api.KernelContext_GetOutputCount()(context, &given));
        const std::size_t inputs = program.inputs().size(), outputs = program.outputs().size();
        if (read != 1 + inputs || given != outputs)
            refuse("the program of a segment has " + number_of(inputs, "input") + " and " +
                   number_of(outputs, "output") + ", its node has " +
                   number_of(read ? read - 1 : 0, "input") + " beside the state and " +
                   number_of(given, "output"));
    }

    static void check(std::size_t index, const Tensor& x, const bitconv::DescribedInput& expected) {
        const std::size_t rank = std::size_t(expected.rank) + 1;
        if (x.type != ort::float_element || x.shape.size() != rank ||
            x.shape[1] != expected.channels)
            refuse("input x" + std::to_string(index) + " of a segment is float32 [batch, " +
                   std::to_string(expected.channels) + (rank == 4 ? ", height, width]" : "]") +
                   ", received " + text_of(x.shape) +
                   (x.type == ort::float_element ? "" : " of another type"));
        if (x.shape[0] > INT_MAX)
            refuse("a batch of " + std::to_string(x.shape[0]) + " is too large");
    }

    static std::shared_ptr<const Program> made(const Tensor& state) {
        if (state.type != ort::uint8_element || state.shape.size() != 1)
            refuse("the state of a segment is uint8 [bytes], received " + text_of(state.shape));
        try {
            return std::make_shared<const Program>(static_cast<const std::uint8_t*>(state.data),
                                                   std::size_t(state.shape[0]), implementation());
        } catch (const std::invalid_argument& error) {
            refuse(std::string("the state of a segment: ") + error.what());
        }
    }

    // The runtime that told of no constants gives the state with every call: it must stay what it
    // was at the first one.
    std::shared_ptr<const Program> program_of(const OrtKernelContext* context) {
        if (all_.api.has_KernelInfoGetConstantInput_tensor()) return program_;
        const Tensor state = input(context, 0);
        const std::lock_guard<std::mutex> lock(mutex_);
        if (program_ == nullptr) {
            program_ = made(state);
        } else if (state.type != ort::uint8_element || state.shape.size() != 1 ||
                   std::size_t(state.shape[0]) != program_->state().size() ||
                   std::memcmp(state.data, program_->state().data(), head_bytes) != 0) {
            refuse(
                "the state of a segment changed between two calls; it must be an initializer of "
                "the file");
        }
        return program_;
    }

    const Operators& all_;
    std::mutex mutex_;
    std::shared_ptr<const Program> program_;
};

// A status of what the function throws, null where it returns.
template <typename Function>
OrtStatus* status_of(const ort::Api& api, Function function) {
    try {
        function();
        return nullptr;
    } catch (const std::invalid_argument& error) {
        return api.CreateStatus()(ort::invalid_argument, error.what());
    } catch (const std::bad_alloc&) {
        return api.CreateStatus()(ort::fail, "netopt: out of memory");
    } catch (const std::exception& error) {
        return api.CreateStatus()(ort::fail, error.what());
    }
}

const Operators& all_of(const OrtCustomOp* op) {
    return *static_cast<const Operators::Operator*>(op)->all;
}

// From this version on each optional value costs a runtime 4 to 15 us for each operator, whenever
// it makes a session; before, 1 us.
constexpr int variadic_since = 15;
bool takes_variadic(const OrtCustomOp* op) { return all_of(op).api.minor >= variadic_since; }

// Of the value of this number among those that an operator reads, or gives.
int characteristic(const OrtCustomOp* op, std::size_t value) {
    if (takes_variadic(op)) return ort::variadic;
    return value == 0 ? ort::required : ort::optional;
}

// KernelComputeV2 gets no operator: the kernel knows it.
struct OwnedKernel {
    const Operators& all;
    Kernel kernel;
};

Operators::Operators(const ort::Api& api_of, int most_threads, int count)
    : api(api_of), threads(most_threads), each(std::size_t(count)) {
    for (int index = 0; index < count; ++index) {
        Operator& o = each[std::size_t(index)];
        static_cast<OrtCustomOp&>(o) = OrtCustomOp();
        o.all = this;
        std::snprintf(o.name, sizeof o.name, "Segment%d", index);
        // Before 1.16 there are no functions that return a status: what goes wrong is thrown, and
        // the runtime catches it.
        o.version = api.minor >= 16 ? 16 : takes_variadic(&o) ? 14 : 8;
        o.GetName = [](const OrtCustomOp* op) -> const char* {
            return static_cast<const Operator*>(op)->name;
        };
        o.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
        o.GetInputTypeCount = [](const OrtCustomOp* op) -> std::size_t {
            return takes_variadic(op) ? 2 : 1 + most_values;
        };
        o.GetInputType = [](const OrtCustomOp*, std::size_t input) -> int {
            return input == 0 ? ort::uint8_element : ort::float_element;
        };
        o.GetOutputTypeCount = [](const OrtCustomOp* op) -> std::size_t {
            return takes_variadic(op) ? 1 : most_values;
        };
        o.GetOutputType = [](const OrtCustomOp*, std::size_t) -> int { return ort::float_element; };
        o.GetInputCharacteristic = [](const OrtCustomOp* op, std::size_t input) -> int {
            return input == 0 ? ort::required : characteristic(op, input - 1);
        };
        o.GetOutputCharacteristic = characteristic;
        o.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) -> int { return 0; };
        o.GetVariadicInputMinArity = o.GetVariadicInputHomogeneity = o.GetVariadicOutputMinArity =
            o.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) -> int { return 1; };
        o.CreateKernel = [](const OrtCustomOp* op, const OrtApi*,
                            const OrtKernelInfo* info) -> void* {
            return new OwnedKernel{all_of(op), {all_of(op), info}};
        };
        o.KernelCompute = [](void* kernel, OrtKernelContext* context) {
            static_cast<OwnedKernel*>(kernel)->kernel.compute(context);
        };
        o.CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                              void** kernel) -> OrtStatus* {
            *kernel = nullptr;
            return status_of(all_of(op).api, [&] {
                *kernel = new OwnedKernel{all_of(op), {all_of(op), info}};
            });
        };
        o.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
            OwnedKernel& owned = *static_cast<OwnedKernel*>(kernel);
            return status_of(owned.all.api, [&] { owned.kernel.compute(context); });
        };
        o.KernelDestroy = [](void* kernel) { delete static_cast<OwnedKernel*>(kernel); };
    }
    api.check(api.CreateCustomOpDomain()("netopt", &domain));
    for (const Operator& o : each) api.check(api.CustomOpDomain_Add()(domain, &o));
}

int number_in(const char* text, const char* name, int most) {
    char* end;
    const long number = std::strtol(text, &end, 10);
    if (end == text || *end != 0 || number < 1 || number > most)
        refuse(std::string(name) + " is '" + text + "', expected a number from 1 to " +
               std::to_string(most));
    return int(number);
}

// What a session's entry says, 0 where it has none, or the runtime does not tell.
int entry_of(const ort::Api& api, const OrtSessionOptions* options, const char* key, int most) {
    if (!api.has_GetSessionConfigEntry()) return 0;
    int there = 0;
    api.check(api.HasSessionConfigEntry()(options, key, &there));
    if (!there) return 0;
    char text[16] = {};
    std::size_t size = sizeof text - 1;
    api.check(api.GetSessionConfigEntry()(options, key, text, &size));
    return number_in(text, key, most);
}

// What the session's entry "netopt.threads" says, else NETOPT_THREADS in the environment, else the
// number of processors.
int threads_for(const ort::Api& api, const OrtSessionOptions* options) {
    if (const int threads = entry_of(api, options, "netopt.threads", 256)) return threads;
    const char* text = std::getenv("NETOPT_THREADS");
    if (text != nullptr && *text != 0) return number_in(text, "NETOPT_THREADS", 256);
    return std::max(1, int(std::thread::hardware_concurrency()));
}

// Sessions hold pointers into these as long as they live, which is told to nobody: they are never
// freed.
Operators& operators_for(const OrtApiBase* base, const OrtSessionOptions* options) {
    static std::mutex mutex;
    static std::map<std::tuple<const OrtApi*, int, int>, std::unique_ptr<Operators>>& made =
        *new std::map<std::tuple<const OrtApi*, int, int>, std::unique_ptr<Operators>>;
    const ort::Api api = ort::checked_api(base);
    const int threads = threads_for(api, options),
              wanted = entry_of(api, options, "netopt.segments", most_operators);
    const int count = wanted ? wanted : most_operators;
    const std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Operators>& found = made[std::make_tuple(api.table, threads, count)];
    if (found == nullptr) found.reset(new Operators(api, threads, count));
    return *found;
}

}  // namespace

// What ONNX Runtime calls when a program registers the library.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
    try {
        const Operators& all = operators_for(base, options);
        all.api.check(all.api.AddCustomOpDomain()(options, all.domain));
        return nullptr;
    } catch (const std::exception& error) {
        // These two functions are where they are in every version there has been.
        const OrtApi* table = base->GetApi(1);
        if (table == nullptr) throw;
        return ort::Api{table, 1}.CreateStatus()(ort::fail, error.what());
    }
}
