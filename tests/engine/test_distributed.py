"""Two workers over MPI: the same network on both, exact, resumable, and no hang.

The script of each worker is `main` below, under the `mpiexec` of the environment.
"""
import builtins
import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import time

import cntk as C
import numpy as np
import pytest
from cntk.train.distributed import (
    block_momentum_distributed_learner,
    data_parallel_distributed_learner,
)

import netopt_callbacks as nc
from slices import few
from under_mpi import mpiexec
from user_script import SAMPLES, Identity, Killer, Primitive, Script, hidden

OUTCOMES = 'NETOPT_TEST_OUTCOMES'  # the folder of the workers' outcomes
LEARNERS = {
    'data parallel': data_parallel_distributed_learner,
    '1 bit': lambda learner: data_parallel_distributed_learner(learner, num_quantization_bits=1),
    'block momentum': lambda learner: block_momentum_distributed_learner(learner, block_size=200),
}


def noisy(matrix, rank):
    """A factor function that gives every worker something else."""
    random = np.random.RandomState(C.Communicator.rank())
    return (
        random.randn(matrix.shape[0], rank).astype(np.float32) * 0.1,
        random.randn(rank, matrix.shape[1]).astype(np.float32) * 0.1,
    )


def ragged(matrix, rank):
    """A factor function whose inner size depends on the worker."""
    return noisy(matrix, 3 + C.Communicator.rank())


class Scalar(nc.Optimization):
    """Adds a Constant without axes that depends on the worker, beside factors that do."""

    def transform(self, model):
        outputs = list(model.outputs)
        number = C.constant(1.0 + C.Communicator.rank(), shape=(), name='number')
        outputs[-2] = C.element_times(outputs[-2], number, name='loss').output
        return C.combine(outputs)


class Raises(nc.Optimization):
    """Raises on one worker alone."""

    def __init__(self, rank):
        super().__init__(epoch=1)
        self._rank = rank

    def transform(self, model):
        if C.Communicator.rank() == self._rank:
            raise ValueError(f'raised by worker {self._rank}')
        return model


class RaisingObserver(nc.Observer):
    """Raises in the middle of an epoch, on the main worker, the only one that has observers."""

    def on_minibatch(self, samples, loss, metric):
        if samples > SAMPLES // 2:
            raise ValueError('raised by an observer')


PLANS = {
    'plain': lambda: None,
    'observer': lambda: [nc.Observer()],
    'identity': lambda: [Identity(epoch=1), Identity(epoch=2)],
    'factor': lambda: [nc.FactorDense(epoch=1, rank=4, filter_function=hidden), Identity(epoch=2)],
    'readers': lambda: PLANS['factor'](),
    'lower rank': lambda: [
        nc.FactorDense(epoch=1, rank=3, filter_function=hidden),
        Identity(epoch=2),
    ],
    'noisy': lambda: [
        nc.FactorDense(epoch=1, rank=4, filter_function=hidden, factor_function=noisy),
        Scalar(epoch=1),
    ],
    'ragged': lambda: [
        nc.FactorDense(epoch=1, rank=4, filter_function=hidden, factor_function=ragged)
    ],
    'of the main worker alone': lambda: [Identity(epoch=1)] * (C.Communicator.rank() == 0),
    'of each worker': lambda: [Identity(epoch=1 + C.Communicator.rank())],
    'second worker raises': lambda: [Raises(rank=1)],
    'main worker raises': lambda: [Raises(rank=0)],
    'observer raises': lambda: [Identity(epoch=1), RaisingObserver()],
}


def watched_open(folder, written):
    """Returns `open`, which also notes the files in a folder that are opened for writing."""
    original = builtins.open

    def watched(file, mode='r', *arguments, **options):
        if set(mode) & set('wax+') and str(file).startswith(folder):
            written.append(os.path.relpath(str(file), folder))
        return original(file, mode, *arguments, **options)

    return watched


def main(folder, kind, plan, kill):
    """Trains, and prints what this worker ends with."""
    rank, written = C.Communicator.rank(), []
    # Pulling random state out of CNTK takes a save, and each save moves block momentum on: with
    # Dropout a swap under it is not plain CNTK's, but a run that is killed goes on all the same.
    script = distributed(
        kind,
        sweeps=3,
        frequency=SAMPLES,
        folder=folder,
        checkpoint=SAMPLES,
        dropout=kind != 'block momentum' or plan in ('factor', 'readers'),
    )
    held = other_readers(script) if plan == 'readers' else []
    callbacks = PLANS[plan]()
    records = []
    if callbacks is None:
        C.training_session(**script.arguments).train()
    else:
        # A folder and a file of each worker's own, so that it shows who writes.
        watching = [
            nc.TensorBoard(os.path.join(folder, f'board{rank}')),
            nc.ProgressBar(open(os.path.join(folder, f'bar{rank}'), 'a')),
        ]
        builtins.open = watched_open(folder, written)
        if int(kill):
            watching.append(Killer(int(kill)))
        session = nc.training_session(
            callbacks=callbacks + watching,
            epoch_size=SAMPLES,
            data=script.held_out,
            **script.arguments,
        )
        session.train()
        records = [record.to_dict() for record in session.result.records]
    check_that_they_followed(held, script)
    loss = script.trainer.loss_function
    values = hashlib.sha256(b''.join(p.value.tobytes() for p in loss.parameters)).hexdigest()
    structure = repr([(f.op_name, [o.shape for o in f.outputs]) for f in nc.graph.walk(loss)])
    summaries = [event for event in script.log.events if event[0] == 'summary']
    tell(
        [
            rank,
            values,
            repr(summaries),
            records,
            script.trainer.total_number_of_samples_seen,
            structure,
            sorted(set(written)),
        ]
    )
    C.Communicator.finalize()


def other_readers(script):
    """Returns Functions over the layers of a network that a script may hold, more of them on the
    main worker: over its output, of another input, with a placeholder, and an inner part."""
    held = [C.softmax(script.z), script.z(C.input_variable((1, 6, 6)))]
    if C.Communicator.rank() == 0:
        held += [
            script.z.clone('share', {script.x: C.placeholder((1, 6, 6))}),
            C.reduce_sum(script.z.find_by_name('hidden')),
            C.tanh(script.z),
        ]
    return held


def check_that_they_followed(held, script):
    """Raises where what a script held is not over the network as it now is."""
    current = {parameter.uid for parameter in script.trainer.model.parameters}
    images = script.images[:8]
    expected = script.trainer.model.eval({script.x: images})
    for number, function in enumerate(held):
        assert {parameter.uid for parameter in function.parameters} <= current, number
        if number in (0, 4):
            applied = (C.softmax, C.tanh)[number // 4](expected).eval()
            assert np.allclose(function.eval({script.x: images}), applied, atol=1e-6), number
        elif number == 1:
            assert (function.eval(images) == expected).all()


def distributed(kind, script=Script, **options):
    """Returns a script whose trainer has the distributed learner `kind`."""
    script = script(test=False, cross_validation=0, **options)
    base = C.momentum_sgd(list(script.z.parameters), C.learning_parameter_schedule(0.05), 0.9)
    script.trainer = C.Trainer(
        script.z, (script.loss, script.metric), [LEARNERS[kind](base)], [script.log]
    )
    script.arguments['trainer'] = script.trainer
    return script


def go_back(folder, kind, plan):
    """Saves and restores by hand in one process; raises where it does not go on as the first time.

    Each worker has minibatches of its own size, so that their random states differ; under block
    momentum CNTK would wait for ever.
    """
    rank, script = C.Communicator.rank(), distributed(kind, Primitive)
    size, told = 64 if kind == 'block momentum' else 64 - 16 * rank, []
    exact = kind == 'data parallel'  # CNTK's own checkpoint does not hold all of the others

    def trained(first, last):
        losses = []
        for number in range(first, last):
            rows = slice(number * 64, number * 64 + size)
            script.trainer.train_minibatch(
                {script.x: script.images[rows], script.label: script.labels[rows]}
            )
            losses.append(script.trainer.previous_minibatch_loss_average)
        told.extend(losses)
        return losses

    files = {name: os.path.join(folder, name) for name in ('bare', 'early', 'late')}
    script.trainer.save_checkpoint(files['bare'])
    with contextlib.ExitStack() as stack:
        if plan != 'plain':
            stack.enter_context(nc.attach(script.trainer, PLANS[plan](), epoch_size=4 * 112))
        start = trained(0, 2)
        script.trainer.save_checkpoint(files['early'])
        first = trained(2, 6)
        script.trainer.save_checkpoint(files['late'])
        second = trained(6, 10)
        for name, begin, losses in [
            ('early', 2, first),
            ('late', 6, second),
            ('early', 2, first + second),
            ('late', 6, second),
        ]:
            script.trainer.restore_from_checkpoint(files[name])
            assert trained(begin, begin + len(losses)) == losses or not exact, (rank, name)
        script.trainer.restore_from_checkpoint(files['bare'])
        assert trained(0, 2) == start or not exact
        trained(2, 10)
        for name, begin, losses in [('late', 6, second), ('early', 2, first + second)]:
            script.trainer.restore_from_checkpoint(files[name])
            assert trained(begin, begin + len(losses)) == losses or not exact, (
                rank,
                name,
                'after bare',
            )
    tell(
        [
            rank,
            'DenseFactored' in [function.op_name for function in nc.graph.walk(script.z)],
            told,
        ]
    )
    C.Communicator.finalize()


def tell(outcome):
    """Leaves a worker's outcome for the test, in a file: mpiexec mixes long lines of its output."""
    with open(os.path.join(os.environ[OUTCOMES], f'{outcome[0]}.json'), 'w') as file:
        json.dump(outcome, file)


def on_workers(folder, kind, plan, kill=0, workers=2):
    """Returns (exit code, outcomes by rank, output) of a run under mpiexec."""
    found = {}
    with tempfile.TemporaryDirectory() as outcomes:
        done = mpiexec(__file__, folder, kind, plan, kill, workers=workers, **{OUTCOMES: outcomes})
        for name in os.listdir(outcomes):
            with open(os.path.join(outcomes, name)) as file:
                rank, *outcome = json.load(file)
            found[rank] = outcome
    return done.returncode, found, done.stdout


def trained(folder, kind, plan, **options):
    """Returns the main worker's outcome, after it is found to be the same on all workers.

    The others are found to have written nothing.
    """
    workers = options.get('workers', 2)
    code, found, output = on_workers(folder, kind, plan, **options)
    assert code == 0 and len(found) == workers, output[-4000:]
    for rank in range(1, workers):
        assert (found[rank][0], found[rank][4]) == (found[0][0], found[0][4])
        assert found[rank][5] == []
        if plan != 'plain':
            assert not os.listdir(str(folder.join(f'board{rank}')))
            assert not folder.join(f'bar{rank}').read()
    return found[0]


@pytest.mark.parametrize('kind', few(sorted(LEARNERS), 'data parallel'))
def test_identity_equals_a_plain_run_that_checkpoints_at_the_same_points(kind, tmpdir):
    plain = trained(tmpdir.mkdir('plain'), kind, 'plain')
    ours = trained(tmpdir.mkdir('ours'), kind, 'identity')
    assert ours[0] == plain[0]
    assert ours[1] == plain[1]
    assert ours[3] == plain[3] == 3 * SAMPLES


def test_main_workers_factors_are_taken_by_all(tmpdir):
    """Without it the workers would train different networks: the gradients are shared, W1 not.

    The main worker alone writes: checkpoints and their folder, TensorBoard, the progress bar.
    """
    main_worker = trained(tmpdir, 'data parallel', 'noisy')
    assert {os.path.dirname(name) for name in main_worker[5]} == {'board0', 'model.netopt'}
    assert len(os.listdir(str(tmpdir.join('board0')))) == 1
    assert 'FactorDense after epoch 1' in tmpdir.join('bar0').read()
    assert sorted(name for name in os.listdir(str(tmpdir)) if name.startswith('model')) == [
        'model',
        'model.ckp',
        'model.netopt',
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    'kind, plan, kill',
    [
        ('data parallel', 'factor', 28),
        ('data parallel', 'readers', 28),
        ('data parallel', 'readers', 12),
        ('1 bit', 'factor', 28),
        ('1 bit', 'readers', 28),
        ('block momentum', 'factor', 14),
        ('block momentum', 'readers', 14),
    ],
)
def test_killed_and_resumed_equals_never_killed(kind, plan, kill, tmpdir):
    """Killed in the second or third epoch; with Dropout, whose state CNTK finds by uid."""
    whole = trained(tmpdir.mkdir('whole'), kind, plan)
    folder = tmpdir.mkdir('killed')
    code, found, _ = on_workers(folder, kind, plan, kill=kill)
    assert code != 0 and not found
    code, found, output = on_workers(folder, kind, 'lower rank')
    assert code != 0 and not found
    assert 'was applied with rank=4, and this script has rank=3,' in output
    resumed = trained(folder, kind, plan)
    assert (resumed[0], resumed[2]) == (whole[0], whole[2])
    assert len(os.listdir(str(folder.join('board0')))) == 2  # one file of each run that started


@pytest.mark.few(1)
@pytest.mark.parametrize(
    'plan, words',
    [
        ('second worker raises', 'ValueError: raised by worker 1'),
        ('main worker raises', 'ValueError: raised by worker 0'),
        ('observer raises', 'ValueError: raised by an observer'),
        ('ragged', 'not the same on worker 1'),
    ],
)
def test_worker_that_raises_ends_all_with_its_error(plan, words, tmpdir):
    begin = time.time()
    code, found, output = on_workers(tmpdir, 'data parallel', plan)
    assert code != 0 and not found
    assert words in output
    assert time.time() - begin < 120  # a hang is what is excluded; a run takes seconds


@pytest.mark.parametrize('kind', few(sorted(LEARNERS), 'data parallel'))
@pytest.mark.parametrize(
    'plan, loop, words',
    [
        (
            'of the main worker alone',
            0,
            'this worker has no optimization; give every',
        ),
        (
            'of each worker',
            0,
            r'main worker has Identity\(epoch=1\).*this worker has Identity\(epoch=2',
        ),
        ('of each worker', 'by hand', r'this worker has Identity\(epoch=2\)'),
    ],
)
def test_workers_with_different_optimizations_are_told_before_training(
    kind, plan, loop, words, tmpdir
):
    code, found, output = on_workers(tmpdir, kind, plan, kill=loop)
    assert code != 0 and not found
    assert re.search('ValueError: each worker must have the same .*' + words, output), output[
        -3000:
    ]
    assert 'AttributeError' not in output
    assert 'another one has others' in output  # the main worker says so too, and does not wait


@pytest.mark.slow
@pytest.mark.parametrize('kind', sorted(LEARNERS))
def test_four_workers(kind, tmpdir):
    trained(tmpdir, kind, 'factor', workers=4)


def gone_back(folder, kind, plan):
    """Returns, by rank, whether a run that went back ended factored, and the losses of all it
    trained."""
    code, found, output = on_workers(folder, kind, plan, kill='by hand')
    assert code == 0 and sorted(found) == [0, 1], output[-4000:]
    return found


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['data parallel', '1 bit', 'block momentum'])
def test_observers_go_back_by_hand_as_the_bare_loop(kind, tmpdir):
    assert gone_back(tmpdir.mkdir('ours'), kind, 'observer') == gone_back(
        tmpdir.mkdir('plain'), kind, 'plain'
    )


@pytest.mark.slow
def test_optimized_network_is_gone_back_to_by_hand(tmpdir):
    assert all(factored for factored, _ in gone_back(tmpdir, 'data parallel', 'factor').values())


if __name__ == '__main__':
    if sys.argv[4] == 'by hand':
        go_back(*sys.argv[1:4])
    else:
        main(*sys.argv[1:])
