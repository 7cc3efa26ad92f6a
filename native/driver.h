// One call: packs images, walks runs of output pixels against pairs of filter blocks, in one thread or several.
#pragma once
#include <cstdint>

#include "blocks.h"
#include "buffer.h"
#include "contract.h"
#include "layer.h"
#include "sized.h"
#include "thread_pool.h"

namespace bitconv {

// What one thread needs besides the packed images.
struct WorkerScratch {
    Buffer<std::uint8_t> packed;    // of its own, where threads take whole chunks
    Buffer<std::uint8_t> sums;
    Buffer<std::int32_t> offsets;      // of a tile that crosses images
    std::int32_t border_case[max_tile_pixels];  // of the same tile
};

class Driver {
public:
    Driver(const Layer& layer, const Blocks& blocks, const Sized& sized, const Implementation& implementation, bool wide);

    void run(const float* x, std::int64_t images, float* y) const;

private:
    // Images that are packed and computed together.
    struct Chunk {
        const float* x;
        float* y;
        int images;
        std::uint8_t* packed;
    };

    Chunk chunk(const float* x, float* y, std::int64_t images, std::int64_t index, std::uint8_t* packed) const;
    int pack_items(const Chunk& chunk) const;
    void pack(const Chunk& chunk, int item) const;
    int compute_items(const Chunk& chunk) const;
    void compute(const Chunk& chunk, int item, WorkerScratch& scratch) const;
    void tiles(const Chunk& chunk, int group, int block, int vectors, int first, int count, WorkerScratch& scratch) const;
    void gather(const Chunk& chunk, int first, int pixels, WorkerScratch& scratch) const;
    void write(const Chunk& chunk, int group, int block, int vectors, int first, int count, const std::uint8_t* sums) const;

    const Layer& layer_;
    const Blocks& blocks_;
    const Sized& sized_;
    const Implementation& implementation_;
    const bool wide_;
    const int pairs_;             // pairs of blocks per group
    const std::size_t sum_bytes_;  // of one sum
};

}  // namespace bitconv
