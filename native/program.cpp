#include "program.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "buffer.h"
#include "float_mode.h"
#include "thread_pool.h"

namespace bitconv {
namespace {

constexpr std::int64_t most_channels = 1 << 24, longest_side = 1 << 16;
constexpr std::size_t most_arena_bytes = std::size_t(1) << 32;
constexpr std::size_t chunk_bytes =
    512 << 10;  // values of the images that are worked on together: about the second-level cache
constexpr int most_chunk = 16;
constexpr std::size_t most_plans = 4;

void require(bool condition, const std::string& message) { require_op(condition, message); }

std::string title_of(std::size_t op, const std::string& name) {
    return "op " + std::to_string(op) + " (" + name + "): ";
}

// Runs `work`, and says which op it was about where it finds fault.
template <typename Work>
void about(const std::string& title, Work work) {
    try {
        work();
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(title + error.what());
    }
}

std::unique_ptr<Op> make_op(const std::string& name, const Making& making) {
#define BITCONV_OP_ADDRESS(name) &op_##name,
    static const OpKind* const kinds[] = {BITCONV_OPS(BITCONV_OP_ADDRESS)};
#undef BITCONV_OP_ADDRESS
    std::string known;
    for (const OpKind* kind : kinds) {
        if (name == kind->name) return kind->make(making);
        known += (known.empty() ? "" : ", ") + std::string(kind->name);
    }
    throw std::invalid_argument("there is no op of that name; known: " + known);
}

bool same(Form a, Form b) {
    return a.kind == b.kind && (a.kind != Kind::bits || a.groups == b.groups);
}

}  // namespace

Program::Program(const std::uint8_t* state, std::size_t size, const Implementation& implementation)
    : implementation_(implementation), state_(state, state + size) {
    build(read_state(state_.data(), state_.size()));
    std::vector<ImageSize> sizes;
    for (const DescribedInput& input : inputs_) {
        if (input.height == 0 || input.width == 0) return;
        sizes.push_back({input.height, input.width});
    }
    planned(sizes);  // the sizes are known: what does not fit is refused now
}

Program::~Program() = default;

int Program::new_value(Form form) {
    forms_.push_back(form);
    return int(forms_.size()) - 1;
}

void Program::build(const Description& description) {
    inputs_ = description.inputs;
    outputs_ = description.outputs;
    require(!inputs_.empty() && !outputs_.empty(), "the state has no inputs or no outputs");
    std::vector<int> numbers;  // a value's number in the state to its number here
    for (const DescribedInput& input : inputs_) {
        require(1 <= input.channels && input.channels <= most_channels && 0 <= input.height &&
                    input.height <= longest_side && 0 <= input.width && input.width <= longest_side,
                "an input has " + std::to_string(input.channels) + " channels of " +
                    std::to_string(input.height) + " x " + std::to_string(input.width) +
                    " pixels, beyond " + std::to_string(most_channels) + " and " +
                    std::to_string(longest_side));
        require(input.rank == 3 || (input.height == 1 && input.width == 1),
                "an input of rank 1 has height and width 1");
        numbers.push_back(new_value({Kind::entry, 1}));
    }
    for (std::size_t index = 0; index < description.ops.size(); ++index) {
        const DescribedOp& described = description.ops[index];
        const std::string title = title_of(index, described.name);
        Fields fields = described.fields;
        std::vector<int> reads;
        std::vector<Form> given;
        for (const std::uint32_t value : described.reads) {
            require(value < numbers.size(), title + "it reads value " + std::to_string(value) +
                                                ", but only the values 0 to " +
                                                std::to_string(numbers.size() - 1) +
                                                " exist before it");
            reads.push_back(numbers[value]);
            given.push_back(forms_[reads.back()]);
        }
        Node node;
        node.title = title;
        about(title, [&] {
            node.op = make_op(described.name, {fields, given, implementation_});
            fields.all_read();
        });
        for (std::size_t i = 0; i < reads.size(); ++i)
            node.reads.push_back(converted(reads[i], node.op->reads[i], title));
        for (const Form& form : node.op->gives) node.gives.push_back(new_value(form));
        const std::vector<int> gives = node.gives;
        nodes_.push_back(std::move(node));
        for (const int value : gives)
            numbers.push_back(forms_[value].kind == Kind::bits
                                  ? converted(value, {Kind::bits, 1}, title)
                                  : value);
    }
    for (const DescribedOutput& output : outputs_) {
        require(output.value < numbers.size(),
                "an output is value " + std::to_string(output.value) + ", which does not exist");
        const int value = numbers[output.value];
        require(forms_[value].kind == Kind::floats,
                "an output must be float values that an op gives; value " +
                    std::to_string(output.value) + " is bits or an input");
        Node turn;
        turn.op = turn_op(false);
        turn.title = "an output: ";
        turn.reads = {value};
        turn.gives = {new_value({Kind::entry, 1})};
        results_.push_back(turn.gives[0]);
        nodes_.push_back(std::move(turn));
    }
}

// The value in the wanted form, through a conversion that is put in once.
int Program::converted(int value, Form wanted, const std::string& title) {
    if (same(forms_[value], wanted)) return value;
    const Form form = forms_[value];
    require(
        (form.kind == Kind::bits) == (wanted.kind == Kind::bits) && wanted.kind != Kind::entry,
        title + (wanted.kind == Kind::bits ? "it reads bits, but the value it reads is floats"
                                           : "it reads floats, but the value it reads is bits"));
    for (const int other : conversions_[value])
        if (same(forms_[other], wanted)) return other;
    Node node;
    node.op = form.kind == Kind::bits ? regroup_op(form.groups, wanted.groups, implementation_)
                                      : turn_op(true);
    node.reads = {value};
    node.gives = {new_value(wanted)};
    conversions_[value].push_back(node.gives[0]);
    nodes_.push_back(std::move(node));
    return nodes_.back().gives[0];
}

// Planning: extents, then places by lifetime.

std::shared_ptr<const SizePlan> Program::make_plan(const std::vector<ImageSize>& sizes) const {
    require(sizes.size() == inputs_.size(), "received " + std::to_string(sizes.size()) +
                                                " inputs, expected " +
                                                std::to_string(inputs_.size()));
    const auto plan = std::make_shared<SizePlan>();
    plan->sizes = sizes;
    plan->extents.resize(forms_.size());
    std::vector<Lifetime> lifetimes(forms_.size(), {-1, -1});
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
        const DescribedInput& input = inputs_[i];
        require((input.height == 0 || input.height == sizes[i].height) &&
                    (input.width == 0 || input.width == sizes[i].width),
                "input " + std::to_string(i) + " has " + std::to_string(sizes[i].height) + " x " +
                    std::to_string(sizes[i].width) + " pixels, the program is for " +
                    std::to_string(input.height) + " x " + std::to_string(input.width) +
                    " (0: any)");
        plan->extents[i] = {{Kind::entry, 1}, input.channels, sizes[i].height, sizes[i].width};
    }
    for (std::size_t index = 0; index < nodes_.size(); ++index) {
        const Node& node = nodes_[index];
        Wiring wiring = {node.reads, node.gives, {}, std::vector<Extent>(node.gives.size())};
        for (const int value : node.reads) {
            wiring.read_extents.push_back(plan->extents[value]);
            lifetimes[value].last = int(index);
        }
        about(node.title, [&] {
            plan->ops.push_back(node.op->plan(wiring));
            for (const Extent& extent : wiring.gives_extents)
                image_bytes(extent, implementation_.encoding);
        });
        for (std::size_t i = 0; i < node.gives.size(); ++i) {
            plan->extents[node.gives[i]] = wiring.gives_extents[i];
            plan->extents[node.gives[i]].form = forms_[node.gives[i]];
            lifetimes[node.gives[i]] = {int(index), int(index)};
        }
        plan->scratch_bytes = std::max(plan->scratch_bytes, plan->ops.back()->scratch());
    }
    for (std::size_t value = 0; value < forms_.size(); ++value)
        plan->places.push_back(
            {Place::arena, 0, image_bytes(plan->extents[value], implementation_.encoding)});
    for (std::size_t i = 0; i < inputs_.size(); ++i)
        plan->places[i].where = Place::input, plan->places[i].index = i;
    for (std::size_t o = 0; o < results_.size(); ++o) {
        plan->places[results_[o]].where = Place::output;
        plan->places[results_[o]].index = o;
    }
    plan->arena_bytes = lay_out(lifetimes, plan->places);
    plan->pace.of_ops(plan->ops.size());
    require(plan->arena_bytes <= most_arena_bytes,
            "the values of one image take " + std::to_string(plan->arena_bytes) +
                " bytes, more than " + std::to_string(most_arena_bytes));
    const std::size_t fitting = chunk_bytes / std::max<std::size_t>(1, plan->arena_bytes);
    plan->most_images = int(std::min<std::size_t>(most_chunk, std::max<std::size_t>(1, fitting)));
    return plan;
}

// Never waits, as Convolution::sized.
std::shared_ptr<const SizePlan> Program::planned(const std::vector<ImageSize>& sizes) const {
    const auto is_it = [&](const std::shared_ptr<const SizePlan>& plan) {
        return std::equal(sizes.begin(), sizes.end(), plan->sizes.begin(), plan->sizes.end(),
                          [](const ImageSize& a, const ImageSize& b) {
                              return a.height == b.height && a.width == b.width;
                          });
    };
    {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (lock)
            for (const auto& plan : plans_)
                if (is_it(plan)) return plan;
    }
    const auto made = make_plan(sizes);
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock) {
        if (plans_.size() == most_plans) plans_.erase(plans_.begin());
        plans_.push_back(made);
    }
    return made;
}

std::vector<Extent> Program::output_extents(const std::vector<ImageSize>& sizes) const {
    const auto plan = planned(sizes);
    std::vector<Extent> result;
    for (const int value : results_) result.push_back(plan->extents[value]);
    return result;
}

// Running.

namespace {

using Clock = std::chrono::steady_clock;

// The views of a worker that works on the images from `first` on.
void look_at(const SizePlan& plan, std::uint8_t* arena, int most_images, const float* const* x,
             float* const* y, std::int64_t first, std::vector<View>& views) {
    for (std::size_t value = 0; value < views.size(); ++value) {
        const Place& place = plan.places[value];
        View& view = views[value];
        view.image_bytes = place.bytes;
        switch (place.where) {
            case Place::arena: view.data = arena + place.index * most_images; break;
            case Place::input:
                view.data = reinterpret_cast<std::uint8_t*>(const_cast<float*>(x[place.index])) +
                            first * place.bytes;
                break;
            case Place::output:
                view.data = reinterpret_cast<std::uint8_t*>(y[place.index]) + first * place.bytes;
                break;
        }
    }
}

}  // namespace

std::vector<std::string> Program::titles() const {
    std::vector<std::string> result;
    for (const Node& node : nodes_) result.push_back(node.title);
    return result;
}

void Program::run(const float* const* x, const std::vector<ImageSize>& sizes, std::int64_t images,
                  float* const* y, double* seconds) const {
    const std::shared_ptr<const SizePlan> plan = planned(sizes);
    if (images == 0) return;
    std::unique_ptr<Workspace> space = plan->take();
    Parallel parallel;
    const int workers = parallel.workers();
    Pace& pace = plan->pace;
    const bool many = images >= 4 * workers, timed = workers > 1 && !many && !pace.known();
    const bool whole_images = workers > 1 && !seconds && !timed &&
                              (many || images % workers == 0) && pace.whole_pays(images);
    const std::int64_t share = whole_images ? (images + workers - 1) / workers : images;
    const int together = int(std::min<std::int64_t>(plan->most_images, share));
    const int arenas = whole_images ? workers : 1;
    if (int(space->arenas.size()) < workers) {
        space->arenas.resize(workers);
        space->scratch.resize(workers);
        space->scratch_of.resize(workers);
        space->views.resize(workers, std::vector<View>(plan->places.size()));
    }
    for (int worker = 0; worker < arenas; ++worker)
        space->arenas[worker].reserve(plan->arena_bytes * together);
    for (int worker = 0; worker < workers; ++worker)
        space->scratch_of[worker] = space->scratch[worker].reserve(plan->scratch_bytes);

    const DefaultFloatMode mode;
    const auto chunk = [&](int index, int worker, Parallel* shared_out) {
        const std::int64_t first = std::int64_t(index) * together;
        std::vector<View>& views = space->views[worker];
        look_at(*plan, space->arenas[worker].get(), together, x, y, first, views);
        const int count = int(std::min<std::int64_t>(together, images - first));
        const Call call = {count, shared_out ? shared_out->workers() : 1, views.data(),
                           &space->scratch_of[shared_out ? 0 : worker]};
        for (std::size_t index_of_op = 0; index_of_op < plan->ops.size(); ++index_of_op) {
            const std::unique_ptr<Planned>& op = plan->ops[index_of_op];
            const auto began = seconds || timed ? Clock::now() : Clock::time_point();
            const int items = op->items(call);
            if (shared_out && items > 1 && !timed && pace.pays(index_of_op, count)) {
                const auto work = [&](int item, int by) { op->run(call, item, by); };
                shared_out->run(items, std::ref(work));
            } else {
                for (int item = 0; item < items; ++item) op->run(call, item, 0);
            }
            if (!seconds && !timed) continue;
            const double took = std::chrono::duration<double>(Clock::now() - began).count();
            if (seconds) seconds[index_of_op] += took;
            if (timed) pace.add(index_of_op, took, count);
        }
    };
    const int chunks = int((images + together - 1) / together);
    if (whole_images) {
        const auto work = [&](int index, int worker) { chunk(index, worker, nullptr); };
        parallel.run(chunks, std::ref(work));
    } else {
        for (int index = 0; index < chunks; ++index)
            chunk(index, 0, workers > 1 ? &parallel : nullptr);
    }
    if (timed) pace.add_call();
    plan->give_back(std::move(space));
}

}  // namespace bitconv
