#include "convolution.h"

#include <utility>

#include "driver.h"

namespace bitconv {

Convolution::Convolution(Layer layer, const Implementation& implementation)
    : layer_((validate(layer), std::move(layer))),
      implementation_(implementation),
      blocks_(layer_, implementation) {}

void Convolution::run(const float* x, std::int64_t images, std::int64_t height, std::int64_t width,
                      float* y) const {
    output_size(layer_.shape, height, width);
    if (images == 0) return;
    const std::shared_ptr<const Sized> size = sized(height, width);
    Driver(layer_, blocks_, *size, implementation_).run(x, images, y);
}

// Never waits: in the child of a fork, the mutex may be held by a thread that the child does not
// have, and last_ be half written.
std::shared_ptr<const Sized> Convolution::sized(std::int64_t height, std::int64_t width) const {
    {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (lock && last_ && last_->plan.height == height && last_->plan.width == width)
            return last_;
    }
    const auto made =
        std::make_shared<const Sized>(layer_, blocks_, implementation_, height, width);
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock) last_ = made;
    return made;
}

}  // namespace bitconv
