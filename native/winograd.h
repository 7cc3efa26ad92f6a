// Float convolutions by tiles of Winograd: their weights, and the plan of one size.
#pragma once
#include <memory>
#include <vector>

#include "float_weights.h"

namespace bitconv {

// Weights at the points of tiles of Winograd (contract.h), [unit][place][channel][channel_unit].
struct WinogradWeights {
    static constexpr int least_side = 3, most_side = 5;  // of a kernel, counted in strides

    int side;
    Buffer<float> filled;

    // Throws std::invalid_argument where a layer has groups, dilation or a kernel that tiles do not
    // do.
    WinogradWeights(const Shape& shape, const std::vector<float>& weights);
};

// A float convolution by tiles, for one size. `direct` are its weights in the plain order, for
// tiles of which a value is not finite.
std::unique_ptr<Planned> plan_winograd(const FloatWeights& direct, const WinogradWeights& weights,
                                       const Implementation& implementation, EndingPlan ending,
                                       const Wiring& wiring);

}  // namespace bitconv
