#include "driver.h"

#include <algorithm>

#include "float_mode.h"

namespace bitconv {
namespace {

constexpr int pack_pixels = 1024;  // input pixels of one packing item, a multiple of 16
constexpr std::size_t run_bytes =
    24576;  // panels of one run: with a block of weights in the first-level cache
constexpr int items_per_worker = 4;  // for threads that do not run equally fast

int parts(std::int64_t whole, int part) { return int((whole + part - 1) / part); }

// Buffers that a calling thread keeps between its calls.
struct Scratch {
    Buffer<std::uint8_t> packed;
    std::vector<WorkerScratch> workers;
};
thread_local Scratch kept;

}  // namespace

Driver::Driver(const Layer& layer, const Blocks& blocks, const Sized& sized,
               const Implementation& implementation)
    : layer_(layer),
      blocks_(blocks),
      sized_(sized),
      implementation_(implementation),
      panel_bytes_(blocks.rows * panel_row_bytes),
      panels_per_run_(int(
          std::min<std::size_t>(run_panels, std::max<std::size_t>(2, run_bytes / panel_bytes_)))) {}

void Driver::run(const float* x, std::int64_t images, float* y) const {
    Parallel parallel;
    const int workers = parallel.workers();
    const bool whole_images = workers > 1 && (images % workers == 0 || images >= 4 * workers);
    if (int(kept.workers.size()) < workers) kept.workers.resize(workers);
    WorkerScratch* scratch = kept.workers.data();
    for (int worker = 0; worker < workers; ++worker) {
        scratch[worker].panels.reserve(panels_per_run_ * panel_bytes_);
        scratch[worker].between.reserve(scratch_bytes);
        if (whole_images) scratch[worker].packed.reserve(sized_.image_bytes);
    }
    if (!whole_images) kept.packed.reserve(sized_.image_bytes);
    std::uint8_t* shared = kept.packed.get();
    const std::size_t inputs = std::size_t(layer_.shape.total_channels()) * sized_.plan.pixels;
    const std::size_t outputs =
        std::size_t(layer_.shape.total_filters()) * sized_.plan.output_pixels;

    const DefaultFloatMode mode;
    if (whole_images) {
        const Share alone = share(1);
        parallel.run(int(images), [&](int index, int worker) {
            const Image mine = {x + index * inputs, y + index * outputs,
                                scratch[worker].packed.get()};
            for (int item = 0; item < pack_items(); ++item) pack(mine, item);
            for (int item = 0; item < multiply_items(alone); ++item)
                multiply(mine, alone, item, scratch[worker]);
        });
        return;
    }
    const Share shared_out = share(workers);
    for (std::int64_t index = 0; index < images; ++index) {
        const Image ours = {x + index * inputs, y + index * outputs, shared};
        parallel.run(pack_items(), [&](int item, int) { pack(ours, item); });
        parallel.run(multiply_items(shared_out), [&](int item, int worker) {
            multiply(ours, shared_out, item, scratch[worker]);
        });
    }
}

// Packing: an item is a segment of one plane.

int Driver::pack_items() const {
    return layer_.shape.groups * blocks_.planes * parts(sized_.plan.pixels, pack_pixels);
}

void Driver::pack(const Image& image, int item) const {
    const int segments = parts(sized_.plan.pixels, pack_pixels), segment = item % segments,
              plane = item / segments;
    const int per_word = channels_per_word(implementation_.encoding), pixels = sized_.plan.pixels;
    const int first = plane % blocks_.planes * per_word, begin = segment * pack_pixels;
    const std::size_t channel = std::size_t(plane / blocks_.planes) * layer_.shape.channels + first;
    PackArguments a;
    a.x = image.x + channel * pixels + begin;
    a.channel_stride = pixels;
    a.thresholds = &layer_.threshold[channel];
    a.channels = std::min(per_word, layer_.shape.channels - first);
    a.pixels = std::min(pack_pixels, pixels - begin);
    a.plane = reinterpret_cast<std::uint32_t*>(image.packed) + plane * sized_.plane_words + begin;
    a.highs = nullptr;
    a.flip = 0;
    implementation_.pack(a);
}

// Multiplying: an item is a run of panels, gathered for it, against a range of blocks.

Driver::Share Driver::share(int workers) const {
    Share share;
    share.runs = parts(sized_.plan.panels, panels_per_run_);
    const int wanted =
        workers == 1 ? 1 : parts(items_per_worker * workers, share.runs * layer_.shape.groups);
    share.blocks_per_range = parts(blocks_.per_group, std::min(wanted, blocks_.per_group));
    share.ranges = parts(blocks_.per_group, share.blocks_per_range);
    return share;
}

void Driver::multiply(const Image& image, const Share& share, int item,
                      WorkerScratch& scratch) const {
    const Plan& plan = sized_.plan;
    const int run = item % share.runs, range = item / share.runs % share.ranges,
              group = item / share.runs / share.ranges;
    const int first_panel = run * panels_per_run_,
              panels = std::min(panels_per_run_, plan.panels - first_panel);
    GatherArguments g;
    g.plane_bytes = sized_.plane_words * 4;
    g.x = image.packed + std::size_t(group) * blocks_.planes * g.plane_bytes;
    g.planes = blocks_.planes;
    g.taps = layer_.shape.taps();
    g.offsets = plan.offsets.data();
    for (int panel = 0; panel < panels; ++panel) {
        g.windows = &plan.windows[std::size_t(first_panel + panel) * g.taps];
        g.panel = scratch.panels.get() + panel * panel_bytes_;
        implementation_.gather(g);
    }

    const int block = range * share.blocks_per_range, filter = block * implementation_.lanes;
    const int pixel = first_panel * panel_width;
    const std::size_t channel = std::size_t(group) * layer_.shape.filters + filter;
    MultiplyArguments a;
    a.panels = scratch.panels.get();
    a.panel_bytes = panel_bytes_;
    a.pixels = std::min(panels * panel_width, plan.output_pixels - pixel);
    a.rows = blocks_.rows;
    a.weights = blocks_.block(group, block);
    a.block_bytes = blocks_.block_bytes;
    a.filters =
        std::min(share.blocks_per_range * implementation_.lanes, layer_.shape.filters - filter);
    a.bases = sized_.bases(group, filter);
    a.base_stride = sized_.base_stride;
    a.cases = plan.cases;
    a.border_case = &plan.border_case[pixel];
    a.scale = &layer_.scale[channel];
    a.bias = &layer_.bias[channel];
    a.y = image.y + channel * plan.output_pixels + pixel;
    a.filter_stride = std::size_t(plan.output_pixels);
    a.scratch = scratch.between.get();
    a.ending = nullptr;
    implementation_.multiply[int(sized_.layout)](a);
}

}  // namespace bitconv
