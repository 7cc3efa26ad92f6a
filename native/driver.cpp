#include "driver.h"

#include <algorithm>
#include <cstring>

#include "float_mode.h"

namespace bitconv {
namespace {

constexpr int run_pixels = 48;     // output pixels between two epilogues: their sums stay in the first-level cache
constexpr int pack_pixels = 1024;  // input pixels of one packing item, a multiple of 16
constexpr int sum_stride = 2 * max_lanes;

int parts(std::int64_t whole, int part) { return int((whole + part - 1) / part); }

// Buffers that a calling thread keeps between its calls.
struct Scratch {
    Buffer<std::uint8_t> packed;
    std::vector<WorkerScratch> workers;
};
thread_local Scratch kept;

}  // namespace

Driver::Driver(const Layer& layer, const Blocks& blocks, const Sized& sized, const Implementation& implementation,
               bool wide)
    : layer_(layer), blocks_(blocks), sized_(sized), implementation_(implementation), wide_(wide),
      pairs_(parts(blocks.per_group, 2)), sum_bytes_(wide ? 4 : 2) {}

void Driver::run(const float* x, std::int64_t images, float* y) const {
    Parallel parallel;
    const int workers = parallel.workers();
    const int chunks = parts(images, sized_.images_per_chunk);
    const bool whole_chunks = workers > 1 && (chunks % workers == 0 || chunks >= 4 * workers);
    const std::size_t packed_bytes = std::size_t(std::min<std::int64_t>(images, sized_.images_per_chunk)) * sized_.image_bytes;
    if (int(kept.workers.size()) < workers) kept.workers.resize(workers);
    WorkerScratch* scratch = kept.workers.data();
    for (int worker = 0; worker < workers; ++worker) {
        scratch[worker].sums.reserve((run_pixels + max_tile_pixels) * sum_stride * 4);
        scratch[worker].offsets.reserve(std::size_t(layer_.shape.taps()) * max_tile_pixels);
        if (whole_chunks) scratch[worker].packed.reserve(packed_bytes);
    }
    if (!whole_chunks) kept.packed.reserve(packed_bytes);
    std::uint8_t* shared = kept.packed.get();

    const DefaultFloatMode mode;
    if (whole_chunks) {
        parallel.run(chunks, [&](int index, int worker) {
            const Chunk mine = chunk(x, y, images, index, scratch[worker].packed.get());
            for (int item = 0; item < pack_items(mine); ++item) pack(mine, item);
            for (int item = 0; item < compute_items(mine); ++item) compute(mine, item, scratch[worker]);
        });
        return;
    }
    for (int index = 0; index < chunks; ++index) {
        const Chunk ours = chunk(x, y, images, index, shared);
        parallel.run(pack_items(ours), [&](int item, int) { pack(ours, item); });
        parallel.run(compute_items(ours), [&](int item, int worker) { compute(ours, item, scratch[worker]); });
    }
}

Driver::Chunk Driver::chunk(const float* x, float* y, std::int64_t images, std::int64_t index, std::uint8_t* packed) const {
    const std::int64_t first = index * sized_.images_per_chunk;
    Chunk chunk;
    chunk.x = x + std::size_t(first) * layer_.shape.total_channels() * sized_.plan.pixels;
    chunk.y = y + std::size_t(first) * layer_.shape.total_filters() * sized_.plan.output_pixels;
    chunk.images = int(std::min<std::int64_t>(sized_.images_per_chunk, images - first));
    chunk.packed = packed;
    return chunk;
}

// Packing: an item is a segment of one plane of one image.

int Driver::pack_items(const Chunk& chunk) const {
    return chunk.images * layer_.shape.groups * blocks_.words * parts(sized_.plan.pixels, pack_pixels);
}

void Driver::pack(const Chunk& chunk, int item) const {
    const int segments = parts(sized_.plan.pixels, pack_pixels), planes = layer_.shape.groups * blocks_.words;
    const int segment = item % segments, plane = item / segments % planes, image = item / segments / planes;
    const int per_word = channels_per_word(implementation_.encoding), pixels = sized_.plan.pixels;
    const int first = plane % blocks_.words * per_word, begin = segment * pack_pixels;
    const std::size_t channel = std::size_t(plane / blocks_.words) * layer_.shape.channels + first;
    std::uint32_t* words = reinterpret_cast<std::uint32_t*>(chunk.packed + image * sized_.image_bytes) +
                           plane * sized_.plane_words;
    PackArguments a;
    a.x = chunk.x + (std::size_t(image) * layer_.shape.total_channels() + channel) * pixels + begin;
    a.channel_stride = pixels;
    a.thresholds = &layer_.threshold[channel];
    a.channels = std::min(per_word, layer_.shape.channels - first);
    a.pixels = std::min(pack_pixels, pixels - begin);
    a.plane = words + begin;
    implementation_.pack(a);
    if (begin + pack_pixels >= pixels) words[pixels] = 0;
}

// Computing: an item is a run of the chunk's output pixels against a pair of blocks.

int Driver::compute_items(const Chunk& chunk) const {
    return layer_.shape.groups * pairs_ * parts(std::int64_t(chunk.images) * sized_.plan.output_pixels, run_pixels);
}

void Driver::compute(const Chunk& chunk, int item, WorkerScratch& scratch) const {
    const int total = chunk.images * sized_.plan.output_pixels, runs = parts(total, run_pixels);
    const int first = item % runs * run_pixels, count = std::min(run_pixels, total - first);
    const int group = item / runs / pairs_, block = 2 * (item / runs % pairs_);
    const int vectors = std::min(2, blocks_.per_group - block);
    tiles(chunk, group, block, vectors, first, count, scratch);
    write(chunk, group, block, vectors, first, count, scratch.sums.get());
}

void Driver::tiles(const Chunk& chunk, int group, int block, int vectors, int first, int count,
                   WorkerScratch& scratch) const {
    const int outputs = sized_.plan.output_pixels;
    TileArguments a;
    a.taps = layer_.shape.taps();
    a.words = blocks_.words;
    a.plane_bytes = sized_.plane_words * 4;
    a.weights = blocks_.block(group, block);
    a.block_bytes = blocks_.block_bytes;
    const std::uint8_t* bases = wide_ ? reinterpret_cast<const std::uint8_t*>(sized_.wide_bases.data())
                                      : reinterpret_cast<const std::uint8_t*>(sized_.narrow_bases.data());
    a.base_stride = std::size_t(blocks_.per_group) * implementation_.lanes;
    a.bases = bases + (group * sized_.plan.cases * a.base_stride + std::size_t(block) * implementation_.lanes) * sum_bytes_;
    a.sum_stride = sum_stride;
    const std::uint8_t* planes = chunk.packed + std::size_t(group) * blocks_.words * a.plane_bytes;
    for (int p = 0, step = 0; p < count; p += step) {
        const bool small = count - p <= 2 * implementation_.tile_pixels[1] && count - p < implementation_.tile_pixels[0];
        step = implementation_.tile_pixels[small];
        const int image = (first + p) / outputs, pixel = (first + p) % outputs;
        const bool one_image = pixel + step <= outputs || image + 1 == chunk.images;
        a.sums = scratch.sums.get() + p * sum_stride * sum_bytes_;
        a.x = planes + (one_image ? image * sized_.image_bytes : 0);
        a.offsets = one_image ? &sized_.plan.offsets[pixel] : scratch.offsets.get();
        a.offset_stride = one_image ? sized_.plan.offset_stride : max_tile_pixels;
        a.border_case = one_image ? &sized_.plan.border_case[pixel] : scratch.border_case;
        if (!one_image) gather(chunk, first + p, step, scratch);
        implementation_.tile[small][vectors - 1][wide_](a);
    }
}

// Offsets and border cases of a tile of `pixels` that begins at the chunk's output pixel `first` and runs over the end of an image.
void Driver::gather(const Chunk& chunk, int first, int pixels, WorkerScratch& scratch) const {
    const int outputs = sized_.plan.output_pixels, last = chunk.images * outputs - 1;
    for (int p = 0; p < pixels; ++p) {
        const int at = std::min(first + p, last), image = at / outputs;
        const std::int32_t* source = &sized_.plan.offsets[at % outputs];
        scratch.border_case[p] = sized_.plan.border_case[at % outputs];
        for (int tap = 0; tap < layer_.shape.taps(); ++tap) {
            scratch.offsets.get()[tap * max_tile_pixels + p] =
                source[tap * sized_.plan.offset_stride] + std::int32_t(image * sized_.image_bytes);
        }
    }
}

void Driver::write(const Chunk& chunk, int group, int block, int vectors, int first, int count,
                   const std::uint8_t* sums) const {
    const int outputs = sized_.plan.output_pixels, filter = block * implementation_.lanes;
    const std::size_t channel = std::size_t(group) * layer_.shape.filters + filter;
    EpilogueArguments a;
    a.sum_stride = sum_stride;
    a.filters = std::min(vectors * implementation_.lanes, layer_.shape.filters - filter);
    a.filter_stride = outputs;
    a.scale = &layer_.scale[channel];
    a.bias = &layer_.bias[channel];
    for (int p = 0; p < count; p += a.pixels) {
        const int image = (first + p) / outputs, pixel = (first + p) % outputs;
        a.pixels = std::min(count - p, outputs - pixel);
        a.sums = sums + p * sum_stride * sum_bytes_;
        a.y = chunk.y + (std::size_t(image) * layer_.shape.total_filters() + channel) * outputs + pixel;
        implementation_.epilogue[wide_](a);
    }
}

}  // namespace bitconv
