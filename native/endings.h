// The ending of an op (contract.h, "Endings"): read from its fields, filled up for a plan, and
// pointed at the pixels and channels of one item.
//
// Fields: `steps`, names of steps separated by commas, "" for none; the vectors of step i in `i.a`,
// `i.b`, `i.c`, of one number or one per channel; what a value step reads is the op's next input.
// `store`: 1 gives float values. `low` and `high`, of one number or one per channel, give bits,
// after the float values where both are given; `flip`, 0 or 1 per channel, may go with them.
#pragma once
#include <string>
#include <vector>

#include "buffer.h"
#include "layer.h"
#include "ops.h"

namespace bitconv {

class EndingData {
public:
    // Throws for what is not whole; the first input of the op is not a value step's.
    explicit EndingData(const Making& making);

    bool stores() const { return stores_; }
    bool packs() const { return !low_.empty(); }
    std::size_t steps() const { return steps_.size(); }

    // Of a channel of so many; throws where there are neither 1 nor so many.
    float low(int channel, int channels) const { return of(low_, channel, channels, "low"); }
    float high(int channel, int channels) const { return of(high_, channel, channels, "high"); }
    int flip(int channel, int channels) const {
        return flip_.empty() ? 0 : of(flip_, channel, channels, "flip");
    }

    // Forms of what it reads beyond the first input, and of what it gives, its bits being in
    // `groups` groups.
    void wire(std::vector<Form>& reads, std::vector<Form>& gives, int groups) const;

private:
    friend class EndingPlan;
    struct StepData {
        StepKind kind;
        std::vector<float> vectors[3];
    };

    template <typename T>
    static T of(const std::vector<T>& values, int channel, int channels, const char* name) {
        if (values.size() != 1 && values.size() != std::size_t(channels))
            require_op(false, name + (" has " + std::to_string(values.size())) +
                                  " numbers, expected 1 or " + std::to_string(channels));
        return values[values.size() == 1 ? 0 : std::size_t(channel)];
    }

    std::vector<StepData> steps_;
    bool stores_;
    std::vector<float> low_, high_;
    std::vector<int> flip_;
};

// An ending for one size.
class EndingPlan {
public:
    struct Filled {
        Ending ending;
        Step steps[max_steps];
    };

    // No steps: the bits of sums > 0 alone.
    static EndingPlan signs(const Wiring& wiring, int groups, Encoding encoding,
                            bool images_are_pixels);

    // Channels of `groups` groups; images_are_pixels: the pixels of an item are the only pixels of
    // several images.
    EndingPlan(const EndingData& data, const Wiring& wiring, int groups, Encoding encoding,
               bool images_are_pixels);

    // Points at a group's channels from `channel` on, and at an image's pixels from `pixel` on (or,
    // where images are pixels, at the images from `image` on).
    void fill(Filled& filled, const Call& call, std::int64_t image, std::int64_t pixel, int group,
              int channel) const;

private:
    struct StepPlan {
        StepKind kind;
        std::size_t vectors[3];  // places of the vectors, or of none
        int value;
        bool spatial, channels;  // whether the value differs between pixels and channels
        std::int64_t value_channels;
    };

    EndingPlan(const Wiring& wiring, int groups, Encoding encoding, bool images_are_pixels);
    std::size_t vector(const std::vector<float>& values, float rest, const std::string& name);
    void plan_value(StepPlan& step, const Wiring& wiring, std::size_t input);

    std::vector<StepPlan> steps_;
    int groups_;
    std::int64_t in_group_, padded_;  // channels of a group, and filled up to whole units
    Encoding encoding_;
    bool images_are_pixels_, signs_ = false;
    int floats_ = -1, bits_ = -1;  // values
    std::int64_t channels_, pixels_;
    std::size_t plane_words_, planes_;  // of a group
    std::vector<float> vectors_;        // [vector][group][padded]
    std::size_t low_ = 0, high_ = 0;
    std::vector<std::uint16_t> flip_;  // [group][unit]
};

// The shape in a convolution's fields `kernel`, `strides`, `padding` (top, bottom, left, right),
// `dilation`, `groups`, `filters` (of all groups) and `channels` (of one), which is validated.
Shape convolution_shape(Fields& fields);

// Whether the kernel is the image, so that there is one output pixel and the images of a batch can
// take its place.
bool is_whole_image(const Shape& shape, std::int64_t height, std::int64_t width);

}  // namespace bitconv
