"""BinarizeDense in a session, a hand loop, nc.train and nc.optimize: records, stages, resuming,
the lowered network."""
import json
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from binary_networks import dense_layers, images
from netopt_callbacks import native
from netopt_callbacks.optimizations.binary_block import binary_blocks
from paths import PYTHONPATH
from user_script import EPOCH, KILLED, SAMPLES, Killer, Script, hidden, loop


def binarize(epoch, operands='both', **options):
    """Without a filter: of `Script` it takes 'hidden' and leaves 'classify'."""
    return nc.BinarizeDense(epoch=epoch, operands=operands, **options)


def same_bits(one, other):
    return np.array_equal(np.asarray(one).view(np.uint32), np.asarray(other).view(np.uint32))


@pytest.mark.parametrize('implementation', native.implementations())
def test_in_a_session_it_is_binarized_trained_and_lowered(implementation, monkeypatch):
    monkeypatch.setenv('NETOPT_NATIVE', implementation)
    script = Script(cross_validation=0)
    W = script.z.hidden.W
    seen = []
    optimization = binarize(1)
    prepare = optimization.prepare
    optimization.prepare = lambda model, minibatches: (
        seen.append(W.value),
        prepare(model, minibatches),
    )
    script.run([optimization, nc.Lower(tolerance=0)], data=script.held_out)
    result = script.session.result
    (record,) = result.records
    assert (record.optimization, record.epoch, record.samples) == ('BinarizeDense', 1, SAMPLES)
    taken, left = record.layers
    assert (taken.name, taken.bits_after, taken.shape) == (
        'hidden',
        1,
        (6, 6, 6, 12),
    ) and 0 < taken.error < 1
    assert left.name == 'classify' and left.skipped.startswith('last Dense of the network')
    assert record.metric_before is not None and len(record.curve) > 1 and record.drop is not None
    # The latent weights are the Parameter the user's learner trained before and trained on.
    assert any(parameter.uid == W.uid for parameter in script.learners[0].parameters)
    assert W.uid in {parameter.uid for parameter in script.z.parameters}
    assert not np.array_equal(seen[0], W.value)
    parity = result.parity
    assert [layer.name for layer in parity.layers] == ['hidden'] and parity.layers[
        0
    ].integers == 120 * 12
    assert parity.largest_difference == 0
    values = {script.x: script.images[:50]}
    assert same_bits(result.lowered.eval(values), result.model.eval(values))
    assert 'BinarizeDense' in result.summary() and 'hidden' in result.summary()


def test_activations_first_then_weights_then_lowered():
    script = Script(test=False, cross_validation=0)
    script.run([binarize(1, 'inputs'), binarize(2), nc.Lower()], data=script.held_out)
    first, second = script.session.result.records
    assert [(record.epoch, record.layers[0].bits_after) for record in (first, second)] == [
        (1, 32),
        (2, 1),
    ]
    assert 'only its input is 1-bit' in first.layers[0].message
    assert 'now its weights are' in second.layers[0].message
    assert (
        script.session.result.parity.layers[0].integers > 0 and script.session.result.parity.passed
    )


@pytest.mark.parametrize(
    'callbacks, words',
    [
        (
            lambda: [
                binarize(1, filter_function=hidden),
                binarize(2, 'inputs', filter_function=hidden),
            ],
            "BinarizeDense.*got none.*'hidden'.*1-bit already",
        ),
        (
            lambda: [binarize(1, 'inputs'), binarize(1, 'inputs')],
            "'hidden'.*input must be float, and an earlier optimization",
        ),
        (
            lambda: [nc.FactorDense(epoch=1, rank=3, filter_function=hidden), binarize(2)],
            "BinarizeDense.*got none.*'classify'.*Changed already: DenseFactored 'hidden'",
        ),
        (
            lambda: [binarize(1), nc.FactorDense(epoch=2, rank=3, filter_function=hidden)],
            'FactorDense.*got none',
        ),
    ],
    ids=['weights first', 'inputs twice', 'factored', 'factored later'],
)
def test_what_excludes_each_other_is_refused_before_training(callbacks, words):
    script = Script()
    with pytest.raises(ValueError, match=words):
        script.run(callbacks())
    assert script.trainer.total_number_of_samples_seen == 0


def test_with_a_convolution_and_a_factored_dense_in_one_run():
    script = Script(test=False, cross_validation=0)
    script.run(
        [
            nc.BinarizeConvolution(epoch=1, filter_function=lambda layer: True),
            binarize(2),
            nc.FactorDense(epoch=3, rank=2, filter_function=lambda layer: layer.name == 'classify'),
            nc.Lower(),
        ],
        data=script.held_out,
    )
    result = script.session.result
    assert [layer.name for layer in result.parity.layers] == [
        'conv',
        'hidden',
    ] and result.parity.passed
    assert [record.optimization for record in result.records] == [
        'BinarizeConvolution',
        'BinarizeDense',
        'FactorDense',
    ]


def test_without_held_out_data_the_record_says_what_was_not_calibrated():
    script = Script(sweeps=2, test=False, cross_validation=0)
    script.run([binarize(1)])
    note = script.session.result.records[0].layers[0]
    assert note.message.startswith('no held-out data to calibrate input_shift and output_scale on')
    assert note.message in script.session.result.summary()


def test_a_learned_shift_starts_calibrated_and_is_trained_by_its_own_learner():
    shifts = {}
    for rate in (0.0, 0.1):
        script = Script(sweeps=2, test=False, dropout=False)
        script.run(
            [
                binarize(
                    1,
                    input_shift='learn',
                    learner=lambda parameters: C.sgd(
                        parameters, C.learning_parameter_schedule(rate)
                    ),
                )
            ],
            data=script.held_out,
        )
        shifts[rate] = next(
            p for p in script.session.result.model.parameters if p.name == 'input_shift'
        ).value
    assert shifts[0.0].shape == (6, 1, 1) and np.abs(shifts[0.0]).max() > 0
    assert (shifts[0.0] != shifts[0.1]).any()


def test_in_a_hand_loop_and_gone_on_from_its_checkpoint(tmpdir):
    file = str(tmpdir.join('model'))

    def attached(script):
        return nc.attach(
            script.trainer,
            [binarize(1, 'inputs'), binarize(3), nc.Lower()],
            epoch_size=EPOCH,
            data=script.held_out,
        )

    whole = Script()
    with attached(whole) as run:
        loop(whole, 0, 10)
        whole.trainer.save_checkpoint(file)
        rest = loop(whole, 10, 40)
    assert [layer.name for layer in run.result.parity.layers] == ['hidden']
    resumed = Script()
    with attached(resumed) as again:
        resumed.trainer.restore_from_checkpoint(file)
        assert loop(resumed, 10, 40) == rest
    assert resumed.state() == whole.state()
    assert [r.to_dict() for r in again.result.records] == [r.to_dict() for r in run.result.records]
    assert again.result.parity.to_dict() == run.result.parity.to_dict()


def test_under_function_train():
    script = Script(dropout=False)
    summary = nc.train(
        C.combine([script.loss, script.metric]),
        (script.images, script.labels),
        minibatch_size=64,
        max_epochs=3,
        parameter_learners=script.learners,
        data=script.held_out,
        callbacks=[binarize(1), nc.Lower()],
    )
    assert [record.optimization for record in summary.result.records] == ['BinarizeDense']
    assert [layer.name for layer in summary.result.parity.layers] == ['hidden']


def test_optimize_transforms_trains_and_lowers():
    features, model = dense_layers()
    data = images(features.shape, 60)
    seen = []

    def train(binary):
        target = C.input_variable(3)
        trainer = C.Trainer(
            binary,
            C.cross_entropy_with_softmax(binary, target),
            [C.sgd(binary.parameters, C.learning_parameter_schedule(0.1))],
        )
        before = model.first.W.value
        for _ in range(3):
            trainer.train_minibatch(
                {features: data, target: np.eye(3, dtype=np.float32)[np.arange(60) % 3]}
            )
        assert not np.array_equal(before, model.first.W.value)
        seen.append(binary)

    lowered = nc.optimize(model, nc.BinarizeDense(), train, data=(data,))
    assert [block.name for block in binary_blocks(seen[0])] == ['first', 'second']
    values = images(features.shape, 9, seed=4)
    assert same_bits(lowered.eval(values), seen[0].eval(values))
    unfitted = nc.optimize(model, nc.BinarizeDense(filter_function=lambda layer: True))
    assert [f.name for f in nc.graph.walk(unfitted) if f.op_name == 'BinarySegmentOp'] == [
        'first_to_last'
    ]


def test_binary_layers_that_the_model_came_with_are_lowered_too():
    features, model = dense_layers()
    binary = (
        nc.BinarizeDense(filter_function=lambda layer: layer.name == 'second')
        .transform(model)
        .model
    )
    lowered = nc.optimize(
        binary, nc.FactorDense(rank=2, filter_function=lambda layer: layer.name == 'first')
    )
    names = {f.op_name for f in nc.graph.walk(lowered)}
    assert {'BinarySegmentOp', 'Dense', 'DenseFactored'} < names and 'BinaryDense' not in names


def main(folder, kill):
    """Runs the script in `folder`; prints what it leaves."""
    script = Script(checkpoint=300, folder=folder, test=False, cross_validation=0)
    script.run(
        [binarize(1, 'inputs'), binarize(2), nc.Lower(), Killer(int(kill))], data=script.held_out
    )
    result = script.session.result
    print(
        'OUTCOME '
        + json.dumps(
            [
                script.state().hex(),
                [record.to_dict() for record in result.records],
                result.parity.to_dict(),
            ]
        )
    )


def run(folder, kill=0):
    """Runs `main` in a new process; returns its outcome, or None where it was killed."""
    environment = dict(os.environ, PYTHONPATH=PYTHONPATH)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', os.path.abspath(__file__), str(folder), str(kill)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        universal_newlines=True,
    )
    if done.returncode == KILLED:
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    return next(line for line in done.stdout.splitlines() if line.startswith('OUTCOME'))


@pytest.mark.slow
# Minibatches of 64 of 700 samples: epoch 1 ends with the 11th, epoch 2 with the 22nd.
@pytest.mark.parametrize('kills', [(8,), (14, 13)], ids=str)
def test_killed_and_resumed_equals_never_killed(kills, tmpdir):
    whole, killed = run(tmpdir.mkdir('whole')), tmpdir.mkdir('killed')
    for kill in kills:
        assert run(killed, kill) is None
    assert run(killed) == whole


if __name__ == '__main__':
    main(*sys.argv[1:])
