// One binary convolution layer: its shape and its packed weights, independent of image size and
// instruction set.
#pragma once
#include <cstdint>
#include <vector>

namespace bitconv {

struct Shape {
    int groups;
    int filters;   // per group
    int channels;  // per group
    int kernel[2], stride[2], dilation[2];
    int padding[2][2];  // [height, width][before, after]

    int taps() const { return kernel[0] * kernel[1]; }
    int total_filters() const { return groups * filters; }
    int total_channels() const { return groups * channels; }
    int words64() const { return (channels + 63) / 64; }
};

struct Layer {
    Shape shape;
    std::vector<std::uint64_t>
        words;  // [groups * filters][taps][words64]; bit c % 64 of word c / 64: channel c
    std::vector<float> scale, bias;  // [groups * filters]; absent: 1 and -0
    std::vector<float> threshold;    // [groups * channels]; absent: 0
};

// The whole layer or std::invalid_argument: sizes positive and without overflow, arrays of the
// right length, tail bits 0.
void validate(const Layer& layer);

// The shape alone.
void validate(const Shape& shape);

// Sign bits of float weights [filters][channels][taps] in the layout of Layer::words.
std::vector<std::uint64_t> pack_weights(const float* weights, std::int64_t filters, int channels,
                                        int taps);

}  // namespace bitconv
