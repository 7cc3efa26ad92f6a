// float_convolution: float32 values with float32 weights, ended as a binary one is. Sums are fused
// multiply-adds; a padded tap adds 0 * weight. Two fields say in which order. Each may be missing,
// which is 0.
//
// order: 0, for each tap, for each channel; 1, for each channel, for each tap.
//
// block: so many channels (in order 1, so many terms) make a sum of their own, from 0, and these
// sums are added up in turn. 0: all make one. In order 0 a block has all taps.
//
// CNTK's CPU sums in these orders: MKL-DNN by taps in blocks of 8 or 16 channels, MKL's product of
// matrices by channels.
//
// With few channels the taps of a row of the kernel are read as one: in NHWC they lie next to each
// other, as do their weights, so the order of the sum stays what it is. Where output pixels of a
// row read beyond the sides of the image, what they read is put together from zeros and what is
// inside.
#include <algorithm>
#include <limits>

#include "endings.h"
#include "layer.h"
#include "plan.h"

namespace bitconv {
namespace {

constexpr std::int64_t item_multiplications = 1 << 20;  // about what an item does at least
constexpr std::int64_t most_taps = 1 << 14;
constexpr int most_row_channels =
    64;  // of a row of taps read as one: beyond, finding single taps is cheap beside summing them

struct Order {
    bool by_channels;
    int block;  // at most what a sum has
};

// Weights in units of filters, [group][unit][term][channel_unit], terms as they are summed.
struct FloatWeights {
    Shape shape;
    Order order;
    int units;  // of a group
    Buffer<float> filled;
    Buffer<float> zeros;  // what padded taps read

    FloatWeights(const Shape& of, const Order& in, const std::vector<float>& weights)
        : shape(of), order(in), units((of.filters + channel_unit - 1) / channel_unit) {
        const std::size_t taps = std::size_t(shape.taps()), channels = std::size_t(shape.channels);
        const std::size_t row = shape.kernel[1] * channels;
        const std::size_t size = std::size_t(shape.groups) * units * taps * channels * channel_unit;
        std::fill_n(filled.reserve(size), size, 0.0f);
        std::fill_n(zeros.reserve(row), row, 0.0f);
        for (int f = 0; f < shape.total_filters(); ++f) {
            const std::size_t unit =
                std::size_t(f / shape.filters) * units + f % shape.filters / channel_unit;
            for (std::size_t c = 0; c < channels; ++c)
                for (std::size_t tap = 0; tap < taps; ++tap)
                    filled.get()[(unit * taps * channels + term(c, tap)) * channel_unit +
                                 f % shape.filters % channel_unit] =
                        weights[(std::size_t(f) * channels + c) * taps + tap];
        }
    }

    bool one_sum_by_taps() const { return !order.by_channels && order.block == shape.channels; }

private:
    std::size_t term(std::size_t channel, std::size_t tap) const {
        if (order.by_channels) return channel * shape.taps() + tap;
        const std::size_t first = channel / order.block * order.block;
        const std::size_t in_block = std::min<std::size_t>(order.block, shape.channels - first);
        return first * shape.taps() + tap * in_block + channel - first;
    }
};

class PlannedFloatConvolution : public Planned {
public:
    // `weights` are those of a whole image as one tap where images are pixels.
    PlannedFloatConvolution(const FloatWeights& weights, const Implementation& implementation,
                            EndingPlan ending, const Wiring& wiring, bool images_are_pixels)
        : weights_(weights),
          implementation_(implementation),
          ending_(std::move(ending)),
          from_(wiring.reads[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]),
          images_are_pixels_(images_are_pixels),
          whole_rows_(!images_are_pixels && weights.one_sum_by_taps() &&
                      weights.shape.groups == 1 && weights.shape.dilation[1] == 1 &&
                      weights.shape.kernel[1] > 1 &&
                      weights.shape.stride[1] <= weights.shape.kernel[1] &&
                      row_channels() <= most_row_channels) {}

    std::size_t scratch() const override {
        return rows_bytes() + patches_bytes() + sums_bytes() + slack_bytes;
    }

    int items(const Call& call) const override {
        return int(weights_.shape.groups * ranges(call) * runs(call) *
                   (images_are_pixels_ ? 1 : call.images));
    }

    void run(const Call& call, int item, int worker) const override {
        const std::int64_t run = item % runs(call), range = item / runs(call) % ranges(call);
        const int group = int(item / runs(call) / ranges(call) % weights_.shape.groups);
        const std::int64_t first = run * float_run;
        const std::int64_t image =
            images_are_pixels_ ? first : item / runs(call) / ranges(call) / weights_.shape.groups;
        const std::int64_t pixel = images_are_pixels_ ? 0 : first,
                           whole = images_are_pixels_ ? call.images : out_.pixels();
        const Shape& shape = weights_.shape;
        const float** rows = reinterpret_cast<const float**>(call.scratch[worker]);
        FloatArguments a;
        a.rows = rows;
        a.pixels = int(std::min<std::int64_t>(float_run, whole - first));
        a.taps = images_are_pixels_ ? 1 : whole_rows_ ? shape.kernel[0] : shape.taps();
        a.channels = images_are_pixels_ ? int(in_.channels * in_.pixels())
                     : whole_rows_      ? row_channels()
                                        : shape.channels;
        a.by_channels = weights_.order.by_channels;
        a.block = weights_.one_sum_by_taps() ? a.channels : weights_.order.block;
        const int unit = int(range * units_per_range(call)), filter = unit * channel_unit;
        a.weights = weights_.filled.get() + (std::size_t(group) * weights_.units + unit) *
                                                shape.taps() * shape.channels * channel_unit;
        a.filters = std::min(units_per_range(call) * channel_unit, shape.filters - filter);
        a.sums = reinterpret_cast<float*>(call.scratch[worker] + rows_bytes() + patches_bytes());
        if (images_are_pixels_)
            for (int p = 0; p < a.pixels; ++p) rows[p] = call.floats(from_, image + p);
        else if (whole_rows_)
            find_whole_rows(call.floats(from_, image), pixel, a.pixels, rows,
                            reinterpret_cast<float*>(call.scratch[worker] + rows_bytes()));
        else find_rows(call, image, pixel, a.pixels, group, rows);
        EndingPlan::Filled filled;
        ending_.fill(filled, call, image, pixel, group, filter);
        a.ending = &filled.ending;
        implementation_.multiply_floats(a);
    }

private:
    std::size_t rows_bytes() const {
        const std::size_t taps = images_are_pixels_ ? 1 : std::size_t(weights_.shape.taps());
        return (taps * float_run * sizeof(float*) + alignment - 1) / alignment * alignment;
    }
    // What pixels read of rows that leave the image: with strides up to a kernel, a kernel each.
    std::size_t patches_bytes() const {
        const std::size_t floats =
            whole_rows_ ? std::size_t(weights_.shape.kernel[0]) * float_run * row_channels() : 0;
        return (floats * sizeof(float) + alignment - 1) / alignment * alignment;
    }
    int row_channels() const { return weights_.shape.kernel[1] * weights_.shape.channels; }
    std::size_t sums_bytes() const {
        return std::size_t(float_run) * weights_.units * channel_unit * sizeof(float);
    }

    std::int64_t runs(const Call& call) const {
        return ((images_are_pixels_ ? call.images : out_.pixels()) + float_run - 1) / float_run;
    }

    // Ranges of whole planes, for threads, where runs do not give them enough to share.
    int units_per_range(const Call& call) const {
        const std::int64_t runs_of_all = runs(call) * (images_are_pixels_ ? 1 : call.images);
        if (call.workers == 1 || runs_of_all >= 4 * call.workers) return weights_.units;
        const std::int64_t least = item_multiplications / (std::int64_t(weights_.shape.taps()) *
                                                           weights_.shape.channels * channel_unit);
        const std::int64_t wanted = std::max<std::int64_t>(
            1, std::max<std::int64_t>(least / float_run, weights_.units / (4 * call.workers)));
        return int(std::min<std::int64_t>(weights_.units, (wanted + 3) / 4 * 4));
    }
    std::int64_t ranges(const Call& call) const {
        return (weights_.units + units_per_range(call) - 1) / units_per_range(call);
    }

    void find_rows(const Call& call, std::int64_t image, std::int64_t pixel, int pixels, int group,
                   const float** rows) const {
        const Shape& s = weights_.shape;
        const float* x = call.floats(from_, image) + std::int64_t(group) * s.channels;
        std::int64_t oy = pixel / out_.width, ox = pixel % out_.width;
        for (int p = 0; p < pixels; ++p) {
            for (int ky = 0, tap = 0; ky < s.kernel[0]; ++ky)
                for (int kx = 0; kx < s.kernel[1]; ++kx, ++tap) {
                    const std::int64_t iy =
                        oy * s.stride[0] + std::int64_t(ky) * s.dilation[0] - s.padding[0][0];
                    const std::int64_t ix =
                        ox * s.stride[1] + std::int64_t(kx) * s.dilation[1] - s.padding[1][0];
                    const bool inside = iy >= 0 && ix >= 0 && iy < in_.height && ix < in_.width;
                    rows[tap * float_run + p] =
                        inside ? x + (iy * in_.width + ix) * in_.channels : weights_.zeros.get();
                }
            if (++ox == out_.width) ox = 0, ++oy;
        }
    }

    void find_whole_rows(const float* x, std::int64_t pixel, int pixels, const float** rows,
                         float* patches) const {
        const Shape& s = weights_.shape;
        const std::int64_t channels = s.channels, step = s.stride[1] * channels;
        std::int64_t oy = pixel / out_.width, ox = pixel % out_.width;
        // Pixels of one output row at a time: they read columns [left, right).
        for (int p = 0, count; p < pixels; p += count, ox = 0, ++oy) {
            count = int(std::min<std::int64_t>(pixels - p, out_.width - ox));
            const std::int64_t left = ox * s.stride[1] - s.padding[1][0];
            const std::int64_t right = left + (count - 1) * s.stride[1] + s.kernel[1];
            const std::int64_t first = std::min(std::max<std::int64_t>(left, 0), right),
                               end = std::max(first, std::min(right, in_.width));  // inside
            for (int ky = 0; ky < s.kernel[0]; ++ky) {
                const float** row = rows + ky * float_run + p;
                const std::int64_t iy =
                    oy * s.stride[0] + std::int64_t(ky) * s.dilation[0] - s.padding[0][0];
                if (iy < 0 || iy >= in_.height || first == end) {
                    std::fill_n(row, count, weights_.zeros.get());
                    continue;
                }
                const float* from = x + (iy * in_.width + first) * channels;
                if (left < first || end < right) {
                    float* to = patches;
                    to = std::fill_n(to, (first - left) * channels, 0.0f);
                    to = std::copy_n(from, (end - first) * channels, to);
                    to = std::fill_n(to, (right - end) * channels, 0.0f);
                    from = patches;
                    patches = to;
                }
                for (int i = 0; i < count; ++i) row[i] = from + i * step;
            }
        }
    }

    const FloatWeights& weights_;
    const Implementation& implementation_;
    const EndingPlan ending_;
    const int from_;
    const Extent in_, out_;
    const bool images_are_pixels_, whole_rows_;
};

class FloatConvolution : public Op {
public:
    explicit FloatConvolution(const Making& making)
        : implementation_(making.implementation),
          shape_(convolution_shape(making.fields)),
          weights_(shape_, order(shape_, making.fields),
                   checked(shape_, making.fields.floats("weights"))),
          data_(making) {
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
        const bool images_are_pixels = weights_.one_sum_by_taps() && shape_.groups == 1 &&
                                       is_whole_image(shape_, image.height, image.width);
        return std::make_unique<PlannedFloatConvolution>(
            weights_, implementation_,
            EndingPlan(data_, wiring, shape_.groups, implementation_.encoding, images_are_pixels),
            wiring, images_are_pixels);
    }

private:
    static Order order(const Shape& shape, Fields& fields) {
        const bool by_channels = fields.has("order") && fields.integer("order", 0, 1) == 1;
        const std::int64_t terms = (by_channels ? shape.taps() : 1) * std::int64_t(shape.channels);
        const std::int64_t block = fields.has("block") ? fields.integer("block", 0, terms) : 0;
        return {by_channels, int(block ? block : terms)};
    }

    static const std::vector<float>& checked(const Shape& shape,
                                             const std::vector<float>& weights) {
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
    const EndingData data_;
    int out_groups_;
};

}  // namespace

const OpKind op_float_convolution = {"float_convolution",
                                     [](const Making& making) -> std::unique_ptr<Op> {
                                         return std::make_unique<FloatConvolution>(making);
                                     }};

}  // namespace bitconv
