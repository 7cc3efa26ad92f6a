// A planned program: ops over values, run for whole batches; once it knows a size, a call allocates
// nothing.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "ops.h"
#include "size_plan.h"

namespace bitconv {

class Program {
public:
    // Throws std::invalid_argument, with a sentence, for a state that is not whole and consistent.
    Program(const std::uint8_t* state, std::size_t size, const Implementation& implementation);
    ~Program();

    const Implementation& implementation() const { return implementation_; }
    const std::vector<DescribedInput>& inputs() const { return inputs_; }
    const std::vector<DescribedOutput>& outputs() const { return outputs_; }
    const std::vector<std::uint8_t>& state() const { return state_; }

    // The outputs' extents for inputs of these sizes.
    std::vector<Extent> output_extents(const std::vector<ImageSize>& sizes) const;

    // x[i] [images, channels, height, width] and y[o] contiguous float32. Throws
    // std::invalid_argument for sizes that do not fit and std::bad_alloc, before anything is
    // written. `seconds`, if given, [nodes], has what each node took added; threads then share the
    // items of a node, never whole images.
    void run(const float* const* x, const std::vector<ImageSize>& sizes, std::int64_t images,
             float* const* y, double* seconds = nullptr) const;

    // Of every node, in order: "op 3 (convolution): " for op 3, "an output: ", and nothing for a
    // conversion put in.
    std::vector<std::string> titles() const;

private:
    struct Node {
        std::unique_ptr<Op> op;
        std::vector<int> reads, gives;
        std::string title;  // for errors
    };

    void build(const Description& description);
    int converted(int value, Form wanted, const std::string& title);
    int new_value(Form form);
    std::shared_ptr<const SizePlan> planned(const std::vector<ImageSize>& sizes) const;
    std::shared_ptr<const SizePlan> make_plan(const std::vector<ImageSize>& sizes) const;

    const Implementation& implementation_;
    std::vector<std::uint8_t> state_;
    std::vector<DescribedInput> inputs_;
    std::vector<DescribedOutput> outputs_;
    std::vector<Form> forms_;  // [value]
    std::vector<Node> nodes_;
    std::map<int, std::vector<int>> conversions_;  // of a value, those put in
    std::vector<int> results_;                     // [output], values of form entry
    mutable std::mutex mutex_;
    mutable std::vector<std::shared_ptr<const SizePlan>> plans_;  // of the sizes seen last
};

}  // namespace bitconv
