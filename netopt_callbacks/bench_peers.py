"""Other people's convolutions for the bench, in processes of their own.

CNTK lives on CPython 3.6 and current peers do not, and each brings threads that go on spinning
after a call: so this file is also a program, run once per Python and number of threads. As such it
imports nothing of this package and answers one JSON line per JSON line. A peer is warm before it is
timed, and gets and gives float32 NCHW arrays.
"""
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np

WARM_SECONDS = 0.005
PINNED = 'numpy==1.26.4 onnxruntime==1.17.3 onnx==1.16.2 torch==1.12.1'


class Process:
    """The peers that a Python has, with a fixed number of threads that sleep between rounds.

    Args:
        python (str): the Python to run.
        threads (int): of its peers.
        program (sequence of str): what it runs; by default this file.
    """

    def __init__(self, python, threads, program=(os.path.abspath(__file__),)):
        self._python, self._threads, self._program = python, threads, list(program)

    def __enter__(self):
        environment = dict(
            os.environ,
            OMP_WAIT_POLICY='PASSIVE',
            KMP_BLOCKTIME='0',
            OMP_NUM_THREADS=str(self._threads),
            MKL_NUM_THREADS=str(self._threads),
        )
        self._process = subprocess.Popen(
            [self._python] + self._program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            env=environment,
        )
        self._versions = self._read()
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.wait()

    def versions(self):
        """Name of each peer to its version, as text."""
        return self._versions

    def prepare(self, x, weights):
        """Sets up all peers for arrays of these shapes."""
        self.ask(dict(prepare=[list(x.shape), list(weights.shape), self._threads]))

    def round(self):
        """Times a warm call of every peer: name to seconds."""
        return self.ask(dict(round=True))

    def ask(self, question):
        """Sends a question, ready for JSON; returns the answer."""
        self._process.stdin.write(json.dumps(question) + '\n')
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                'the peers\' Python {} ended; run it by hand on {}'.format(
                    self._python, ' '.join(self._program)
                )
            )
        return json.loads(line)


def warm_seconds(call):
    """Seconds of a call after others of its own: other contestants have had the caches and set
    the clock meanwhile."""
    warm = time.perf_counter() + WARM_SECONDS
    call()
    call()
    while time.perf_counter() < warm:
        call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cntk_float(x, weights, threads):
    """CNTK's own float32 convolution on the CPU; its threads are those of OMP_NUM_THREADS."""
    import cntk

    cntk.try_set_default_device(cntk.cpu())
    image = cntk.input_variable(x.shape[1:])
    convolution = cntk.convolution(cntk.constant(weights), image, auto_padding=[False, True, True])
    return lambda: convolution.eval({image: x})


def onnxruntime_int8(x, weights, threads):
    """QuantizeLinear, QLinearConv (uint8 input, int8 weights), DequantizeLinear: float32 in and
    out."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    constants = dict(
        xs=np.float32(0.03),
        xz=np.uint8(128),
        ws=np.float32(0.02),
        wz=np.int8(0),
        ys=np.float32(0.5),
        yz=np.uint8(128),
        w=np.clip(np.rint(weights / 0.02), -127, 127).astype(np.int8),
    )
    pad = weights.shape[2] // 2
    nodes = [
        helper.make_node('QuantizeLinear', ['x', 'xs', 'xz'], ['xq']),
        helper.make_node(
            'QLinearConv', ['xq', 'xs', 'xz', 'w', 'ws', 'wz', 'ys', 'yz'], ['yq'], pads=[pad] * 4
        ),
        helper.make_node('DequantizeLinear', ['yq', 'ys', 'yz'], ['y']),
    ]
    graph = helper.make_graph(
        nodes,
        'int8',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    return lambda: session.run(None, {'x': x})


def torch_int8(x, weights, threads):
    """quantize_per_tensor, quantized Conv2d (FBGEMM), dequantize: float32 in and out."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.quantized.engine = 'fbgemm'
    convolution = torch.nn.quantized.Conv2d(
        weights.shape[1], weights.shape[0], weights.shape[2], padding=weights.shape[2] // 2
    )
    quantized = torch.quantize_per_tensor(torch.from_numpy(weights), 0.02, 0, torch.qint8)
    convolution.set_weight_bias(quantized, None)
    convolution.scale, convolution.zero_point = 0.5, 128
    image = torch.from_numpy(x)

    def run():
        with torch.no_grad():
            return convolution(
                torch.quantize_per_tensor(image, 0.03, 128, torch.quint8)
            ).dequantize()

    return run


PEERS = {
    'cntk float': ('cntk', cntk_float),
    'onnxruntime int8': ('onnxruntime', onnxruntime_int8),
    'torch int8': ('torch', torch_int8),
}


def answer(lines, write):
    """Writes the versions of the peers installed here, then answers `prepare` with {} and
    `round` with seconds per peer."""
    available, versions = {}, {}
    for name, (module, make) in PEERS.items():
        if importlib.util.find_spec(module) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                versions[
                    name
                ] = f'{__import__(module).__version__}, CPython {sys.version.split()[0]}'
            available[name] = make
    write(versions)
    calls = {}
    for line in lines:
        question = json.loads(line)
        if 'prepare' in question:
            x_shape, w_shape, threads = question['prepare']
            random = np.random.RandomState(0)
            x, w = random.randn(*x_shape).astype(np.float32), random.randn(*w_shape).astype(
                np.float32
            )
            calls = {name: make(x, w, threads) for name, make in available.items()}
            for call in calls.values():
                call()
            write({})
        else:
            write({name: warm_seconds(call) for name, call in calls.items()})


def _answer_on(stream):
    def write(answer):
        stream.write(json.dumps(answer) + '\n')
        stream.flush()

    return write


if __name__ == '__main__':
    # What a peer prints must not come between the answers.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    sys.path.pop(0)  # this file's folder: its neighbours are not top-level modules
    answer(sys.stdin, _answer_on(answers))
