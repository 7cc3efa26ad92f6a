"""`examples/measure_factorization.py`: its runs, on few and made-up samples, and its tables."""
import importlib.util
import json
import os
import sys

import numpy as np
import pytest

from paths import CLONE


@pytest.fixture
def measure(monkeypatch):
    path = os.path.join(CLONE, 'examples', 'measure_factorization.py')
    spec = importlib.util.spec_from_file_location('measure_factorization', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made_up = module.simulated(np.random.RandomState(0), 100)
    monkeypatch.setattr(module, 'data', lambda name, options, seed: (made_up, made_up))
    return module


def run(measure, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['measure_factorization.py'] + list(arguments))
    measure.main()
    return capsys.readouterr()


def test_each_rule_is_measured_once(measure, monkeypatch, capsys, tmp_path):
    output = str(tmp_path / 'raw.jsonl')
    arguments = ['--networks', 'simulated', '--seeds', '1', '--output', output]
    first = run(measure, monkeypatch, capsys, *arguments)
    with open(output) as file:
        results = {result['case']: result for result in map(json.loads, file)}
    assert len(results) == 1 + len(measure.RULES['simulated'])
    plain, factored = results['not factored'], results['rank=5']
    assert plain['parameters'] == 2802 and plain['ranks'] == {}
    # 50x50 at rank 5: 500 weights instead of 2500.
    assert factored['ranks'] == {'second': 5} and factored['parameters'] == 802
    assert set(factored['errors']) == {'before', 'after', '1', '2', '4'}
    assert results['rank=0.6']['parameters'] == 2802  # saves nothing: left as it was
    second = run(measure, monkeypatch, capsys, *arguments)
    assert second.out == first.out and not second.err


def test_the_table_holds_means_and_ranges(measure):
    results = {
        ('simulated', seed, 'rank=5'): {
            'network': 'simulated',
            'case': 'rank=5',
            'ranks': {'second': 5},
            'parameters': 802,
            'errors': {'after': after},
        }
        for seed, after in enumerate((4.0, 8.0))
    }
    row = measure.table(results).split('\n')[-1]
    assert row == '| rank=5 | 5 | 802 |  | 6.00 (4.00-8.00) |  |  |  |  |'


def test_times_compare_a_layer_with_its_factors(measure, monkeypatch, capsys):
    monkeypatch.setattr(measure, 'SIZES', (50,))
    monkeypatch.setattr(measure, 'TIMED_ROUNDS', 2)
    lines = run(measure, monkeypatch, capsys, '--times').out.split('\n')
    assert [line.split(' | ')[:2] for line in lines[2:4]] == [['| 50', '1'], ['| 50', '64']]


def test_mnist_needs_its_files(measure, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(measure, monkeypatch, capsys)
    assert '--data' in capsys.readouterr().err
