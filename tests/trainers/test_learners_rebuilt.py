"""Learners over W1 and W2 against a plain CNTK Trainer that the test builds over them: the same
bits."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from rebuilt_oracle import BATCH, KINDS, Plain, RANK, halves, outcome_of
from slices import few
from user_script import Identity, hidden

BEFORE, AFTER = 5, 14  # minibatches; a sweep ends within the second part


def factoring(epoch=1, **options):
    return nc.FactorDense(
        epoch=epoch, rank=RANK, factor_function=halves, filter_function=hidden, **options
    )


def attached(run, *callbacks):
    return nc.attach(run.trainer, list(callbacks), epoch_size=BATCH * BEFORE)


def parameters_now(run):
    """Returns the Parameters of a factored run in the order of the oracle's."""
    found = {p.name: p for p in run.trainer.loss_function.parameters if p.name in ('W1', 'W2')}
    return [
        new
        for p in run.parameters
        for new in ([p] if p.uid != run.W.uid else [found['W1'], found['W2']])
    ]


def outcome(run):
    return outcome_of(run.losses, parameters_now(run), run.inner)


def subject(kind, callbacks=None, **options):
    """Returns a run of `kind` that is factored by the engine after `BEFORE` minibatches."""
    run = Plain(kind, **options)
    with attached(run, *callbacks or [factoring()]):
        run.train(BEFORE + AFTER)
    return run


def oracle(kind, project=False, **options):
    run = Plain(kind, **options).train(BEFORE)
    return run.factor(halves(run.W.value), project).train(AFTER)


@pytest.mark.few(6)
@pytest.mark.parametrize('kind', sorted(KINDS))
def test_rebuilt_learner_trains_as_one_made_over_the_factors(kind):
    assert outcome(subject(kind)) == oracle(kind).outcome()


def test_oracle_tells_one_minibatch_from_another():
    run = Plain('momentum_sgd').train(BEFORE)
    run.factor(halves(run.W.value)).train(AFTER - 1)
    assert outcome(subject('momentum_sgd'))[1] != run.outcome()[1]


# CNTK has no update of these learners for the sparse gradient of a layer with a sparse input.
NOT_SPARSE = {
    'L1 and L2',
    'adam',
    'adam of unit gain off',
    'adamax',
    'fsadagrad',
    'minibatch size set later',
    'norm and momentum',
    'rate by sweeps',
    'rmsprop',
    'rmsprop of each element',
    'several, W in the second',
}


@pytest.mark.few(6)
@pytest.mark.parametrize(
    'kind', sorted(set(KINDS) - NOT_SPARSE - {'user with rebuilt', 'sgd and user with rebuilt'})
)
def test_factored_layer_of_a_sparse_input_trains_as_in_plain_cntk(kind):
    assert outcome(subject(kind, sparse=True)) == oracle(kind, sparse=True).outcome()


@pytest.mark.few(2)
@pytest.mark.parametrize('kind', sorted(NOT_SPARSE))
def test_what_plain_cntk_refuses_of_a_sparse_input_is_refused_alike(kind):
    said = []
    for run in (
        lambda: oracle(kind, sparse=True).outcome(),
        lambda: outcome(subject(kind, sparse=True)),
    ):
        with pytest.raises(RuntimeError, match='Feature Not Implemented') as error:
            run()
        said.append(str(error.value).split('\n')[0])
    assert said[0] == said[1]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    'kind', ['sgd', 'momentum_sgd', 'nesterov', 'L1 and L2', 'clipping by norm', 'noise', 'part']
)
def test_projected_state_trains_as_the_chain_rule_by_hand(kind):
    projected = outcome(subject(kind, [factoring(learner_state='project')]))
    assert projected == oracle(kind, project=True).outcome()
    if kind in ('momentum_sgd', 'nesterov', 'part'):
        assert projected != outcome(subject(kind))


@pytest.mark.parametrize(
    'kind',
    few(
        sorted(set(KINDS) - {'rate by samples', 'rate by sweeps'}),
        'adam',
        'momentum_sgd',
        'several',
    ),
)
def test_learner_of_their_own_for_the_factors(kind):
    own = lambda parameters: C.adam(parameters, C.learning_parameter_schedule(0.002), 0.9)
    mine = subject(kind, [factoring(learner=own)])
    theirs = Plain(kind).train(BEFORE)
    theirs.factor(halves(theirs.W.value), own=own).train(AFTER)
    mine = outcome_of(mine.losses, parameters_now(mine), [])
    assert mine == outcome_of(theirs.losses, theirs.parameters, [])


@pytest.mark.few(2)
@pytest.mark.parametrize('kind', ['momentum_sgd', 'adam', 'rate by samples', 'several'])
@pytest.mark.parametrize('when', [2, BEFORE, BEFORE + 3])
def test_rate_that_the_script_resets_stays(kind, when):
    def reset(run):
        for learner in run.inner:
            learner.reset_learning_rate(C.learning_parameter_schedule(0.0007))

    mine = Plain(kind)
    with attached(mine, factoring()):
        mine.train(when)
        reset(mine)
        mine.train(BEFORE + AFTER - when)
    theirs = Plain(kind).train(min(when, BEFORE))
    if when <= BEFORE:
        reset(theirs)
    theirs.train(BEFORE - min(when, BEFORE)).factor(halves(theirs.W.value))
    if when <= BEFORE:
        reset(theirs)  # where CNTK's checkpoint of a learner did not hold it
    theirs.train(max(when - BEFORE, 0))
    if when > BEFORE:
        reset(theirs)
    theirs.train(AFTER - max(when - BEFORE, 0))
    assert outcome(mine) == theirs.outcome()
    assert outcome(mine)[1] != outcome(subject(kind))[1]


@pytest.mark.parametrize(
    'kind', few(sorted(set(KINDS) - {'user with rebuilt'}), 'adam', 'momentum_sgd', 'several')
)  # CNTK counts no samples there
def test_save_and_restore_of_a_factored_run(kind, tmpdir):
    """Saved and restored within a phase, back behind the swap, and ahead of it again."""
    run, files = Plain(kind), {name: str(tmpdir.join(name)) for name in ('early', 'late')}
    expected = oracle(kind).outcome()

    def saved(name):
        run.trainer.save_checkpoint(files[name])
        return name, run.source.get_checkpoint_state(), len(run.losses)

    def restored(name, position, losses):
        run.trainer.restore_from_checkpoint(files[name])
        run.source.restore_from_checkpoint(position)
        del run.losses[losses:]

    with attached(run, factoring()):
        run.train(BEFORE - 2)
        early = saved('early')
        run.train(6)
        late = saved('late')
        run.train(3)
        for begin, rest in ((late, AFTER - 4), (early, AFTER + 2), (late, 1), (late, AFTER - 4)):
            restored(*begin)
            run.train(rest)
            if rest > 1:
                assert outcome(run) == expected


class Halved(nc.Optimization):
    """Factors what is factored already: fewer columns of W1, fewer rows of W2."""

    def transform(self, model):
        (layer,) = (
            layer
            for layer in nc.graph.layers(model, op_name='DenseFactored')
            if layer.name == 'hidden'
        )
        old = [p for name in ('W1', 'W2') for p in layer.root.parameters if p.name == name]
        new = [
            C.Parameter(value.shape, init=value, name=p.name)
            for p, value in zip(old, cut(*(p.value for p in old)))
        ]
        inlet = C.placeholder()
        bias = next(p for p in layer.root.parameters if p.name == 'b')
        inner = C.tanh(C.times(C.times(inlet, new[0]), new[1]) + bias)
        outer = C.placeholder()
        block = C.as_block(inner, [(inlet, outer)], 'DenseFactored', 'hidden')
        return nc.Transformed(
            nc.graph.replace(model, {layer: block}),
            [nc.LayerNote('hidden', layer.shape)],
            [nc.Replaced('hidden', retired=old, added=new)],
        )


def cut(W1, W2):
    return np.array(W1[:, :2]), np.array(W2[:2] * np.float32(0.5))


@pytest.mark.few(3)
@pytest.mark.parametrize(
    'kind',
    [
        'momentum_sgd',
        'adam',
        'adagrad',
        'rmsprop',
        'noise',
        'several',
        'W alone',
        'user with rebuilt',
    ],
)
def test_second_optimization_on_the_factors(kind):
    mine = subject(kind, [factoring(), Halved(epoch=2), Identity(epoch=2)])
    theirs = Plain(kind).train(BEFORE)
    theirs.factor(halves(theirs.W.value)).train(BEFORE)
    theirs.cut(cut).train(AFTER - BEFORE)
    assert outcome(mine) == theirs.outcome()


@pytest.mark.few(3)
@pytest.mark.parametrize('kind', few(sorted(KINDS), 'adam', 'momentum_sgd', 'several'))
@pytest.mark.parametrize(
    'where',
    ['engine.swap.native_trainer', 'trainers.windows.carry', 'readers.readers.Readers.follow'],
)
def test_error_late_in_a_swap_leaves_the_learners_as_they_were(kind, where, monkeypatch):
    plain = Plain(kind).train(BEFORE + AFTER)
    run = Plain(kind)
    with pytest.raises(KeyError, match='late'):
        with attached(run, factoring()):
            run.train(BEFORE)
            position = run.source.get_checkpoint_state()
            monkeypatch.setattr('netopt_callbacks.' + where, broken)
            run.train(1)
    monkeypatch.undo()
    for learner in run.inner:
        learner.__dict__.pop('successor', None)
    run.source.restore_from_checkpoint(position)
    run.train(AFTER)
    assert run.outcome() == plain.outcome()


def broken(*arguments, **options):
    raise KeyError('late')
