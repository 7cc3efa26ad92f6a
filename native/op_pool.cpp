// pool: maximum or average of float values over windows, as CNTK computes them: the maximum begins
// with -infinity and takes what is greater, so it passes over NaN; the average is the sum in row
// order, divided by the number of places inside.
#include <limits>

#include "windows.h"

namespace bitconv {
namespace {

class PlannedPool : public Planned {
public:
    PlannedPool(const Windows& windows, bool maximum, const Wiring& wiring)
        : windows_(windows),
          maximum_(maximum),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]) {}

    int items(const Call& call) const override { return int(out_.height) * call.images; }

    void run(const Call& call, int item, int) const override {
        maximum_ ? pool_row<true>(call, item) : pool_row<false>(call, item);
    }

private:
    template <bool Maximum>
    void pool_row(const Call& call, int item) const {
        const std::int64_t oy = item % out_.height, image = item / out_.height;
        float* y = call.floats(to_, image) + oy * out_.width * out_.channels;
        std::int64_t top, bottom, left, right;
        windows_.places(0, oy, in_.height, top, bottom);
        const float* rows = call.floats(from_, image) + top * in_.width * in_.channels;
        for (std::int64_t ox = 0; ox < out_.width; ++ox, y += out_.channels) {
            windows_.places(1, ox, in_.width, left, right);
            const float* x = rows + left * in_.channels;
            const std::int64_t height = bottom - top, width = right - left;
            std::int64_t c = 0;
            for (; c + 32 <= out_.channels; c += 32)
                pool_window<Maximum, 32>(x + c, y + c, height, width);
            for (; c + 8 <= out_.channels; c += 8)
                pool_window<Maximum, 8>(x + c, y + c, height, width);
            for (; c < out_.channels; ++c) pool_window<Maximum, 1>(x + c, y + c, height, width);
        }
    }

    // So many channels stay in registers.
    template <bool Maximum, int Channels>
    void pool_window(const float* x, float* y, std::int64_t height, std::int64_t width) const {
        float found[Channels];
        for (int c = 0; c < Channels; ++c)
            found[c] = Maximum ? -std::numeric_limits<float>::infinity() : 0.0f;
        for (std::int64_t iy = 0; iy < height; ++iy, x += in_.width * in_.channels) {
            const float* from = x;
            for (std::int64_t ix = 0; ix < width; ++ix, from += in_.channels)
                for (int c = 0; c < Channels; ++c)
                    found[c] = !Maximum             ? found[c] + from[c]
                               : from[c] > found[c] ? from[c]
                                                    : found[c];
        }
        const float count = float(height * width);
        for (int c = 0; c < Channels; ++c) y[c] = Maximum ? found[c] : found[c] / count;
    }

    const Windows windows_;
    const bool maximum_;
    const int from_, to_;
    const Extent in_, out_;
};

class Pool : public Op {
public:
    explicit Pool(const Making& making)
        : windows_(making.fields), maximum_(making.fields.integer("maximum", 0, 1) == 1) {
        making.expect_reads(1, 1);
        reads = {{Kind::floats, 1}};
        gives = {{Kind::floats, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = windows_.over(wiring.read_extents[0], gives[0]);
        return std::make_unique<PlannedPool>(windows_, maximum_, wiring);
    }

private:
    const Windows windows_;
    const bool maximum_;
};

}  // namespace

const OpKind op_pool = {"pool", [](const Making& making) -> std::unique_ptr<Op> {
                            return std::make_unique<Pool>(making);
                        }};

}  // namespace bitconv
