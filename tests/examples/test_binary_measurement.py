"""The table of `examples/measure_binarization.py`, from made-up results; its data, from made-up
files."""
import gzip
import importlib.util
import os
import struct

import numpy as np
import pytest

from paths import CLONE

EXAMPLES = os.path.join(CLONE, 'examples')


@pytest.fixture(scope='module')
def measure():
    spec = importlib.util.spec_from_file_location(
        'measure_binarization', os.path.join(EXAMPLES, 'measure_binarization.py')
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(network, seed, name, after, end):
    return (network, seed, name), {
        'network': network,
        'seed': seed,
        'combination': name,
        'after': after,
        'end': end,
    }


def test_table_is_sorted_and_leaves_out_what_is_not_complete(measure):
    results = dict(
        [
            result('strided', 0, 'worse', 50.0, 4.0),
            result('strided', 1, 'worse', 70.0, 6.0),
            result('pooled', 0, 'worse', 40.0, 3.0),
            result('strided', 0, 'better', 9.0, 2.0),
            result('pooled', 0, 'better', 8.0, 1.0),
            result('strided', 0, 'alone', 1.0, 0.5),
        ]
    )
    lines = measure.table(results).split('\n')
    assert lines[2:] == [
        '| better | 9.0 | **2.00** (2.00-2.00, 1) | 8.0 | **1.00** (1.00-1.00, 1) |',
        '| worse | 60.0 | **5.00** (4.00-6.00, 2) | 40.0 | **3.00** (3.00-3.00, 1) |',
    ]
    assert lines[0].count('|') == lines[1].count('|') == 6


def test_effects_compare_runs_that_differ_in_one_option_alone(measure):
    name = 'channel, %s, None, %s, None'
    results = dict(
        [
            result('strided', 0, name % ('None', 'None'), 50.0, 4.0),
            result('strided', 0, name % ('sample', 'None'), 50.0, 6.0),
            result('strided', 1, name % ('None', 'None'), 50.0, 4.0),
            result('strided', 1, name % ('sample', 'None'), 50.0, 5.0),
            result('strided', 1, name % ('sample', 'calibrate'), 50.0, 4.5),
            result('strided', 2, 'float', 1.0, 1.0),
            result('pooled', 0, name % ('None', 'None'), 50.0, 4.0),
            result('pooled', 0, name % ('sample', 'None'), 50.0, 90.0),
        ]
    )
    # Differences 2 and 1: mean 1.5, deviation sqrt(0.5 / (2 - 1)), standard error sqrt(0.5 / 2).
    # The pooled pair diverged; of the one pair of output_scale there is no error to tell.
    assert measure.effects(results).split('\n')[2:] == [
        '| strided | input_scale: sample instead of None |  | +1.50 ± 0.50 (2) |'
    ]


def test_all_combinations_are_options_of_the_optimization(measure):
    every = measure.combinations()
    assert len(every) == len({measure.name_of(each) for each in every}) == 1 + 3 * 2 * 3 * 2 * 2
    assert set(map(measure.name_of, measure.core())) < set(map(measure.name_of, every))
    for combination in every[1:]:
        for binarize, _ in measure.NETWORKS.values():
            binarize(learner=lambda parameters: None, **combination)


def test_the_layers_named_are_those_that_are_binarized(measure):
    import cntk as C
    import netopt_callbacks as nc

    held_out = np.random.RandomState(0).rand(8, 1, 28, 28).astype(np.float32)
    for network, (_, names) in measure.NETWORKS.items():
        model = measure.build(network)(C.input_variable((1, 28, 28)))
        new_model = measure.binarized(network, model, measure.core()[1], held_out)
        binary = [
            f.name
            for f in nc.graph.walk(new_model)
            if f.op_name in ('BinaryConvolution', 'BinaryDense')
        ]
        assert binary == list(names)
        assert measure.binarized(network, model, None, held_out) is model


def test_mnist_files_are_read(measure, tmp_path):
    images = np.arange(2 * 784).reshape(2, 28, 28) % 256
    for name, header, values in (
        ('train-images-idx3-ubyte', (2051, 2, 28, 28), images),
        ('train-labels-idx1-ubyte', (2049, 2), np.array([3, 9])),
    ):
        with gzip.open(str(tmp_path / (name + '.gz')), 'wb') as file:
            file.write(struct.pack(f'>{len(header)}I', *header) + values.astype(np.uint8).tobytes())
    read, labels = measure.mnist(str(tmp_path), 'train')
    np.testing.assert_array_equal(read, images.reshape(2, 1, 28, 28).astype(np.float32) / 255)
    assert labels.argmax(axis=1).tolist() == [3, 9] and labels.sum() == 2
