#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "float_mode.h"
#include "thread_pool.h"

namespace bitconv {
namespace {

constexpr int max_threads = 64;

thread_local const SessionThreads* session = nullptr;

// Items of one part of the work, which others help with once they have done theirs.
struct alignas(64) Range {
    std::atomic<int> next{0};
    int end = 0;
};

struct Job {
    const std::function<void(int, int)>* work;
    Range ranges[max_threads];
    std::atomic<std::uint8_t> begun[max_threads];
    int parts;
};

// A part is a worker number, so that what one worker needs is never used twice at once.
void take(void* data, std::size_t part) {
    Job& job = *static_cast<Job*>(data);
    if (job.begun[part].exchange(1)) return;
    const DefaultFloatMode mode;
    for (int other = 0; other < job.parts; ++other) {
        Range& range = job.ranges[(int(part) + other) % job.parts];
        for (int item; (item = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;)
            (*job.work)(item, int(part));
    }
}

}  // namespace

SessionThreads::SessionThreads(const ort::Api& api, const OrtKernelContext* context, int threads)
    : before_(session),
      api_(api),
      context_(context),
      threads_(api.has_KernelContext_ParallelFor() ? std::max(1, std::min(threads, max_threads))
                                                   : 1) {
    session = this;
}

SessionThreads::~SessionThreads() { session = before_; }

bool SessionThreads::share(void (*work)(void*, std::size_t), int parts, void* data) const {
    OrtStatus* status = api_.KernelContext_ParallelFor()(context_, work, std::size_t(parts),
                                                         std::size_t(parts), data);
    if (status != nullptr) api_.ReleaseStatus()(status);
    return status == nullptr;
}

int num_threads() { return session ? session->threads() : 1; }
void set_num_threads(int) {}

Parallel::Parallel() : workers_(num_threads()), owner_(false) {}
Parallel::~Parallel() = default;

void Parallel::run(int items, const std::function<void(int, int)>& work) {
    const int parts = std::min(workers_, items);
    if (parts > 1 && session != nullptr) {
        Job job;
        job.work = &work;
        job.parts = parts;
        for (int part = 0; part < parts; ++part) {
            job.ranges[part].next.store(int(std::int64_t(items) * part / parts),
                                        std::memory_order_relaxed);
            job.ranges[part].end = int(std::int64_t(items) * (part + 1) / parts);
            job.begun[part].store(0, std::memory_order_relaxed);
        }
        if (!session->share(take, parts,
                            &job))  // what a runtime that could not share it out left undone
            for (int part = 0; part < parts; ++part) take(&job, std::size_t(part));
        return;
    }
    for (int item = 0; item < items; ++item) work(item, 0);
}

}  // namespace bitconv
