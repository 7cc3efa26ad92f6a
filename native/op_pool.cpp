// pool: maximum or average of float values over windows, as CNTK computes them: the maximum begins
// with -infinity and takes what is greater, so it passes over NaN; the average is the sum in row
// order, divided by the number of places inside.
#include "windows.h"

namespace bitconv {
namespace {

class PlannedPool : public Planned {
public:
    PlannedPool(const Windows& windows, bool maximum, const Implementation& implementation,
                const Wiring& wiring)
        : windows_(windows),
          maximum_(maximum),
          implementation_(implementation),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]) {}

    int items(const Call& call) const override { return int(out_.height) * call.images; }

    void run(const Call& call, int item, int) const override {
        const std::int64_t oy = item % out_.height, image = item / out_.height;
        std::int64_t top, bottom;
        windows_.places(0, oy, in_.height, top, bottom);
        PoolArguments a;
        a.maximum = maximum_;
        a.row_stride = in_.width * in_.channels;
        a.x = call.floats(from_, image) + top * a.row_stride;
        a.y = call.floats(to_, image) + oy * out_.width * out_.channels;
        a.channels = int(in_.channels);
        a.rows = int(bottom - top);
        a.outputs = int(out_.width);
        a.width = int(in_.width);
        a.kernel = windows_.kernel[1] ? windows_.kernel[1] : a.width;
        a.stride = windows_.stride[1];
        a.padding = windows_.padding[1][0];
        implementation_.pool(a);
    }

private:
    const Windows windows_;
    const bool maximum_;
    const Implementation& implementation_;
    const int from_, to_;
    const Extent in_, out_;
};

class Pool : public Op {
public:
    explicit Pool(const Making& making)
        : windows_(making.fields),
          maximum_(making.fields.integer("maximum", 0, 1) == 1),
          implementation_(making.implementation) {
        making.expect_reads(1, 1);
        reads = {{Kind::floats, 1}};
        gives = {{Kind::floats, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = windows_.over(wiring.read_extents[0], gives[0]);
        return std::make_unique<PlannedPool>(windows_, maximum_, implementation_, wiring);
    }

private:
    const Windows windows_;
    const bool maximum_;
    const Implementation& implementation_;
};

}  // namespace

const OpKind op_pool = {"pool", [](const Making& making) -> std::unique_ptr<Op> {
                            return std::make_unique<Pool>(making);
                        }};

}  // namespace bitconv
