// Threads that share the work of one call. Items are integers; which thread takes which never
// changes a result.
#pragma once
#include <functional>

namespace bitconv {

// The number of threads a call may use, the calling one included. At least 1.
int num_threads();
void set_num_threads(int threads);

// The size of the scratch a caller needs: worker numbers are below it for the parallel_for calls of
// one Parallel. One call of the library holds one Parallel. If another call has the threads, this
// one runs alone; after a fork the child starts threads of its own.
class Parallel {
public:
    Parallel();
    ~Parallel();
    Parallel(const Parallel&) = delete;
    Parallel& operator=(const Parallel&) = delete;

    int workers() const { return workers_; }

    // Calls work(item, worker) for every item in [0, items) and returns when all are done. work
    // must not throw.
    void run(int items, const std::function<void(int item, int worker)>& work);

private:
    int workers_;
    bool owner_;
};

}  // namespace bitconv
