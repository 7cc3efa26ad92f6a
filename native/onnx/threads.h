// thread_pool.h on the threads of the session whose kernel computes, so that no second pool
// competes with ONNX Runtime's.
#pragma once
#include "ort_abi.h"

namespace bitconv {

// While it lives, calls from this thread share their work out to the session's threads, in at most
// `threads` parts. Before ONNX Runtime 1.17, which is the first that lends its threads out, the
// calling thread does all.
class SessionThreads {
public:
    SessionThreads(const ort::Api& api, const OrtKernelContext* context, int threads);
    ~SessionThreads();
    SessionThreads(const SessionThreads&) = delete;
    SessionThreads& operator=(const SessionThreads&) = delete;

    int threads() const { return threads_; }

    // Calls work(data, part) for every part. Gives false where the runtime refused; some may have
    // been called then.
    bool share(void (*work)(void*, std::size_t), int parts, void* data) const;

private:
    const SessionThreads* const before_;
    const ort::Api& api_;
    const OrtKernelContext* const context_;
    const int threads_;
};

}  // namespace bitconv
