"""Whatever reads the network follows every change of it: as bytes, against what the trainer
itself computes."""
import os
import subprocess
import sys

import cntk as C
import numpy as np
import pytest
from cntk.layers.typing import Tensor

import netopt_callbacks as nc
from paths import PYTHONPATH
from readers_scripts import (
    BATCH,
    CLASSES,
    OP_NAMES,
    OPTIMIZATIONS,
    SHAPE,
    Agent,
    Shared,
    first,
    momentum,
    operations,
    sequence_criterion,
    sequence_model,
)
from slices import few
from user_script import KILLED, Identity, Killer

HERE = os.path.dirname(os.path.abspath(__file__))
EPOCH = 4 * BATCH
DENSE = ['factor', 'binarize dense']
every = pytest.mark.parametrize('kind', sorted(OPTIMIZATIONS))
most = pytest.mark.parametrize('kind', few(sorted(OPTIMIZATIONS), 'factor', 'binarize'))


def attached(case, *callbacks):
    return nc.attach(case.trainer, list(callbacks), epoch_size=EPOCH)


# One layer function, many readers.


@pytest.mark.few(1)
@every
def test_readers_follow_in_a_hand_loop(kind):
    case = Shared()
    with attached(case, OPTIMIZATIONS[kind]()) as run:
        case.train(4)
        before = case.check()
        assert case.has()
        case.train(1)
        assert case.check().tobytes() != before.tobytes()
        assert case.has(kind)
        case.train(5)
        assert run.current(case.soft) is case.soft
        truth = case.check()
    assert case.check().tobytes() == truth.tobytes()
    assert first(run.result.model, case.few).tobytes() == truth.tobytes()
    assert run.result.records[0].notes == []
    case.train(3)  # the run is over
    case.check()


@pytest.mark.few(2)
@most
@pytest.mark.parametrize('model', [True, False], ids=['with a model', 'criterion alone'])
def test_readers_follow_in_a_session(kind, model):
    case = Shared(model)
    source = C.io.MinibatchSourceFromData(
        {'x': (case.data, Tensor[SHAPE]), 'y': (case.labels, Tensor[CLASSES])}, max_samples=384
    )
    session = nc.training_session(
        trainer=case.trainer,
        mb_source=source,
        mb_size=BATCH,
        callbacks=[OPTIMIZATIONS[kind]()],
        epoch_size=EPOCH,
        model_inputs_to_streams={case.x: source.streams['x'], case.y: source.streams['y']},
    )
    session.train()
    truth = case.check()
    assert case.has(kind)
    result = session.result
    if not model:
        assert first(C.combine(case.z.outputs), case.few).tobytes() == truth.tobytes()
    assert OP_NAMES[kind] in operations(result.model)


@pytest.mark.few(1)
@every
def test_readers_follow_in_train(kind):
    case = Shared()
    z = case.z
    criterion = C.combine([case.criterion.outputs[0].owner, C.classification_error(z, case.y)])
    summary = nc.train(
        criterion,
        (case.data, case.labels),
        minibatch_size=BATCH,
        parameter_learners=[case.learner],
        callbacks=[OPTIMIZATIONS[kind]()],
        max_epochs=6,
        epoch_size=EPOCH,
        model=z,
    )
    case.check(first(summary.result.model, case.few))
    assert case.has(kind)
    truth = summary.result.model
    assert [output.shape for output in truth.outputs] == [(CLASSES,)] and [
        a.name for a in truth.arguments
    ] == ['x']
    expected = {tuple(p.shape): p.value.tobytes() for p in truth.parameters}
    assert {tuple(p.shape): p.value.tobytes() for p in criterion.parameters} == expected


@every
def test_variables_that_the_script_keeps_are_outputs_and_keys(kind):
    case = Shared()
    kept = (
        case.z.output,
        case.criterion.outputs[0],
    )  # CNTK gives roots of the trainer's graph, nothing else
    with attached(case, OPTIMIZATIONS[kind]()):
        for number in range(8):
            minibatch = case.minibatch(number)
            swapped = (
                number == 2
            )  # then the network of before the minibatch is not the one that is fetched
            expected = (
                None
                if swapped
                else [
                    case.z.eval({case.x: minibatch[case.x]}).tobytes(),
                    C.combine([case.criterion.outputs[0]]).eval(minibatch).tobytes(),
                ]
            )
            _, values = case.trainer.train_minibatch(minibatch, outputs=list(kept))
            assert [values[variable].shape for variable in kept] == [(BATCH, CLASSES), (BATCH, 1)]
            if expected is not None:
                assert [values[variable].tobytes() for variable in kept] == expected
            assert values[case.z.output].tobytes() == values[kept[0]].tobytes()
            assert all(
                variable in values for variable in kept + (case.z.output, case.criterion.outputs[0])
            )
            assert values.get(case.error.output) is None and case.error.output not in values
            _, one = case.trainer.train_minibatch(minibatch, [kept[0]])
            assert list(one) == [kept[0]]
        _, values = case.trainer.train_minibatch(
            {case.x: case.few, case.y: case.labels[:BATCH]}, outputs=[case.z.output]
        )
        assert values[kept[0]].tobytes() == values[case.z.output].tobytes()


ORDERS = [
    ('factor', 'binarize'),
    ('binarize', 'factor'),
    ('binarize dense', 'binarize'),
    ('binarize', 'binarize dense'),
]
orders = pytest.mark.parametrize('kinds', few(ORDERS, *ORDERS[:2]), ids=' then '.join)


@pytest.mark.slow
@orders
def test_readers_follow_through_a_second_swap_and_every_restore(kinds, tmpdir):
    """Back to the phase before the last, to the first, and ahead again, also after the run."""
    case, files, told = Shared(), [str(tmpdir.join(str(n))) for n in range(3)], {}
    with attached(case, OPTIMIZATIONS[kinds[0]](1), OPTIMIZATIONS[kinds[1]](2)):
        for phase in range(3):
            case.train(2)
            case.trainer.save_checkpoint(files[phase])
            told[phase] = case.check().tobytes()
            case.train(2)
            assert case.has(*kinds[:phase])
        late = case.check().tobytes()
        for phase in (1, 2, 0, 1, 0, 2):
            case.trainer.restore_from_checkpoint(files[phase])
            assert case.check().tobytes() == told[phase], phase
            assert case.has(*kinds[:phase])
            case.trained = 4 * phase + 2
        case.train(2)
        assert case.check().tobytes() == late
        case.trainer.restore_from_checkpoint(files[0])
        case.trained = 2
        case.train(10)  # through both swaps once more, on the other side of a restore
        assert case.check().tobytes() == late and case.has(*kinds)
    for phase in (0, 2, 1):
        case.trainer.restore_from_checkpoint(files[phase])
        assert case.check().tobytes() == told[phase]
        assert case.has(*kinds[:phase])


@pytest.mark.few(1)
@orders
def test_restore_goes_back_to_a_plain_checkpoint_of_before_the_run(kinds, tmpdir):
    case, file = Shared(), str(tmpdir.join('bare'))
    case.train(2)
    case.trainer.save_checkpoint(file)
    told = case.check().tobytes()
    with attached(case, OPTIMIZATIONS[kinds[0]](1), OPTIMIZATIONS[kinds[1]](2)):
        case.train(9)
        assert case.has(*kinds)
        case.trainer.restore_from_checkpoint(file)
        assert case.check().tobytes() == told and case.has()
        case.train(9)
        case.check()
        assert case.has(*kinds)


@pytest.mark.few(1)
@most
@pytest.mark.parametrize('where', ['engine.swap.native_trainer', 'trainers.windows.carry'])
def test_undo_puts_readers_back(kind, where, monkeypatch):
    case = Shared()
    with attached(case, OPTIMIZATIONS[kind]()):
        case.train(4)
        before = case.check().tobytes()
        with monkeypatch.context() as patch:
            patch.setattr('netopt_callbacks.' + where, _raise)
            with pytest.raises(KeyError, match='late'):
                case.train(1)
        assert case.check().tobytes() == before and case.has()
        case.train(3)
        case.check()
        assert case.has(kind)


def _raise(*arguments, **options):
    raise KeyError('late')


# A resume in a new process.


def resumed_main(kind, front, folder, kill):
    """A script that trains by a loop with checkpoints of its own or in a session; tells what
    its readers compute."""
    case, file = Shared(), os.path.join(folder, 'model')
    optimizations = [OPTIMIZATIONS[kind](1), Identity(epoch=2)]
    killer = [Killer(int(kill))] if int(kill) else []
    if front == 'session':
        source = C.io.MinibatchSourceFromData(
            {'x': (case.data, Tensor[SHAPE]), 'y': (case.labels, Tensor[CLASSES])}, max_samples=192
        )
        nc.training_session(
            trainer=case.trainer,
            mb_source=source,
            mb_size=BATCH,
            callbacks=optimizations + killer,
            epoch_size=EPOCH,
            checkpoint_config=C.CheckpointConfig(file, frequency=2 * BATCH),
            model_inputs_to_streams={case.x: source.streams['x'], case.y: source.streams['y']},
        ).train()
    else:
        with nc.attach(case.trainer, optimizations + killer, epoch_size=EPOCH):
            if os.path.exists(file):
                case.trainer.restore_from_checkpoint(file)
                case.trained = int(case.trainer.total_number_of_samples_seen) // BATCH
                assert case.has(kind)
                case.check()
            while case.trained < 12:
                case.train(1)
                if case.trained % 2 == 0:
                    case.trainer.save_checkpoint(file)
    assert case.has(kind)
    print('TOLD ' + case.check().tobytes().hex())


@pytest.mark.few(1)
@most
@pytest.mark.parametrize('front', ['session', 'hand loop'])
def test_readers_follow_a_resume_in_a_new_process(kind, front, tmpdir):
    whole = new_process(tmpdir.mkdir('whole'), 'test_readers.resumed_main', kind, front)
    folder = tmpdir.mkdir('killed')
    assert new_process(folder, 'test_readers.resumed_main', kind, front, kill=7) is None
    assert new_process(folder, 'test_readers.resumed_main', kind, front) == whole


def new_process(folder, main, *arguments, kill=0):
    """Returns what a `main` of a test file tells, None where it was killed."""
    call = 'import {}; {}(*{!r})'.format(
        main.split('.')[0], main, arguments + (str(folder), str(kill))
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([HERE, PYTHONPATH]))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', call],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        universal_newlines=True,
    )
    if kill and done.returncode == KILLED:
        return None
    told = [line for line in done.stdout.splitlines() if line.startswith('TOLD')]
    assert done.returncode == 0 and told, done.stderr[-3000:]
    return told


def before_dropout(dropout):
    return [C.layers.Dense(8, name='first'), dropout, C.layers.Dense(4)]


def behind_dropout(dropout):
    return [C.layers.Dense(6), dropout, C.layers.Dense(8, name='first'), C.layers.Dense(4)]


def behind_dropout_and_normalization(dropout):
    layers = [C.layers.Dense(6), C.layers.BatchNormalization(), dropout]
    return layers + [C.layers.Dense(8, name='first', activation=C.tanh), C.layers.Dense(4)]


@pytest.mark.parametrize('minibatches', [1, 2])
@pytest.mark.parametrize(
    'layers', [before_dropout, behind_dropout, behind_dropout_and_normalization]
)
def test_readers_follow_a_resume_of_a_network_with_dropout(layers, minibatches, tmp_path):
    """The restore comes first: the script's Dropout is a block yet, that of the file no more."""

    def script():
        x, y = C.input_variable(8), C.input_variable(4)
        z = C.layers.Sequential(layers(C.layers.Dropout(0.1, seed=3, name='drop')))(x)
        trainer = C.Trainer(z, (C.squared_error(z, y), None), [momentum(z.parameters)])
        factor = nc.FactorDense(1, rank=2, filter_function=lambda layer: layer.name == 'first')
        run = nc.attach(trainer, [factor, Identity(epoch=3)], epoch_size=BATCH)
        minibatch = {x: np.ones((BATCH, 8), np.float32), y: np.ones((BATCH, 4), np.float32)}
        return run, trainer, minibatch, C.softmax(z), z, z(C.input_variable(8))

    file = str(tmp_path / 'model')
    run, trainer, minibatch, *_ = script()
    with run:
        for number in range(4):
            trainer.train_minibatch(minibatch)
            if number + 1 == minibatches:
                trainer.save_checkpoint(file)
    resumed, trainer, minibatch, soft, z, again = script()
    with resumed:
        trainer.restore_from_checkpoint(file)
        for _ in range(4 - minibatches):
            trainer.train_minibatch(minibatch)
            data = minibatch[z.arguments[0]]
            assert np.array_equal(soft.eval(data), C.softmax(trainer.model).eval(data))
            assert np.array_equal(again.eval(data), trainer.model.eval(data))
    assert resumed.result.records[0].notes == []


# Networks that are no model of a Trainer.


@pytest.mark.few(1)
@most
def test_agent_acts_on_the_network_that_trains(kind, tmpdir):
    case, files = Agent(), [str(tmpdir.join(name)) for name in ('early', 'late')]
    target = case.target.eval(case.states[:BATCH]).tobytes()
    check = (
        lambda: case.losses(case.trainer.loss_function).tobytes() == case.acted().tobytes()
        and case.losses(case.criterion).tobytes() == case.acted().tobytes()
    )
    with attached(case, OPTIMIZATIONS[kind]()) as run:
        case.train(3)
        case.trainer.save_checkpoint(files[0])
        case.train(1)
        assert check()
        case.train(1)
        assert check() and OP_NAMES[kind] in operations(case.net)
        renewed = case.net.clone(C.CloneMethod.freeze)  # of the network of now
        acted = case.net.eval(case.states[:BATCH]).tobytes()
        assert renewed.eval(case.states[:BATCH]).tobytes() == acted
        case.trainer.save_checkpoint(files[1])
        case.train(3)
        assert check() and renewed.eval(case.states[:BATCH]).tobytes() == acted
        for file, changed in zip(files + files[::-1], (False, True, True, False)):
            case.trainer.restore_from_checkpoint(file)
            assert check() and (OP_NAMES[kind] in operations(case.net)) == changed
        case.train(6)
        assert check()
    assert case.target.eval(case.states[:BATCH]).tobytes() == target
    assert (
        run.result.model.eval(case.states[:BATCH]).tobytes()
        == case.net.eval(case.states[:BATCH]).tobytes()
    )


@pytest.mark.parametrize('kind', few(DENSE, 'factor'))
def test_criterion_made_over_the_same_layer_function(kind, tmpdir):
    C.cntk_py.reset_random_seed(7)
    random = np.random.RandomState(7)
    words = [random.randint(15, size=5) for _ in range(64)]
    queries = [np.eye(15, dtype=np.float32)[line] for line in words]
    labels = [np.eye(CLASSES, dtype=np.float32)[line % CLASSES] for line in words]
    model = sequence_model()
    criterion, second = sequence_criterion(model), None
    trainer = C.Trainer(None, criterion, [momentum(criterion.parameters)])
    second = sequence_criterion(model)
    told = lambda function: [
        float(
            np.mean(
                np.concatenate(
                    C.combine([output]).eval(
                        dict(zip(function.arguments, (queries[:1], labels[:1])))
                    )
                )
            ).astype(np.float32)
        )
        for output in function.outputs
    ]

    def check():
        argument = dict(zip(criterion.arguments, (queries[:1], labels[:1])))
        truth = [np.float32(trainer.test_minibatch(argument))]
        for function in criterion, second, sequence_criterion(model):
            assert np.float32(told(function)[1]) == truth[0]
            assert told(function) == told(criterion)

    with nc.attach(trainer, [OPTIMIZATIONS[kind]()], epoch_size=80) as run:
        for number in range(10):
            rows = slice(number * 8 % 64, number * 8 % 64 + 8)
            trainer.train_minibatch(dict(zip(criterion.arguments, (queries[rows], labels[rows]))))
            check()
            if number == 0:
                trainer.save_checkpoint(str(tmpdir.join('early')))
        assert all(OP_NAMES[kind] in operations(f) for f in (criterion, second, model))
        trainer.restore_from_checkpoint(str(tmpdir.join('early')))
        check()
        assert not any(OP_NAMES[kind] in operations(f) for f in (criterion, second, model))
        trainer.train_minibatch(dict(zip(criterion.arguments, (queries[:8], labels[:8]))))
        for number in range(3):
            trainer.train_minibatch(dict(zip(criterion.arguments, (queries[:8], labels[:8]))))
        check()
    assert [output.shape for output in run.result.model.outputs] == [(CLASSES,)]
