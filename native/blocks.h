// A layer's weights as one instruction set wants them (contract.h, "Packed weights").
#pragma once
#include "buffer.h"
#include "contract.h"
#include "layer.h"

namespace bitconv {

struct Blocks {
    int planes;     // per group
    int rows;       // taps * planes, filled up to whole steps
    int per_group;  // blocks per group
    std::size_t block_bytes;
    Buffer<std::uint8_t> bytes;  // [group][block][row][vector row]
    std::vector<std::int32_t>
        tap_bits;  // [group][tap][per_group * lanes]: popcount of the filter's tap

    Blocks(const Layer& layer, const Implementation& implementation);

    const std::uint8_t* block(int group, int index) const {
        return bytes.get() + (std::size_t(group) * per_group + index) * block_bytes;
    }
};

}  // namespace bitconv
