// pack: bits of float values: low <= v <= high per channel, flipped where `flip` is 1.
#include <algorithm>
#include <cmath>
#include <limits>

#include "endings.h"

namespace bitconv {
namespace {

constexpr std::int64_t segment = 1024;  // pixels of an item, a multiple of 16

// What a plane's words are compared with, as contract.h wants it.
struct Limits {
    std::vector<float> thresholds,
        highs;  // [planes][channels_per_word]; highs: only where a plain threshold does not do
    std::vector<std::uint32_t> flips;  // [plane]
};

// low <= v is v > the number below low, which -infinity does not have.
bool plain(float low, float high, int flip) {
    const float infinity = std::numeric_limits<float>::infinity();
    return high == infinity && low != -infinity && flip == 0;
}

float number_below(float v) { return std::nextafter(v, -std::numeric_limits<float>::infinity()); }

// The values as the caller has them, channel by channel.
class PlannedPack : public Planned {
public:
    PlannedPack(const Limits& limits, const Wiring& wiring, const Implementation& implementation)
        : implementation_(implementation),
          limits_(limits),
          from_(wiring.reads[0]),
          to_(wiring.gives[0]),
          channels_(int(wiring.read_extents[0].channels)),
          per_word_(channels_per_word(implementation.encoding)),
          pixels_(wiring.read_extents[0].pixels()) {}

    int items(const Call& call) const override { return int(planes() * segments() * call.images); }

    void run(const Call& call, int item, int) const override {
        const std::int64_t begin = item % segments() * segment;
        const int plane = int(item / segments() % planes()),
                  image = int(item / segments() / planes());
        PackArguments a;
        a.x = call.floats(from_, image) + std::int64_t(plane) * per_word_ * pixels_ + begin;
        a.channel_stride = std::size_t(pixels_);
        a.thresholds = &limits_.thresholds[std::size_t(plane) * per_word_];
        a.channels = std::min(per_word_, channels_ - plane * per_word_);
        a.pixels = std::size_t(std::min(segment, pixels_ - begin));
        a.plane = call.bits(to_, image) + plane * plane_pixels(std::size_t(pixels_)) + begin;
        a.highs = limits_.highs.empty() ? nullptr : &limits_.highs[std::size_t(plane) * per_word_];
        a.flip = limits_.highs.empty() ? 0 : limits_.flips[plane];
        implementation_.pack(a);
    }

private:
    std::int64_t segments() const { return (pixels_ + segment - 1) / segment; }
    std::int64_t planes() const { return (channels_ + per_word_ - 1) / per_word_; }

    const Implementation& implementation_;
    const Limits limits_;
    const int from_, to_, channels_, per_word_;
    const std::int64_t pixels_;
};

// One pixel: channels follow one another, and images are the pixels.
class PlannedRow : public Planned {
public:
    PlannedRow(const EndingData& data, const Wiring& wiring, const Implementation& implementation)
        : implementation_(implementation),
          ending_(data, wiring, 1, implementation.encoding, true),
          from_(wiring.reads[0]),
          channels_(int(wiring.read_extents[0].channels)) {}

    int items(const Call& call) const override { return call.images; }

    void run(const Call& call, int image, int) const override {
        EndingPlan::Filled filled;
        ending_.fill(filled, call, image, 0, 0, 0);
        const MapArguments a = {call.floats(from_, image), call.image_words(from_), 1, channels_,
                                &filled.ending};
        implementation_.map(a);
    }

private:
    const Implementation& implementation_;
    const EndingPlan ending_;
    const int from_, channels_;
};

class Pack : public Op {
public:
    explicit Pack(const Making& making) : implementation_(making.implementation), data_(making) {
        require_op(!data_.stores() && data_.steps() == 0, "it has steps or stores, which map does");
        reads = {{Kind::entry, 1}};
        gives = {{Kind::bits, 1}};
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        wiring.gives_extents[0] = wiring.read_extents[0];
        wiring.gives_extents[0].form = gives[0];
        if (wiring.read_extents[0].pixels() == 1)
            return std::make_unique<PlannedRow>(data_, wiring, implementation_);
        return std::make_unique<PlannedPack>(limits(int(wiring.read_extents[0].channels)), wiring,
                                             implementation_);
    }

private:
    Limits limits(int channels) const {
        const int per_word = channels_per_word(implementation_.encoding),
                  planes = (channels + per_word - 1) / per_word;
        Limits made;
        bool all_plain = true;
        for (int c = 0; c < channels; ++c)
            all_plain = all_plain && plain(data_.low(c, channels), data_.high(c, channels),
                                           data_.flip(c, channels));
        made.thresholds.assign(std::size_t(planes) * per_word, 0);
        if (!all_plain) made.highs.assign(made.thresholds.size(), 0);
        made.flips.assign(planes, 0);
        for (int c = 0; c < channels; ++c) {
            const float low = data_.low(c, channels);
            made.thresholds[c] = all_plain ? number_below(low) : low;
            if (all_plain) continue;
            made.highs[c] = data_.high(c, channels);
            made.flips[c / per_word] |= std::uint32_t(data_.flip(c, channels))
                                        << bit_of(implementation_.encoding, c % per_word);
        }
        return made;
    }

    const Implementation& implementation_;
    const EndingData data_;
};

// Of values that an op has given, packing is a map without steps.
std::unique_ptr<Op> make(const Making& making) {
    making.expect_reads(1, 1);
    if (making.given[0].kind == Kind::entry) return std::make_unique<Pack>(making);
    return op_map.make(making);
}

}  // namespace

const OpKind op_pack = {"pack", make};

}  // namespace bitconv
