"""ONNX Runtime's float and int8 networks for `bench --networks`, in a process of their own.

Run by a Python that may be another one than CNTK's, so it imports nothing of this package. It
answers a line of JSON with one: `prepare` with the largest difference from CNTK's float output,
`round` with seconds.
"""
import json
import os
import sys
import time

import numpy as np

WARM_SECONDS = 0.005


def warm_seconds(call):
    """Seconds of a call after others of its own, for 5 ms, but after one at least."""
    warm = time.perf_counter() + WARM_SECONDS
    call()
    while time.perf_counter() < warm:
        call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def float_model(ops, weights, shape):
    """Returns the ONNX model of a network of `bench_network_specs`, any batch."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], {}
    for op in ops:
        key, reads, gives = op.get('weights'), list(op['input']), op['output']

        def constant(name, value):
            constants[name] = np.ascontiguousarray(value)
            return name

        if op['op'] == 'convolution':
            (top, bottom), (left, right) = op['padding']
            reads.append(constant(key, weights[key]))
            if op['bias']:
                reads.append(constant(key + 'b', weights[key + 'b']))
            nodes.append(
                helper.make_node(
                    'Conv',
                    reads,
                    [gives],
                    kernel_shape=[op['kernel']] * 2,
                    strides=[op['stride']] * 2,
                    pads=[top, left, bottom, right],
                )
            )
        elif op['op'] == 'dense':
            nodes.append(helper.make_node('Flatten', reads, [gives + 'flat']))
            nodes.append(
                helper.make_node(
                    'Gemm',
                    [
                        gives + 'flat',
                        constant(key, weights[key]),
                        constant(key + 'b', weights[key + 'b']),
                    ],
                    [gives],
                )
            )
        elif op['op'] == 'normalize':
            parts = [
                constant(key + part, weights[key + part])
                for part in ('scale', 'bias', 'aggregate_mean', 'aggregate_variance')
            ]
            nodes.append(
                helper.make_node('BatchNormalization', reads + parts, [gives], epsilon=1e-5)
            )
        elif op['op'] == 'max_pool':
            (top, bottom), (left, right) = op['padding']
            nodes.append(
                helper.make_node(
                    'MaxPool',
                    reads,
                    [gives],
                    kernel_shape=[op['kernel']] * 2,
                    strides=[op['stride']] * 2,
                    pads=[top, left, bottom, right],
                )
            )
        else:
            nodes.append(
                helper.make_node(
                    {'relu': 'Relu', 'add': 'Add', 'global_average': 'GlobalAveragePool'}[op['op']],
                    reads,
                    [gives],
                )
            )
    graph = helper.make_graph(
        nodes,
        'network',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N'] + list(shape))],
        [helper.make_tensor_value_info(ops[-1]['output'], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=7)


def int8_model(path, quantized, x):
    """Writes the network with uint8 values and int8 weights per channel, its ranges calibrated
    on `x`."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._left = [{'x': x[:1]}, {'x': -x[:1]}]

        def get_next(self):
            return self._left.pop() if self._left else None

    path, quantized, before = os.path.abspath(path), os.path.abspath(quantized), os.getcwd()
    os.chdir(os.path.dirname(path))  # it leaves augmented_model.onnx where the process is
    try:
        quantization.quantize_static(
            path,
            quantized,
            Reader(),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
    finally:
        os.chdir(before)


def session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


class Peers:
    """Sessions of one network at a time; `folder` holds its files between batches."""

    def __init__(self):
        self._made, self._calls = {}, {}

    def prepare(self, name, ops, shape, folder, threads):
        """Sets up the calls; returns the largest differences of both outputs from CNTK's,
        relative to its largest."""
        import onnx

        with np.load(os.path.join(folder, name + '.npz')) as stored:
            arrays = dict(stored)
        x, expected = arrays['x'], arrays['expected']
        if name not in self._made:
            path, quantized = (
                os.path.join(folder, f'{name}-{threads}.{kind}.onnx') for kind in ('float', 'int8')
            )
            onnx.save(float_model(ops, arrays, shape), path)
            int8_model(path, quantized, x)
            self._made = {
                name: dict(
                    zip(
                        ('onnxruntime float', 'onnxruntime int8'),
                        (session(path, threads), session(quantized, threads)),
                    )
                )
            }
        self._calls, differences = {}, {}
        for kind, made in self._made[name].items():
            self._calls[kind] = lambda made=made: made.run(None, {'x': x})
            differences[kind] = float(
                np.abs(self._calls[kind]()[0] - expected).max() / np.abs(expected).max()
            )
        return differences

    def round(self):
        return {kind: warm_seconds(call) for kind, call in self._calls.items()}


def answer(lines, write):
    """Writes the version, or {} where there is none here, then answers questions."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        write({})
        return
    write(
        {
            'onnxruntime': f'{onnxruntime.__version__}, onnx {onnx.__version__}, CPython '
            f'{sys.version.split()[0]}'
        }
    )
    peers = Peers()
    for line in lines:
        question = json.loads(line)
        write(peers.prepare(**question['prepare']) if 'prepare' in question else peers.round())


def answer_on_stdout(answer_lines):
    """Calls `answer_lines(lines, write)` on stdin and stdout; libraries print to stderr."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)

    def write(answer):
        answers.write(json.dumps(answer) + '\n')
        answers.flush()

    answer_lines(sys.stdin, write)


if __name__ == '__main__':
    sys.path.pop(0)  # this file's folder: its neighbours are not top-level modules
    answer_on_stdout(answer)
