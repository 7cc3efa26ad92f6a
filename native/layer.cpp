#include "layer.h"

#include <limits>
#include <stdexcept>
#include <string>

namespace bitconv {
namespace {

constexpr std::int64_t size_limit = std::numeric_limits<std::int32_t>::max();

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

void require_length(std::size_t received, std::int64_t expected, const char* name) {
    require(std::int64_t(received) == expected,
            std::string(name) + " has " + std::to_string(received) + " elements, expected " +
                std::to_string(expected));
}

}  // namespace

void validate(const Shape& s) {
    require(s.groups > 0 && s.filters > 0 && s.channels > 0,
            "groups, filters and channels must be positive");
    require(std::int64_t(s.groups) * s.filters <= size_limit &&
                std::int64_t(s.groups) * s.channels <= size_limit,
            "too many filters or channels");
    for (int axis = 0; axis < 2; ++axis) {
        require(s.kernel[axis] > 0 && s.stride[axis] > 0 && s.dilation[axis] > 0,
                "kernel sizes, strides and dilations must be positive");
        require(s.padding[axis][0] >= 0 && s.padding[axis][1] >= 0, "padding must not be negative");
        require((s.kernel[axis] - 1) * std::int64_t(s.dilation[axis]) + 1 <= size_limit,
                "the dilated kernel is too large");
    }
    // A dot product and its base, at most three times its length, stay inside int32.
    const std::int64_t taps = std::int64_t(s.kernel[0]) * s.kernel[1];
    require(taps <= size_limit / 4 / s.channels,
            "channels * kernel height * kernel width is too large");
}

void validate(const Layer& layer) {
    const Shape& s = layer.shape;
    validate(s);
    const std::int64_t rows = std::int64_t(s.total_filters()) * s.taps();
    require_length(layer.words.size(), rows * s.words64(), "words");
    require_length(layer.scale.size(), s.total_filters(), "scale");
    require_length(layer.bias.size(), s.total_filters(), "bias");
    require_length(layer.threshold.size(), s.total_channels(), "threshold");
    if (s.channels % 64 == 0) return;
    const std::uint64_t tail = ~std::uint64_t(0) << (s.channels % 64);
    for (std::int64_t row = 0; row < rows; ++row)
        require((layer.words[(row + 1) * s.words64() - 1] & tail) == 0,
                "words has bits set beyond the last channel");
}

std::vector<std::uint64_t> pack_weights(const float* weights, std::int64_t filters, int channels,
                                        int taps) {
    const int words = (channels + 63) / 64;
    std::vector<std::uint64_t> packed(std::size_t(filters) * taps * words);
    for (std::int64_t f = 0; f < filters; ++f)
        for (int c = 0; c < channels; ++c)
            for (int tap = 0; tap < taps; ++tap, ++weights)
                packed[(f * taps + tap) * words + c / 64] |= std::uint64_t(*weights > 0)
                                                             << (c % 64);
    return packed;
}

}  // namespace bitconv
