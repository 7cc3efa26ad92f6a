#include "size_plan.h"

#include <algorithm>
#include <utility>

namespace bitconv {
namespace {

std::atomic<double> least_shared{50e-6};

}  // namespace

double least_shared_seconds() { return least_shared.load(std::memory_order_relaxed); }
void set_least_shared_seconds(double seconds) { least_shared.store(seconds); }

void Pace::add(std::size_t op, double seconds, int images) {
    const float of_image = float(seconds / images);
    const float before = shortest_[op].load(std::memory_order_relaxed);
    // Of two calls at once one may be lost: it was a time of the same op.
    if (before == 0 || of_image < before) shortest_[op].store(of_image, std::memory_order_relaxed);
}

bool Pace::pays(std::size_t op, int images) const {
    return !known() ||
           double(shortest_[op].load(std::memory_order_relaxed)) * images >= least_shared_seconds();
}

bool Pace::whole_pays(std::int64_t images) const {
    double seconds = 0;
    for (const std::atomic<float>& op : shortest_) seconds += op.load(std::memory_order_relaxed);
    return !known() || seconds * double(images) >= least_shared_seconds();
}

std::unique_ptr<Workspace> SizePlan::take() const {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || idle_.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> taken = std::move(idle_.back());
    idle_.pop_back();
    return taken;
}

void SizePlan::give_back(std::unique_ptr<Workspace> workspace) const {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock && idle_.size() < idle_.capacity()) idle_.push_back(std::move(workspace));
}

std::size_t lay_out(const std::vector<Lifetime>& lifetimes, std::vector<Place>& places) {
    std::size_t whole = 0;
    std::vector<std::size_t> order;
    for (std::size_t value = 0; value < places.size(); ++value)
        if (places[value].where == Place::arena) order.push_back(value);
    // Not stable_sort: the address sanitizer takes its temporary buffer for one that is freed in
    // another way.
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return std::make_pair(lifetimes[a].first, a) < std::make_pair(lifetimes[b].first, b);
    });
    std::vector<std::size_t> alive;  // by place
    for (const std::size_t value : order) {
        const auto gone = [&](std::size_t other) {
            return lifetimes[other].last < lifetimes[value].first;
        };
        alive.erase(std::remove_if(alive.begin(), alive.end(), gone), alive.end());
        std::size_t at = 0;
        auto before = alive.begin();
        for (; before != alive.end() && at + places[value].bytes > places[*before].index; ++before)
            at = std::max(at, places[*before].index + places[*before].bytes);
        places[value].index = at;
        alive.insert(before, value);
        whole = std::max(whole, at + places[value].bytes);
    }
    return whole;
}

}  // namespace bitconv
