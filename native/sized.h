// A layer and one image size: the plan, the layout of a packed image, and the bases (contract.h, "Padding").
#pragma once
#include "blocks.h"
#include "contract.h"
#include "layer.h"
#include "plan.h"

namespace bitconv {

struct Sized {
    Plan plan;
    std::size_t plane_words, image_bytes;
    int images_per_chunk;                    // how many images are packed and computed together
    std::vector<std::int32_t> wide_bases;    // [group][case][filters of all blocks]; one of the two is filled
    std::vector<std::int16_t> narrow_bases;

    Sized(const Layer& layer, const Blocks& blocks, const Implementation& implementation, bool wide, std::int64_t height,
          std::int64_t width);
};

}  // namespace bitconv
