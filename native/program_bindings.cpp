// netopt_callbacks._native.Program: checks arrays and addresses, releases the GIL, calls.
// native_program.py is the face.
#include "program_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "implementations.h"
#include "program.h"

namespace py = pybind11;
using namespace bitconv;

namespace {

using Sizes = std::vector<std::pair<std::int64_t, std::int64_t>>;

std::vector<ImageSize> image_sizes(const Sizes& sizes) {
    std::vector<ImageSize> result;
    for (const auto& size : sizes) result.push_back({size.first, size.second});
    return result;
}

std::unique_ptr<Program> make(const py::bytes& state, const std::string& implementation) {
    char* data;
    py::ssize_t size;
    if (PyBytes_AsStringAndSize(state.ptr(), &data, &size) != 0) throw py::error_already_set();
    return std::make_unique<Program>(reinterpret_cast<const std::uint8_t*>(data), std::size_t(size),
                                     implementation_named(implementation));
}

std::vector<std::vector<std::int64_t>> output_extents(const Program& program, const Sizes& sizes) {
    std::vector<std::vector<std::int64_t>> result;
    for (const Extent& extent : program.output_extents(image_sizes(sizes)))
        result.push_back({extent.channels, extent.height, extent.width});
    return result;
}

const float* data_of(const py::array& array, std::int64_t elements, bool written) {
    if (!py::isinstance<py::array_t<float>>(array) || !(array.flags() & py::array::c_style))
        throw py::type_error("an array is not C-contiguous float32");
    if (array.size() != elements)
        throw py::value_error("an array has the wrong number of elements");
    if (written && !array.writeable()) throw py::value_error("an output is read-only");
    return static_cast<const float*>(array.data());
}

void check_call(const Program& program, std::int64_t images, std::size_t inputs,
                std::size_t outputs) {
    if (images < 0 || images > std::numeric_limits<std::int32_t>::max())
        throw py::value_error("the batch is beyond int32");
    if (inputs != program.inputs().size() || outputs != program.outputs().size())
        throw py::value_error("received " + std::to_string(inputs) + " inputs and " +
                              std::to_string(outputs) + " outputs, the program has " +
                              std::to_string(program.inputs().size()) + " and " +
                              std::to_string(program.outputs().size()));
}

void run_timed(const Program& program, const std::vector<py::array>& x, const Sizes& sizes,
               std::int64_t images, const std::vector<py::array>& y, double* seconds) {
    check_call(program, images, x.size(), y.size());
    if (sizes.size() != x.size()) throw py::value_error("every input needs a size");
    const std::vector<ImageSize> of_images = image_sizes(sizes);
    const std::vector<Extent> extents = program.output_extents(of_images);
    std::vector<const float*> from;
    std::vector<float*> to;
    for (std::size_t i = 0; i < x.size(); ++i)
        from.push_back(data_of(
            x[i], images * program.inputs()[i].channels * sizes[i].first * sizes[i].second, false));
    for (std::size_t o = 0; o < y.size(); ++o)
        to.push_back(const_cast<float*>(
            data_of(y[o], images * extents[o].channels * extents[o].pixels(), true)));
    py::gil_scoped_release release;
    program.run(from.data(), of_images, images, to.data(), seconds);
}

void run(const Program& program, const std::vector<py::array>& x, const Sizes& sizes,
         std::int64_t images, const std::vector<py::array>& y) {
    run_timed(program, x, sizes, images, y, nullptr);
}

std::vector<std::pair<std::string, double>> profile(const Program& program,
                                                    const std::vector<py::array>& x,
                                                    const Sizes& sizes, std::int64_t images,
                                                    const std::vector<py::array>& y) {
    const std::vector<std::string> titles = program.titles();
    std::vector<double> seconds(titles.size(), 0.0);
    run_timed(program, x, sizes, images, y, seconds.data());
    std::vector<std::pair<std::string, double>> result;
    for (std::size_t node = 0; node < titles.size(); ++node)
        result.emplace_back(titles[node], seconds[node]);
    return result;
}

// Addresses of contiguous float32, as the caller vouches.
void run_at(const Program& program, const std::vector<std::uintptr_t>& x, const Sizes& sizes,
            std::int64_t images, const std::vector<std::uintptr_t>& y) {
    check_call(program, images, x.size(), y.size());
    std::vector<const float*> from;
    std::vector<float*> to;
    for (const std::uintptr_t address : x) from.push_back(reinterpret_cast<const float*>(address));
    for (const std::uintptr_t address : y) to.push_back(reinterpret_cast<float*>(address));
    for (const float* address : from)
        if (address == nullptr && images > 0) throw py::value_error("an input's address is 0");
    for (const float* address : to)
        if (address == nullptr && images > 0) throw py::value_error("an output's address is 0");
    const std::vector<ImageSize> of_images = image_sizes(sizes);
    py::gil_scoped_release release;
    program.run(from.data(), of_images, images, to.data());
}

py::list described_inputs(const Program& program) {
    py::list result;
    for (const DescribedInput& input : program.inputs())
        result.append(py::make_tuple(input.channels, input.height, input.width, input.rank));
    return result;
}

std::vector<int> output_ranks(const Program& program) {
    std::vector<int> result;
    for (const DescribedOutput& output : program.outputs()) result.push_back(output.rank);
    return result;
}

py::bytes state(const Program& program) {
    return py::bytes(reinterpret_cast<const char*>(program.state().data()), program.state().size());
}

}  // namespace

void bind_program(py::module_& module) {
    py::class_<Program>(module, "Program")
        .def(py::init(&make), py::arg("state"), py::arg("implementation"))
        .def("inputs", &described_inputs)
        .def("output_ranks", &output_ranks)
        .def("output_extents", &output_extents, py::arg("sizes"))
        .def("state", &state)
        .def("run", &run, py::arg("x"), py::arg("sizes"), py::arg("images"), py::arg("y"))
        .def("profile", &profile, py::arg("x"), py::arg("sizes"), py::arg("images"), py::arg("y"))
        .def("run_at", &run_at, py::arg("x"), py::arg("sizes"), py::arg("images"), py::arg("y"));
    module.attr("program_state_version") = state_version;
}
