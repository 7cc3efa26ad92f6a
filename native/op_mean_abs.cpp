// mean_abs: the mean of the absolute values of an image, one number: the sum in double, rounded to
// float32, times float32(1 / n). That is how CNTK's reduce_mean computes it; in double the order of
// the additions is beyond float32.
#include <cmath>

#include "ops.h"

namespace bitconv {
namespace {

class PlannedMeanAbs : public Planned {
public:
    explicit PlannedMeanAbs(const Wiring& wiring)
        : from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          count_(wiring.read_extents[0].pixels() * wiring.read_extents[0].channels) {}

    int items(const Call& call) const override { return call.images; }

    void run(const Call& call, int image, int) const override {
        constexpr int sums =
            8;  // a fixed order: the same on every machine and with any number of threads
        const float* x = call.floats(from_, image);
        double parts[sums] = {};
        std::int64_t i = 0;
        for (; i + sums <= count_; i += sums)
            for (int s = 0; s < sums; ++s) parts[s] += double(std::fabs(x[i + s]));
        for (int s = 0; i < count_; ++i, ++s) parts[s] += double(std::fabs(x[i]));
        const double sum = ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
                           ((parts[4] + parts[5]) + (parts[6] + parts[7]));
        *call.floats(to_, image) = float(sum) * float(1.0 / double(count_));
    }

private:
    const int from_, to_;
    const std::int64_t count_;
};

class MeanAbs : public Op {
public:
    explicit MeanAbs(const Making& making) {
        making.expect_reads(1, 1);
        reads = {{Kind::floats, 1}};
        gives = {{Kind::floats, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = {gives[0], 1, 1, 1};
        return std::make_unique<PlannedMeanAbs>(wiring);
    }
};

}  // namespace

const OpKind op_mean_abs = {"mean_abs", [](const Making& making) -> std::unique_ptr<Op> {
                                return std::make_unique<MeanAbs>(making);
                            }};

}  // namespace bitconv
