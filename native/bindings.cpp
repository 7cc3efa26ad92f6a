// netopt_callbacks._native: checks arrays, releases the GIL, calls. native.py is the face for
// users.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "convolution.h"
#include "cpu.h"
#include "implementations.h"
#include "measure.h"
#include "object_bindings.h"
#include "program_bindings.h"
#include "size_plan.h"
#include "thread_pool.h"

namespace py = pybind11;
using namespace bitconv;

namespace {

using Pair = std::array<int, 2>;

// Contiguous and of exactly this type; anything else is the caller's mistake, never converted
// silently.
template <typename T>
const T* checked(const py::array& array, std::size_t rank, const char* name) {
    if (!py::isinstance<py::array_t<T>>(array) || !(array.flags() & py::array::c_style))
        throw py::type_error(std::string(name) +
                             " must be a C-contiguous array of the native element type");
    if (std::size_t(array.ndim()) != rank)
        throw py::value_error(std::string(name) + " has rank " + std::to_string(array.ndim()) +
                              ", expected " + std::to_string(rank));
    return static_cast<const T*>(array.data());
}

int checked_int(py::ssize_t value, const char* name) {
    if (value < 0 || value > std::numeric_limits<std::int32_t>::max())
        throw py::value_error(std::string(name) + " is " + std::to_string(value) +
                              ", beyond int32");
    return int(value);
}

std::vector<float> floats(const py::object& values, std::size_t count, float absent,
                          const char* name) {
    if (values.is_none()) return std::vector<float>(count, absent);
    const py::array array = py::cast<py::array>(values);
    const float* data = checked<float>(array, 1, name);
    return std::vector<float>(data, data + array.size());
}

py::array_t<std::uint64_t> packed_weights(const py::array& weights) {
    const float* data = checked<float>(weights, 4, "weights");
    const int channels = checked_int(weights.shape(1), "channels");
    const int kernel_h = checked_int(weights.shape(2), "kernel height"),
              kernel_w = checked_int(weights.shape(3), "kernel width");
    const int taps = checked_int(py::ssize_t(kernel_h) * kernel_w, "kernel height * kernel width");
    const std::vector<std::uint64_t> words = pack_weights(data, weights.shape(0), channels, taps);
    py::array_t<std::uint64_t> result(
        {weights.shape(0), weights.shape(2), weights.shape(3), py::ssize_t((channels + 63) / 64)});
    std::copy(words.begin(), words.end(), result.mutable_data());
    return result;
}

std::unique_ptr<Convolution> make(const py::array& words, int channels, int groups, Pair strides,
                                  std::array<Pair, 2> padding, Pair dilation,
                                  const py::object& scale, const py::object& bias,
                                  const py::object& threshold, const std::string& implementation) {
    const std::uint64_t* data = checked<std::uint64_t>(words, 4, "words");
    const int filters = checked_int(words.shape(0), "filters");
    if (groups <= 0 || filters % groups != 0)
        throw py::value_error("filters must be divisible by groups");
    Layer layer;
    layer.shape.groups = groups;
    layer.shape.filters = filters / groups;
    layer.shape.channels = channels;
    for (int axis = 0; axis < 2; ++axis) {
        layer.shape.kernel[axis] = checked_int(words.shape(1 + axis), "kernel size");
        layer.shape.stride[axis] = strides[axis];
        layer.shape.dilation[axis] = dilation[axis];
        for (int side = 0; side < 2; ++side) layer.shape.padding[axis][side] = padding[axis][side];
    }
    layer.words.assign(data, data + words.size());
    layer.scale = floats(scale, filters, 1.0f, "scale");
    layer.bias = floats(bias, filters, -0.0f, "bias");
    layer.threshold = floats(threshold, std::size_t(groups) * channels, 0.0f, "threshold");
    return std::make_unique<Convolution>(std::move(layer), implementation_named(implementation));
}

void run(const Convolution& convolution, const py::array& x, py::array& y) {
    const float* from = checked<float>(x, 4, "x");
    checked<float>(y, 4, "out");
    if (!y.writeable()) throw py::value_error("out is read-only");
    const Shape& shape = convolution.layer().shape;
    const OutputSize size = output_size(shape, x.shape(2), x.shape(3));
    if (x.shape(1) != shape.total_channels())
        throw py::value_error("x has the wrong number of channels");
    if (y.shape(0) != x.shape(0) || y.shape(1) != shape.total_filters() ||
        y.shape(2) != size.height || y.shape(3) != size.width)
        throw py::value_error("out has the wrong shape");
    checked_int(x.shape(0), "the batch");
    float* to = static_cast<float*>(y.mutable_data());
    py::gil_scoped_release release;
    convolution.run(from, x.shape(0), x.shape(2), x.shape(3), to);
}

py::tuple output_shape(const Convolution& convolution, std::int64_t height, std::int64_t width) {
    const OutputSize size = output_size(convolution.layer().shape, height, width);
    return py::make_tuple(size.height, size.width);
}

std::vector<std::string> names(bool supported_only) {
    std::vector<std::string> result;
    for (const Implementation* implementation : implementations())
        if (!supported_only || implementation->supported()) result.push_back(implementation->name);
    return result;
}

double peak_of(const std::string& name, double seconds) {
    const Implementation& implementation = implementation_named(name);
    py::gil_scoped_release release;
    return peak(implementation, seconds);
}

double port_limit_of(const std::string& name, double seconds) {
    const Implementation& implementation = implementation_named(name);
    py::gil_scoped_release release;
    return port_limit(implementation, seconds);
}

double stream_of(const py::array& x, py::array& y) {
    const float* from = checked<float>(x, 4, "x");
    checked<float>(y, 4, "out");
    if (!y.writeable()) throw py::value_error("out is read-only");
    return stream(from, x.size(), static_cast<float*>(y.mutable_data()), y.size());
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "Bit convolution in C++; use netopt_callbacks.native.";
    py::class_<Convolution>(module, "Convolution")
        .def(py::init(&make), py::arg("words"), py::arg("channels"), py::arg("groups"),
             py::arg("strides"), py::arg("padding"), py::arg("dilation"), py::arg("scale"),
             py::arg("bias"), py::arg("threshold"), py::arg("implementation"))
        .def("output_size", &output_shape, py::arg("height"), py::arg("width"))
        .def("run", &run, py::arg("x"), py::arg("out"));
    module.def("pack_weights", &packed_weights, py::arg("weights"));
    module.def("all_implementations", [] { return names(false); });
    module.def("implementations", [] { return names(true); });
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("threads"));
    module.def("least_shared_seconds", &least_shared_seconds);
    module.def("set_least_shared_seconds", &set_least_shared_seconds, py::arg("seconds"));
    module.def("cpu_name", [] { return std::string(cpu_name()); });
    module.def("peak", &peak_of, py::arg("implementation"), py::arg("seconds"));
    module.def("port_limit", &port_limit_of, py::arg("implementation"), py::arg("seconds"));
    module.def("stream", &stream_of, py::arg("x"), py::arg("out"));
    module.def("clock_rate", &clock_rate, py::arg("seconds"));
    module.def("live_objects", &live_objects, py::arg("kinds"));
    bind_program(module);
}
