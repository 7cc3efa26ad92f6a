// map: float values through an ending: steps, then float values, bits, or both.
#include <algorithm>

#include "endings.h"

namespace bitconv {
namespace {

constexpr std::int64_t item_values = 16384;  // about what one item works on

class PlannedMap : public Planned {
public:
    PlannedMap(const EndingData& data, const Wiring& wiring, const Implementation& implementation)
        : implementation_(implementation),
          images_are_pixels_(wiring.read_extents[0].pixels() == 1),
          ending_(data, wiring, 1, implementation.encoding, images_are_pixels_),
          from_(wiring.reads[0]),
          channels_(int(wiring.read_extents[0].channels)),
          pixels_(wiring.read_extents[0].pixels()),
          part_(std::max<std::int64_t>(16, item_values / channels_)) {}

    int items(const Call& call) const override {
        return images_are_pixels_ ? int((call.images + part_ - 1) / part_)
                                  : int(parts() * call.images);
    }

    void run(const Call& call, int item, int) const override {
        const std::int64_t part = images_are_pixels_ ? item : item % parts(),
                           image = images_are_pixels_ ? part * part_ : item / parts();
        const std::int64_t pixel = images_are_pixels_ ? 0 : part * part_;
        const std::int64_t end = images_are_pixels_ ? call.images - image : pixels_ - pixel;
        EndingPlan::Filled filled;
        ending_.fill(filled, call, image, pixel, 0, 0);
        MapArguments a;
        a.x = call.floats(from_, image) + pixel * channels_;
        a.pixel_stride = images_are_pixels_ ? call.image_words(from_) : std::size_t(channels_);
        a.pixels = int(std::min(part_, end));
        a.channels = channels_;
        a.ending = &filled.ending;
        implementation_.map(a);
    }

private:
    std::int64_t parts() const { return (pixels_ + part_ - 1) / part_; }

    const Implementation& implementation_;
    const bool images_are_pixels_;
    const EndingPlan ending_;
    const int from_, channels_;
    const std::int64_t pixels_, part_;
};

class Map : public Op {
public:
    explicit Map(const Making& making) : implementation_(making.implementation), data_(making) {
        reads.push_back({Kind::floats, 1});
        data_.wire(reads, gives, 1);
    }

    std::unique_ptr<Planned> plan(Wiring& wiring) const override {
        for (std::size_t i = 0; i < gives.size(); ++i) {
            wiring.gives_extents[i] = wiring.read_extents[0];
            wiring.gives_extents[i].form = gives[i];
        }
        return std::make_unique<PlannedMap>(data_, wiring, implementation_);
    }

private:
    const Implementation& implementation_;
    const EndingData data_;
};

}  // namespace

const OpKind op_map = {"map", [](const Making& making) -> std::unique_ptr<Op> {
                           return std::make_unique<Map>(making);
                       }};

}  // namespace bitconv
