// What a program puts in where an op wants a value in another form.
#include <algorithm>

#include "ops.h"

namespace bitconv {
namespace {

// What is turned at once, through a copy in the first-level cache. The planes of channels lie far
// apart, often a multiple of 4096 bytes, and so in few sets of the cache: each is read or written
// once, in runs.
constexpr std::int64_t strip = 128;         // pixels
constexpr std::int64_t tile_channels = 16;  // a cache line

class PlannedTurn : public Planned {
public:
    PlannedTurn(bool inwards, const Wiring& wiring)
        : inwards_(inwards),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          extent_(wiring.read_extents[0]) {}

    int items(const Call& call) const override {
        return call.workers == 1 || call.images >= 4 * call.workers ? call.images
                                                                    : int(strips()) * call.images;
    }

    void run(const Call& call, int item, int) const override {
        const std::int64_t per_image = items(call) / call.images, image = item / per_image,
                           part = item % per_image;
        const float* x = call.floats(from_, image);
        float* y = call.floats(to_, image);
        if (both_are_one_order()) {
            std::copy_n(x, extent_.channels * extent_.pixels(), y);
        } else {
            const std::int64_t first = per_image == 1 ? 0 : part,
                               end = per_image == 1 ? strips() : part + 1;
            for (std::int64_t s = first; s < end; ++s)
                turn(x, y, s * strip, std::min((s + 1) * strip, extent_.pixels()));
        }
    }

private:
    bool both_are_one_order() const { return extent_.pixels() == 1 || extent_.channels == 1; }

    std::int64_t strips() const {
        return both_are_one_order() ? 1 : (extent_.pixels() + strip - 1) / strip;
    }

    void turn(const float* __restrict x, float* __restrict y, std::int64_t first,
              std::int64_t end) const {
        const std::int64_t channels = extent_.channels, pixels = extent_.pixels(),
                           count = end - first;
        float tile[tile_channels][strip];
        for (std::int64_t from = 0; from < channels; from += tile_channels) {
            const std::int64_t some = std::min(tile_channels, channels - from);
            if (inwards_) {
                for (std::int64_t c = 0; c < some; ++c)
                    std::copy_n(x + (from + c) * pixels + first, count, tile[c]);
                for (std::int64_t p = 0; p < count; ++p)
                    for (std::int64_t c = 0; c < some; ++c)
                        y[(first + p) * channels + from + c] = tile[c][p];
            } else {
                for (std::int64_t p = 0; p < count; ++p)
                    for (std::int64_t c = 0; c < some; ++c)
                        tile[c][p] = x[(first + p) * channels + from + c];
                for (std::int64_t c = 0; c < some; ++c)
                    std::copy_n(tile[c], count, y + (from + c) * pixels + first);
            }
        }
    }

    const bool inwards_;
    const int from_, to_;
    const Extent extent_;
};

class Turn : public Op {
public:
    explicit Turn(bool inwards) : inwards_(inwards) {
        reads = {{inwards ? Kind::entry : Kind::floats, 1}};
        gives = {{inwards ? Kind::floats : Kind::entry, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = wiring.read_extents[0];
        wiring.gives_extents[0].form = gives[0];
        return std::make_unique<PlannedTurn>(inwards_, wiring);
    }

private:
    const bool inwards_;
};

// Bits of one grouping in the planes of another: a channel keeps its number.
class PlannedRegroup : public Planned {
public:
    PlannedRegroup(const Wiring& wiring, Encoding encoding)
        : encoding_(encoding),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          in_(wiring.read_extents[0]),
          out_(wiring.gives_extents[0]) {}

    int items(const Call& call) const override { return call.images; }

    void run(const Call& call, int image, int) const override {
        const std::size_t plane_words = plane_pixels(std::size_t(in_.pixels()));
        const std::uint32_t* x = call.bits(from_, image);
        std::uint32_t* y = call.bits(to_, image);
        std::fill(y, y + packed_words(out_, encoding_), 0u);
        for (std::int64_t channel = 0; channel < in_.channels; ++channel) {
            const Spot source = spot(in_, channel), target = spot(out_, channel);
            const std::uint32_t* from = x + source.plane * plane_words;
            std::uint32_t* to = y + target.plane * plane_words;
            for (std::int64_t p = 0; p < in_.pixels(); ++p)
                to[p] |= (from[p] >> source.bit & 1) << target.bit;
        }
    }

private:
    struct Spot {
        std::size_t plane;
        int bit;
    };

    Spot spot(const Extent& extent, std::int64_t channel) const {
        const std::int64_t in_group = extent.channels / extent.form.groups,
                           per_word = channels_per_word(encoding_);
        const std::int64_t planes = (in_group + per_word - 1) / per_word, in = channel % in_group;
        return {std::size_t(channel / in_group * planes + in / per_word),
                bit_of(encoding_, int(in % per_word))};
    }

    const Encoding encoding_;
    const int from_, to_;
    const Extent in_, out_;
};

class Regroup : public Op {
public:
    Regroup(int from, int to, const Implementation& implementation)
        : encoding_(implementation.encoding) {
        reads = {{Kind::bits, from}};
        gives = {{Kind::bits, to}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        require_op(wiring.read_extents[0].channels % gives[0].groups == 0,
                   std::to_string(wiring.read_extents[0].channels) +
                       " channels cannot be divided into " + std::to_string(gives[0].groups) +
                       " groups");
        wiring.gives_extents[0] = wiring.read_extents[0];
        wiring.gives_extents[0].form = gives[0];
        return std::make_unique<PlannedRegroup>(wiring, encoding_);
    }

private:
    const Encoding encoding_;
};

}  // namespace

std::unique_ptr<Op> turn_op(bool inwards) { return std::make_unique<Turn>(inwards); }

std::unique_ptr<Op> regroup_op(int from, int to, const Implementation& implementation) {
    return std::make_unique<Regroup>(from, to, implementation);
}

}  // namespace bitconv
