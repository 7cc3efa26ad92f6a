"""Builds the two compiled files of the package; everything else is in setup.cfg."""
import sys
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

# The same flags for every file: an instruction set is named inside a file, for the functions that
# are entered only where the machine has it, so that no other function can come to depend on it.
# No contraction: a fused multiply-add rounds once where the portable code rounds twice.
native = Pybind11Extension(
    'netopt_callbacks._native', sorted(glob('native/*.cpp')), cxx_std=17,
    include_dirs=['native'], depends=sorted(glob('native/*.h') + glob('native/*.inc')),
    extra_compile_args=['-O3', '-ffp-contract=off', '-pthread'], extra_link_args=['-pthread'])

# No Python module: CNTK's libraries load it as libmpi_cxx.so.1, see netopt_callbacks/runtime.py.
mpi_cxx = Extension('netopt_callbacks._mpi_cxx', ['native/mpi_cxx/shim.cpp'],
                    language='c++', extra_compile_args=['-std=c++11'])


class BuildExtensions(build_ext):
    def get_libraries(self, ext):
        return [] if ext is mpi_cxx else super().get_libraries(ext)


CNTK_EXISTS_HERE = sys.platform == 'linux' and sys.version_info < (3, 7)

ParallelCompile().install()
setup(ext_modules=[native, mpi_cxx] if CNTK_EXISTS_HERE else [native],
      cmdclass={'build_ext': BuildExtensions})
