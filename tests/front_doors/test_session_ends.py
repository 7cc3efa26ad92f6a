"""How a session ends where something is wrong: errors, Ctrl-C, a source that ends early, bad
input."""
import os
import signal
import sys
import threading

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from user_script import SAMPLES, Identity, Script
from user_sources import Images


@pytest.fixture(autouse=True)
def python_handles_ctrl_c():
    """A job that a shell starts in the background inherits SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Broken(nc.Optimization):
    """Raises where a transform would return."""

    def transform(self, model):
        raise KeyError('what the transform raised')


def test_error_of_a_transform_comes_as_raised_and_the_trainer_is_intact():
    script = Script()
    with pytest.raises(KeyError, match='what the transform raised') as caught:
        script.run([Broken(epoch=1)])
    assert caught.traceback[-1].name == 'transform'
    assert script.trainer.total_number_of_samples_seen >= SAMPLES
    assert script.trainer.train_minibatch(
        {script.x: script.images[:8], script.label: script.labels[:8]}
    )
    assert script.session.result.model is not None and not script.session.result.complete


class Raises(nc.Observer):
    """Raises an exception of a given kind after some minibatches."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.ended = None

    def on_minibatch(self, samples, loss, metric):
        if samples > SAMPLES:
            raise self.error

    def on_end(self, result):
        self.ended = result


@pytest.mark.parametrize(
    'error', [RuntimeError('of the observer'), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
def test_error_of_an_observer_comes_as_raised(error, capfd):
    script, observer = Script(), Raises(error)
    with pytest.raises(type(error)) as caught:
        script.run([observer, Identity(epoch=3)])
    assert caught.value is error
    assert observer.ended is script.session.result
    assert not script.session.result.complete
    assert 'SWIG' not in capfd.readouterr().err


def test_error_of_a_users_writer_comes_as_raised():
    script = Script()

    def broken(*values):
        raise ZeroDivisionError('in a progress writer')

    script.log.on_write_training_summary = broken
    with pytest.raises(ZeroDivisionError, match='in a progress writer'):
        script.run([Identity(epoch=3)])


def test_source_that_ends_early_fills_the_result_then_raises():
    script = Images(source='user', sweeps=2)  # it does not tell how much it gives
    with pytest.raises(ValueError, match=r'after 1400 samples \(2 epochs\), before Identity'):
        script.run([Identity(epoch=1), Identity(epoch=3)])
    assert not script.session.result.complete
    assert script.session.result.model.parameters
    assert len(script.session.result.records) == 1


@pytest.mark.parametrize('epoch', [1, 2])
def test_cross_validation_that_stops_is_heard_where_something_is_due(epoch):
    """The user's callback ends training at the very minibatch an optimization is due after."""

    def trained(run):
        script = Script(test=False)
        source, streams = script._small(110)
        stops = []

        def callback(index, error, samples, minibatches):
            stops.append(script.trainer.total_number_of_samples_seen)
            return False

        script.arguments['cv_config'] = C.CrossValidationConfig(
            source, frequency=SAMPLES, callback=callback, model_inputs_to_streams=streams
        )
        return run(script), stops, script

    plain, stops, _ = trained(lambda script: script.run_plain())

    def run(script):
        if epoch == 1:
            return script.run([Identity(epoch=1)])
        with pytest.raises(ValueError, match='before Identity'):
            script.run([Identity(epoch=1), Identity(epoch=2)])
        return script.outcome()

    ours, ours_stops, script = trained(run)
    assert (ours, ours_stops) == (plain, stops)
    assert len(script.session.result.records) == 1


class Presses(nc.Observer):
    """Presses Ctrl-C at an event."""

    def __init__(self, event):
        super().__init__()
        setattr(self, event, lambda *arguments: os.kill(os.getpid(), signal.SIGINT))


@pytest.mark.parametrize('event', ['on_start', 'on_epoch', 'on_optimization', 'on_end'])
def test_ctrl_c_is_never_swallowed(event):
    script = Script(sweeps=1, test=False)
    with pytest.raises(KeyboardInterrupt):
        script.run([Presses(event), Identity(epoch=1)])
    assert script.session.result.model is not None
    assert script.session.result.complete == (event == 'on_end')
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Ends(nc.Observer):
    """Raises when it is told the end."""

    ended = False

    def on_end(self, result):
        self.ended = True
        raise ZeroDivisionError('in on_end')


def test_error_of_on_end_hides_nothing_and_keeps_nobody_from_the_end():
    first, second = Ends(), Ends()
    with pytest.raises(ZeroDivisionError):
        Script(sweeps=1).run([first, second])
    assert first.ended and second.ended
    first, second = Ends(), Ends()
    with pytest.warns(UserWarning, match='ZeroDivisionError'), pytest.raises(KeyError):
        Script(sweeps=1).run([first, second, Broken(epoch=1)])
    assert first.ended and second.ended


def test_replaced_excepthook_is_no_end_of_a_segment(monkeypatch):
    """An error of a director is told from our own way out of C++ by more than its text."""
    script = Script()

    class Hooks(nc.Observer):
        def on_minibatch(self, samples, loss, metric):
            sys.excepthook = lambda *error: None

    def broken(*values):
        raise ZeroDivisionError('in a progress writer')

    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    script.log.on_write_training_summary = broken
    with pytest.raises(RuntimeError, match='SWIG'):
        script.run([Hooks(), Identity(epoch=3)])
    assert not script.session.result.records


def test_metric_may_have_an_argument_that_the_loss_lacks():
    script = Script(test=False, cross_validation=0, sweeps=2)
    mask = C.input_variable(1, name='mask')
    metric = C.reduce_sum(mask) * script.metric
    trainer = C.Trainer(script.z, (script.loss, metric), script.learners)
    held_out = script.held_out + (np.full((len(script.held_out[0]), 1), 2, np.float32),)
    weights = np.ones((SAMPLES, 1), np.float32)
    source = C.io.MinibatchSourceFromData(
        dict(x=script.images, label=script.labels, mask=weights), max_samples=2 * SAMPLES
    )
    streams = {
        argument: source.streams[argument.name] for argument in (script.x, script.label, mask)
    }
    session = nc.training_session(
        trainer,
        source,
        64,
        streams,
        epoch_size=SAMPLES,
        callbacks=[Identity(epoch=1)],
        data=held_out,
    )
    session.train()
    (record,) = session.result.records
    assert record.metric_before == record.metric_after
    assert 0 < record.metric_after <= 2


class Renames(nc.Optimization):
    """Names the loss anew, so that the order of two of them shows."""

    def __init__(self, name, **options):
        super().__init__(**options)
        self.renamed = name

    def transform(self, model):
        outputs = list(model.outputs)
        outputs[-2] = C.plus(outputs[-2], 0, name=outputs[-2].name + self.renamed).output
        return nc.Transformed(C.combine(outputs), [nc.LayerNote(self.renamed)])


@pytest.mark.parametrize('order', ['ab', 'ba'])
def test_optimizations_of_one_epoch_run_and_are_recorded_in_the_order_of_the_list(order):
    script = Script(test=False, sweeps=2)
    name = script.loss.name
    script.run(
        [Renames(letter, epoch=1) for letter in order] + [Renames('c', epoch=0)],
        data=script.held_out,
    )
    records = script.session.result.records
    assert [record.layers[0].name for record in records] == ['c'] + list(order)
    assert script.trainer.loss_function.output.name == name + 'c' + order
    assert [record.samples for record in records] == [0, SAMPLES, SAMPLES]


def test_what_is_due_in_one_minibatch_is_applied_by_epoch():
    script = Script(test=False, sweeps=1, minibatch=SAMPLES)
    script.run([Renames('b', epoch=2), Renames('a', epoch=1)], epoch_size=SAMPLES // 2)
    assert [r.layers[0].name for r in script.session.result.records] == ['a', 'b']


@pytest.mark.parametrize('epoch', [0, 1])
def test_learners_whose_max_samples_are_used_up_are_told(epoch):
    script = Script(max_samples=SAMPLES)
    script.run()
    script.trainer = C.Trainer(script.z, (script.loss, script.metric), script.learners)
    source = script._source('data')
    script.arguments.update(
        trainer=script.trainer,
        mb_source=source,
        model_inputs_to_streams=script._streams(source, 'data'),
    )
    with pytest.raises(ValueError, match='life of the learners, leaves this run none: give more'):
        script.run([Identity(epoch=epoch)])


def test_epochs_count_from_the_first_minibatch_of_a_run():
    """Two sessions on one trainer, both made before either trains."""
    script = Script(test=False, sweeps=2)
    source = script._source('data')
    second = dict(
        script.arguments, mb_source=source, model_inputs_to_streams=script._streams(source, 'data')
    )
    sessions = [
        nc.training_session(callbacks=[Identity(epoch=1)], epoch_size=SAMPLES, **arguments)
        for arguments in (script.arguments, second)
    ]
    for session in sessions:
        session.train()
        assert [record.samples for record in session.result.records] == [SAMPLES]


class Uncloned(C.ops.functions.UserFunction):
    """What CNTK cannot clone: its constructor takes more than the inputs."""

    def __init__(self, factor, argument):
        super().__init__([argument])
        self.factor = factor

    def forward(self, argument, device=None, outputs_to_retain=None):
        return None, argument * self.factor

    def backward(self, state, gradients):
        return gradients * self.factor

    def infer_outputs(self):
        return [
            C.output_variable(
                self.inputs[0].shape, self.inputs[0].dtype, self.inputs[0].dynamic_axes
            )
        ]


@pytest.mark.parametrize('callbacks', [None, [nc.Observer()]], ids=['none', 'an observer'])
def test_network_that_cntk_cannot_clone_is_trained_as_by_cntk_and_handed_out(callbacks):
    made = []

    def trained(run):
        script = Script(test=False, cross_validation=0, sweeps=1, dropout=False)
        z = C.user_function(Uncloned(2, script.z))
        loss = C.cross_entropy_with_softmax(z, script.label)
        script.trainer = C.Trainer(z, loss, script.learners, [script.log])
        script.loss = loss
        script.arguments['trainer'] = script.trainer
        made.append((script, z))
        return run(script)

    plain = trained(lambda script: script.run_plain())
    assert trained(lambda script: script.run(callbacks or (), data=None)) == plain
    script, z = made[-1]
    model = script.session.result.model
    data = script.images[:5]
    assert np.array_equal(model.eval({model.arguments[0]: data}), z.eval({script.x: data}))


def test_errors_of_two_threads_stay_apart():
    """Each session raises its own error, and the hook of before is back in the end."""
    before, found = sys.excepthook, {}

    def train(name, script):
        def broken(*values):
            raise ZeroDivisionError(name)

        script.log.on_write_training_summary = broken
        barrier.wait(timeout=60)
        try:
            script.run([Identity(epoch=3)])
        except Exception as error:
            found[name] = str(error)

    barrier = threading.Barrier(2)
    # Built here: CNTK's layers forbid new Parameters in all threads while one of them builds a
    # block.
    threads = [
        threading.Thread(
            target=train, args=(name, Script(test=False, cross_validation=0, frequency=64))
        )
        for name in 'ab'
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {'a': 'a', 'b': 'b'}
    assert sys.excepthook is before


def test_second_train_is_refused():
    script = Script(sweeps=1)
    script.run()
    with pytest.raises(RuntimeError, match='trains once'):
        script.session.train()


@pytest.mark.parametrize(
    'callbacks, options, error, words',
    [
        ([Identity], {}, TypeError, r'Identity\(\.\.\.\)'),
        (['x'], {}, TypeError, 'nc.Optimization or nc.Observer'),
        (Identity(), {}, TypeError, r'callbacks=\[\.\.\.\]'),
        ([nc.Optimization(epoch=1)], {}, NotImplementedError, r'must define transform\(model\)'),
        (
            [Identity(epoch=5)],
            dict(max_samples=4 * SAMPLES),
            ValueError,
            r'Identity\(epoch=5\) is past the end.*4 is the last',
        ),
        ([nc.Lower()], dict(cv_config=None), ValueError, 'held-out data.*data='),
        ([], dict(epoch_size=0), ValueError, 'epoch_size must be 1 or more'),
        ([], dict(epoch_size=1.5), TypeError, 'epoch_size'),
        ([], dict(data=(1, 2)), TypeError, 'data must be NumPy arrays'),
    ],
)
def test_bad_input_is_refused_before_training(callbacks, options, error, words):
    script = Script()
    with pytest.raises(error, match=words):
        script.run(callbacks, **options)
    assert script.trainer.total_number_of_samples_seen == 0


def none(layer):
    return False


@pytest.mark.parametrize(
    'callbacks, words',
    [
        ([nc.FactorDense(epoch=2, rank=3, filter_function=none)], 'FactorDense.*hidden'),
        (
            [
                nc.FactorDense(epoch=1, rank=3),
                nc.BinarizeConvolution(epoch=2, filter_function=none),
            ],
            'BinarizeConvolution.*conv',
        ),
    ],
    ids=['FactorDense', 'BinarizeConvolution after another'],
)
def test_filter_that_matches_no_layer_is_refused_before_training(callbacks, words):
    script = Script()
    with pytest.raises(ValueError, match='(?s)' + words):
        script.run(callbacks)
    assert script.trainer.total_number_of_samples_seen == 0


def test_filter_is_not_judged_before_another_optimization_may_have_added_layers():
    script = Script(sweeps=2, test=False)
    with pytest.raises(ValueError, match='FactorDense'):
        script.run([Identity(epoch=1), nc.FactorDense(epoch=1, rank=3, filter_function=none)])
    assert script.trainer.total_number_of_samples_seen == SAMPLES


def test_held_out_arrays_are_checked():
    script = Script()
    with pytest.raises(ValueError, match='one array for each argument.*x, label; got 1'):
        script.run(data=script.images)
    with pytest.raises(ValueError, match='x: 10, label: 9'):
        script.run(data=(script.images[:10], script.labels[:9]))
    with pytest.raises(ValueError, match=r'argument label must have shape \[samples, 5\]'):
        script.run(data=(script.images[:10], script.labels[:10, :4]))


@pytest.mark.parametrize(
    'epoch, error', [(-1, ValueError), (1.0, TypeError), (True, TypeError), ((1, 2), ValueError)]
)
def test_bad_epoch(epoch, error):
    with pytest.raises(error, match='Identity: epoch'):
        Identity(epoch=epoch)


def test_trainer_built_before_the_import_is_told():
    script = Script()
    del script.trainer.__dict__['_netopt_callbacks']
    with pytest.raises(ValueError, match='before `import netopt_callbacks`.*progress_writers='):
        script.run([Identity(epoch=1)])
    plain = Script().run_plain()
    assert script.run([Identity(epoch=1)], progress_writers=[script.log]) == plain


def test_observer_that_is_a_writer_already_is_refused():
    observer = nc.Observer()
    script = Script()
    script.trainer = C.Trainer(script.z, (script.loss, script.metric), script.learners, [observer])
    script.arguments['trainer'] = script.trainer
    with pytest.raises(ValueError, match='name it once'):
        script.run([observer])


class Reads(nc.Observer):
    """Reads the summary in the middle of training."""

    said = ''

    def on_epoch(self, epoch, samples):
        self.said = self.result().summary()


def first_line(result):
    return result.summary().splitlines()[0]


def test_summary_of_a_run_that_has_not_ended_says_why():
    script, reads = Script(test=False), Reads()
    session = nc.training_session(
        callbacks=[Identity(epoch=1), reads], epoch_size=SAMPLES, **script.arguments
    )
    reads.result = lambda: session.result
    assert first_line(session.result) == (
        'The run has not ended: train() has not been called; this is how far it came.'
    )
    assert 'train() has not been called' in session._repr_html_()
    session.train()
    assert reads.said.startswith('The run has not ended: train() has not ended; this is how')
    assert session.result.complete and 'has not' not in session.result.summary()


def test_summary_of_a_run_that_ended_by_an_error_does_not_ask_for_train():
    script = Script(test=False)
    with pytest.raises(KeyError):
        script.run([Broken(epoch=1)])
    assert first_line(script.session.result) == (
        'The run did not come to its end; this is how far it came.'
    )
