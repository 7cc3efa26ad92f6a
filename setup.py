"""Builds the compiled files and the page of the package; everything else is in setup.cfg."""
import os
import re
import sys
from glob import glob

from setuptools import Extension, setup

try:
    from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
except ImportError as error:
    sys.exit(
        f'setup.py: {error}. pyproject.toml names what it needs, and pip 10 and newer bring that; '
        'on CPython 3.6: python -m pip install pip==21.3.1'
    )

# The same flags for every file: an instruction set is named inside a file, for the functions that
# are entered only where the machine has it, so that no other function can come to depend on it.
# No contraction: a fused multiply-add rounds once where the portable code rounds twice.
FLAGS = ['-std=c++17', '-O3', '-g0', '-ffp-contract=off', '-pthread', '-fvisibility=hidden']
PYTHON_ONLY = [
    f'native/{name}.cpp'
    for name in ('bindings', 'measure', 'object_bindings', 'program_bindings', 'thread_pool')
]
HEADERS = sorted(glob('native/*.h') + glob('native/*.inc'))
KERNELS = sorted(set(glob('native/*.cpp')) - set(PYTHON_ONLY))

# What both of the extensions below hold, compiled once.
kernels = (
    'netopt_kernels',
    {
        'sources': KERNELS,
        'include_dirs': ['native'],
        'cflags': FLAGS + ['-fPIC'],
        'obj_deps': {'': HEADERS},
    },
)

native = Pybind11Extension(
    'netopt_callbacks._native',
    PYTHON_ONLY,
    cxx_std=17,
    include_dirs=['native'],
    depends=HEADERS + KERNELS,
    extra_compile_args=FLAGS,
    extra_link_args=['-pthread'],
)

# No Python module, and built without ONNX Runtime: it loads the file by its name, see
# netopt_callbacks/deploy.py. What the file was linked to may not be taken out of a process that has
# threads in it (nodelete).
onnx = Extension(
    'netopt_callbacks._onnx',
    sorted(glob('native/onnx/*.cpp')),
    language='c++',
    include_dirs=['native', 'native/onnx'],
    depends=HEADERS + KERNELS + sorted(glob('native/onnx/*.h')) + ['native/onnx/exports.map'],
    extra_compile_args=FLAGS,
    extra_link_args=[
        '-pthread',
        '-Wl,--version-script=native/onnx/exports.map',
        '-Wl,-z,nodelete',
        '-s',
    ],
)

# No Python module: CNTK's libraries load it as libmpi_cxx.so.1, see netopt_callbacks/runtime.py.
mpi_cxx = Extension(
    'netopt_callbacks._mpi_cxx',
    ['native/mpi_cxx/shim.cpp'],
    language='c++',
    extra_compile_args=['-std=c++11', '-g0'],
)


class BuildExtensions(build_ext):
    def run(self):
        self.run_command('build_clib')  # an editable install asks for the extensions alone
        super().run()

    def get_libraries(self, ext):
        # On Linux no libpython: the interpreter has it, or is built without it and finds none.
        return list(ext.libraries) if sys.platform == 'linux' else super().get_libraries(ext)


# Where the files of this version can be read, as 'https://host/owner/name/blob/v0.1.0'; make wheel
# ADDRESS=... sets it. The package's page is README.md, whose relative links lead nowhere there:
# they begin with the address, or are left out where there is none.
ADDRESS = os.environ.get('NETOPT_ADDRESS', '').rstrip('/')
PAGES = {'Documentation': 'README.md', 'Changelog': 'CHANGELOG.md', 'Source': 'netopt_callbacks'}


def package_page():
    """Returns README.md without relative links."""

    def absolute(link):
        image, text, path = link.groups()
        if ADDRESS:
            return f'{image}[{text}]({ADDRESS}/{path}{"?raw=true" if image else ""})'
        return '' if image else text

    with open('README.md', encoding='utf-8') as readme:
        return re.sub(r'(!?)\[([^]]*)\]\((?!\w+:|#)([^)]+)\)', absolute, readme.read())


CNTK_EXISTS_HERE = sys.platform == 'linux' and sys.version_info < (3, 7)

ParallelCompile().install()
setup(
    long_description=package_page(),
    long_description_content_type='text/markdown',
    project_urls={name: f'{ADDRESS}/{path}' for name, path in PAGES.items() if ADDRESS},
    libraries=[kernels],
    ext_modules=[native] + [onnx] * (sys.platform == 'linux') + [mpi_cxx] * CNTK_EXISTS_HERE,
    cmdclass={'build_ext': BuildExtensions},
)
