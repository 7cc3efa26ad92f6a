// In C++, not for speed alone: a list of all objects refers to what other threads are building
// right now, and CPython raises SystemError from a tuple that grows while somebody else refers to
// it. Here no Python code runs while objects are looked at, so no other thread does.
#include "object_bindings.h"

#include <algorithm>
#include <vector>

namespace py = pybind11;

namespace {

#if PY_VERSION_HEX < 0x03070000
// The collector's generations in CPython 3.6 (Modules/gcmodule.c): `generations[3]`, to whose first
// head `_PyGC_generation0` points. Each is a ring of the heads that stand before objects.
struct Generation {
    PyGC_Head head;
    int threshold;
    int count;
};

// Calls `look` with each object that the collector tracks. Through `gc.get_objects`, which makes a
// list of them, it takes half as long again.
template <typename Look>
void each_object(const Look& look) {
    Generation* generations = reinterpret_cast<Generation*>(_PyGC_generation0);
    for (int i = 0; i < 3; ++i) {
        PyGC_Head* ring = &generations[i].head;
        for (PyGC_Head* head = ring->gc.gc_next; head != ring; head = head->gc.gc_next)
            look(reinterpret_cast<PyObject*>(head + 1));
    }
}
#else
template <typename Look>
void each_object(const Look& look) {
    const py::list all = py::module_::import("gc").attr("get_objects")();
    for (const py::handle object : all) look(object.ptr());
}
#endif

}  // namespace

pybind11::list live_objects(const pybind11::iterable& kinds) {
    std::vector<PyTypeObject*> wanted;
    for (const py::handle kind : kinds) {
        if (!PyType_Check(kind.ptr())) throw py::type_error("kinds must be classes");
        wanted.push_back(reinterpret_cast<PyTypeObject*>(kind.ptr()));
    }
    // A Python list is made only after the last look: it can start a collection.
    std::vector<py::object> found;
    each_object([&](PyObject* object) {
        if (std::find(wanted.begin(), wanted.end(), Py_TYPE(object)) != wanted.end())
            found.push_back(py::reinterpret_borrow<py::object>(object));
    });
    py::list live;
    for (const py::object& object : found) live.append(object);
    return live;
}
