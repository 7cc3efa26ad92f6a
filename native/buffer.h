// A 64-byte aligned array with readable and writable slack behind its end, as the contract asks.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>

#include "contract.h"

namespace bitconv {

template <typename T>
class Buffer {
public:
    // Room for `size` elements; keeps what it has if that is enough. The content is undefined, the
    // slack too.
    T* reserve(std::size_t size) {
        if (size <= size_ && data_) return data_.get();
        if (size > (std::size_t(-1) - slack_bytes - alignment) / sizeof(T)) throw std::bad_alloc();
        const std::size_t bytes =
            (size * sizeof(T) + slack_bytes + alignment - 1) / alignment * alignment;
        data_.reset();
        data_.reset(static_cast<T*>(std::aligned_alloc(alignment, bytes)));
        size_ = data_ ? size : 0;
        if (!data_) throw std::bad_alloc();
        return data_.get();
    }
    T* get() const { return data_.get(); }

private:
    struct Free {
        void operator()(T* data) const { std::free(data); }
    };
    std::unique_ptr<T[], Free> data_;
    std::size_t size_ = 0;
};

}  // namespace bitconv
