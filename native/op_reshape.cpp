// reshape: the same float values in the caller's order, [channels][height][width], read as another
// shape; flattening is the shape [-1, 1, 1].
#include <algorithm>

#include "ops.h"

namespace bitconv {
namespace {

class PlannedReshape : public Planned {
public:
    explicit PlannedReshape(const Wiring& wiring)
        : from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]) {}

    int items(const Call& call) const override { return call.images; }

    void run(const Call& call, int image, int) const override {
        const float* x = call.floats(from_, image);
        float* y = call.floats(to_, image);
        const std::int64_t in_pixels = in_.pixels(), out_pixels = out_.pixels();
        for (std::int64_t c = 0, i = 0; c < in_.channels; ++c)
            for (std::int64_t p = 0; p < in_pixels; ++p, ++i)
                y[i % out_pixels * out_.channels + i / out_pixels] = x[p * in_.channels + c];
    }

private:
    const int from_, to_;
    const Extent in_, out_;
};

class Reshape : public Op {
public:
    explicit Reshape(const Making& making)
        : shape_(making.fields.integers("shape", 3, -1, 1 << 27)) {
        making.expect_reads(1, 1);
        int free = 0;
        for (const int length : shape_) {
            require_op(length != 0, "a length of its shape is 0");
            free += length < 0;
        }
        require_op(free <= 1, "more than one length of its shape is -1");
        reads = {{Kind::floats, 1}};
        gives = {{Kind::floats, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        const Extent& in = wiring.read_extents[0];
        const std::int64_t whole = in.channels * in.pixels();
        std::int64_t lengths[3], known = 1;
        for (int axis = 0; axis < 3; ++axis) {
            lengths[axis] = shape_[axis];
            if (shape_[axis] > 0)
                known = std::min<std::int64_t>(whole + 1, known * shape_[axis]);  // no overflow
        }
        for (std::int64_t& length : lengths)
            if (length < 0) length = whole / known;
        const std::int64_t limit = whole + 1,
                           product = std::min(
                               limit, std::min(limit, lengths[0]) * std::min(limit, lengths[1]));
        require_op(product * std::min(limit, lengths[2]) == whole,
                   std::to_string(whole) + " values do not have the shape [" +
                       std::to_string(lengths[0]) + ", " + std::to_string(lengths[1]) + ", " +
                       std::to_string(lengths[2]) + "]");
        wiring.gives_extents[0] = {gives[0], lengths[0], lengths[1], lengths[2]};
        return std::make_unique<PlannedReshape>(wiring);
    }

private:
    const std::vector<int> shape_;
};

}  // namespace

const OpKind op_reshape = {"reshape", [](const Making& making) -> std::unique_ptr<Op> {
                               return std::make_unique<Reshape>(making);
                           }};

}  // namespace bitconv
