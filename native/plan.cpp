#include "plan.h"

#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

namespace bitconv {
namespace {

constexpr std::int64_t size_limit = std::numeric_limits<std::int32_t>::max();

std::int64_t output_length(const Shape& shape, int axis, std::int64_t length) {
    static const char* const names[] = {"height", "width"};
    const std::int64_t kernel = (shape.kernel[axis] - 1) * std::int64_t(shape.dilation[axis]) + 1;
    const std::int64_t padded = length + shape.padding[axis][0] + shape.padding[axis][1];
    if (length <= 0 || padded < kernel || padded > size_limit)
        throw std::invalid_argument(std::string("the kernel does not fit: image ") + names[axis] +
                                    " " + std::to_string(length) + ", with padding " +
                                    std::to_string(padded) + ", dilated kernel " +
                                    std::to_string(kernel));
    return (padded - kernel) / shape.stride[axis] + 1;
}

// Source positions of one axis, -1 where padded, and the class of positions that are padded at the
// same taps.
struct Axis {
    std::vector<std::vector<std::int32_t>> source;  // [output][tap]
    std::vector<int> border;                        // [output]
    std::vector<std::vector<bool>> borders;         // [class][tap], padded

    Axis(const Shape& shape, int axis, std::int64_t length, std::int64_t outputs) {
        std::map<std::vector<bool>, int> known;
        for (std::int64_t o = 0; o < outputs; ++o) {
            std::vector<std::int32_t> taps;
            std::vector<bool> padded;
            for (int k = 0; k < shape.kernel[axis]; ++k) {
                const std::int64_t at = o * shape.stride[axis] +
                                        k * std::int64_t(shape.dilation[axis]) -
                                        shape.padding[axis][0];
                padded.push_back(at < 0 || at >= length);
                taps.push_back(padded.back() ? -1 : std::int32_t(at));
            }
            const auto found = known.emplace(padded, int(borders.size()));
            if (found.second) borders.push_back(padded);
            border.push_back(found.first->second);
            source.push_back(std::move(taps));
        }
    }
};

// The window of a tap whose pixels read at these bytes (-1: nowhere); what is scattered is appended
// to `offsets`.
Window window(const std::int32_t (&reads)[panel_width], std::vector<std::int32_t>& offsets) {
    Window window = {0, 0, 0};
    for (int p = 0; p < panel_width; ++p) {
        if (reads[p] < 0) continue;
        if (window.inside == 0) window.start = reads[p] - 4 * p;
        if (reads[p] != window.start + 4 * p) window.scattered = 1;
        window.inside = std::uint16_t(window.inside | 1 << p);
    }
    if (!window.scattered) return window;
    if (offsets.size() > std::size_t(size_limit - panel_width))
        throw std::invalid_argument("the output has too many pixels");
    window.start = std::int32_t(offsets.size());
    for (int p = 0; p < panel_width; ++p) offsets.push_back(reads[p] < 0 ? 0 : reads[p]);
    return window;
}

}  // namespace

OutputSize output_size(const Shape& shape, std::int64_t height, std::int64_t width) {
    const OutputSize size = {output_length(shape, 0, height), output_length(shape, 1, width)};
    const std::int64_t byte_limit = size_limit / 4 - std::int64_t(alignment);
    if (height > byte_limit / width || size.height > byte_limit / size.width)
        throw std::invalid_argument("the image or the output has too many pixels");
    return size;
}

Plan::Plan(const Shape& shape, std::int64_t h, std::int64_t w)
    : height(h), width(w), pixels(std::int32_t(h * w)) {
    const OutputSize size = output_size(shape, h, w);
    output_pixels = std::int32_t(size.height * size.width);
    panels = (output_pixels - 1) / panel_width + 1;
    const Axis rows(shape, 0, h, size.height), columns(shape, 1, w, size.width);
    const int column_cases = int(columns.borders.size());
    cases = int(rows.borders.size()) * column_cases;

    border_case.reserve(std::size_t(output_pixels) + panel_width);
    for (std::int64_t oy = 0; oy < size.height; ++oy)
        for (std::int64_t ox = 0; ox < size.width; ++ox)
            border_case.push_back(rows.border[oy] * column_cases + columns.border[ox]);
    border_case.resize(std::size_t(output_pixels) + panel_width, 0);
    padded.reserve(std::size_t(cases) * shape.taps());
    for (const std::vector<bool>& row : rows.borders)
        for (const std::vector<bool>& column : columns.borders)
            for (int ky = 0; ky < shape.kernel[0]; ++ky)
                for (int kx = 0; kx < shape.kernel[1]; ++kx)
                    padded.push_back(row[ky] || column[kx]);

    windows.reserve(std::size_t(shape.taps()) * panels);
    for (std::int64_t first = 0; first < output_pixels; first += panel_width) {
        for (int ky = 0; ky < shape.kernel[0]; ++ky) {
            for (int kx = 0; kx < shape.kernel[1]; ++kx) {
                std::int32_t reads[panel_width];  // byte in a plane; -1: none
                for (int p = 0; p < panel_width; ++p) {
                    const std::int64_t o = first + p;
                    const bool any = o < output_pixels;
                    const std::int32_t y = any ? rows.source[o / size.width][ky] : -1;
                    const std::int32_t x = any ? columns.source[o % size.width][kx] : -1;
                    reads[p] = y >= 0 && x >= 0 ? std::int32_t(y * w + x) * 4 : -1;
                }
                windows.push_back(window(reads, offsets));
            }
        }
    }
}

}  // namespace bitconv
