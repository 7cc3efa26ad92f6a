// The live Python objects of some classes.
#pragma once
#include <pybind11/pybind11.h>

// Returns a list of the objects whose class is one of `kinds`, out of all that the interpreter's
// garbage collector tracks. Subclasses count only if they are in `kinds` themselves.
pybind11::list live_objects(const pybind11::iterable& kinds);
