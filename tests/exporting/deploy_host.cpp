// A program in C++ that runs an exported file on ONNX Runtime's C interface, and has nothing of
// Python in it.
//
//   deploy_host libonnxruntime.so model.onnx input count dim... [library]
//
// Feeds float32 values (i * 7919 % 256) / 256 in the given shape and prints the first output's
// first values. Its positions in OrtApi are its own: a host has ONNX Runtime's header, this one has
// to do without.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct Api {
    void* entry[1];
};
struct ApiBase {
    const Api* (*get)(std::uint32_t);
    const char* (*version)();
};

static const Api* api;

template <typename... Arguments>
void call(int position, Arguments... arguments) {
    void* status = reinterpret_cast<void* (*)(Arguments...)>(api->entry[position])(arguments...);
    if (status == nullptr) return;
    std::printf("error: %s\n", reinterpret_cast<const char* (*)(void*)>(api->entry[2])(status));
    std::exit(1);
}

int main(int count, char** words) {
    if (count < 6) return 2;
    void* runtime = dlopen(words[1], RTLD_NOW);
    if (runtime == nullptr) return std::printf("error: %s\n", dlerror()), 2;
    const ApiBase* base = reinterpret_cast<const ApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"))();
    api = base->get(10);  // the oldest that the library works with
    const char* input = words[3];
    const int rank = std::atoi(words[4]);
    std::vector<std::int64_t> shape;
    std::size_t size = 1;
    for (int axis = 0; axis < rank; ++axis)
        shape.push_back(std::atoll(words[5 + axis])), size *= std::size_t(shape.back());
    const char* library = count > 5 + rank ? words[5 + rank] : nullptr;

    void *environment, *options, *session, *memory, *handle, *allocator, *x = nullptr, *y = nullptr;
    call(3, 4, "host", &environment);
    call(10, &options);
    call(24, options, 1);
    if (library != nullptr) call(130, options, "netopt.threads", "1");
    if (library != nullptr) call(29, options, library, &handle);
    call(7, environment, static_cast<const char*>(words[2]), options, &session);
    std::vector<float> values(size);
    for (std::size_t i = 0; i < size; ++i) values[i] = float(i * 7919 % 256) / 256;
    call(69, 1, 0, &memory);
    call(49, memory, static_cast<void*>(values.data()), size * 4, shape.data(), shape.size(), 1,
         &x);
    char* output;
    call(78, &allocator);
    call(37, session, std::size_t(0), allocator, &output);
    const char* outputs[] = {output};
    const char* inputs[] = {input};
    void* given[] = {x};
    call(9, session, static_cast<void*>(nullptr), inputs, given, std::size_t(1), outputs,
         std::size_t(1), &y);
    float* found;
    call(51, y, &found);
    std::printf("%s", base->version());
    for (int i = 0; i < 3; ++i) std::printf(" %.6f", found[i]);
    std::printf("\n");
}
