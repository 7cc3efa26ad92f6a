"""The face of the bit convolution: what it refuses and how, threads, forks, forced
implementations."""
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import native_builds
import native_oracle
from netopt_callbacks import native

WEIGHTS = np.ones((4, 6, 3, 3), np.float32)
X = np.ones((1, 6, 8, 8), np.float32)


@pytest.mark.parametrize(
    'weights, error',
    [
        (WEIGHTS.astype(np.float64), TypeError),
        (WEIGHTS.astype('>f4'), TypeError),
        (WEIGHTS.tolist(), TypeError),
        (WEIGHTS[0], ValueError),
        (WEIGHTS[:0], ValueError),
        (WEIGHTS[:, :0], ValueError),
        (WEIGHTS[:, :, :, :0], ValueError),
    ],
)
def test_bad_weights(weights, error):
    with pytest.raises(error, match='weights'):
        native.BinaryConvolution(weights)


@pytest.mark.parametrize(
    'options, error',
    [
        (dict(strides=(0, 1)), ValueError),
        (dict(strides=(-1, 1)), ValueError),
        (dict(strides=(1.0, 1)), TypeError),
        (dict(strides=2), TypeError),
        (dict(strides=(1, 1, 1)), TypeError),
        (dict(strides=(2**31, 1)), ValueError),
        (dict(strides=(True, 1)), TypeError),
        (dict(dilation=(1, 0)), ValueError),
        (dict(dilation=(1, 2**31)), ValueError),
        (dict(dilation=(2**31 - 1, 1)), ValueError),
        (dict(padding=((-1, 0), (0, 0))), ValueError),
        (dict(padding=(1, 1)), TypeError),
        (dict(padding=((1, 1),)), TypeError),
        (dict(groups=0), ValueError),
        (dict(groups=3), ValueError),
        (dict(groups=2**31 - 1), ValueError),
        (dict(groups=None), TypeError),
        (dict(scale=np.ones(3, np.float32)), ValueError),
        (dict(scale=np.ones(4)), TypeError),
        (dict(scale=1.0), TypeError),
        (dict(bias=np.ones((4, 1), np.float32)), ValueError),
        (dict(threshold=np.ones(4, np.float32)), ValueError),
        (dict(implementation='sse9'), ValueError),
    ],
)
def test_bad_options(options, error):
    with pytest.raises(error):
        native.BinaryConvolution(WEIGHTS, **options)


@pytest.mark.parametrize(
    'x, error',
    [
        (X.astype(np.float64), TypeError),
        (X.astype('>f4'), TypeError),
        (X.tolist(), TypeError),
        (None, TypeError),
        (X[0], ValueError),
        (X[:, :5], ValueError),
        (X[:, :, :2], ValueError),
        (X[:, :, :, :0], ValueError),
        (X[:0, :, :2], ValueError),
    ],
)
def test_bad_input(x, error):
    with pytest.raises(error):
        native.BinaryConvolution(WEIGHTS)(x)


@pytest.mark.parametrize(
    'x, error',
    [
        (np.ones((2, 5), np.float64), TypeError),
        (np.ones(5, np.float32), ValueError),
        (np.ones((2, 4), np.float32), ValueError),
    ],
)
def test_bad_input_of_a_dense_layer(x, error):
    dense = native.BinaryDense(np.ones((5, 3), np.float32))
    with pytest.raises(error):
        dense(x)
    with pytest.raises(ValueError, match='out'):
        dense(np.ones((2, 5), np.float32), out=np.empty((3, 2), np.float32))


def traced_peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_input_is_copied_once_or_not_at_all():
    x = np.random.RandomState(0).randn(4, 6, 50, 50).astype(np.float32)
    convolution = native.BinaryConvolution(WEIGHTS)
    out = convolution(x)
    assert traced_peak_bytes(lambda: convolution(x, out=out)) < x.nbytes / 2
    fortran = np.asfortranarray(x)
    assert x.nbytes <= traced_peak_bytes(lambda: convolution(fortran, out=out)) < 1.5 * x.nbytes


def test_bad_out():
    convolution = native.BinaryConvolution(WEIGHTS)
    good = np.empty((1, 4, 6, 6), np.float32)
    frozen = good.copy()
    frozen.flags.writeable = False
    unaligned = np.empty(good.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(good.shape)
    for out in (
        good[:, :3],
        np.asfortranarray(np.ones((1, 4, 6, 6), np.float32)),
        frozen,
        unaligned,
    ):
        with pytest.raises(ValueError, match='out'):
            convolution(X, out=out)
    with pytest.raises(TypeError, match='out'):
        convolution(X, out=good.astype(np.float64))


def test_unaligned_input_is_copied():
    raw = np.zeros(X.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(X.shape)
    unaligned[...] = X
    convolution = native.BinaryConvolution(WEIGHTS)
    assert np.array_equal(convolution(unaligned), convolution(X))


def test_huge_sizes_are_errors():
    w = np.ones((1, 1, 1, 1), np.float32)
    wide = np.lib.stride_tricks.as_strided(
        np.ones(1, np.float32), (0, 1, 2**20, 2**20), (0, 0, 0, 0)
    )
    with pytest.raises(ValueError, match='too many pixels'):
        native.BinaryConvolution(w)(wide)
    most = 2**31 - 1
    for padding in (((most, 0), (0, 0)), ((most, most), (0, 0)), ((2**20, 0), (2**20, 0))):
        with pytest.raises(ValueError):
            native.BinaryConvolution(w, padding=padding)(np.ones((1, 1, 4, 4), np.float32))


@pytest.mark.parametrize(
    'change, error',
    [
        (dict(version=2), ValueError),
        (dict(version=None), ValueError),
        (dict(words=None), TypeError),
        (dict(words=np.zeros((4, 3, 3, 2), np.uint64)), ValueError),
        (dict(words=np.zeros((4, 3, 3, 1), np.int64)), TypeError),
        (dict(words=np.zeros((0, 3, 3, 1), np.uint64)), ValueError),
        (dict(words=np.zeros((4, 3, 0, 1), np.uint64)), ValueError),
        (dict(words=np.full((4, 3, 3, 1), 64, np.uint64)), ValueError),
        (dict(channels=65), ValueError),
        (dict(channels=0), ValueError),
        (dict(channels=-6), ValueError),
        (dict(channels='6'), TypeError),
        (dict(groups=3), ValueError),
        (dict(scale=np.ones(5, np.float32)), ValueError),
        (dict(extra=1), ValueError),
    ],
)
def test_bad_states(change, error):
    state = native.BinaryConvolution(WEIGHTS).state()
    state.update(change)
    with pytest.raises(error):
        native.BinaryConvolution.from_state(state)


@pytest.mark.parametrize('missing', sorted(native.BinaryConvolution(WEIGHTS).state()))
def test_incomplete_states(missing):
    state = native.BinaryConvolution(WEIGHTS).state()
    del state[missing]
    with pytest.raises(ValueError, match='state'):
        native.BinaryConvolution.from_state(state)


def test_states_are_copies():
    convolution = native.BinaryConvolution(WEIGHTS, scale=np.ones(4, np.float32))
    before = convolution(X)
    state = convolution.state()
    state['words'][...] = 0
    state['scale'][...] = 0
    assert np.array_equal(convolution(X), before)
    with pytest.raises(ValueError):
        convolution.words[0, 0, 0, 0] = 0


def test_a_dense_state_is_dense():
    with pytest.raises(ValueError, match='dense'):
        native.BinaryDense.from_state(native.BinaryConvolution(WEIGHTS).state())
    with pytest.raises(ValueError, match='dense'):
        native.BinaryDense.from_state(
            native.BinaryConvolution(np.ones((4, 6, 1, 1), np.float32), strides=(2, 1)).state()
        )


def test_what_a_dense_layer_says_of_itself():
    dense = native.BinaryDense(np.eye(70, 3, dtype=np.float32))
    assert (dense.inputs, dense.outputs, dense.implementation) == (70, 3, native.implementation())
    assert dense.output_shape((5, 70)) == (5, 3) and dense.words.tolist() == [
        [1, 0],
        [2, 0],
        [4, 0],
    ]
    with pytest.raises(ValueError):
        dense.words[0, 0] = 1


@pytest.mark.parametrize(
    'arguments, error',
    [
        ((np.ones((0, 3), np.float32),), ValueError),
        ((np.ones((3, 0), np.float32),), ValueError),
        ((np.ones((5, 3)),), TypeError),
        ((np.ones((5, 3, 1), np.float32),), ValueError),
        (([[1.0]],), TypeError),
        ((np.ones((5, 3), np.float32), np.ones(5, np.float32)), ValueError),
        ((np.ones((5, 3), np.float32), None, np.ones(3)), TypeError),
        ((np.ones((5, 3), np.float32), None, None, np.ones(3, np.float32)), ValueError),
    ],
)
def test_bad_arguments_of_a_dense_layer(arguments, error):
    with pytest.raises(error):
        native.BinaryDense(*arguments)


def run_python(code, *arguments, **variables):
    environment = dict(os.environ, **variables)
    environment['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, '-c', code] + list(arguments),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=120,
    )


FORCED = (
    'from netopt_callbacks import native; import numpy as np; '
    'print(native.BinaryConvolution(np.ones((1, 1, 1, 1), np.float32)).implementation)'
)


@pytest.mark.parametrize('name', native.all_implementations())
def test_forced_implementation(name):
    done = run_python(FORCED, NETOPT_NATIVE=name)
    if name in native.implementations():
        assert done.stdout.strip() == name, done.stderr
    else:
        assert done.returncode != 0 and 'RuntimeError' in done.stderr and name in done.stderr


def test_forced_unknown_implementation():
    done = run_python(FORCED, NETOPT_NATIVE='fastest')
    assert done.returncode != 0 and 'ValueError' in done.stderr and 'portable' in done.stderr


def test_default_is_the_best():
    assert run_python(FORCED, NETOPT_NATIVE='').stdout.strip() == native.implementations()[0]


@pytest.mark.slow
def test_a_new_instruction_set_is_one_file_and_one_line(tmp_path):
    sources = tmp_path / 'native'
    shutil.copytree(native_builds.SOURCES, str(sources))
    code = (sources / 'portable.cpp').read_text()
    (sources / 'another.cpp').write_text(
        code.replace('Implementation portable', 'Implementation another').replace(
            '"portable"', '"another"'
        )
    )
    listed = (sources / 'implementations.h').read_text()
    (sources / 'implementations.h').write_text(
        listed.replace('X(portable)', 'X(another) X(portable)')
    )
    program = str(tmp_path / 'fuzz')
    native_builds.compile_sources(
        [
            '-I',
            str(sources),
            '-O1',
            '-w',
            '-DBITCONV_FUZZ_MAIN',
            '-o',
            program,
            str(sources / 'fuzz' / 'fuzz_convolution.cpp'),
        ]
        + native_builds.core_sources(str(sources))
    )
    told = subprocess.check_output([program, '10', '0'], universal_newlines=True)
    assert told.split(':')[1].split() == native.implementations()[:-1] + ['another', 'portable']


FLUSHING = """
import ctypes, sys
import numpy as np
from netopt_callbacks import native
native.set_num_threads(2)
tiny = np.full((4, 1, 40, 40), 1e-42, np.float32)
one = np.ones((1, 1, 1, 1), np.float32)
ctypes.CDLL(sys.argv[1])
assert not (tiny * np.float32(1)).any(), 'the library did not switch flushing on'
for name in native.implementations():
    scale = np.array([1e-42], np.float32)
    y = native.BinaryConvolution(one, scale=scale, implementation=name)(tiny)
    assert (y.view(np.int32) == np.array([1e-42], np.float32).view(np.int32)).all(), name
assert not (tiny * np.float32(1)).any(), 'the caller does not have its own mode back'
print('exact')
"""


def test_subnormals_where_the_process_flushes_them_to_zero(tmp_path):
    library, source = tmp_path / 'flush.so', tmp_path / 'flush.c'
    source.write_text(
        '#include <xmmintrin.h>\n'
        '__attribute__((constructor)) static void flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040); '
        '}\n'
    )
    native_builds.compile_sources(
        ['-x', 'c++', '-shared', '-fPIC', str(source), '-o', str(library)]
    )
    done = run_python(FLUSHING, str(library))
    assert done.stdout.strip() == 'exact', done.stderr


@pytest.fixture
def threads():
    before = native.num_threads()
    yield native.set_num_threads
    native.set_num_threads(before)


@pytest.mark.parametrize(
    'count, error', [(0, ValueError), (-1, ValueError), (257, ValueError), (1.5, TypeError)]
)
def test_bad_thread_counts(count, error):
    with pytest.raises(error):
        native.set_num_threads(count)


@pytest.mark.parametrize('batch', [1, 2, 5, 16])
@pytest.mark.parametrize('name', native.implementations())
def test_results_do_not_depend_on_threads(threads, name, batch):
    random = np.random.RandomState(batch)
    x, w = random.randn(batch, 40, 20, 21).astype(np.float32), random.randn(70, 40, 3, 3).astype(
        np.float32
    )
    scale, bias = random.randn(70).astype(np.float32), random.randn(70).astype(np.float32)
    convolution = native.BinaryConvolution(
        w, padding=((1, 1), (1, 1)), scale=scale, bias=bias, implementation=name
    )
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        assert native.num_threads() == count
        results.append(convolution(x).tobytes())
    assert len(set(results)) == 1


def test_one_object_called_from_many_threads(threads):
    threads(2)
    random = np.random.RandomState(0)
    w = random.randn(33, 20, 3, 3).astype(np.float32)
    convolution = native.BinaryConvolution(w)
    inputs = [random.randn(2, 20, 6 + i, 9).astype(np.float32) for i in range(6)]
    expected = [native_oracle.convolution(x, w) for x in inputs]
    wrong = []

    def work(first):
        for i in range(60):
            index = (first + i) % len(inputs)
            if not np.array_equal(convolution(inputs[index]), expected[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


FORK = """
import os, signal, sys, threading
import numpy as np
from netopt_callbacks import native
channels, side, threads, callers, forks = map(int, sys.argv[1:])
native.set_num_threads(threads)
weights = np.random.RandomState(0).randn(channels, channels, 3, 3).astype(np.float32)
convolution = native.BinaryConvolution(weights)
x = np.random.RandomState(1).randn(1, channels, side, side).astype(np.float32)
expected = convolution(x)
stop = threading.Event()
def convolve_until_stopped():
    while not stop.is_set():
        convolution(x)
busy = [threading.Thread(target=convolve_until_stopped) for _ in range(callers)]
for thread in busy:
    thread.start()
statuses = []
for _ in range(forks):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # one that waits for ever would keep the pipes of this process open
        os._exit(0 if all(np.array_equal(convolution(x), expected) for _ in range(3)) else 1)
    statuses.append(os.waitpid(child, 0)[1])
stop.set()
for thread in busy:
    thread.join()
assert not any(statuses), statuses
assert np.array_equal(convolution(x), expected)
print('survived')
"""


@pytest.mark.few(1)
@pytest.mark.parametrize(
    'arguments',
    [
        pytest.param([64, 40, 3, 1, 20], id='while its threads work'),
        # A lock that a call held for a moment hung 11 of 1500 children of such calls.
        pytest.param([1, 3, 1, 3, 200], id='while many short calls begin and end'),
    ],
)
def test_survives_fork_while_another_thread_computes(arguments):
    done = run_python(FORK, *map(str, arguments))
    assert done.stdout.strip() == 'survived', done.stderr


def test_the_gil_is_released(threads):
    threads(1)
    convolution = native.BinaryConvolution(
        np.ones((64, 64, 3, 3), np.float32), implementation='portable'
    )
    x = np.ones((40, 64, 40, 40), np.float32)
    finished, ticks = threading.Event(), []
    worker = threading.Thread(target=lambda: (convolution(x), finished.set()))
    worker.start()
    while not finished.wait(0.001):
        ticks.append(None)
    worker.join()
    assert len(ticks) > 3
