#include "state.h"

#include <array>
#include <cstring>
#include <stdexcept>

namespace bitconv {
namespace {

constexpr char magic[] = "netoptPR";
constexpr std::size_t header_bytes = 24;
constexpr std::uint32_t most_inputs = 4096, most_ops = 4096, most_fields = 256, most_reads = 4096;

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

bool is_plain(std::uint8_t character) {
    return character >= 32 && character < 127;
}  // what an error can print

std::array<std::uint32_t, 256> crc_table() {
    std::array<std::uint32_t, 256> table;
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit)
            value = value & 1 ? 0xedb88320u ^ (value >> 1) : value >> 1;
        table[i] = value;
    }
    return table;
}

}  // namespace

std::uint32_t crc32(const std::uint8_t* data, std::size_t size) {
    static const std::array<std::uint32_t, 256> table = crc_table();
    std::uint32_t value = 0xffffffffu;
    for (std::size_t i = 0; i < size; ++i) value = table[(value ^ data[i]) & 255] ^ (value >> 8);
    return ~value;
}

bool Fields::has(const char* name) const {
    for (const Field& field : fields_)
        if (field.name == name) return true;
    return false;
}

Fields::Field& Fields::find(const char* name, Type type) {
    static const char* const types[] = {"integers", "float32 numbers", "words", "text"};
    for (Field& field : fields_) {
        if (field.name != name) continue;
        require(field.type == type, "field '" + field.name + "' holds " + types[field.type] +
                                        ", expected " + types[type]);
        field.read = true;
        return field;
    }
    throw std::invalid_argument(std::string("field '") + name + "' is missing");
}

template <typename T>
std::vector<T> Fields::items(const Field& field) const {
    std::vector<T> result(field.count);
    if (field.count) std::memcpy(result.data(), field.data, field.count * sizeof(T));
    return result;
}

std::int64_t Fields::integer(const char* name, std::int64_t least, std::int64_t most) {
    const std::vector<std::int64_t> values = items<std::int64_t>(find(name, integer_type));
    require(values.size() == 1, std::string("field '") + name + "' holds " +
                                    std::to_string(values.size()) + " integers, expected 1");
    require(least <= values[0] && values[0] <= most,
            std::string("field '") + name + "' is " + std::to_string(values[0]) + ", expected " +
                std::to_string(least) + " to " + std::to_string(most));
    return values[0];
}

std::vector<int> Fields::integers(const char* name, std::size_t count, std::int64_t least,
                                  std::int64_t most) {
    const Field& field = find(name, integer_type);
    require(field.count == count, std::string("field '") + name + "' holds " +
                                      std::to_string(field.count) + " integers, expected " +
                                      std::to_string(count));
    std::vector<int> result;
    for (const std::int64_t value : items<std::int64_t>(field)) {
        require(least <= value && value <= most,
                std::string("field '") + name + "' holds " + std::to_string(value) + ", expected " +
                    std::to_string(least) + " to " + std::to_string(most));
        result.push_back(int(value));
    }
    return result;
}

std::vector<std::int32_t> Fields::int32s(const char* name, std::size_t count) {
    return integers(name, count, INT32_MIN, INT32_MAX);
}

std::vector<float> Fields::floats(const char* name) { return items<float>(find(name, float_type)); }

std::vector<std::uint64_t> Fields::words(const char* name) {
    return items<std::uint64_t>(find(name, word_type));
}

std::string Fields::text(const char* name) {
    const Field& field = find(name, text_type);
    for (std::uint64_t i = 0; i < field.count; ++i)
        require(is_plain(field.data[i]), "field '" + field.name + "' is not plain ASCII");
    return std::string(reinterpret_cast<const char*>(field.data), field.count);
}

void Fields::all_read() const {
    for (const Field& field : fields_)
        require(field.read, "field '" + field.name + "' is not one of this op's");
}

// Reads forward and never past the end.
class StateReader {
public:
    StateReader(const std::uint8_t* data, std::size_t size) : at_(data), left_(size) {}

    template <typename T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof(T)), sizeof(T));
        return value;
    }
    std::uint32_t count(std::uint32_t most, const char* of) {
        const std::uint32_t value = number<std::uint32_t>();
        require(value <= most, "the state has " + std::to_string(value) + " " + of +
                                   ", expected at most " + std::to_string(most));
        return value;
    }
    int rank() {
        const std::uint32_t value = number<std::uint32_t>();
        require(value == 1 || value == 3,
                "the state has a value of rank " + std::to_string(value) + ", expected 1 or 3");
        return int(value);
    }
    std::string text() {
        const std::size_t length = number<std::uint16_t>();
        const std::uint8_t* from = take(length);
        for (std::size_t i = 0; i < length; ++i)
            require(is_plain(from[i]), "the state has a name that is not plain ASCII");
        return std::string(reinterpret_cast<const char*>(from), length);
    }
    Fields fields() {
        static const std::size_t sizes[] = {8, 4, 8, 1};
        Fields result;
        for (std::uint32_t left = count(most_fields, "fields of an op"); left > 0; --left) {
            Fields::Field field;
            field.name = text();
            require(!result.has(field.name.c_str()),
                    "the state has the field '" + field.name + "' twice");
            const std::uint8_t type = number<std::uint8_t>();
            require(type < 4,
                    "field '" + field.name + "' is of unknown type " + std::to_string(type));
            field.type = Fields::Type(type);
            field.count = number<std::uint64_t>();
            require(field.count <= left_ / sizes[type],
                    "the state ends inside field '" + field.name + "'");
            field.data = take(field.count * sizes[type]);
            field.read = false;
            result.fields_.push_back(field);
        }
        return result;
    }
    bool done() const { return left_ == 0; }

private:
    const std::uint8_t* take(std::size_t size) {
        require(size <= left_, "the state ends early");
        const std::uint8_t* from = at_;
        at_ += size;
        left_ -= size;
        return from;
    }

    const std::uint8_t* at_;
    std::size_t left_;
};

Description read_state(const std::uint8_t* data, std::size_t size) {
    require(size >= header_bytes && std::memcmp(data, magic, 8) == 0,
            "these bytes are not the state of a program");
    StateReader header(data + 8, header_bytes - 8);
    const std::uint32_t version = header.number<std::uint32_t>(),
                        checksum = header.number<std::uint32_t>();
    require(version == state_version, "the state is of version " + std::to_string(version) +
                                          ", this library reads version " +
                                          std::to_string(state_version));
    const std::uint64_t length = header.number<std::uint64_t>();
    require(length == size - header_bytes, "the state says that " + std::to_string(length) +
                                               " bytes follow its head, and " +
                                               std::to_string(size - header_bytes) + " do");
    require(crc32(data + header_bytes, size - header_bytes) == checksum,
            "the state's checksum is wrong: it was damaged");

    StateReader reader(data + header_bytes, size - header_bytes);
    Description result;
    for (std::uint32_t left = reader.count(most_inputs, "inputs"); left > 0; --left) {
        DescribedInput input;
        input.channels = reader.number<std::int64_t>();
        input.height = reader.number<std::int64_t>();
        input.width = reader.number<std::int64_t>();
        input.rank = reader.rank();
        result.inputs.push_back(input);
    }
    for (std::uint32_t left = reader.count(most_ops, "ops"); left > 0; --left) {
        DescribedOp op;
        op.name = reader.text();
        for (std::uint32_t reads = reader.count(most_reads, "values that an op reads"); reads > 0;
             --reads)
            op.reads.push_back(reader.number<std::uint32_t>());
        op.fields = reader.fields();
        result.ops.push_back(std::move(op));
    }
    for (std::uint32_t left = reader.count(most_inputs, "outputs"); left > 0; --left) {
        DescribedOutput output;
        output.value = reader.number<std::uint32_t>();
        output.rank = reader.rank();
        result.outputs.push_back(output);
    }
    require(reader.done(), "the state goes on after its end");
    return result;
}

}  // namespace bitconv
