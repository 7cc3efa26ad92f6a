// float_convolution: float32 values with float32 weights, ended as a binary one is. A padded tap
// adds 0 * weight. Three fields say how sums are taken. Each may be missing, which is 0.
//
// order: 0, for each tap, for each channel; 1, for each channel, for each tap; 2, by Winograd's
// tiles (winograd.cpp), in fewer multiplications; 3, as 1, but first comes the block with what full
// ones leave over, or where nothing is left over the last one; and the last pixels of an image, as
// many as full runs of 8 leave over, take the terms in this order, too, but as one block.
//
// block: so many channels (in order 1 and 3, so many terms) make a sum of their own, from 0, and
// these sums are added up in turn. 0: all make one. In order 0 a block has all taps.
//
// rounded: 0, sums are fused multiply-adds; 1, each product is rounded before it is added.
//
// CNTK's CPU sums in these orders: MKL-DNN by taps in blocks of 8 or 16 channels, MKL's product of
// matrices by channels; with SSE, in order 3 in blocks of 112 terms, and rounded.
//
// Pixels are summed in tiles. Where a tile reads beyond the image, what it reads is copied, with
// zeros around it; so in a tile each tap is equally far from a pixel's first.
#include "plan.h"
#include "winograd.h"

namespace bitconv {
namespace {

constexpr std::int64_t item_multiplications = 1 << 20;  // about what an item does at least
constexpr std::int64_t most_taps = 1 << 14;

// The output pixels that are computed at once: whole rows, or a part of one.
struct Tile {
    std::int64_t top, left;
    int rows, columns;
};

class PlannedFloatConvolution : public Planned {
public:
    PlannedFloatConvolution(const FloatWeights& weights, const Implementation& implementation,
                            EndingPlan ending, const Wiring& wiring, bool images_are_pixels)
        : weights_(weights),
          implementation_(implementation),
          ending_(std::move(ending)),
          from_(wiring.reads[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]),
          images_are_pixels_(images_are_pixels),
          tile_rows_(int(std::min(std::max<std::int64_t>(1, float_run / out_.width), out_.height))),
          tile_columns_(int(std::min<std::int64_t>(float_run, out_.width))),
          in_image_(weights.runs_at(in_.width * in_.channels, in_.channels)) {
        const Shape& s = weights.shape;
        const bool padded =
            s.padding[0][0] || s.padding[0][1] || s.padding[1][0] || s.padding[1][1];
        if (images_are_pixels || !padded) return;  // no tile leaves the image
        copy_bytes_ = image_bytes(
            {Form{Kind::floats, 1}, s.channels, reach(0, tile_rows_), reach(1, tile_columns_)},
            implementation.encoding);
        in_copy_ = weights.runs_at(copy_pitch(), s.channels);
    }

    std::size_t scratch() const override { return copy_bytes_ + sums_bytes() + slack_bytes; }

    int items(const Call& call) const override {
        return int(weights_.shape.groups * ranges(call) * tiles(call) *
                   (images_are_pixels_ ? 1 : call.images));
    }

    void run(const Call& call, int item, int worker) const override {
        const std::int64_t tile = item % tiles(call), range = item / tiles(call) % ranges(call);
        const std::int64_t rest = item / tiles(call) / ranges(call);
        const Shape& shape = weights_.shape;
        const int group = int(rest % shape.groups);
        const std::int64_t image = images_are_pixels_ ? tile * float_run : rest / shape.groups;
        std::int64_t pixel = 0;
        const float* pixels[float_run];
        const int unit = int(range * units_per_range(call)), filter = unit * channel_unit;
        FloatArguments a = weights_.arguments(group, unit);
        a.pixels_at = pixels;
        a.runs_at = in_image_.data();
        if (images_are_pixels_) {
            a.pixels = int(std::min<std::int64_t>(float_run, call.images - image));
            for (int p = 0; p < a.pixels; ++p) pixels[p] = call.floats(from_, image + p);
        } else {
            const Tile part = tile_at(tile);
            pixel = part.top * out_.width + part.left;
            a.pixels = part.rows * part.columns;
            float* copy = reinterpret_cast<float*>(call.scratch[worker]);
            if (find_pixels(call.floats(from_, image) + std::int64_t(group) * shape.channels, part,
                            copy, pixels))
                a.runs_at = in_copy_.data();
        }
        a.filters = std::min(units_per_range(call) * channel_unit, shape.filters - filter);
        a.sums = reinterpret_cast<float*>(call.scratch[worker] + copy_bytes_);
        const auto multiply = [&] {
            EndingPlan::Filled filled;
            ending_.fill(filled, call, image, pixel, group, filter);
            a.ending = &filled.ending;
            implementation_.multiply_floats(a);
        };
        const int last = last_pixels(pixel + a.pixels, a.pixels);
        if (a.pixels > last) {
            a.pixels -= last;
            multiply();
            pixel += a.pixels;
            a.pixels_at += a.pixels;
        }
        if (last == 0) return;
        const FloatBlock all = {int(weights_.order.runs.size()), 1};
        a.pixels = last;
        a.blocks = &all;
        a.block_count = 1;
        multiply();
    }

private:
    // How many of the pixels before `end` take their terms as one block.
    int last_pixels(std::int64_t end, int pixels) const {
        if (weights_.order.last_pixels == 0) return 0;
        const std::int64_t all = out_.height * out_.width;
        const std::int64_t first = all - all % weights_.order.last_pixels;
        return int(std::min<std::int64_t>(pixels, std::max<std::int64_t>(0, end - first)));
    }

    // How many places of the image so many outputs in a line span.
    std::int64_t reach(int axis, std::int64_t outputs) const {
        const Shape& s = weights_.shape;
        return (outputs - 1) * s.stride[axis] +
               std::int64_t(s.kernel[axis] - 1) * s.dilation[axis] + 1;
    }
    std::int64_t copy_pitch() const { return reach(1, tile_columns_) * weights_.shape.channels; }

    std::size_t sums_bytes() const {
        return std::size_t(float_run) * weights_.units * channel_unit * sizeof(float);
    }

    std::int64_t tiles_across() const { return (out_.width + tile_columns_ - 1) / tile_columns_; }
    std::int64_t tiles(const Call& call) const {
        if (images_are_pixels_) return (call.images + float_run - 1) / float_run;
        return (out_.height + tile_rows_ - 1) / tile_rows_ * tiles_across();
    }
    Tile tile_at(std::int64_t tile) const {
        const std::int64_t top = tile / tiles_across() * tile_rows_,
                           left = tile % tiles_across() * tile_columns_;
        return {top, left, int(std::min<std::int64_t>(tile_rows_, out_.height - top)),
                int(std::min<std::int64_t>(tile_columns_, out_.width - left))};
    }

    // Ranges of whole planes, for threads, where tiles do not give them enough to share.
    int units_per_range(const Call& call) const {
        const std::int64_t tiles_of_all = tiles(call) * (images_are_pixels_ ? 1 : call.images);
        if (call.workers == 1 || tiles_of_all >= 4 * call.workers) return weights_.units;
        const std::int64_t least = item_multiplications / (std::int64_t(weights_.shape.taps()) *
                                                           weights_.shape.channels * channel_unit);
        const std::int64_t wanted = std::max<std::int64_t>(
            1, std::max<std::int64_t>(least / float_run, weights_.units / (4 * call.workers)));
        return int(std::min<std::int64_t>(weights_.units, (wanted + 3) / 4 * 4));
    }
    std::int64_t ranges(const Call& call) const {
        return (weights_.units + units_per_range(call) - 1) / units_per_range(call);
    }

    // Finds where the first tap of each pixel of a tile reads. Returns whether that is in the copy,
    // which is made where the tile reads beyond the image.
    bool find_pixels(const float* x, const Tile& tile, float* copy, const float** pixels) const {
        const Shape& s = weights_.shape;
        const std::int64_t top = tile.top * s.stride[0] - s.padding[0][0],
                           left = tile.left * s.stride[1] - s.padding[1][0];
        const std::int64_t rows = reach(0, tile.rows), columns = reach(1, tile.columns);
        const bool inside =
            top >= 0 && left >= 0 && top + rows <= in_.height && left + columns <= in_.width;
        if (!inside) copy_padded(x, in_, s.channels, top, left, rows, columns, copy, copy_pitch());
        const float* first = inside ? x + (top * in_.width + left) * in_.channels : copy;
        const std::int64_t row = s.stride[0] * (inside ? in_.width * in_.channels : copy_pitch()),
                           column = s.stride[1] * (inside ? in_.channels : s.channels);
        for (int oy = 0; oy < tile.rows; ++oy)
            for (int ox = 0; ox < tile.columns; ++ox) *pixels++ = first + oy * row + ox * column;
        return !inside;
    }

    const FloatWeights& weights_;
    const Implementation& implementation_;
    const EndingPlan ending_;
    const int from_;
    const Extent in_, out_;
    const bool images_are_pixels_;
    const int tile_rows_, tile_columns_;
    const std::vector<std::int64_t> in_image_;  // where runs of terms begin
    std::vector<std::int64_t> in_copy_;
    std::size_t copy_bytes_ = 0;
};

class FloatConvolution : public Op {
public:
    explicit FloatConvolution(const Making& making)
        : FloatConvolution(making, checked_weights(making.fields)) {}

    FloatConvolution(const Making& making, const std::vector<float>& weights)
        : implementation_(making.implementation),
          shape_(convolution_shape(making.fields)),
          weights_(shape_, order(shape_, making.fields), weights),
          data_(making) {
        if (is_winograd(making.fields))
            winograd_ = std::make_unique<WinogradWeights>(shape_, weights);
        reads.push_back({Kind::floats, 1});
        out_groups_ = whole_planes(shape_.groups, shape_.filters, implementation_.encoding)
                          ? 1
                          : shape_.groups;
        data_.wire(reads, gives, out_groups_);
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        const Extent& image = wiring.read_extents[0];
        require_op(image.channels == shape_.total_channels(),
                   "it reads " + std::to_string(image.channels) + " channels, its weights expect " +
                       std::to_string(shape_.total_channels()));
        const OutputSize size = output_size(shape_, image.height, image.width);
        for (std::size_t i = 0; i < gives.size(); ++i) {
            wiring.gives_extents[i] = {gives[i], shape_.total_filters(), size.height, size.width};
            image_bytes(wiring.gives_extents[i], implementation_.encoding);
        }
        if (winograd_)
            return plan_winograd(
                weights_, *winograd_, implementation_,
                EndingPlan(data_, wiring, shape_.groups, implementation_.encoding, false), wiring);
        const bool images_are_pixels = weights_.order.last_pixels == 0 && shape_.groups == 1 &&
                                       is_whole_image(shape_, image.height, image.width);
        return std::make_unique<PlannedFloatConvolution>(
            weights_, implementation_,
            EndingPlan(data_, wiring, shape_.groups, implementation_.encoding, images_are_pixels),
            wiring, images_are_pixels);
    }

private:
    static std::int64_t order_field(Fields& fields) {
        return fields.has("order") ? fields.integer("order", 0, 3) : 0;
    }
    static bool is_winograd(Fields& fields) { return order_field(fields) == 2; }
    static Order order(const Shape& shape, Fields& fields) {
        const std::int64_t number = order_field(fields);
        const bool by_channels = number == 1 || number == 3;
        const int all = (by_channels ? shape.taps() : 1) * shape.channels;  // that a block can have
        const int given =
            fields.has("block") ? int(fields.integer("block", 0, number == 2 ? 0 : all)) : 0;
        const int block = given ? given : all, rest = (all - 1) % block + 1;
        const bool of_one_channel = shape.channels == 1 && block == all;  // by taps is the same
        Order order = number == 3 ? Order::by_channels(shape, block, all - rest, rest)
                      : by_channels && !of_one_channel
                          ? Order::by_channels(shape, block, 0, block)
                          : Order::by_taps(shape, by_channels ? 1 : block);
        order.rounded = fields.has("rounded") && fields.integer("rounded", 0, number == 2 ? 0 : 1);
        order.last_pixels = number == 3 ? 8 : 0;
        return order;
    }

    static std::vector<float> checked_weights(Fields& fields) {
        const Shape shape = convolution_shape(fields);
        std::vector<float> weights = fields.floats("weights");
        require_op(shape.taps() <= most_taps &&
                       std::int64_t(shape.total_filters()) <= std::int64_t(weights.size()) &&
                       std::int64_t(weights.size()) ==
                           std::int64_t(shape.total_filters()) * shape.channels * shape.taps(),
                   "weights has " + std::to_string(weights.size()) +
                       " numbers, which does not fit its filters, channels and kernel");
        return weights;
    }

    const Implementation& implementation_;
    const Shape shape_;
    const FloatWeights weights_;
    std::unique_ptr<const WinogradWeights> winograd_;  // null in another order
    const EndingData data_;
    int out_groups_;
};

}  // namespace

const OpKind op_float_convolution = {"float_convolution",
                                     [](const Making& making) -> std::unique_ptr<Op> {
                                         return std::make_unique<FloatConvolution>(making);
                                     }};

}  // namespace bitconv
