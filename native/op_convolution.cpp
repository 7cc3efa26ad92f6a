// convolution: bits with bits, ended by integer thresholds (bits) or by an ending. Where the kernel
// is the whole image, as in a Dense, the images are the pixels of panels.
#include <algorithm>
#include <cstring>

#include "blocks.h"
#include "endings.h"
#include "sized.h"

namespace bitconv {
namespace {

constexpr std::size_t run_bytes =
    24576;  // panels of one run: with a block of weights in the first-level cache
constexpr int items_per_worker = 4;
constexpr std::int64_t most_windows = 1 << 24;

int parts(std::int64_t whole, std::int64_t part) { return int((whole + part - 1) / part); }

// Byte j of a word as byte 2j.
std::uint64_t spread(std::uint64_t word) {
    word = (word | word << 16) & 0x0000ffff0000ffff;
    return (word | word << 8) & 0x00ff00ff00ff00ff;
}

// Weaves the words of pixels two by two, as panels of nibbles have them.
void weave(std::uint8_t* panel, std::size_t bytes) {
    for (std::uint8_t* end = panel + bytes; panel < end; panel += 8) {
        std::uint32_t words[2];
        std::memcpy(words, panel, 8);
        const std::uint64_t woven = spread(words[0]) | spread(words[1] >> 4) << 8;
        std::memcpy(panel, &woven, 8);
    }
}

class PlannedConvolution : public Planned {
public:
    PlannedConvolution(const Layer& layer, const Blocks& blocks,
                       const Implementation& implementation, Sized sized, EndingPlan ending,
                       const Wiring& wiring, bool images_are_pixels)
        : layer_(layer),
          blocks_(blocks),
          implementation_(implementation),
          sized_(std::move(sized)),
          ending_(std::move(ending)),
          from_(wiring.reads[0]),
          images_are_pixels_(images_are_pixels),
          panel_bytes_(blocks.rows * panel_row_bytes),
          panels_per_run_(int(std::min<std::size_t>(
              run_panels, std::max<std::size_t>(2, run_bytes / panel_bytes_)))),
          no_cases_(panel_width * run_panels, 0) {}

    std::size_t scratch() const override { return between() + scratch_bytes + slack_bytes; }

    int items(const Call& call) const override {
        const Share share = share_of(call);
        return layer_.shape.groups * share.ranges * share.runs *
               (images_are_pixels_ ? 1 : call.images);
    }

    void run(const Call& call, int item, int worker) const override {
        const Share share = share_of(call);
        const int run = item % share.runs, range = item / share.runs % share.ranges;
        const int group = item / share.runs / share.ranges % layer_.shape.groups;
        const int first = run * panels_per_run_ * panel_width;  // pixel, or image
        const int image =
            images_are_pixels_ ? first : item / share.runs / share.ranges / layer_.shape.groups;
        const int pixel = images_are_pixels_ ? 0 : first,
                  whole = images_are_pixels_ ? call.images : sized_.plan.output_pixels;
        const int pixels = std::min(panels_per_run_ * panel_width, whole - first);
        std::uint8_t* panels = call.scratch[worker];
        if (images_are_pixels_) gather_images(call, image, pixels, group, panels);
        else gather(call, image, run, parts(pixels, panel_width), group, panels);

        const int block = range * share.blocks_per_range, filter = block * implementation_.lanes;
        EndingPlan::Filled filled;
        ending_.fill(filled, call, image, pixel, group, filter);
        MultiplyArguments a;
        a.panels = panels;
        a.panel_bytes = panel_bytes_;
        a.pixels = pixels;
        a.rows = blocks_.rows;
        a.weights = blocks_.block(group, block);
        a.block_bytes = blocks_.block_bytes;
        a.filters =
            std::min(share.blocks_per_range * implementation_.lanes, layer_.shape.filters - filter);
        a.bases = sized_.bases(group, filter);
        a.base_stride = sized_.base_stride;
        a.cases = sized_.plan.cases;
        a.border_case = images_are_pixels_ ? no_cases_.data() : &sized_.plan.border_case[pixel];
        a.scale = a.bias = nullptr;
        a.y = nullptr;
        a.filter_stride = 0;
        a.scratch = panels + between();
        a.ending = &filled.ending;
        implementation_.multiply[int(sized_.layout)](a);
    }

private:
    // Runs of panels against ranges of blocks. A range begins a plane of what it gives.
    struct Share {
        int runs, ranges, blocks_per_range;
    };

    Share share_of(const Call& call) const {
        Share share;
        const int pixels = images_are_pixels_ ? call.images : sized_.plan.output_pixels;
        share.runs = parts(parts(pixels, panel_width), panels_per_run_);
        const std::int64_t others =
            std::int64_t(share.runs) * layer_.shape.groups * (images_are_pixels_ ? 1 : call.images);
        const int wanted = call.workers == 1 ? 1 : parts(items_per_worker * call.workers, others);
        const int blocks_per_plane =
            std::max(1, channels_per_word(implementation_.encoding) / implementation_.lanes);
        const int per_range = parts(blocks_.per_group, std::min(wanted, blocks_.per_group));
        share.blocks_per_range = parts(per_range, blocks_per_plane) * blocks_per_plane;
        share.ranges = parts(blocks_.per_group, share.blocks_per_range);
        return share;
    }

    std::size_t between() const { return panels_per_run_ * panel_bytes_; }

    const std::uint8_t* planes(const Call& call, int image, int group) const {
        return call.at(from_, image) + std::size_t(group) * blocks_.planes * sized_.plane_words * 4;
    }

    void gather(const Call& call, int image, int run, int panels, int group,
                std::uint8_t* to) const {
        GatherArguments g;
        g.plane_bytes = sized_.plane_words * 4;
        g.x = planes(call, image, group);
        g.planes = blocks_.planes;
        g.taps = layer_.shape.taps();
        g.offsets = sized_.plan.offsets.data();
        for (int panel = 0; panel < panels; ++panel) {
            g.windows = &sized_.plan.windows[std::size_t(run * panels_per_run_ + panel) * g.taps];
            g.panel = to + panel * panel_bytes_;
            implementation_.gather(g);
        }
    }

    // Taps are the pixels, in order.
    void gather_images(const Call& call, int image, int images, int group, std::uint8_t* to) const {
        const bool pairs = rows_per_step(implementation_.encoding) == 2;
        const int taps = layer_.shape.taps();
        std::memset(to, 0, parts(images, panel_width) * panel_bytes_);
        for (int i = 0; i < images; ++i) {
            const std::uint32_t* plane =
                reinterpret_cast<const std::uint32_t*>(planes(call, image + i, group));
            std::uint32_t* row =
                reinterpret_cast<std::uint32_t*>(to + i / panel_width * panel_bytes_) +
                i % panel_width;
            std::uint32_t before = 0;
            bool second = false;
            for (int tap = 0; tap < taps; ++tap)
                for (int q = 0; q < blocks_.planes; ++q, row += panel_width, second = !second) {
                    const std::uint32_t word = plane[q * sized_.plane_words + tap];
                    *row = pairs && second ? word ^ before : word;
                    before = word;
                }
            if (pairs && second) *row = before;
        }
        if (implementation_.encoding == Encoding::nibbles)
            weave(to, parts(images, panel_width) * panel_bytes_);
    }

    const Layer& layer_;
    const Blocks& blocks_;
    const Implementation& implementation_;
    const Sized sized_;
    const EndingPlan ending_;
    const int from_;
    const bool images_are_pixels_;
    const std::size_t panel_bytes_;
    const int panels_per_run_;
    const std::vector<std::int32_t> no_cases_;
};

Layer layer_of(Fields& fields) {
    Layer layer;
    const Shape& shape = layer.shape = convolution_shape(fields);
    layer.words = fields.words("words");
    require_op(
        std::size_t(shape.total_filters()) <= layer.words.size() &&
            std::int64_t(shape.groups) * shape.channels <= 64 * std::int64_t(layer.words.size()),
        "words has " + std::to_string(layer.words.size()) +
            " elements, too few for its filters and channels");
    layer.scale.assign(shape.total_filters(), 1.0f);
    layer.bias.assign(shape.total_filters(), -0.0f);
    layer.threshold.assign(std::size_t(shape.groups) * shape.channels, 0.0f);
    validate(layer);
    return layer;
}

class ConvolutionOp : public Op {
public:
    explicit ConvolutionOp(const Making& making)
        : implementation_(making.implementation),
          layer_(layer_of(making.fields)),
          blocks_(layer_, making.implementation) {
        const Shape& shape = layer_.shape;
        const auto groups = [&](int channels) {
            return whole_planes(shape.groups, channels, implementation_.encoding) ? 1
                                                                                  : shape.groups;
        };
        reads.push_back({Kind::bits, groups(shape.channels)});
        out_groups_ = groups(shape.filters);
        if (making.fields.has("thresholds")) {
            making.expect_reads(1, 1);
            const std::int64_t beyond = std::int64_t(shape.taps()) * shape.channels + 1;
            for (const std::int64_t threshold :
                 making.fields.int32s("thresholds", shape.total_filters()))
                thresholds_.push_back(std::int32_t(std::max(-beyond, std::min(beyond, threshold))));
            gives.push_back({Kind::bits, out_groups_});
        } else {
            data_ = std::make_unique<EndingData>(making);
            data_->wire(reads, gives, out_groups_);
        }
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        const Shape& shape = layer_.shape;
        const Extent& image = wiring.read_extents[0];
        require_op(image.channels == shape.total_channels(),
                   "it reads " + std::to_string(image.channels) + " channels, its weights expect " +
                       std::to_string(shape.total_channels()));
        const OutputSize size = output_size(shape, image.height, image.width);
        for (std::size_t i = 0; i < gives.size(); ++i) {
            wiring.gives_extents[i] = {gives[i], shape.total_filters(), size.height, size.width};
            image_bytes(wiring.gives_extents[i], implementation_.encoding);
        }
        require_op(size.height * size.width / panel_width < most_windows / shape.taps(),
                   "the output has too many pixels");
        const bool images_are_pixels = is_whole_image(shape, image.height, image.width);
        Sized sized(layer_, blocks_, implementation_, image.height, image.width,
                    data_ ? nullptr : thresholds_.data());
        EndingPlan ending = data_ ? EndingPlan(*data_, wiring, shape.groups,
                                               implementation_.encoding, images_are_pixels)
                                  : EndingPlan::signs(wiring, shape.groups,
                                                      implementation_.encoding, images_are_pixels);
        return std::make_unique<PlannedConvolution>(layer_, blocks_, implementation_,
                                                    std::move(sized), std::move(ending), wiring,
                                                    images_are_pixels);
    }

private:
    const Implementation& implementation_;
    const Layer layer_;
    const Blocks blocks_;
    std::unique_ptr<EndingData> data_;
    std::vector<std::int32_t> thresholds_;
    int out_groups_;
};

}  // namespace

const OpKind op_convolution = {"convolution", [](const Making& making) -> std::unique_ptr<Op> {
                                   return std::make_unique<ConvolutionOp>(making);
                               }};

}  // namespace bitconv
