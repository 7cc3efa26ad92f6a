"""The guide's optimization with an operation in Python: swap, gradient, checkpoint and resume."""
import json
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from graph_guide import snippets
from paths import PYTHONPATH
from user_script import KILLED, Identity, Killer, Script, hidden


@pytest.fixture(scope='module')
def folder(tmpdir_factory):
    """A folder with the guide's example as the module `rounding`, importable here."""
    folder = tmpdir_factory.mktemp('rounding')
    (example,) = snippets('class Round(')
    folder.join('rounding.py').write(example)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_it_computes_and_trains_what_it_says(folder):
    import rounding

    x = C.input_variable(6, needs_gradient=True)
    model = C.layers.Dense(3, activation=C.tanh, name='d')(x)
    rounded = rounding.RoundInputs(0.5).transform(model)
    data = np.random.RandomState(0).uniform(-2, 2, (5, 6)).astype('f')
    W, b = model.d.W.value, model.d.b.value
    halves = np.floor(data / 0.5 + 0.5) * 0.5  # no tie among these, which NumPy would round to even
    y = np.tanh(halves.dot(W) + b)
    np.testing.assert_allclose(
        rounded.eval(data), y, rtol=1e-5, atol=1e-6
    )  # float32 sums of 6 products
    slope = 1 - y**2
    gradients = rounded.grad({x: data}, wrt=[x, model.d.W])
    np.testing.assert_allclose(gradients[x], slope.dot(W.T), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[model.d.W], halves.T.dot(slope), rtol=1e-4, atol=1e-5)


def test_it_computes_and_trains_on_sequences(folder):
    import rounding

    x = C.sequence.input_variable(6, needs_gradient=True)
    model = C.layers.Dense(3, activation=C.tanh, name='d')(x)
    rounded = rounding.RoundInputs(0.5).transform(model)
    random = np.random.RandomState(0)
    data = [random.uniform(-2, 2, (steps, 6)).astype('f') for steps in (4, 2, 4)]
    W, b = model.d.W.value, model.d.b.value
    outputs = [np.tanh((np.floor(steps / 0.5 + 0.5) * 0.5).dot(W) + b) for steps in data]
    for got, y in zip(rounded.eval({x: data}), outputs):
        np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-6)
    gradients = rounded.grad({x: data}, wrt=[x])
    for got, y in zip(gradients, outputs):
        np.testing.assert_allclose(got, (1 - y**2).dot(W.T), rtol=1e-4, atol=1e-5)


def main(folder, kill):
    """Trains with the operation inserted after one epoch and a swap after two; prints what it
    leaves."""
    import rounding

    script = Script(checkpoint=300, folder=folder, test=False, cross_validation=0)
    script.run(
        [
            rounding.RoundInputs(0.25, epoch=1, filter_function=hidden),
            Identity(epoch=2),
            Killer(int(kill)),
        ],
        data=script.held_out,
    )
    records = [record.to_dict() for record in script.session.result.records]
    inside = [f.op_name for f in nc.graph.walk(script.z)].count('UserFunction')
    exported = script.session.result.model.eval({script.x: script.images[:9]}).tobytes()
    print('OUTCOME ' + json.dumps([script.state().hex(), records, inside, exported.hex()]))


def run(module_folder, folder, kill=0):
    """Runs `main` in a new process; returns what it leaves, or None where it was killed."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(module_folder), PYTHONPATH]))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', __file__, str(folder), str(kill)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    if done.returncode == KILLED:
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith('OUTCOME'))
    return json.loads(line[len('OUTCOME ') :])


@pytest.mark.slow
def test_it_survives_swap_checkpoint_and_resume(folder, tmpdir):
    """64 of 700 samples a minibatch: inserted after the 11th, exchanged after the 22nd."""
    whole = run(folder, tmpdir.mkdir('whole'))
    assert whole[2] == 1 and [record['optimization'] for record in whole[1]] == [
        'RoundInputs',
        'Identity',
    ]
    killed = tmpdir.mkdir('killed')
    assert run(folder, killed, kill=16) is None
    assert run(folder, killed) == whole


if __name__ == '__main__':
    main(*sys.argv[1:])
