#include "endings.h"

#include <cmath>
#include <limits>
#include <stdexcept>

namespace bitconv {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

struct StepName {
    const char* name;
    StepKind kind;
    int vectors;
    bool value;
};

const StepName step_names[] = {
    {"multiply", StepKind::multiply, 1, false},
    {"add", StepKind::add, 1, false},
    {"normalize", StepKind::normalize, 3, false},
    {"normalize_apart", StepKind::normalize_apart, 3, false},
    {"relu", StepKind::relu, 0, false},
    {"relu_halves", StepKind::relu_halves, 0, false},
    {"relu_fused", StepKind::relu_fused, 0, false},
    {"leaky", StepKind::leaky, 1, false},
    {"clip", StepKind::clip, 2, false},
    {"add_value", StepKind::add_value, 0, true},
    {"multiply_value", StepKind::multiply_value, 0, true},
};

const StepName& step_named(const std::string& name) {
    std::string known;
    for (const StepName& step : step_names) {
        if (name == step.name) return step;
        known += (known.empty() ? "" : ", ") + std::string(step.name);
    }
    throw std::invalid_argument("there is no step '" + name + "'; known: " + known);
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    if (text.empty()) return parts;
    std::size_t from = 0;
    for (std::size_t comma; (comma = text.find(',', from)) != std::string::npos; from = comma + 1)
        parts.push_back(text.substr(from, comma - from));
    parts.push_back(text.substr(from));
    return parts;
}

bool is_value(StepKind kind) {
    return kind == StepKind::add_value || kind == StepKind::multiply_value;
}

}  // namespace

EndingData::EndingData(const Making& making) {
    Fields& fields = making.fields;
    std::size_t values = 0;
    for (const std::string& name : split(fields.text("steps"))) {
        const StepName& known = step_named(name);
        StepData step = {known.kind, {}};
        for (int i = 0; i < known.vectors; ++i)
            step.vectors[i] =
                fields.floats((std::to_string(steps_.size()) + "." + "abc"[i]).c_str());
        values += known.value;
        steps_.push_back(std::move(step));
    }
    require_op(steps_.size() <= std::size_t(max_steps), "it has " + std::to_string(steps_.size()) +
                                                            " steps, expected at most " +
                                                            std::to_string(max_steps));
    making.expect_reads(1 + values, 1 + values);
    stores_ = fields.integer("store", 0, 1) == 1;
    if (fields.has("low")) {
        low_ = fields.floats("low");
        high_ = fields.floats("high");
        require_op(!low_.empty() && !high_.empty(), "low or high is empty");
        for (const std::vector<float>* limits : {&low_, &high_})
            for (const float v : *limits)
                require_op(!std::isnan(v), "a limit is NaN, which no value can be compared with");
        if (fields.has("flip")) {
            const std::vector<float> flips = fields.floats("flip");
            for (const float v : flips) {
                require_op(v == 0 || v == 1, "flip holds a number that is neither 0 nor 1");
                flip_.push_back(int(v));
            }
            require_op(!flip_.empty(), "flip is empty");
        }
    }
    require_op(stores_ || packs(), "it gives neither float values nor bits");
}

void EndingData::wire(std::vector<Form>& reads, std::vector<Form>& gives, int groups) const {
    for (const StepData& step : steps_)
        if (is_value(step.kind)) reads.push_back({Kind::floats, 1});
    if (stores_) gives.push_back({Kind::floats, 1});
    if (packs()) gives.push_back({Kind::bits, groups});
}

EndingPlan::EndingPlan(const Wiring& wiring, int groups, Encoding encoding, bool images_are_pixels)
    : groups_(groups), encoding_(encoding), images_are_pixels_(images_are_pixels) {
    const Extent& extent = wiring.gives_extents[0];
    const int per_word = channels_per_word(encoding);
    channels_ = extent.channels;
    pixels_ = extent.pixels();
    in_group_ = channels_ / groups;
    padded_ = (in_group_ + channel_unit - 1) / channel_unit * channel_unit;
    plane_words_ = plane_pixels(std::size_t(pixels_));
    planes_ = std::size_t(in_group_ + per_word - 1) / per_word;
}

EndingPlan EndingPlan::signs(const Wiring& wiring, int groups, Encoding encoding,
                             bool images_are_pixels) {
    EndingPlan plan(wiring, groups, encoding, images_are_pixels);
    plan.signs_ = true;
    plan.bits_ = wiring.gives[0];
    return plan;
}

EndingPlan::EndingPlan(const EndingData& data, const Wiring& wiring, int groups, Encoding encoding,
                       bool images_are_pixels)
    : EndingPlan(wiring, groups, encoding, images_are_pixels) {
    std::size_t input = 1;
    for (std::size_t i = 0; i < data.steps_.size(); ++i) {
        const EndingData::StepData& from = data.steps_[i];
        StepPlan step = {from.kind, {0, 0, 0}, -1, false, false, 0};
        for (int j = 0; j < 3; ++j)
            if (!from.vectors[j].empty())
                step.vectors[j] = vector(from.vectors[j], 0, std::to_string(i) + "." + "abc"[j]);
            else
                require_op(j >= step_names[int(from.kind)].vectors,
                           "a vector of step " + std::to_string(i) + " is empty");
        if (is_value(from.kind)) plan_value(step, wiring, input++);
        steps_.push_back(step);
    }
    std::size_t output = 0;
    if (data.stores()) floats_ = wiring.gives[output++];
    if (!data.packs()) return;
    bits_ = wiring.gives[output];
    low_ = vector(data.low_, infinity, "low");
    high_ = vector(data.high_, -infinity, "high");
    const std::size_t flips = data.flip_.size();
    require_op(flips <= 1 || std::int64_t(flips) == channels_, "flip has " + std::to_string(flips) +
                                                                   " numbers, expected 1 or " +
                                                                   std::to_string(channels_));
    flip_.assign(std::size_t(groups_ * padded_ / channel_unit), 0);
    if (flips == 0) return;
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
        const std::int64_t at = channel / in_group_ * padded_ + channel % in_group_;
        const int flip = data.flip_[flips == 1 ? 0 : std::size_t(channel)];
        flip_[std::size_t(at / channel_unit)] =
            std::uint16_t(flip_[std::size_t(at / channel_unit)] | flip << at % channel_unit);
    }
}

// Appends a vector filled up with `rest`, and gives its place.
std::size_t EndingPlan::vector(const std::vector<float>& values, float rest,
                               const std::string& name) {
    require_op(values.size() == 1 || std::int64_t(values.size()) == channels_,
               name + " has " + std::to_string(values.size()) + " numbers, expected 1 or " +
                   std::to_string(channels_));
    const std::size_t place = vectors_.size();
    vectors_.resize(place + std::size_t(groups_ * padded_), rest);
    for (std::int64_t channel = 0; channel < channels_; ++channel)
        vectors_[place + std::size_t(channel / in_group_ * padded_ + channel % in_group_)] =
            values[values.size() == 1 ? 0 : std::size_t(channel)];
    return place;
}

void EndingPlan::plan_value(StepPlan& step, const Wiring& wiring, std::size_t input) {
    const Extent& extent = wiring.read_extents[input];
    const Extent& own = wiring.gives_extents[0];
    const bool spatial = extent.height == own.height && extent.width == own.width;
    require_op(
        (extent.channels == channels_ || extent.channels == 1) && (spatial || extent.pixels() == 1),
        "it adds or multiplies a value of " + std::to_string(extent.channels) + " channels, " +
            std::to_string(extent.height) + " x " + std::to_string(extent.width) +
            " pixels, to one of " + std::to_string(channels_) + " channels, " +
            std::to_string(own.height) + " x " + std::to_string(own.width) + " pixels");
    step.value = wiring.reads[input];
    step.spatial = spatial;
    step.channels = extent.channels != 1;
    step.value_channels = extent.channels;
}

void EndingPlan::fill(Filled& filled, const Call& call, std::int64_t image, std::int64_t pixel,
                      int group, int channel) const {
    Ending& e = filled.ending;
    e.steps = filled.steps;
    e.count = int(steps_.size());
    e.sign_of_sum = signs_;
    const std::int64_t in_vector = group * padded_ + channel,
                       of_value = group * in_group_ + channel;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        const StepPlan& from = steps_[i];
        Step& step = filled.steps[i];
        step.kind = from.kind;
        step.a = vectors_.data() + from.vectors[0] + in_vector;
        step.b = vectors_.data() + from.vectors[1] + in_vector;
        step.c = vectors_.data() + from.vectors[2] + in_vector;
        if (from.value < 0) continue;
        step.pixel_stride = images_are_pixels_ ? call.image_words(from.value)
                            : from.spatial     ? std::size_t(from.value_channels)
                                               : 0;
        step.channel_stride = from.channels ? 1 : 0;
        step.value = call.floats(from.value, image) +
                     (from.spatial ? pixel * from.value_channels : 0) +
                     (from.channels ? of_value : 0);
    }
    e.y = nullptr;
    e.plane = nullptr;
    if (floats_ >= 0) {
        e.y = call.floats(floats_, image) + pixel * channels_ + of_value;
        e.pixel_stride = images_are_pixels_ ? call.image_words(floats_) : std::size_t(channels_);
    }
    if (bits_ < 0) return;
    e.plane =
        call.bits(bits_, image) +
        (group * planes_ + std::size_t(channel / channels_per_word(encoding_))) * plane_words_ +
        pixel;
    e.plane_words = plane_words_;
    e.word_stride = images_are_pixels_ ? call.image_words(bits_) : 1;
    if (signs_) return;
    e.low = vectors_.data() + low_ + in_vector;
    e.high = vectors_.data() + high_ + in_vector;
    e.flip = flip_.data() + in_vector / channel_unit;
}

Shape convolution_shape(Fields& fields) {
    constexpr std::int64_t most = INT32_MAX;
    Shape shape;
    shape.groups = int(fields.integer("groups", 1, most));
    shape.filters = int(fields.integer("filters", 1, most));
    require_op(shape.filters % shape.groups == 0, std::to_string(shape.filters) +
                                                      " filters cannot be divided into " +
                                                      std::to_string(shape.groups) + " groups");
    shape.filters /= shape.groups;
    shape.channels = int(fields.integer("channels", 1, most));
    const std::vector<int> kernel = fields.integers("kernel", 2, 1, most),
                           strides = fields.integers("strides", 2, 1, most),
                           dilation = fields.integers("dilation", 2, 1, most),
                           padding = fields.integers("padding", 4, 0, most);
    for (int axis = 0; axis < 2; ++axis) {
        shape.kernel[axis] = kernel[axis];
        shape.stride[axis] = strides[axis];
        shape.dilation[axis] = dilation[axis];
        for (int side = 0; side < 2; ++side) shape.padding[axis][side] = padding[2 * axis + side];
    }
    validate(shape);
    return shape;
}

bool is_whole_image(const Shape& shape, std::int64_t height, std::int64_t width) {
    for (int axis = 0; axis < 2; ++axis)
        if (shape.kernel[axis] != (axis ? width : height) || shape.dilation[axis] != 1 ||
            shape.padding[axis][0] != 0 || shape.padding[axis][1] != 0)
            return false;
    return true;
}

}  // namespace bitconv
