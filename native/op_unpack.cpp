// unpack: +1 where a bit is set, -1 elsewhere, as float values.
#include "ops.h"

namespace bitconv {
namespace {

class PlannedUnpack : public Planned {
public:
    PlannedUnpack(const Wiring& wiring, Encoding encoding)
        : encoding_(encoding),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          extent_(wiring.read_extents[0]) {}

    int items(const Call& call) const override { return call.images; }

    void run(const Call& call, int image, int) const override {
        const std::uint32_t* x = call.bits(from_, image);
        float* y = call.floats(to_, image);
        const int per_word = channels_per_word(encoding_);
        const std::size_t plane_words = plane_pixels(std::size_t(extent_.pixels()));
        for (std::int64_t p = 0; p < extent_.pixels(); ++p)
            for (int c = 0; c < int(extent_.channels); ++c)
                *y++ = x[std::size_t(c / per_word) * plane_words + p] >>
                                   bit_of(encoding_, c % per_word) &
                               1
                           ? 1.0f
                           : -1.0f;
    }

private:
    const Encoding encoding_;
    const int from_, to_;
    const Extent extent_;
};

class Unpack : public Op {
public:
    explicit Unpack(const Making& making) : encoding_(making.implementation.encoding) {
        making.expect_reads(1, 1);
        reads = {{Kind::bits, 1}};
        gives = {{Kind::floats, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = wiring.read_extents[0];
        wiring.gives_extents[0].form = gives[0];
        return std::make_unique<PlannedUnpack>(wiring, encoding_);
    }

private:
    const Encoding encoding_;
};

}  // namespace

const OpKind op_unpack = {"unpack", [](const Making& making) -> std::unique_ptr<Op> {
                              return std::make_unique<Unpack>(making);
                          }};

}  // namespace bitconv
