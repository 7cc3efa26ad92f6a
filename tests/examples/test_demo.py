"""The whole way on real scans: train, factor, binarize, retrain, lower; and the demo as a user
runs it."""
import gzip
import importlib.util
import os
import re
import struct
import subprocess
import sys

import cntk as C
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import netopt_callbacks as nc
from paths import CLONE

DEMO = os.path.join(CLONE, 'examples', 'digits.py')
EPOCHS, SAMPLES, FACTOR, BINARIZE = 8, 1197, 2, 3


def example(name):
    """Returns a file of `examples/` as a module."""
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(os.path.dirname(DEMO), name + '.py')
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def digits():
    """Returns the demo as a module, with fewer epochs."""
    module = example('digits')
    module.EPOCHS = EPOCHS
    return module


@pytest.fixture(scope='module')
def data(digits):
    return digits.digits()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='module')
def session(digits, data, folder):
    """Returns the session of a short run with every callback."""
    images, labels = data
    network, session = digits.train(
        nc.training_session,
        images,
        labels,
        epoch_size=SAMPLES,
        data=(images[digits.HELD_OUT], labels[digits.HELD_OUT]),
        callbacks=[
            nc.FactorDense(
                epoch=FACTOR, rank=0.25, filter_function=lambda layer: layer.name == 'hidden'
            ),
            nc.BinarizeConvolution(
                epoch=BINARIZE, filter_function=lambda layer: layer.name == 'second_conv'
            ),
            nc.Lower(),
            nc.TensorBoard(folder),
            nc.ProgressBar(),
        ],
    )
    session.network = network
    return session


@pytest.fixture(scope='module')
def result(session):
    return session.result


def accuracy(network, digits, data):
    images, labels = (part[digits.TEST] for part in data)
    return np.mean(np.argmax(network.eval(images), axis=1) == np.argmax(labels, axis=1))


def test_accuracy_is_recovered(digits, data, session, result):
    assert result.complete
    # Eight epochs; the demo itself has time for more, and is held to two points of the plain
    # script.
    assert accuracy(result.model, digits, data) > 0.93
    assert accuracy(session.network, digits, data) == accuracy(result.model, digits, data)


def test_the_binary_layer_carries_weight(digits, data, result):
    cut = result.model.clone('clone')
    cut.second_conv.W.value = np.zeros_like(cut.second_conv.W.value)
    cut.second_conv.b.value = np.zeros_like(cut.second_conv.b.value)
    assert accuracy(cut, digits, data) < accuracy(result.model, digits, data) - 0.10


def test_the_lowered_network_predicts_the_same(digits, data, result):
    images, labels = data
    trained, lowered = (
        network.eval(images[digits.TEST]) for network in (result.model, result.lowered)
    )
    assert np.array_equal(np.argmax(trained, axis=1), np.argmax(lowered, axis=1))
    assert result.parity.passed and result.parity.samples == 200


def test_what_was_optimized(result):
    factored, binarized = result.records
    assert (factored.optimization, factored.epoch, factored.samples) == (
        'FactorDense',
        FACTOR,
        FACTOR * SAMPLES,
    )
    assert (binarized.optimization, binarized.epoch, binarized.samples) == (
        'BinarizeConvolution',
        BINARIZE,
        BINARIZE * SAMPLES,
    )
    # hidden: 128x4x4 inputs to 128 at rank 32; second_conv: 128 filters of 32x3x3 at 4x4 places.
    (hidden,) = (layer for layer in factored.layers if layer.skipped is None)
    assert (hidden.rank, hidden.parameters_before, hidden.parameters_after) == (
        32,
        2048 * 128 + 128,
        32 * (2048 + 128) + 128,
    )
    (second,) = (layer for layer in binarized.layers if layer.skipped is None)
    assert (second.name, second.binary_macs_after) == ('second_conv', 4 * 4 * 128 * 32 * 9)


def points(folder, tag):
    accumulator = EventAccumulator(folder, size_guidance={'scalars': 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_tensorboard_holds_the_numbers_of_the_records(folder, result):
    factored, binarized = result.records
    metric = points(folder, 'recovery/metric')
    for record in result.records:
        for point in [
            (record.samples - 1, record.metric_before),
            (record.samples, record.metric_before),
            (record.samples, record.metric_after),
        ] + record.curve:
            assert any(step == point[0] and value == np.float32(point[1]) for step, value in metric)
    every_epoch = {epoch * SAMPLES for epoch in range(EPOCHS + 1)}
    corners = {record.samples - 1 for record in result.records}
    assert {step for step, _ in metric} == every_epoch | corners
    assert [step for step, _ in metric] == sorted(step for step, _ in metric)
    assert len(metric) == EPOCHS + 1 + 2 * len(result.records)
    drops = dict(points(folder, 'recovery/drop'))
    assert drops[factored.samples] == np.float32(factored.drop)
    assert drops[EPOCHS * SAMPLES] == np.float32(binarized.drop)
    assert points(folder, 'recovery/recovered')[-1] == (
        EPOCHS * SAMPLES,
        np.float32(binarized.recovered),
    )
    assert points(folder, 'size/parameters')[-1][1] == binarized.network_after.parameters
    assert points(folder, 'train/loss')[-1][0] == EPOCHS * SAMPLES


def test_the_summary_tells_all_of_it(result):
    text = result.summary()
    for expected in (
        'FactorDense',
        'BinarizeConvolution',
        'second_conv',
        '262,272 -> 69,760',
        'predictions the same',
        'Time of a call',
        '1 sample: ',
        '32 samples: ',
    ):
        assert expected in text
    assert [timing.samples for timing in result.parity.speed.timings] == [1, 32]


def write_idx(file, values):
    header = struct.pack(f'>I{values.ndim}i', 0x800 + values.ndim, *values.shape)
    with gzip.open(str(file), 'wb') as out:
        out.write(header + values.astype(np.uint8).tobytes())


def test_the_mnist_example_on_made_up_files(tmp_path, monkeypatch, capsys):
    random = np.random.RandomState(0)
    for part, samples in (('train', 320), ('t10k', 64)):
        labels = random.randint(0, 10, samples)
        images = random.randint(0, 64, (samples, 28, 28))
        images[np.arange(samples), 2 * labels + 4] += 128  # a bright row says which digit it is
        write_idx(tmp_path / (part + '-images-idx3-ubyte.gz'), images)
        write_idx(tmp_path / (part + '-labels-idx1-ubyte.gz'), labels)
    mnist = example('mnist')
    images, labels = mnist.read(str(tmp_path), 't10k')
    assert images.shape == (64, 1, 28, 28) and images.max() > 128 and labels.shape == (64, 10)
    mnist.HELD_OUT = 64
    logdir = str(tmp_path / 'log')
    monkeypatch.setattr(
        sys, 'argv', ['mnist.py', '--data', str(tmp_path), '--epochs', '5', '--logdir', logdir]
    )
    mnist.main()
    said = capsys.readouterr()
    assert 'predictions the same' in said.out and 'test: ClassificationError' in said.err
    assert [step for step, _ in points(logdir, 'test/metric')] == [5 * 256]
    for name in ('optimized.model', 'lowered.model'):
        assert C.load_model(os.path.join(logdir, name)).eval(images).shape == (64, 10)


@pytest.mark.slow
def test_the_demo_as_a_user_runs_it(tmp_path):
    done = subprocess.run(
        [sys.executable, DEMO],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr
    accuracies = {
        name.strip(): float(percent)
        for name, percent in re.findall(r'^([a-z ,]+?)  +([0-9.]+) %$', done.stdout, re.MULTILINE)
    }
    assert set(accuracies) == {
        'plain script',
        'optimized, in the trainer',
        'optimized, exported',
        'lowered',
    }
    assert (
        accuracies['lowered'] == accuracies['optimized, exported'] >= accuracies['plain script'] - 2
    )
    assert 'epoch 11: loss' in done.stderr
    for name in (
        'float network',
        'lowered network',
        'second_conv alone: CNTK float',
        'second_conv alone: native, 1 bit',
    ):
        assert re.search(
            r'^%s +[0-9.]+ +[0-9.]+ to [0-9.]+$' % name, done.stdout, re.MULTILINE
        ), done.stdout
    assert re.search(
        r'^The whole network: 100 at once [0-9.]+ ms float, [0-9.]+ ms lowered, .*; '
        r'1 at once [0-9.]+ ms float',
        done.stdout,
        re.MULTILINE,
    ), done.stdout
    assert os.listdir(str(tmp_path / 'runs' / 'digits'))


def test_the_demo_says_in_words_which_network_is_slower(digits):
    assert (
        digits.compared(100, [0.030, 0.031, 0.032], [0.010])
        == '100 at once 31.00 ms float, 10.00 ms lowered, 3.1 x as fast'
    )
    assert (
        digits.compared(1, [0.001], [0.0025])
        == '1 at once 1.00 ms float, 2.50 ms lowered, SLOWER by a factor of 2.50'
    )
    assert (
        digits.compared(1, [1.000], [1.004])
        == '1 at once 1000.00 ms float, 1004.00 ms lowered, 1.0 x as fast'
    )
