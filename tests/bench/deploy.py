"""Exported networks against CNTK and ONNX Runtime, batch 1 and 8, one thread, one run.

`python -m tests.bench.deploy [rounds [python]]`, from the root of the checkout. `python` is an
interpreter with NumPy and a newer ONNX Runtime, which the files are timed in; else this one. The
fastest of the rounds counts. Weights are random.

| row | what it is |
|---|---|
| CNTK float, CNTK lowered | the network before it was binarized; what `nc.Lower` gives |
| float, int8 | the float network in ONNX Runtime, exported by `nc.deploy.export`, and quantized by
    its own tools |
| library, standard | the exported binary network with the library, and in standard operators |
| native | the same with `float_layers='native'`, with the library |
"""
import json
import os
import subprocess
import sys
import tempfile
import time

for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[variable] = '1'

import cntk as C
import numpy as np

import netopt_callbacks as nc
from netopt_callbacks.lowering import lower_binary_layers, lower_segments
from tests.bench.segments import binarized, binary_net

BATCHES = (1, 8)
KEPT = ('first', 'last', 'down')
HERE = os.path.dirname(os.path.abspath(__file__))


def resnet18():
    """Returns ResNet-18 over an input of 3 x 224 x 224; its first convolution, 1x1 ones and
    Dense stay float."""
    layers = C.layers

    def block(y, filters, stride):
        def convolution(y, side, stride, name):
            y = layers.Convolution2D(
                (side, side), filters, strides=stride, pad=side > 1, bias=False, name=name
            )(y)
            return layers.BatchNormalization(map_rank=1)(y)

        inner = convolution(C.relu(convolution(y, 3, stride, 'one')), 3, 1, 'two')
        if stride != 1 or y.shape[0] != filters:
            y = convolution(y, 1, stride, 'down')
        return C.relu(inner + y)

    x = C.input_variable((3, 224, 224))
    y = layers.Convolution2D((7, 7), 64, strides=2, pad=True, bias=False, name='first')(x)
    y = layers.MaxPooling((3, 3), 2, pad=True)(C.relu(layers.BatchNormalization(map_rank=1)(y)))
    for filters, stride in (
        (64, 1),
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
    ):
        y = block(y, filters, stride)
    return layers.Dense(1000, name='last')(layers.GlobalAveragePooling()(y))


def cntk_103d():
    """Returns the strided network of the tutorial, over an input of 1 x 28 x 28."""
    x = C.input_variable((1, 28, 28))
    with C.layers.default_options(activation=C.relu, pad=False):
        return C.layers.Sequential(
            [
                C.layers.Convolution2D((5, 5), 8, strides=2, pad=True, name='first'),
                C.layers.Convolution2D((5, 5), 16, strides=2, pad=True, name='second'),
                C.layers.Dense(10, activation=None, name='last'),
            ]
        )(x)


NETWORKS = (
    ('BinaryNet', lambda: binary_net(128)),
    ('ResNet-18', resnet18),
    ('CNTK 103D', cntk_103d),
)


def trained(model):
    """Gives statistics values, so that signs are of either kind."""
    random = np.random.RandomState(0)
    for leaf in list(model.parameters) + list(model.constants):
        if leaf.name == 'aggregate_variance':
            leaf.value = np.full(leaf.shape, 1.3, np.float32)
        elif leaf.name == 'aggregate_mean':
            leaf.value = (random.randn(*leaf.shape) * 0.2).astype(np.float32)
    return model


def quantized(source, target, x):
    """Writes the int8 form of a float file, calibrated on x; nothing where the tools are
    missing."""
    try:
        from onnxruntime import quantization
    except ImportError:
        return

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{name: x[:1]} for name in [session_input(source)]]

        def get_next(self):
            return self.left.pop() if self.left else None

    here = os.getcwd()
    os.chdir(os.path.dirname(target))  # where its tools leave a file behind
    try:
        quantization.quantize_static(
            source, target, Reader(), quant_format=quantization.QuantFormat.QOperator
        )
    finally:
        os.chdir(here)


def session_input(path):
    import onnxruntime

    return (
        onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider']).get_inputs()[0].name
    )


def cntk_times(model, lowered, x, rounds):
    """Least milliseconds by batch of CNTK float and lowered."""
    result = {}
    for batch in BATCHES:
        least = {}
        for _ in range(rounds):
            for name, network in (('CNTK float', model), ('CNTK lowered', lowered)):
                start = time.perf_counter()
                network.eval({network.arguments[0]: x[:batch]})
                least[name] = min(least.get(name, 9e9), time.perf_counter() - start)
        result[batch] = {name: round(1000 * seconds, 3) for name, seconds in least.items()}
    return result


def main(rounds=20, python=sys.executable, only=None):
    nc.native.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cntk = {}
        for name, make in NETWORKS:
            if only and name != only:
                continue
            model = trained(make())
            binary = binarized(model, KEPT)
            lowered = lower_binary_layers(lower_segments(binary).model)
            x = (
                np.random.RandomState(1)
                .standard_normal((8,) + model.arguments[0].shape)
                .astype(np.float32)
            )
            stem = os.path.join(folder, name)
            print(nc.deploy.export(lowered, stem + '.binary.onnx', data=x), flush=True)
            print(
                nc.deploy.export(binary, stem + '.native.onnx', data=x, float_layers='native'),
                flush=True,
            )
            print(nc.deploy.export(model, stem + '.float.onnx', data=x), flush=True)
            try:
                quantized(stem + '.float.onnx', stem + '.int8.onnx', x)
            except Exception as error:  # of the tools: whatever they raise
                print(f'no int8 of {name}: {str(error)[:200]}')
            np.savez(stem + '.npz', x=x)
            cntk[name] = cntk_times(model, lowered, x, rounds)
        clean = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}
        said = json.loads(
            subprocess.check_output(
                [python, os.path.join(HERE, 'deploy_times.py'), folder, str(rounds)],
                env=clean,
                universal_newlines=True,
            )
        )
    print(
        '{}, ONNX Runtime {}, CPython {}, one thread, {}'.format(
            nc.native.cpu_name() if hasattr(nc.native, 'cpu_name') else '',
            said['onnxruntime'],
            said['python'],
            time.strftime('%Y-%m-%d'),
        )
    )
    for row in said['rows']:
        print(
            '\n{}: bytes {}, making a session, ms: {}'.format(
                row['network'], row['bytes'], row['load_ms']
            )
        )
        for batch in BATCHES:
            print(
                '  batch %d, ms: %s'
                % (batch, dict(cntk[row['network']][batch], **row['ms'][str(batch)]))
            )


if __name__ == '__main__':
    main(*([int(sys.argv[1])] if sys.argv[1:] else []), *sys.argv[2:])
