// Float convolutions by tiles of Winograd (contract.h): weights at the points, and the plan of one
// size. A stride makes a convolution of that many more channels and fewer taps: 7 x 7 taps of 3
// channels with stride 2 are 4 x 4 taps of 12, an eighth row and column being 0.
#include "winograd.h"

#include "plan.h"

namespace bitconv {
namespace {

constexpr int few_tiles = 20, most_tiles = 64;  // of an item
constexpr std::size_t cache_bytes = 1 << 20;    // of weights that are near when read again
constexpr int most_outputs = tile_side + 1 - WinogradWeights::least_side;

// A kernel's taps at the points 0, 1, -1, 1/2, -2 and infinity, times the divisors. At infinity it
// is the last tap.
constexpr int at_points[tile_side - 1][WinogradWeights::most_side] = {{1, 0, 0, 0, 0},
                                                                      {1, 1, 1, 1, 1},
                                                                      {-1, 1, -1, 1, -1},
                                                                      {-16, -8, -4, -2, -1},
                                                                      {1, -2, 4, -8, 16}};
constexpr int divisors[tile_side] = {1, 3, 3, 15, 15, 1};

int at_point(int point, int tap, int side) {
    return point < tile_side - 1 ? at_points[point][tap] : tap == side - 1;
}

int in_strides(const Shape& shape, int axis) {
    return (shape.kernel[axis] - 1) / shape.stride[axis] + 1;
}

class Winograd : public Planned {
public:
    Winograd(const FloatWeights& direct, const WinogradWeights& weights,
             const Implementation& implementation, EndingPlan ending, const Wiring& wiring)
        : direct_(direct),
          weights_(weights),
          shape_(direct.shape),
          implementation_(implementation),
          ending_(std::move(ending)),
          from_(wiring.reads[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]),
          outputs_(tile_side + 1 - weights.side),
          tiles_down_((out_.height + outputs_ - 1) / outputs_),
          tiles_across_((out_.width + outputs_ - 1) / outputs_),
          columns_(int(std::min<std::int64_t>(wanted_tiles(), tiles_across_))),
          rows_(int(std::min<std::int64_t>(wanted_tiles() / columns_, tiles_down_))),
          in_image_(direct.runs_at(in_.width * in_.channels, in_.channels)),
          in_copy_(direct.runs_at(copy_pitch(), in_.channels)) {
        // Throws for what is too large.
        image_bytes({Form{Kind::floats, 1}, in_.channels, copy_rows(), copy_columns()},
                    implementation.encoding);
        image_bytes(
            {Form{Kind::floats, 1}, std::int64_t(channels()) * tile_places, rows_, columns_},
            implementation.encoding);
        image_bytes({Form{Kind::floats, 1}, row_filters(), rows_ * outputs_, columns_ * outputs_},
                    implementation.encoding);
    }

    std::size_t scratch() const override {
        return (copy_floats() + values_floats() + products_floats() + sums_floats() +
                plain_floats()) *
                   sizeof(float) +
               std::size_t(direct_.units) * rows_ * columns_ + slack_bytes;
    }

    int items(const Call& call) const override {
        return int(call.images * ranges(call) * parts_down() * parts_across());
    }

    void run(const Call& call, int item, int worker) const override {
        const std::int64_t across = item % parts_across() * columns_,
                           down = item / parts_across() % parts_down() * rows_,
                           rest = item / parts_across() / parts_down();
        const std::int64_t image = rest / ranges(call);
        const int unit = int(rest % ranges(call)) * units_per_range(call);
        const std::int64_t top = down * outputs_, left = across * outputs_;  // of the outputs
        const int rows = int(std::min<std::int64_t>(rows_, tiles_down_ - down)),
                  columns = int(std::min<std::int64_t>(columns_, tiles_across_ - across));

        float* const copy = reinterpret_cast<float*>(call.scratch[worker]);
        float* const values = copy + copy_floats();
        float* const products = values + values_floats();
        float* const sums = products + products_floats();
        float* const plain = sums + sums_floats();
        const float* const x = call.floats(from_, image);
        const std::int64_t y0 = top * shape_.stride[0] - shape_.padding[0][0],
                           x0 = left * shape_.stride[1] - shape_.padding[1][0],
                           in_rows = reach(0, rows), in_columns = reach(1, columns);
        const bool inside =
            y0 >= 0 && x0 >= 0 && y0 + in_rows <= in_.height && x0 + in_columns <= in_.width;
        if (!inside)
            copy_padded(x, in_, in_.channels, y0, x0, in_rows, in_columns, copy, copy_pitch());
        const float* const first = inside ? x + (y0 * in_.width + x0) * in_.channels : copy;

        WinogradArguments a;
        a.row = inside ? in_.width * in_.channels : copy_pitch();
        a.tiles = rows * columns;
        a.rows = shape_.stride[0];
        a.channels = channels();
        a.outputs = outputs_;
        a.filters =
            std::min(units_per_range(call) * channel_unit, shape_.filters - unit * channel_unit);
        a.weights =
            weights_.filled.get() + std::size_t(unit) * tile_places * channels() * channel_unit;
        a.values = values;
        a.products = products;
        a.sums_column = std::size_t(units(a.filters)) * channel_unit;
        a.sums_row = a.sums_column * columns * outputs_;
        const float* tiles_at[most_tiles];
        float* sums_at[most_tiles];
        std::uint8_t* const not_finite = reinterpret_cast<std::uint8_t*>(plain + plain_floats());
        std::fill_n(not_finite, units(a.filters) * a.tiles, std::uint8_t(0));
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < columns; ++c) {
                tiles_at[r * columns + c] = first + r * outputs_ * shape_.stride[0] * a.row +
                                            c * outputs_ * shape_.stride[1] * in_.channels;
                sums_at[r * columns + c] =
                    sums + r * outputs_ * a.sums_row + c * outputs_ * a.sums_column;
            }
        a.tiles_at = tiles_at;
        a.sums_at = sums_at;
        a.not_finite = not_finite;
        implementation_.multiply_winograd(a);
        const std::vector<std::int64_t>& runs = inside ? in_image_ : in_copy_;
        for (int u = 0; u < units(a.filters); ++u)
            for (int tile = 0; tile < a.tiles; ++tile)
                if (not_finite[u * a.tiles + tile])
                    sum_plainly(tiles_at[tile], runs.data(), unit + u, a,
                                sums_at[tile] + u * channel_unit, plain);

        const int out_rows = int(std::min<std::int64_t>(rows * outputs_, out_.height - top));
        for (int y = 0; y < out_rows; ++y) {
            EndingPlan::Filled filled;
            ending_.fill(filled, call, image, (top + y) * out_.width + left, 0,
                         unit * channel_unit);
            MapArguments map;
            map.x = sums + y * a.sums_row;
            map.pixel_stride = a.sums_column;
            map.pixels = int(std::min<std::int64_t>(columns * outputs_, out_.width - left));
            map.channels = a.filters;
            map.ending = &filled.ending;
            implementation_.map(map);
        }
    }

private:
    // The outputs of a tile and a unit by the taps, where tiles give no number: of a NaN or an
    // infinity that some of them do not read, or where only what tiles compute overflows.
    void sum_plainly(const float* tile, const std::int64_t* runs, int unit,
                     const WinogradArguments& of, float* sums, float* scratch) const {
        Ending ending = {};
        ending.pixel_stride = of.sums_column;
        const float* pixels[most_outputs];
        FloatArguments a = direct_.arguments(0, unit);
        a.pixels_at = pixels;
        a.runs_at = runs;
        a.pixels = outputs_;
        a.filters = channel_unit;
        a.sums = scratch;
        a.ending = &ending;
        for (int y = 0; y < outputs_; ++y) {
            for (int x = 0; x < outputs_; ++x)
                pixels[x] =
                    tile + y * shape_.stride[0] * of.row + x * shape_.stride[1] * shape_.channels;
            ending.y = sums + y * of.sums_row;
            implementation_.multiply_floats(a);
        }
    }

    // Few tiles, whose values are near when the next filters are multiplied with them; where
    // weights come from far, many for each time they come.
    int wanted_tiles() const {
        const std::size_t bytes =
            std::size_t(row_filters()) * tile_places * channels() * sizeof(float);
        return bytes <= cache_bytes ? few_tiles : most_tiles;
    }

    // How many rows or columns of the image so many tiles in a line span.
    std::int64_t reach(int axis, std::int64_t tiles) const {
        return ((tiles - 1) * outputs_ + tile_side) * shape_.stride[axis];
    }
    std::int64_t copy_rows() const { return reach(0, rows_); }
    std::int64_t copy_columns() const { return reach(1, columns_); }
    std::int64_t copy_pitch() const { return copy_columns() * in_.channels; }

    static int units(int filters) { return (filters + channel_unit - 1) / channel_unit; }
    int channels() const { return shape_.stride[0] * shape_.stride[1] * shape_.channels; }
    std::int64_t row_filters() const { return std::int64_t(direct_.units) * channel_unit; }

    // Parts of the scratch, in floats; each ends in slack.
    static std::size_t with_slack(std::int64_t floats) {
        return (std::size_t(floats) + 15) / 16 * 16 + slack_bytes / sizeof(float);
    }
    std::size_t copy_floats() const { return with_slack(copy_rows() * copy_pitch()); }
    std::size_t values_floats() const {
        return with_slack(std::int64_t(tile_places) * rows_ * columns_ * channels());
    }
    static std::size_t products_floats() {
        return with_slack(tile_places * tile_group * 2 * channel_unit);
    }
    std::size_t sums_floats() const {
        return with_slack(std::int64_t(rows_) * columns_ * outputs_ * outputs_ * row_filters());
    }
    static std::size_t plain_floats() { return with_slack(most_outputs * channel_unit); }

    std::int64_t parts_down() const { return (tiles_down_ + rows_ - 1) / rows_; }
    std::int64_t parts_across() const { return (tiles_across_ + columns_ - 1) / columns_; }

    // Ranges of whole planes, for threads, where parts do not give them enough to share.
    int units_per_range(const Call& call) const {
        const std::int64_t parts = parts_down() * parts_across() * call.images;
        if (call.workers == 1 || parts >= 4 * call.workers) return direct_.units;
        return int(std::min<std::int64_t>(direct_.units,
                                          (direct_.units / (4 * call.workers) + 4) / 4 * 4));
    }
    std::int64_t ranges(const Call& call) const {
        return (direct_.units + units_per_range(call) - 1) / units_per_range(call);
    }

    const FloatWeights& direct_;
    const WinogradWeights& weights_;
    const Shape& shape_;
    const Implementation& implementation_;
    const EndingPlan ending_;
    const int from_;
    const Extent in_, out_;
    const int outputs_;  // of a tile, in a line
    const std::int64_t tiles_down_, tiles_across_;
    const int columns_, rows_;                            // of an item, in tiles
    const std::vector<std::int64_t> in_image_, in_copy_;  // where runs of terms begin
};

}  // namespace

WinogradWeights::WinogradWeights(const Shape& shape, const std::vector<float>& weights)
    : side(in_strides(shape, 0)) {
    require_op(shape.groups == 1 && shape.dilation[0] == 1 && shape.dilation[1] == 1 &&
                   side == in_strides(shape, 1) && side >= least_side && side <= most_side,
               "order 'winograd' takes one group, no dilation, and kernels of 3 to 5 strides, "
               "as many down as across");
    const int rows = shape.stride[0], columns = shape.stride[1];
    const std::size_t channels = std::size_t(rows) * columns * shape.channels,
                      units = std::size_t(shape.filters + channel_unit - 1) / channel_unit,
                      size = units * tile_places * channels * channel_unit;
    std::fill_n(filled.reserve(size), size, 0.0f);
    for (int f = 0; f < shape.filters; ++f)
        for (std::size_t k = 0; k < channels; ++k) {
            const int c = int(k % shape.channels), px = int(k / shape.channels % columns),
                      py = int(k / shape.channels / columns);
            const float* plane =
                weights.data() + (std::size_t(f) * shape.channels + c) * shape.taps();
            for (int place = 0; place < tile_places; ++place) {
                const int i = place / tile_side, j = place % tile_side;
                double sum = 0;
                for (int a = 0; a < side; ++a)
                    for (int b = 0; b < side; ++b) {
                        const int ky = a * rows + py, kx = b * columns + px;
                        const int factor = at_point(i, a, side) * at_point(j, b, side);
                        if (factor && ky < shape.kernel[0] && kx < shape.kernel[1])
                            sum += double(factor) * plane[ky * shape.kernel[1] + kx];
                    }
                filled
                    .get()[((std::size_t(f) / channel_unit * tile_places + place) * channels + k) *
                               channel_unit +
                           f % channel_unit] = float(sum / (divisors[i] * divisors[j]));
            }
        }
}

std::unique_ptr<Planned> plan_winograd(const FloatWeights& direct, const WinogradWeights& weights,
                                       const Implementation& implementation, EndingPlan ending,
                                       const Wiring& wiring) {
    return std::make_unique<Winograd>(direct, weights, implementation, std::move(ending), wiring);
}

}  // namespace bitconv
