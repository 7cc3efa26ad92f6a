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
        const std::int64_t oy = item % out_.height, image = item / out_.height;
        const float* x = call.floats(from_, image);
        float* y = call.floats(to_, image) + oy * out_.width * out_.channels;
        std::int64_t top, bottom, left, right;
        windows_.places(0, oy, in_.height, top, bottom);
        for (std::int64_t ox = 0; ox < out_.width; ++ox, y += out_.channels) {
            windows_.places(1, ox, in_.width, left, right);
            maximum_ ? take_maximum(x, y, top, bottom, left, right)
                     : take_average(x, y, top, bottom, left, right);
        }
    }

private:
    void take_maximum(const float* x, float* __restrict y, std::int64_t top, std::int64_t bottom,
                      std::int64_t left, std::int64_t right) const {
        for (std::int64_t c = 0; c < in_.channels; ++c)
            y[c] = -std::numeric_limits<float>::infinity();
        for (std::int64_t iy = top; iy < bottom; ++iy)
            for (std::int64_t ix = left; ix < right; ++ix) {
                const float* from = x + (iy * in_.width + ix) * in_.channels;
                for (std::int64_t c = 0; c < in_.channels; ++c)
                    y[c] = from[c] > y[c] ? from[c] : y[c];
            }
    }

    void take_average(const float* x, float* __restrict y, std::int64_t top, std::int64_t bottom,
                      std::int64_t left, std::int64_t right) const {
        for (std::int64_t c = 0; c < in_.channels; ++c) y[c] = 0;
        for (std::int64_t iy = top; iy < bottom; ++iy)
            for (std::int64_t ix = left; ix < right; ++ix) {
                const float* from = x + (iy * in_.width + ix) * in_.channels;
                for (std::int64_t c = 0; c < in_.channels; ++c) y[c] += from[c];
            }
        const float count = float((bottom - top) * (right - left));
        for (std::int64_t c = 0; c < in_.channels; ++c) y[c] /= count;
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
