// Stands in for libmpi_cxx.so.1, the C++ bindings of Open MPI 1.10, which nobody ships any more.
//
// CNTK 2.7 includes Open MPI's <mpi.h>, and with it a header of inline C++ classes. Its libraries
// therefore hold the vtables of those classes, which name the four functions below, but CNTK
// itself calls the C interface only: nothing ever enters these functions. The dynamic loader asks
// that they exist; should one be entered all the same, it says so and ends the process.
//
// The members are not virtual here, although they are in Open MPI: their mangled names are the
// same, and no vtable is emitted that could take the place of CNTK's own.

#include <cstdio>
#include <cstdlib>

namespace {

[[noreturn]] void refuse(const char* function) {
    std::fprintf(
        stderr,
        "netopt_callbacks: %s was called, which its stand-in for libmpi_cxx.so.1 does not "
        "implement. Install the C++ bindings of Open MPI 1.10 for programs that use them.\n",
        function);
    std::abort();
}

}  // namespace

namespace MPI {

class Comm {
public:
    Comm();
};

class Win {
public:
    void Free();
};

class Datatype {
public:
    void Free();
};

Comm::Comm() { refuse("MPI::Comm::Comm()"); }
void Win::Free() { refuse("MPI::Win::Free()"); }
void Datatype::Free() { refuse("MPI::Datatype::Free()"); }

}  // namespace MPI

// Open MPI hands its C library the address of this function where a program defines a reduction
// in C++; the types of its arguments are those of ompi/mpi/cxx/intercepts.cc.
extern "C" void ompi_mpi_cxx_op_intercept(void*, void*, int*, void**, void*) {
    refuse("ompi_mpi_cxx_op_intercept()");
}
