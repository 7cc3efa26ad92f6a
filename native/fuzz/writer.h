// The bytes of a program's state, put together.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bitconv {

// Bytes as state.h has them.
class Writer {
public:
    template <typename T>
    Writer& number(T value) {
        const std::uint8_t* from = reinterpret_cast<const std::uint8_t*>(&value);
        bytes.insert(bytes.end(), from, from + sizeof value);
        return *this;
    }
    Writer& text(const std::string& value) {
        number(std::uint16_t(value.size()));
        bytes.insert(bytes.end(), value.begin(), value.end());
        return *this;
    }
    template <typename T>
    void field(const char* name, int type, const std::vector<T>& values) {
        text(name).number(std::uint8_t(type)).number(std::uint64_t(values.size()));
        for (const T value : values) number(value);
        ++fields;
    }
    void integers(const char* name, const std::vector<std::int64_t>& values) {
        field(name, 0, values);
    }

    std::vector<std::uint8_t> bytes;
    std::uint32_t fields = 0;
};

}  // namespace bitconv
