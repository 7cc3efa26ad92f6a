// or_pool: max pooling of signs: the bit is set where any bit of the window is. A sign's monotone
// step commutes with a maximum, so this is max pooling before the sign, too.
#include "windows.h"

namespace bitconv {
namespace {

class PlannedOrPool : public Planned {
public:
    PlannedOrPool(const Windows& windows, const Wiring& wiring, Encoding encoding)
        : windows_(windows),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]),
          planes_(packed_words(in_, encoding) / plane_pixels(std::size_t(in_.pixels()))) {}

    int items(const Call& call) const override {
        return call.workers == 1 || planes_ * std::size_t(in_.pixels()) * call.images < 4096
                   ? 1
                   : int(planes_) * call.images;
    }

    void run(const Call& call, int item, int) const override {
        if (items(call) == 1) {
            for (int i = 0; i < int(planes_) * call.images; ++i) pool(call, i);
        } else {
            pool(call, item);
        }
    }

private:
    void pool(const Call& call, int item) const {
        const std::size_t plane = std::size_t(item) % planes_, image = std::size_t(item) / planes_;
        const std::uint32_t* x =
            call.bits(from_, image) + plane * plane_pixels(std::size_t(in_.pixels()));
        std::uint32_t* y = call.bits(to_, image) + plane * plane_pixels(std::size_t(out_.pixels()));
        for (std::int64_t oy = 0; oy < out_.height; ++oy) {
            std::int64_t top, bottom, left, right;
            windows_.places(0, oy, in_.height, top, bottom);
            for (std::int64_t ox = 0; ox < out_.width; ++ox) {
                windows_.places(1, ox, in_.width, left, right);
                std::uint32_t any = 0;
                for (std::int64_t iy = top; iy < bottom; ++iy)
                    for (std::int64_t ix = left; ix < right; ++ix) any |= x[iy * in_.width + ix];
                *y++ = any;
            }
        }
    }

    const Windows windows_;
    const int from_, to_;
    const Extent in_, out_;
    const std::size_t planes_;
};

class OrPool : public Op {
public:
    explicit OrPool(const Making& making)
        : encoding_(making.implementation.encoding), windows_(making.fields) {
        making.expect_reads(1, 1);
        reads = {{Kind::bits, 1}};
        gives = {{Kind::bits, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = windows_.over(wiring.read_extents[0], gives[0]);
        return std::make_unique<PlannedOrPool>(windows_, wiring, encoding_);
    }

private:
    const Encoding encoding_;
    const Windows windows_;
};

}  // namespace

const OpKind op_or_pool = {"or_pool", [](const Making& making) -> std::unique_ptr<Op> {
                               return std::make_unique<OrPool>(making);
                           }};

}  // namespace bitconv
