// A program's state: bytes that are the same on every machine, read with nothing believed.
//
//   state    magic "netoptPR", u32 version, u32 CRC-32 of the rest, u64 bytes of the rest, then the
//   rest: rest     u32 count, inputs; u32 count, ops; u32 count, outputs input    i64 channels,
//   height, width (height and width 0: any), u32 rank (3, or 1: [channels] alone) op       text
//   name; u32 count, u32 values that it reads; u32 count, fields field    text name; u8 type; u64
//   count; items output   u32 value, u32 rank text     u16 length, characters
//
// All numbers are little-endian. Values are numbered: the inputs, then what each op gives, in
// order; an op reads only values of lower numbers, so there are no cycles. What fields an op has is
// the op's own affair (op_*.cpp).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bitconv {

constexpr std::uint32_t state_version = 1;

std::uint32_t crc32(const std::uint8_t* data, std::size_t size);

// The fields of one op. Every getter throws std::invalid_argument for a field that is missing, of
// another type, or out of bounds, with a sentence that names it.
class Fields {
public:
    bool has(const char* name) const;
    std::int64_t integer(const char* name, std::int64_t least, std::int64_t most);
    std::vector<int> integers(const char* name, std::size_t count, std::int64_t least,
                              std::int64_t most);
    std::vector<std::int32_t> int32s(const char* name, std::size_t count);
    std::vector<float> floats(const char* name);
    std::vector<std::uint64_t> words(const char* name);
    std::string text(const char* name);

    // Throws if there is a field that no getter was asked for.
    void all_read() const;

private:
    friend class StateReader;
    enum Type : std::uint8_t { integer_type, float_type, word_type, text_type };
    struct Field {
        std::string name;
        Type type;
        std::uint64_t count;
        const std::uint8_t* data;
        bool read;
    };
    Field& find(const char* name, Type type);
    template <typename T>
    std::vector<T> items(const Field& field) const;

    std::vector<Field> fields_;
};

struct DescribedInput {
    std::int64_t channels, height, width;
    int rank;
};

struct DescribedOp {
    std::string name;
    std::vector<std::uint32_t> reads;
    Fields fields;
};

struct DescribedOutput {
    std::uint32_t value;
    int rank;
};

// Holds pointers into the bytes it was read from.
struct Description {
    std::vector<DescribedInput> inputs;
    std::vector<DescribedOp> ops;
    std::vector<DescribedOutput> outputs;
};

// Throws std::invalid_argument, with a sentence, for anything but a whole state of this version.
Description read_state(const std::uint8_t* data, std::size_t size);

}  // namespace bitconv
