// A layer prepared for one instruction set, ready to be called from any number of threads.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>

#include "blocks.h"
#include "contract.h"
#include "layer.h"
#include "sized.h"

namespace bitconv {

class Convolution {
public:
    // Throws std::invalid_argument if the layer is not valid.
    Convolution(Layer layer, const Implementation& implementation);

    const Layer& layer() const { return layer_; }
    const Implementation& implementation() const { return implementation_; }

    // y[n, f] = float(dot) * scale[f] + bias[f]; x [images, channels, height, width] and y
    // contiguous float32. Throws std::invalid_argument for sizes that do not fit and
    // std::bad_alloc, before anything is written.
    void run(const float* x, std::int64_t images, std::int64_t height, std::int64_t width,
             float* y) const;

private:
    std::shared_ptr<const Sized> sized(std::int64_t height, std::int64_t width) const;

    Layer layer_;
    const Implementation& implementation_;
    Blocks blocks_;
    mutable std::mutex mutex_;
    mutable std::shared_ptr<const Sized> last_;  // of the image size seen last
};

}  // namespace bitconv
