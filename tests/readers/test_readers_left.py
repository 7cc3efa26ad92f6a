"""What does not follow a change of the network is named, let go or refused; leaves of a restore
are the script's own."""
import gc
import warnings
import weakref

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from readers_scripts import OPTIMIZATIONS, Shared, first, momentum, operations
from test_readers import attached, every


# What cannot follow.


class Narrow(nc.Optimization):
    """Takes the trainer's own outputs only, as one written against `model.outputs[:3]`."""

    def transform(self, model):
        if len(model.outputs) != 3:
            raise ValueError('expected three outputs')
        return OPTIMIZATIONS['factor']().transform(model)


def test_readers_follow_an_optimization_that_takes_the_network_alone():
    case = Shared()
    with attached(case, Narrow(epoch=1)) as run:
        case.train(8)
        truth = case.check()
        assert case.has('factor')
    assert run.result.records[0].notes == []
    assert (
        first(case.z, case.few).tobytes()
        == first(run.result.model, case.few).tobytes()
        == truth.tobytes()
    )


def test_layer_whose_weights_a_reader_applies_in_another_way_stays_as_it_is():
    """As where the network itself does; the record says so, and the reader goes on reading what
    is trained."""
    case = Shared()
    pixels = C.input_variable(6 * 6 * 6)
    tied = C.times(pixels, C.reshape(case.z.hidden.W, (216, 12)))
    with attached(case, OPTIMIZATIONS['factor']()) as run:
        case.train(8)
        case.check()
    (note,) = run.result.records[0].layers
    assert 'read elsewhere too' in note.skipped and not case.has('factor')
    assert (
        tied.eval({pixels: np.eye(216, dtype=np.float32)}).tobytes()
        == case.z.hidden.W.value.tobytes()
    )


@pytest.mark.parametrize(
    'watch',
    [
        lambda W, name: C.reduce_l2(W, axis=C.Axis.all_static_axes(), name=name),  # a block
        lambda W, name: C.reduce_sum(W * W, name=name),
        lambda W, name: C.clip(W, -1, 1, name=name),
        lambda W, name: C.assign(C.parameter(W.shape), W, name=name),
    ],
    ids=['reduce_l2', 'reduce_sum', 'clip', 'assign'],
)
def test_function_that_watches_the_weights_does_not_keep_a_layer_from_being_factored(watch):
    """It cannot follow: what it reads is gone. It is named."""
    case = Shared()
    norm = watch(case.z.hidden.W, 'norm of W')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with attached(case, OPTIMIZATIONS['factor']()) as run:
            case.train(6)
            case.check()
    assert 'DenseFactored' in operations(case.z) and norm.name
    assert [w for w in said if 'norm of W' in str(w.message)] and 'norm of W' in str(
        run.result.records[0].notes
    )


def test_weights_that_a_loop_clips_are_clipped_by_functions_built_again():
    """As those of the critic of a WGAN are. What was built over a W that is gone cannot be rebuilt
    from it, and the list is in another order: the warning says what helps."""
    case = Shared()

    def clips():
        return [C.clip(p, -0.02, 0.02) for p in case.z.parameters]

    def clip(clipped):
        for parameter, value in zip(case.z.parameters, clipped):
            C.assign(parameter, value).eval()
        return max(abs(parameter.value).max() for parameter in case.z.parameters)

    before = clips()
    with pytest.warns(UserWarning, match='could not follow') as said:
        with attached(case, OPTIMIZATIONS['factor']()) as run:
            assert clip(before) <= np.float32(0.02)
            case.train(6)
            with pytest.raises(ValueError, match='same sample layout'):
                clip(before)
            assert all(run.current(one) is one for one in before)
            assert clip(clips()) <= np.float32(0.02)
            case.check()
    (message,) = [str(one.message) for one in said if 'could not follow' in str(one.message)]
    assert 'which no run.current(function) exchanges. Build it again' in message
    assert 'Rebuild it' not in message and [message] == run.result.records[0].notes


@pytest.mark.parametrize(
    'penalty',
    [lambda W: C.reduce_l2(W, axis=C.Axis.all_static_axes()), lambda W: C.reduce_sum(W * W)],
    ids=['reduce_l2', 'reduce_sum'],
)
def test_a_penalty_in_the_loss_keeps_a_layer_as_it_is_and_the_user_is_told(penalty):
    x, y = C.input_variable(12), C.input_variable(3)
    z = C.layers.Sequential([C.layers.Dense(16, name='hidden'), C.layers.Dense(3)])(x)
    loss = C.squared_error(z, y) + 0.01 * penalty(z.hidden.W)
    trainer = C.Trainer(z, (loss, None), [momentum(loss.parameters)])
    minibatch = {x: np.ones((4, 12), np.float32), y: np.ones((4, 3), np.float32)}
    factor = nc.FactorDense(epoch=1, rank=2, filter_function=lambda layer: layer.name == 'hidden')
    with pytest.warns(UserWarning, match='has changed no layer: hidden: its weights are read else'):
        with nc.attach(trainer, [factor], epoch_size=4):
            for _ in range(3):
                trainer.train_minibatch(minibatch)
    assert 'DenseFactored' not in operations(z)


def test_a_reader_that_cntk_cannot_copy_is_named():
    """Its block gives a Constant, what it reads, and more."""
    case = Shared()
    inner = C.placeholder()
    several = C.as_block(
        C.combine([C.constant(1), inner, inner * 2]), [(inner, case.z.output)], 'Several', 'several'
    )
    side = C.combine([several.outputs[2]], name='side')
    with pytest.warns(UserWarning, match="'side' reads layers that FactorDense changed and could"):
        with attached(case, OPTIMIZATIONS['factor']()) as run:
            case.train(8)
            case.check()
    assert case.has('factor') and "'side'" in str(run.result.records[0].notes)
    assert 'Rebuild it over the present network' in str(run.result.records[0].notes)
    assert 'DenseFactored' not in operations(side)


def test_functions_let_go_by_the_script_are_let_go():
    case = Shared()
    with attached(case, OPTIMIZATIONS['factor']()):
        case.train(5)
        gone = weakref.ref(C.tanh(case.z))
        gc.collect()
        case.train(1)
        assert gone() is None


def test_a_part_of_a_graph_that_is_gone_ends_no_run():
    """CNTK raises where it is asked for the outputs of a Function whose inputs nothing keeps
    alive any more."""

    def part():
        return C.tanh(C.relu(C.layers.Dense(3)(C.input_variable(4)))).root_function

    case, gone = Shared(), part()
    gc.collect()
    with pytest.raises(RuntimeError, match='expired'):
        gone.outputs
    with attached(case, OPTIMIZATIONS['factor']()):
        case.train(5)
        assert case.has('factor')
        case.check()


# The script's own leaves.


@pytest.mark.few(2)
@pytest.mark.parametrize('swapped', [False, True], ids=['nothing due', 'swapped'])
@pytest.mark.parametrize('front', ['hand loop', 'after the run'])
def test_leaves_are_the_scripts_own_objects_after_a_restore(swapped, front, tmpdir):
    C.cntk_py.reset_random_seed(2)
    random = np.random.RandomState(2)
    x, y = C.input_variable(12, name='x'), C.input_variable(4, name='y')
    temperature = C.constant(np.array(1, np.float32), name='temperature')
    gain = C.parameter((12,), init=1, name='gain')  # no learner trains it: the script sets it
    z = (
        C.layers.Dense(4, name='out')(
            C.layers.Dense(30, activation=C.tanh, name='hidden')(x * gain)
        )
        / temperature
    )
    soft = C.softmax(z)
    learner = momentum([p for p in z.parameters if p.uid != gain.uid])
    trainer = C.Trainer(
        z, (C.cross_entropy_with_softmax(z, y), C.classification_error(z, y)), [learner]
    )
    data, labels = (
        random.normal(size=(64, 12)).astype(np.float32),
        np.eye(4, dtype=np.float32)[random.randint(4, size=64)],
    )
    files = [str(tmpdir.join(name)) for name in ('early', 'late')]
    out = z.out.W
    with nc.attach(trainer, [OPTIMIZATIONS['factor'](1)] if swapped else [], epoch_size=128) as run:
        for number in range(6):
            trainer.train_minibatch({x: data, y: labels})
            if number in (0, 4):
                trainer.save_checkpoint(files[number // 4])
        if front == 'after the run':
            run.finish()
        for file in files + files[::-1]:
            trainer.restore_from_checkpoint(file)
            before, soft_before = z.eval({x: data}), soft.eval({x: data})
            assert {temperature.uid, gain.uid, out.uid} <= {
                leaf.uid
                for f in (z, soft, trainer.loss_function)
                for leaf in f.parameters + f.constants
            }
            temperature.value = np.array(0.5, np.float32)
            assert (z.eval({x: data}) == 2 * before).all() and soft.eval(
                {x: data}
            ).tobytes() != soft_before.tobytes()
            temperature.value = np.array(1, np.float32)
            gain.value = np.zeros(12, np.float32)
            assert (
                np.unique(z.eval({x: data}), axis=0).shape[0] == 1
                and np.unique(soft.eval({x: data}), axis=0).shape[0] == 1
            )
            gain.value = np.ones(12, np.float32)
            assert z.eval({x: data}).tobytes() == before.tobytes()
            kept = out.value
            trainer.train_minibatch({x: data, y: labels})
            assert (out.value != kept).any()


# `Function.save` and `restore` of the script's own.


@every
def test_best_model_is_restored_or_refused(kind, tmpdir):
    case, before, after = Shared(), str(tmpdir.join('before')), str(tmpdir.join('after'))
    with attached(case, OPTIMIZATIONS[kind]()):
        case.train(3)
        case.z.save(before)
        saved = first(case.z, case.few).tobytes()
        case.train(1)
        case.z.restore(before)  # the same structure
        assert case.check().tobytes() == saved
        case.train(3)
        told = case.check().tobytes()
        with pytest.raises(ValueError, match='holds another structure.*cntk.load_model'):
            case.z.restore(before)
        assert case.check().tobytes() == told
        case.z.save(after)
        case.train(2)
        case.z.restore(after)
        assert case.check().tobytes() == told
    case.train(2)
    with pytest.raises(ValueError, match='holds another structure'):
        case.z.restore(before)
    case.z.restore(after)
    assert case.check().tobytes() == told
    assert first(C.load_model(before), case.few).tobytes() == saved
    assert first(C.load_model(after), case.few).tobytes() == told
