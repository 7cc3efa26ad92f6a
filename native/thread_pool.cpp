#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "float_mode.h"

namespace bitconv {
namespace {

using Work = std::function<void(int, int)>;

constexpr int max_threads = 256;
constexpr int spins =
    4000;  // about the distance between the two phases of one call, before a thread goes to sleep

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
public:
    // Starts threads until there are `wanted` besides the caller. Fewer, if the system refuses.
    int grow(int wanted) {
        try {
            for (; started_ < wanted; ++started_) {
                std::thread(&Pool::serve, this, started_ + 1, generation_.load()).detach();
            }
        } catch (const std::system_error&) {
        }
        return std::min(started_, wanted);
    }

    void run(int items, int helpers, const Work& work) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            helpers_ = helpers;
            for (int worker = 0; worker <= helpers; ++worker) {
                ranges_[worker].next.store(int(std::int64_t(items) * worker / (helpers + 1)),
                                           std::memory_order_relaxed);
                ranges_[worker].end = int(std::int64_t(items) * (worker + 1) / (helpers + 1));
            }
            open_ = true;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        take(0);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            open_ = false;  // a thread that has not begun by now is not waited for: a busy machine
                            // may keep it away
        }
        for (int spin = 0; active_.load(std::memory_order_acquire) != 0; ++spin) {
            if (spin < spins) relax();
            else std::this_thread::yield();
        }
    }

    std::mutex caller;  // held by the one call that has the threads

private:
    // Items of one thread, which others help with once they have done theirs.
    struct alignas(64) Range {
        std::atomic<int> next{0};
        int end = 0;
    };

    // A thread begins with the same part of the work in every call: what it reads and writes stays
    // in its own cache.
    void take(int worker) {
        const Work& work = *work_;
        for (int other = 0; other <= helpers_; ++other) {
            Range& range = ranges_[(worker + other) % (helpers_ + 1)];
            for (int item; (item = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;)
                work(item, worker);
        }
    }

    void serve(int worker, std::uint32_t seen) {
        const DefaultFloatMode mode;
        for (;;) {
            for (int spin = 0; spin < spins && generation_.load(std::memory_order_acquire) == seen;
                 ++spin)
                relax();
            bool mine;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock,
                           [&] { return generation_.load(std::memory_order_relaxed) != seen; });
                seen = generation_.load(std::memory_order_relaxed);
                mine = open_ && worker <= helpers_;
                if (mine) active_.fetch_add(1, std::memory_order_relaxed);
            }
            if (!mine) continue;
            take(worker);
            active_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<std::uint32_t> generation_{0};
    std::atomic<int> active_{0};
    Range ranges_[max_threads];
    const Work* work_ = nullptr;
    bool open_ = false;
    int helpers_ = 0, started_ = 0;
};

std::atomic<int> threads{0};
Pool* pool = nullptr;

// The child of a fork has the parent's pool object without its threads, perhaps with a locked
// mutex: it gets a new one and leaves the old one alone. Pools are never destroyed, so that threads
// may outlive static destruction.
void renew_pool() { pool = new (std::nothrow) Pool; }

Pool* shared_pool() {
    static const int registered = (renew_pool(), pthread_atfork(nullptr, nullptr, renew_pool));
    (void)registered;
    return pool;
}

}  // namespace

int num_threads() {
    const int chosen = threads.load();
    if (chosen > 0) return chosen;
    return std::max(1, std::min<int>(std::thread::hardware_concurrency(), max_threads));
}

void set_num_threads(int count) { threads.store(std::max(1, std::min(count, max_threads))); }

Parallel::Parallel() : workers_(1), owner_(false) {
    const int wanted = num_threads();
    if (wanted == 1) return;
    Pool* shared = shared_pool();
    if (shared == nullptr || !shared->caller.try_lock()) return;
    owner_ = true;
    workers_ = 1 + shared->grow(wanted - 1);
}

Parallel::~Parallel() {
    if (owner_) pool->caller.unlock();
}

void Parallel::run(int items, const std::function<void(int, int)>& work) {
    const int helpers = std::min(workers_, items) - 1;
    if (helpers > 0) return pool->run(items, helpers, work);
    for (int item = 0; item < items; ++item) work(item, 0);
}

}  // namespace bitconv
