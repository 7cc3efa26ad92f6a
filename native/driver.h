// One call: packs an image, then multiplies runs of its output pixels with its filters, in one
// thread or several.
#pragma once
#include <cstdint>

#include "blocks.h"
#include "buffer.h"
#include "contract.h"
#include "layer.h"
#include "sized.h"
#include "thread_pool.h"

namespace bitconv {

// What one thread needs besides the packed image.
struct WorkerScratch {
    Buffer<std::uint8_t> packed;  // of its own, where threads take whole images
    Buffer<std::uint8_t> panels;
    Buffer<std::uint8_t> between;
};

class Driver {
public:
    Driver(const Layer& layer, const Blocks& blocks, const Sized& sized,
           const Implementation& implementation);

    void run(const float* x, std::int64_t images, float* y) const;

private:
    struct Image {
        const float* x;
        float* y;
        std::uint8_t* packed;
    };
    // How one image is shared out: runs of panels against ranges of blocks.
    struct Share {
        int runs, ranges, blocks_per_range;
    };

    int pack_items() const;
    void pack(const Image& image, int item) const;
    Share share(int workers) const;
    int multiply_items(const Share& share) const {
        return layer_.shape.groups * share.ranges * share.runs;
    }
    void multiply(const Image& image, const Share& share, int item, WorkerScratch& scratch) const;

    const Layer& layer_;
    const Blocks& blocks_;
    const Sized& sized_;
    const Implementation& implementation_;
    const std::size_t panel_bytes_;
    const int panels_per_run_;
};

}  // namespace bitconv
