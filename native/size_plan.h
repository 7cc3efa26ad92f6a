// A program planned for one size of its inputs: the planned ops, where values lie, and how long the
// ops take.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "buffer.h"
#include "ops.h"

namespace bitconv {

struct ImageSize {
    std::int64_t height, width;
};

// Where a value lies: in the arena of a worker, or with the caller.
struct Place {
    enum Where { arena, input, output } where;
    std::size_t index;  // byte of the arena for one image; number of the input or output
    std::size_t bytes;  // of an image
};

// The first and the last node that need a value.
struct Lifetime {
    int first, last;
};

// Places the values of the arena by first fit, in order of birth: each at the lowest byte that no
// value alive at the same time has. Returns the bytes of the arena.
std::size_t lay_out(const std::vector<Lifetime>& lifetimes, std::vector<Place>& places);

// Work that takes one thread less time than this is not shared out among threads: waking and
// meeting the others would take longer. 0 shares all of it.
double least_shared_seconds();
void set_least_shared_seconds(double seconds);

// How long each op takes in one thread. The first calls of a size are timed, in one thread; the
// shortest time counts. All work pays until it is known.
class Pace {
public:
    void of_ops(std::size_t ops) { shortest_ = std::vector<std::atomic<float>>(ops); }
    bool known() const {
        return least_shared_seconds() == 0 || timed_.load(std::memory_order_relaxed) >= timed_calls;
    }
    void add(std::size_t op, double seconds, int images);
    void add_call() { timed_.fetch_add(1, std::memory_order_relaxed); }
    bool pays(std::size_t op, int images) const;  // to share the op out
    bool whole_pays(std::int64_t images) const;   // to share images out

private:
    static constexpr int timed_calls = 4;
    std::atomic<int> timed_{0};
    std::vector<std::atomic<float>> shortest_;  // [op], seconds of one image; 0: not timed
};

// What a call of one size needs, kept for the next call.
struct Workspace {
    std::vector<Buffer<std::uint8_t>> arenas, scratch;  // [worker]
    std::vector<std::uint8_t*> scratch_of;
    std::vector<std::vector<View>> views;  // [worker][value]
};

struct SizePlan {
    std::vector<ImageSize> sizes;
    std::vector<Extent> extents;  // [value]
    std::vector<Place> places;    // [value]
    std::vector<std::unique_ptr<Planned>> ops;
    std::size_t arena_bytes = 0;  // for one image
    std::size_t scratch_bytes = 0;
    int most_images = 1;  // worked on together
    mutable Pace pace;

    SizePlan() { idle_.reserve(16); }
    std::unique_ptr<Workspace> take() const;
    void give_back(std::unique_ptr<Workspace> workspace) const;

private:
    // Only tried: in the child of a fork it may be held by a thread that the child does not have.
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace bitconv
