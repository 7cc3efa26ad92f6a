// Fuzz target: a layer and a batch from arbitrary bytes; every implementation this machine can run
// must give exactly the result of a naive convolution, or all must refuse. Not part of the
// extension.
//
// Built from this file and all of native/*.cpp but *bindings.cpp, with -std=c++17 -ffp-contract=off
// -pthread -I native and
//   libFuzzer:   clang++ -fsanitize=fuzzer,address,undefined
//   standalone:  g++ -fsanitize=address,undefined -DBITCONV_FUZZ_MAIN; then CASES SEED, or one FILE
//   of libFuzzer's
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "bytes.h"
#include "convolution.h"
#include "thread_pool.h"

namespace {

using namespace bitconv;

struct Case {
    Layer layer;
    std::vector<float> weights, x;
    int images, height, width;
};

Case make_case(Bytes& bytes) {
    static const int channels[] = {1, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 257, 520};
    Case c;
    Shape& s = c.layer.shape;
    s.groups = bytes.next() % 4 ? 1 : bytes.between(1, 4);
    s.channels = channels[bytes.next() % 16];
    s.filters = bytes.next() % 2 ? bytes.between(1, 9) : bytes.between(10, 140);
    for (int axis = 0; axis < 2; ++axis) {
        s.kernel[axis] = bytes.next() % 8 ? bytes.between(1, 3) : bytes.between(1, 11);
        s.stride[axis] = bytes.between(1, 3);
        s.dilation[axis] = bytes.next() % 4 ? 1 : bytes.between(1, 4);
        for (int side = 0; side < 2; ++side) s.padding[axis][side] = bytes.between(0, 4);
    }
    c.images = bytes.next() % 8 ? bytes.between(0, 3) : bytes.between(0, 40);
    c.height = bytes.between(1, 12);
    c.width = bytes.next() % 8 ? bytes.between(1, 12) : bytes.between(1, 60);
    c.weights = bytes.values(std::size_t(s.total_filters()) * s.channels * s.taps());
    c.layer.words = pack_weights(c.weights.data(), s.total_filters(), s.channels, s.taps());
    c.layer.scale = bytes.next() % 2 ? bytes.values(s.total_filters())
                                     : std::vector<float>(s.total_filters(), 1.0f);
    c.layer.bias = bytes.next() % 2 ? bytes.values(s.total_filters())
                                    : std::vector<float>(s.total_filters(), -0.0f);
    c.layer.threshold = bytes.next() % 2 ? bytes.values(s.total_channels())
                                         : std::vector<float>(s.total_channels(), 0.0f);
    c.x = bytes.values(std::size_t(c.images) * s.total_channels() * c.height * c.width);
    return c;
}

int naive_dot(const Case& c, int image, int filter, std::int64_t oy, std::int64_t ox) {
    const Shape& s = c.layer.shape;
    int dot = 0;
    for (int channel = 0; channel < s.channels; ++channel) {
        const int source = filter / s.filters * s.channels + channel;
        for (int ky = 0; ky < s.kernel[0]; ++ky) {
            for (int kx = 0; kx < s.kernel[1]; ++kx) {
                const std::int64_t y = oy * s.stride[0] + ky * s.dilation[0] - s.padding[0][0];
                const std::int64_t x = ox * s.stride[1] + kx * s.dilation[1] - s.padding[1][0];
                if (y < 0 || x < 0 || y >= c.height || x >= c.width) continue;
                const float w =
                    c.weights[((std::size_t(filter) * s.channels + channel) * s.kernel[0] + ky) *
                                  s.kernel[1] +
                              kx];
                const float v =
                    c.x[((std::size_t(image) * s.total_channels() + source) * c.height + y) *
                            c.width +
                        x];
                dot += (w > 0) == (v > c.layer.threshold[source]) ? 1 : -1;
            }
        }
    }
    return dot;
}

std::vector<float> naive(const Case& c, const OutputSize& size) {
    std::vector<float> result;
    for (int image = 0; image < c.images; ++image)
        for (int filter = 0; filter < c.layer.shape.total_filters(); ++filter)
            for (std::int64_t oy = 0; oy < size.height; ++oy)
                for (std::int64_t ox = 0; ox < size.width; ++ox) {
                    const volatile float product =
                        float(naive_dot(c, image, filter, oy, ox)) * c.layer.scale[filter];
                    result.push_back(product + c.layer.bias[filter]);
                }
    return result;
}

bool same(float a, float b) { return (a != a && b != b) || std::memcmp(&a, &b, sizeof a) == 0; }

void check(const Case& c, const Implementation& implementation,
           const std::vector<float>& expected) {
    const float guard = 12345.0f;
    std::vector<float> y(expected.size() + 2, guard);
    Convolution(c.layer, implementation).run(c.x.data(), c.images, c.height, c.width, y.data() + 1);
    bool good = same(y.front(), guard) && same(y.back(), guard);
    for (std::size_t i = 0; i < expected.size(); ++i) good = good && same(y[i + 1], expected[i]);
    if (good) return;
    const Shape& s = c.layer.shape;
    std::fprintf(stderr,
                 "%s differs: groups %d filters %d channels %d kernel %dx%d images %d of %dx%d\n",
                 implementation.name, s.groups, s.filters, s.channels, s.kernel[0], s.kernel[1],
                 c.images, c.height, c.width);
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    const Case c = make_case(bytes);
    set_num_threads(bytes.between(1, 3));
    OutputSize output;
    try {
        output = output_size(c.layer.shape, c.height, c.width);
    } catch (const std::invalid_argument&) {
        return 0;  // the kernel does not fit
    }
    const std::vector<float> expected = naive(c, output);
    for (const Implementation* implementation : implementations())
        if (implementation->supported()) check(c, *implementation, expected);
    return 0;
}
