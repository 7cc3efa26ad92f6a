"""Learners for several workers, rebuilt over W1 and W2: against plain CNTK that the test builds
over them, as bytes.

The oracle is that of `rebuilt_oracle`; the state around the inner learner is carried by hand, too.
"""
import hashlib
import sys

import cntk as C
import pytest
from cntk.train.distributed import (
    block_momentum_distributed_learner,
    data_parallel_distributed_learner,
)

import netopt_callbacks as nc
from rebuilt_oracle import BATCH, RANK, Plain, halves, outcome_of
from under_mpi import mpiexec
from user_script import Halves, Script, hidden

BEFORE, AFTER = 5, 9
WRAPS = {
    'data parallel': data_parallel_distributed_learner,
    '1 bit': lambda learner: data_parallel_distributed_learner(learner, num_quantization_bits=1),
    'block momentum': lambda learner: block_momentum_distributed_learner(
        learner, block_size=3 * BATCH
    ),
}
INNER = ['momentum_sgd', 'adam', 'adagrad', 'part']


def both(wrap, inner, workers=1, rank=0):
    """Returns the outcomes of a run that the engine factors, and of the oracle."""
    ours, plain = (Plain(inner, wrap=WRAPS[wrap]) for _ in range(2))
    optimization = nc.FactorDense(
        epoch=1, rank=RANK, factor_function=halves, filter_function=hidden
    )
    # Under block momentum a worker counts what the others had trained when they last synchronized.
    epoch_size = BATCH * ((BEFORE - 1) * workers + 1)
    with nc.attach(ours.trainer, [optimization], epoch_size=epoch_size) as run:
        ours.train(BEFORE, workers, rank)
        assert not run.result.records
        ours.train(AFTER, workers, rank)
    plain.train(BEFORE, workers, rank).synchronize()
    plain.factor(halves(plain.W.value)).train(AFTER, workers, rank)
    named = {p.name: p for p in ours.trainer.loss_function.parameters}
    parameters = [
        new
        for p in ours.parameters
        for new in ([p] if p.uid != ours.W.uid else [named['W1'], named['W2']])
    ]
    counts = [run.trainer.total_number_of_samples_seen for run in (ours, plain)]
    assert counts[0] == counts[1] > epoch_size
    return outcome_of(ours.losses, parameters, ours.inner), plain.outcome()


@pytest.mark.few(4)
@pytest.mark.parametrize('inner', INNER)
@pytest.mark.parametrize('wrap', sorted(WRAPS))
def test_one_process(wrap, inner):
    ours, plain = both(wrap, inner)
    assert ours == plain


def main(wrap, inner):
    """What each worker runs; prints a hash of its Parameters."""
    rank, workers = C.Communicator.rank(), C.Communicator.num_workers()
    ours, plain = both(wrap, inner, workers, rank)
    told = hashlib.sha256(b''.join(ours[1])).hexdigest()
    sys.stdout.write('OUTCOME %d %d %s %s\n' % (rank, workers, told, ours == plain))
    sys.stdout.flush()
    C.Communicator.finalize()


SLOW = pytest.mark.slow


@pytest.mark.few(1)
@pytest.mark.parametrize(
    'workers, wrap, inner',
    [
        (2, 'data parallel', 'momentum_sgd'),
        (2, '1 bit', 'momentum_sgd'),
        (2, 'block momentum', 'momentum_sgd'),
        pytest.param(2, 'block momentum', 'adam', marks=SLOW),
        pytest.param(2, 'data parallel', 'adagrad', marks=SLOW),
        pytest.param(4, 'data parallel', 'momentum_sgd', marks=SLOW),
        # With 4 workers and 1 bit, plain CNTK does not repeat its own bits.
        pytest.param(4, 'block momentum', 'momentum_sgd', marks=SLOW),
    ],
)
def test_several_workers(workers, wrap, inner):
    done = mpiexec(__file__, wrap, inner, workers=workers)
    found = sorted(
        line[line.index('OUTCOME') :].split()[1:]
        for line in done.stdout.splitlines()
        if 'OUTCOME' in line
    )
    assert done.returncode == 0 and len(found) == workers, done.stdout[-4000:]
    assert [one[:2] for one in found] == [[str(rank), str(workers)] for rank in range(workers)]
    assert [one[3] for one in found] == ['True'] * workers
    # Block momentum leaves them apart until the next time they synchronize.
    assert wrap == 'block momentum' or len({one[2] for one in found}) == 1


@pytest.mark.parametrize('wrap', ['data parallel', 'block momentum'])
def test_user_learner_under_one_for_several_workers_is_refused_before_training(wrap):
    script = Script(dropout=False, test=False)
    learner = WRAPS[wrap](Halves(list(script.z.parameters)))
    trainer = C.Trainer(script.z, (script.loss, script.metric), [learner])
    with pytest.raises(
        ValueError,
        match='(?s)layer hidden.*a UserLearner under a distributed learner.*learner=lambda',
    ):
        script.run([nc.FactorDense(epoch=2, rank=RANK, filter_function=hidden)], trainer=trainer)
    assert not trainer.total_number_of_samples_seen


if __name__ == '__main__':
    main(*sys.argv[1:])
