#include "ops.h"

#include <stdexcept>
#include <string>

namespace bitconv {
namespace {

constexpr std::int64_t longest_side = 1 << 16, most_pixels = 1 << 22, most_elements = 1 << 27;

}  // namespace

void require_op(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

void Making::expect_reads(std::size_t least, std::size_t most) const {
    const std::string expected = least == most
                                     ? std::to_string(least)
                                     : std::to_string(least) + " to " + std::to_string(most);
    require_op(least <= given.size() && given.size() <= most,
               "it reads " + std::to_string(given.size()) + " values, expected " + expected);
}

bool whole_planes(int groups, std::int64_t channels_per_group, Encoding encoding) {
    return groups == 1 || channels_per_group % channels_per_word(encoding) == 0;
}

std::size_t packed_words(const Extent& extent, Encoding encoding) {
    const std::int64_t in_group = extent.channels / extent.form.groups,
                       per_word = channels_per_word(encoding);
    return std::size_t(extent.form.groups * ((in_group + per_word - 1) / per_word)) *
           plane_pixels(std::size_t(extent.pixels()));
}

std::size_t image_bytes(const Extent& extent, Encoding encoding) {
    const bool sane = 1 <= extent.height && extent.height <= longest_side && 1 <= extent.width &&
                      extent.width <= longest_side && extent.pixels() <= most_pixels &&
                      1 <= extent.channels && extent.channels <= most_elements / extent.pixels();
    require_op(sane, "a value of " + std::to_string(extent.channels) + " channels, " +
                         std::to_string(extent.height) + " x " + std::to_string(extent.width) +
                         " pixels is larger than a program takes");
    if (extent.form.kind != Kind::bits) {
        const std::size_t bytes = std::size_t(extent.channels * extent.pixels()) * 4;
        return extent.form.kind == Kind::entry ? bytes
                                               : (bytes + alignment - 1) / alignment * alignment;
    }
    const std::size_t words = packed_words(extent, encoding);
    require_op(words <= std::size_t(most_elements),
               "a value of " + std::to_string(extent.channels) + " channels in " +
                   std::to_string(extent.form.groups) + " groups is larger than a program takes");
    return words * 4;
}

}  // namespace bitconv
