// Fuzz target: the state of a small program from arbitrary bytes, in every second case damaged.
// Every implementation this machine can run must refuse it alike, or all must give the same bits,
// with one thread and with several, twice; and a second call of a size allocates nothing. Not part
// of the extension. Built as fuzz_convolution.cpp.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "bytes.h"
#include "program.h"
#include "thread_pool.h"
#include "writer.h"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t size) {
    ++allocations;
    if (void* made = std::malloc(size ? size : 1)) return made;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace bitconv;

struct Value {
    bool bits;
    int channels, height, width;
};

class Maker {
public:
    explicit Maker(Bytes& bytes) : bytes_(bytes) {
        values_.push_back(
            {false, pick({1, 3, 17, 32, 40, 65}), bytes.between(1, 7), bytes.between(1, 7)});
        is_input_.push_back(true);
        const Value x = values_[0];
        rest_.number(std::uint32_t(1))
            .number(std::int64_t(x.channels))
            .number(std::int64_t(x.height))
            .number(std::int64_t(x.width));
        rest_.number(std::uint32_t(3));
        const int count = bytes.between(1, 8);
        Writer ops;
        for (int i = 0; i < count; ++i) op(ops);
        unpack_all(ops);
        rest_.number(ops_);
        rest_.bytes.insert(rest_.bytes.end(), ops.bytes.begin(), ops.bytes.end());
        std::vector<std::uint32_t> outputs;
        for (std::size_t i = 0; i < values_.size(); ++i)
            if (!values_[i].bits && !is_input_[i]) outputs.push_back(std::uint32_t(i));
        rest_.number(std::uint32_t(outputs.size()));
        for (const std::uint32_t value : outputs) rest_.number(value).number(std::uint32_t(3));
    }

    std::vector<std::uint8_t>& rest() { return rest_.bytes; }

private:
    int pick(std::vector<int> of) { return of[bytes_.next() % of.size()]; }

    int value(bool bits) {
        for (int tries = 0; tries < 20; ++tries) {
            const int at = bytes_.between(0, int(values_.size()) - 1);
            if (values_[at].bits == bits) return at;
        }
        return -1;
    }

    void finish(Writer& ops, const char* name, const std::vector<int>& reads,
                const Writer& fields) {
        ops.text(name).number(std::uint32_t(reads.size()));
        for (const int read : reads) ops.number(std::uint32_t(read));
        ops.number(fields.fields);
        ops.bytes.insert(ops.bytes.end(), fields.bytes.begin(), fields.bytes.end());
        ++ops_;
    }
    void gives(Value value) {
        values_.push_back(value);
        is_input_.push_back(false);
    }

    void limits(Writer& fields, int channels) {
        std::vector<float> low = bytes_.values(channels), high = low, flip(channels);
        for (int c = 0; c < channels; ++c) {
            if (!(low[c] == low[c])) low[c] = -1;
            high[c] = bytes_.next() % 2 ? std::numeric_limits<float>::infinity() : low[c] + 0.5f;
            if (!(high[c] == high[c])) high[c] = 0;
            flip[c] = float(bytes_.next() % 2);
        }
        fields.field("low", 1, low);
        fields.field("high", 1, high);
        if (bytes_.next() % 2) fields.field("flip", 1, flip);
    }

    void ending(Writer& fields, std::vector<int>& reads, Value of) {
        static const char* const names[] = {
            "multiply",   "add",   "normalize", "normalize_apart", "relu",          "relu_halves",
            "relu_fused", "leaky", "clip",      "add_value",       "multiply_value"};
        static const int vectors[] = {1, 1, 3, 3, 0, 0, 0, 1, 2, 0, 0};
        std::string steps;
        const int count = bytes_.between(0, 4);
        for (int i = 0, made = 0; i < count; ++i) {
            const int step = bytes_.between(0, 10);
            if (step >= 9) {
                const int other = value(false);
                if (other < 0 || is_input_[other] || values_[other].channels != of.channels ||
                    values_[other].height != of.height || values_[other].width != of.width)
                    continue;
                reads.push_back(other);
            }
            for (int j = 0; j < vectors[step]; ++j)
                fields.field((std::to_string(made) + "." + "abc"[j]).c_str(), 1,
                             bytes_.values(bytes_.next() % 3 ? of.channels : 1));
            steps += (made ? "," : "") + std::string(names[step]);
            ++made;
        }
        fields.field("steps", 3, std::vector<char>(steps.begin(), steps.end()));
        const int kind = bytes_.between(0, 2);
        fields.integers("store", {kind != 1});
        if (kind != 0) limits(fields, of.channels);
        if (kind != 1) gives({false, of.channels, of.height, of.width});
        if (kind != 0) gives({true, of.channels, of.height, of.width});
    }

    // Kernels up to `longest`; returns whether order 2 takes such a float convolution in one group.
    bool window(Writer& fields, Value& of, bool dilated, int& kernel_h, int& kernel_w,
                int longest = 3) {
        int* const sizes[2] = {&of.height, &of.width};
        std::vector<std::int64_t> kernel, strides, dilation, padding;
        for (int axis = 0; axis < 2; ++axis) {
            const int k = bytes_.between(1, std::min(longest, *sizes[axis])),
                      s = bytes_.between(1, 2);
            const int before = bytes_.between(0, k - 1),
                      after = bytes_.between(0, s == 1 ? k - 1 : 0);
            kernel.push_back(k);
            strides.push_back(s);
            dilation.push_back(1);
            padding.push_back(before);
            padding.push_back(after);
            *sizes[axis] = (*sizes[axis] + before + after - k) / s + 1;
        }
        kernel_h = int(kernel[0]);
        kernel_w = int(kernel[1]);
        fields.integers("kernel", kernel);
        fields.integers("strides", strides);
        fields.integers("padding", padding);
        if (dilated) fields.integers("dilation", dilation);
        const std::int64_t down = (kernel[0] - 1) / strides[0] + 1,
                           across = (kernel[1] - 1) / strides[1] + 1;
        return down == across && 3 <= down && down <= 5;
    }

    // Of bits or, where `from` is floats, of floats.
    void convolution(Writer& ops, int from) {
        Value of = values_[from];
        const bool bits = of.bits;
        Writer fields;
        int kernel_h, kernel_w;
        const bool tiles = window(fields, of, true, kernel_h, kernel_w, bits ? 3 : 7);
        const int groups = of.channels % 5 == 0 && bytes_.next() % 2 ? 5 : 1,
                  channels = of.channels / groups;
        of.channels = groups * (bits ? pick({1, 7, 16, 20, 33, 64}) : pick({1, 7, 17}));
        fields.integers("groups", {groups});
        fields.integers("filters", {of.channels});
        fields.integers("channels", {channels});
        std::vector<int> reads = {from};
        if (!bits) {
            float_weights(fields, of.channels, channels, kernel_h * kernel_w, tiles && groups == 1);
            ending(fields, reads, of);
            finish(ops, "float_convolution", reads, fields);
            return;
        }
        const int words = (channels + 63) / 64;
        std::vector<std::uint64_t> weights;
        for (int i = 0; i < of.channels * kernel_h * kernel_w; ++i)
            for (int w = 0; w < words; ++w) {
                const std::uint64_t word = std::uint64_t(bytes_.next()) << 33 ^
                                           std::uint64_t(bytes_.next()) << 10 ^ bytes_.next();
                weights.push_back(w + 1 < words || channels % 64 == 0
                                      ? word
                                      : word & ((std::uint64_t(1) << channels % 64) - 1));
            }
        fields.field("words", 2, weights);
        if (bytes_.next() % 2) {
            std::vector<std::int64_t> thresholds;
            for (int f = 0; f < of.channels; ++f) thresholds.push_back(bytes_.between(-20, 20));
            fields.integers("thresholds", thresholds);
            gives({true, of.channels, of.height, of.width});
        } else {
            ending(fields, reads, of);
        }
        finish(ops, "convolution", reads, fields);
    }

    void float_weights(Writer& fields, int filters, int channels, int taps, bool tiles) {
        std::vector<float> weights;
        for (int i = 0; i < filters * channels * taps; ++i)
            weights.push_back(float(bytes_.between(-99, 99)) / 32);
        fields.field("weights", 1, weights);
        if (bytes_.next() % 2) return;  // one sum, by taps
        const int orders[] = {0, 1, 3, 2, 2}, order = orders[bytes_.between(0, tiles ? 4 : 2)];
        fields.integers("order", {order});
        if (order == 2) return;
        fields.integers("block", {bytes_.between(0, order ? channels * taps : channels)});
        fields.integers("rounded", {bytes_.between(0, 1)});
    }

    void op(Writer& ops) {
        Writer fields;
        const int kind = bytes_.between(0, 8), floats = value(false), bits = value(true);
        int kernel_h, kernel_w;
        if (bits < 0 && kind > 2) {
            ending_op(ops, "pack", floats < 0 ? 0 : floats, true);
        } else if (kind <= 1) {
            ending_op(ops, "map", floats < 0 ? 0 : floats, false);
        } else if (kind == 2) {
            Value of = values_[floats < 0 ? 0 : floats];
            window(fields, of, false, kernel_h, kernel_w);
            fields.integers("maximum", {bytes_.between(0, 1)});
            gives(of);
            finish(ops, "pool", {floats < 0 ? 0 : floats}, fields);
        } else if (kind == 3) {
            Value of = values_[bits];
            window(fields, of, false, kernel_h, kernel_w);
            gives(of);
            finish(ops, "or_pool", {bits}, fields);
        } else if (kind == 4 && floats >= 0) {
            const Value of = values_[floats];
            fields.integers("shape", {of.height, of.channels, -1});
            gives({false, of.height, of.channels, of.width});
            finish(ops, "reshape", {floats}, fields);
        } else if (kind == 8 && floats >= 0) {
            splice(ops, floats);
        } else if (kind == 5) {
            convolution(ops, floats < 0 ? 0 : floats);
        } else {
            convolution(ops, bits);
        }
    }

    void ending_op(Writer& ops, const char* name, int from, bool pack) {
        Writer fields;
        const Value of = values_[from];
        std::vector<int> reads = {from};
        if (pack) {
            fields.field("steps", 3, std::vector<char>());
            fields.integers("store", {0});
            limits(fields, of.channels);
            gives({true, of.channels, of.height, of.width});
        } else {
            ending(fields, reads, of);
        }
        finish(ops, name, reads, fields);
    }

    // With itself, or with another value of the same size.
    void splice(Writer& ops, int first) {
        Value of = values_[first];
        int second = value(false);
        if (second < 0 || values_[second].height != of.height || values_[second].width != of.width)
            second = first;
        of.channels += values_[second].channels;
        gives(of);
        finish(ops, "splice", {first, second}, Writer());
    }

    void unpack_all(Writer& ops) {
        for (std::size_t i = 0, count = values_.size(); i < count; ++i) {
            if (!values_[i].bits) continue;
            const Value of = values_[i];
            gives({false, of.channels, of.height, of.width});
            finish(ops, "unpack", {int(i)}, Writer());
        }
    }

    Bytes& bytes_;
    std::vector<Value> values_;
    std::vector<bool> is_input_;
    Writer rest_;
    std::uint32_t ops_ = 0;
};

void damage(Bytes& bytes, std::vector<std::uint8_t>& rest) {
    for (int changes = bytes.between(1, 3); changes > 0; --changes) {
        const std::size_t at = bytes.next() % rest.size();
        switch (bytes.between(0, 4)) {
            case 0: rest[at] = std::uint8_t(rest[at] ^ 1 << bytes.between(0, 7)); break;
            case 1: rest[at] = std::uint8_t(bytes.next()); break;
            case 2: rest[at] = 0xff; break;
            case 3: rest.erase(rest.begin() + std::ptrdiff_t(at)); break;
            default:
                rest.insert(rest.begin() + std::ptrdiff_t(at), std::uint8_t(bytes.next()));
                break;
        }
        if (rest.empty()) rest.push_back(0);
    }
}

std::vector<std::uint8_t> with_head(const std::vector<std::uint8_t>& rest) {
    Writer head;
    for (const char c : std::string("netoptPR")) head.number(c);
    head.number(state_version)
        .number(crc32(rest.data(), rest.size()))
        .number(std::uint64_t(rest.size()));
    head.bytes.insert(head.bytes.end(), rest.begin(), rest.end());
    return head.bytes;
}

// What a program gives, or the sentence that it is refused with.
struct Outcome {
    std::string refused;
    std::vector<std::vector<float>> results;
};

bool same(const Outcome& a, const Outcome& b) {
    if (a.refused != b.refused || a.results.size() != b.results.size()) return false;
    for (std::size_t o = 0; o < a.results.size(); ++o) {
        if (a.results[o].size() != b.results[o].size()) return false;
        for (std::size_t i = 0; i < a.results[o].size(); ++i) {
            const float x = a.results[o][i], y = b.results[o][i];
            if (std::memcmp(&x, &y, 4) != 0 && (x == x || y == y)) return false;
        }
    }
    return true;
}

[[noreturn]] void fail(const char* what, const Implementation& implementation) {
    std::fprintf(stderr, "%s: %s\n", implementation.name, what);
    std::abort();
}

Outcome outcome(const std::vector<std::uint8_t>& state, const Implementation& implementation,
                const std::vector<float>& values, int images) {
    Outcome result;
    try {
        const Program program(state.data(), state.size(), implementation);
        std::vector<ImageSize> sizes;
        std::vector<const float*> x;
        for (const DescribedInput& input : program.inputs()) {
            sizes.push_back({input.height ? input.height : 3, input.width ? input.width : 3});
            if (std::size_t(images * input.channels * sizes.back().height * sizes.back().width) >
                values.size())
                return result;
            x.push_back(values.data());
        }
        std::size_t whole = 0;
        for (const Extent& extent : program.output_extents(sizes))
            whole += std::size_t(extent.channels * extent.pixels());
        if (whole > 200000) return result;
        std::vector<float*> y;
        for (const Extent& extent : program.output_extents(sizes))
            result.results.emplace_back(std::size_t(images * extent.channels * extent.pixels()),
                                        12345.0f);
        for (std::vector<float>& one : result.results) y.push_back(one.data());
        program.run(x.data(), sizes, images, y.data());
        const Outcome first = result;
        const long before = allocations;
        program.run(x.data(), sizes, images, y.data());
        if (allocations != before) fail("a second call allocates", implementation);
        if (!same(first, result)) fail("a second call differs", implementation);
    } catch (const std::invalid_argument& error) {
        result.refused = error.what();
        if (result.refused.empty()) fail("refused without a sentence", implementation);
    }
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    Maker maker(bytes);
    const bool damaged = bytes.next() % 2;
    if (damaged) damage(bytes, maker.rest());
    const std::vector<std::uint8_t> state = with_head(maker.rest());
    const std::vector<float> values = bytes.values(20000);
    const int images = bytes.next() % 4 ? bytes.between(0, 3) : bytes.between(4, 20);
    set_num_threads(1);
    const Outcome expected = outcome(state, *implementations().back(), values, images);
    if (!damaged && !expected.refused.empty())
        fail(expected.refused.c_str(), *implementations().back());
    set_num_threads(bytes.between(1, 3));
    set_least_shared_seconds(0);
    for (const Implementation* implementation : implementations())
        if (implementation->supported() &&
            !same(outcome(state, *implementation, values, images), expected))
            fail("differs from the portable implementation", *implementation);
    return 0;
}
