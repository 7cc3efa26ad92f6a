// What fuzz targets share: numbers from the fuzzer's bytes, and a main for builds without a fuzzer.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "implementations.h"

namespace bitconv {

// Reads numbers from the fuzzer's bytes; after their end, from a generator that the bytes seeded.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size)
        : data_(data), end_(data + size), state_(0x9e3779b97f4a7c15u) {}

    std::uint32_t next() {
        state_ =
            state_ * 6364136223846793005u + 1442695040888963407u + (data_ < end_ ? *data_++ : 0);
        return std::uint32_t(state_ >> 33);
    }
    int between(int low, int high) { return low + int(next() % std::uint32_t(high - low + 1)); }
    float value() {
        const float infinity = std::numeric_limits<float>::infinity(),
                    nan = std::numeric_limits<float>::quiet_NaN();
        const float special[] = {0.0f, -0.0f, infinity, -infinity, nan, 1e-45f, -1e-45f, 1.0f};
        const std::uint32_t bits = next();
        return bits % 16 == 0 ? special[bits / 16 % 8]
                              : float(std::int32_t(bits) - 0x3fffffff) * 1e-9f;
    }
    std::vector<float> values(std::size_t count) {
        std::vector<float> result(count);
        for (float& v : result) v = value();
        return result;
    }

private:
    const std::uint8_t *data_, *end_;
    std::uint64_t state_;
};

}  // namespace bitconv

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

#ifdef BITCONV_FUZZ_MAIN
namespace {

std::vector<std::uint8_t> file_bytes(const char* path) {
    std::vector<std::uint8_t> bytes;
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "rb"), std::fclose);
    for (int c; file && (c = std::fgetc(file.get())) != EOF;) bytes.push_back(std::uint8_t(c));
    return bytes;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2) {
        const std::vector<std::uint8_t> bytes = file_bytes(argv[1]);
        return LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    const int cases = argc > 2 ? std::atoi(argv[1]) : 100, seed = argc > 2 ? std::atoi(argv[2]) : 0;
    for (int i = 0; i < cases; ++i) {
        const std::uint32_t numbers[2] = {std::uint32_t(seed), std::uint32_t(i)};
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(numbers), sizeof numbers);
    }
    std::printf("%d cases agree on:", cases);
    for (const bitconv::Implementation* implementation : bitconv::implementations())
        if (implementation->supported()) std::printf(" %s", implementation->name);
    std::printf("\n");
    return 0;
}
#endif
