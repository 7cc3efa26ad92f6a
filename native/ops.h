// What an op of a program is, and the ops there are. A new one is a file op_<name>.cpp that defines
// op_<name>, and a line here; tests/support/native_program_cases.py wants a row for it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "contract.h"
#include "state.h"

namespace bitconv {

// How a value lies in memory.
enum class Kind {
    bits,    // packed planes (contract.h); channels of `groups` groups, whose planes begin anew
    floats,  // float32 [height][width][channels]
    entry,   // float32 [channels][height][width], as the caller has it
};

struct Form {
    Kind kind;
    int groups;
};

struct Extent {
    Form form;
    std::int64_t channels, height, width;
    std::int64_t pixels() const { return height * width; }
};

// A value of a call: of its first image, and the way to the next.
struct View {
    std::uint8_t* data;
    std::size_t image_bytes;
};

// The images that an op works on at once, in as many threads as there are.
struct Call {
    int images, workers;
    const View* values;            // [value]
    std::uint8_t* const* scratch;  // [worker], what the ops asked for

    float* floats(int value, std::int64_t image) const {
        return reinterpret_cast<float*>(at(value, image));
    }
    std::uint32_t* bits(int value, std::int64_t image) const {
        return reinterpret_cast<std::uint32_t*>(at(value, image));
    }
    std::size_t image_words(int value) const { return values[value].image_bytes / 4; }
    std::uint8_t* at(int value, std::int64_t image) const {
        return values[value].data + image * values[value].image_bytes;
    }
};

// An op ready for one size. Items of a call may be done in any order, by any worker.
class Planned {
public:
    virtual ~Planned() = default;
    virtual int items(const Call& call) const = 0;
    virtual void run(const Call& call, int item,
                     int worker) const = 0;  // allocates and throws nothing
    virtual std::size_t scratch() const { return 0; }
};

// What an op reads and gives, by number of value, and their extents.
struct Wiring {
    std::vector<int> reads, gives;
    std::vector<Extent> read_extents, gives_extents;
};

class Op {
public:
    virtual ~Op() = default;
    std::vector<Form> reads;  // what it wants its inputs to be
    std::vector<Form> gives;

    // Fills gives_extents in and makes the planned op; throws std::invalid_argument where the
    // extents do not fit.
    virtual std::unique_ptr<Planned> plan(Wiring& wiring) const = 0;
};

// What ops are made of: their fields and the forms that the values they read have.
struct Making {
    Fields& fields;
    const std::vector<Form>& given;
    const Implementation& implementation;

    void expect_reads(std::size_t least, std::size_t most) const;
};

struct OpKind {
    const char* name;
    std::unique_ptr<Op> (*make)(const Making& making);
};

#define BITCONV_OPS(X) \
    X(pack)            \
    X(convolution)     \
    X(or_pool)         \
    X(map)             \
    X(pool)            \
    X(mean_abs)        \
    X(reshape)         \
    X(unpack)          \
    X(splice)          \
    X(float_convolution)

#define BITCONV_DECLARE_OP(name) extern const OpKind op_##name;
BITCONV_OPS(BITCONV_DECLARE_OP)
#undef BITCONV_DECLARE_OP

// Conversions that a program puts in where an op wants another form.
std::unique_ptr<Op> turn_op(bool inwards);  // entry to floats, or floats to entry
std::unique_ptr<Op> regroup_op(int from, int to, const Implementation& implementation);  // bits

// Throws std::invalid_argument(message) unless the condition holds.
void require_op(bool condition, const std::string& message);

// Words of a packed image, and of one of its planes.
std::size_t packed_words(const Extent& extent, Encoding encoding);

// Bytes of an image of the value. Throws std::invalid_argument for what is too large.
std::size_t image_bytes(const Extent& extent, Encoding encoding);

// Whether planes of `groups` groups of `channels` are those of a single group.
bool whole_planes(int groups, std::int64_t channels_per_group, Encoding encoding);

}  // namespace bitconv
