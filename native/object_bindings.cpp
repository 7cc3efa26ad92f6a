// In C++, not for speed alone: the list of all objects refers to what other threads are building
// right now, and CPython raises SystemError from a tuple that grows while somebody else refers to
// it. Here no Python code runs between making that list and dropping it, so no other thread does.
#include "object_bindings.h"

#include <algorithm>
#include <vector>

namespace py = pybind11;

pybind11::list live_objects(const pybind11::iterable& kinds) {
    std::vector<PyTypeObject*> wanted;
    for (const py::handle kind : kinds) {
        if (!PyType_Check(kind.ptr())) throw py::type_error("kinds must be classes");
        wanted.push_back(reinterpret_cast<PyTypeObject*>(kind.ptr()));
    }
    const py::object get_objects = py::module_::import("gc").attr("get_objects");
    py::list found;  // made first: a new list can start a collection, which runs Python code
    const py::object all = get_objects();
    const py::ssize_t count = PyList_GET_SIZE(all.ptr());
    PyObject** objects = reinterpret_cast<PyListObject*>(all.ptr())->ob_item;
    constexpr py::ssize_t AHEAD = 32;  // objects lie anywhere in memory
    for (py::ssize_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(objects[i + AHEAD], 1);
        const auto object = py::reinterpret_steal<py::object>(objects[i]);
        objects[i] = nullptr;  // let go here, while it is in the cache
        if (std::find(wanted.begin(), wanted.end(), Py_TYPE(object.ptr())) != wanted.end())
            found.append(object);
    }
    return found;
}
