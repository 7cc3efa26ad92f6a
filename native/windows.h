// Pooling windows: what an output pixel reads.
#pragma once
#include <algorithm>

#include "ops.h"

namespace bitconv {

// One axis of a pooling; fields `kernel` (0, 0: the whole image), `strides` and `padding`. Padded
// places are not read.
struct Windows {
    int kernel[2], stride[2], padding[2][2];

    explicit Windows(Fields& fields) {
        const std::vector<int> sizes = fields.integers("kernel", 2, 0, 1 << 16),
                               strides = fields.integers("strides", 2, 1, 1 << 16),
                               pads = fields.integers("padding", 4, 0, 1 << 16);
        for (int axis = 0; axis < 2; ++axis) {
            kernel[axis] = sizes[axis];
            stride[axis] = strides[axis];
            for (int side = 0; side < 2; ++side) padding[axis][side] = pads[2 * axis + side];
            require_op(kernel[axis] != 0 || (padding[axis][0] == 0 && padding[axis][1] == 0),
                       "pooling of a whole image has no padding");
            require_op(
                kernel[axis] == 0 || std::max(padding[axis][0], padding[axis][1]) < kernel[axis],
                "a window may lie outside the image: padding must be smaller than the kernel");
        }
    }

    // The extent of the output.
    Extent over(const Extent& image, Form form) const {
        const std::int64_t sizes[2] = {image.height, image.width};
        std::int64_t outputs[2];
        for (int axis = 0; axis < 2; ++axis) {
            const std::int64_t padded = sizes[axis] + padding[axis][0] + padding[axis][1];
            const std::int64_t window = kernel[axis] ? kernel[axis] : sizes[axis];
            require_op(padded >= window, "the window of " + std::to_string(window) +
                                             " is larger than the padded image of " +
                                             std::to_string(padded));
            outputs[axis] = (padded - window) / stride[axis] + 1;
            // A last window that begins in the padding behind the image would read nothing.
            require_op((outputs[axis] - 1) * stride[axis] - padding[axis][0] < sizes[axis],
                       "a window lies outside the image");
        }
        return {form, image.channels, outputs[0], outputs[1]};
    }

    // The first and one past the last place that an output reads along an axis of `size`.
    void places(int axis, std::int64_t output, std::int64_t size, std::int64_t& first,
                std::int64_t& end) const {
        first = output * stride[axis] - padding[axis][0];
        end = std::min(first + (kernel[axis] ? kernel[axis] : size), size);
        first = std::max<std::int64_t>(first, 0);
    }
};

}  // namespace bitconv
