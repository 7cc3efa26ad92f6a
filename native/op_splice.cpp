// splice: the channels of float values of one size, one value's after another's.
#include <algorithm>

#include "ops.h"

namespace bitconv {
namespace {

class PlannedSplice : public Planned {
public:
    explicit PlannedSplice(const Wiring& wiring)
        : from_(wiring.reads), to_(wiring.gives[0]), out_(wiring.gives_extents[0]) {
        for (const Extent& extent : wiring.read_extents) channels_.push_back(extent.channels);
    }

    // An item is a row of an image.
    int items(const Call& call) const override { return int(out_.height) * call.images; }

    void run(const Call& call, int item, int) const override {
        const std::int64_t row = item % out_.height, image = item / out_.height;
        float* y = call.floats(to_, image) + row * out_.width * out_.channels;
        for (std::size_t i = 0; i < from_.size(); ++i) {
            const float* x = call.floats(from_[i], image) + row * out_.width * channels_[i];
            for (std::int64_t p = 0; p < out_.width; ++p)
                std::copy_n(x + p * channels_[i], channels_[i], y + p * out_.channels);
            y += channels_[i];
        }
    }

private:
    const std::vector<int> from_;
    const int to_;
    const Extent out_;
    std::vector<std::int64_t> channels_;
};

class Splice : public Op {
public:
    explicit Splice(const Making& making) {
        making.expect_reads(1, most_values);
        reads.assign(making.given.size(), {Kind::floats, 1});
        gives = {{Kind::floats, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        Extent all = wiring.read_extents[0];
        all.channels = 0;
        for (const Extent& one : wiring.read_extents) {
            require_op(one.height == all.height && one.width == all.width,
                       "it reads images of " + std::to_string(all.height) + " x " +
                           std::to_string(all.width) + " and of " + std::to_string(one.height) +
                           " x " + std::to_string(one.width) + " pixels");
            all.channels += one.channels;
        }
        wiring.gives_extents[0] = all;
        return std::make_unique<PlannedSplice>(wiring);
    }

private:
    static constexpr std::size_t most_values = 4096;
};

}  // namespace

const OpKind op_splice = {"splice", [](const Making& making) -> std::unique_ptr<Op> {
                              return std::make_unique<Splice>(making);
                          }};

}  // namespace bitconv
