"""`nc.train` against `Function.train`."""
import inspect
import sys
import threading

import cntk as C
import pytest

import netopt_callbacks as nc
from user_script import SAMPLES, Identity, Script


def train(how, callbacks=(), **options):
    script = Script()
    criterion = C.combine([script.loss, script.metric])
    summary = how(
        criterion,
        (script.images, script.labels),
        minibatch_size=64,
        max_epochs=3,
        parameter_learners=script.learners,
        callbacks=[script.log] + list(callbacks),
        **options,
    )
    events = [event for event in script.log.events if event[0] != 'write']
    return summary, (
        repr(events),
        b''.join(p.value.tobytes() for p in criterion.parameters),
        repr(summary.epoch_summaries),
        repr(summary.updates),
    )


def test_signature_begins_as_cntks():
    theirs = list(inspect.signature(C.Function.train).parameters.values())[1:]
    ours = list(inspect.signature(nc.train).parameters.values())[1:]
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize('epochs', [(), (1,), (0, 2, 3)], ids=str)
def test_identity_equals_function_train(epochs):
    summary, ours = train(nc.train, [Identity(epoch=epoch) for epoch in epochs])
    assert ours == train(C.Function.train)[1]
    assert [record.epoch for record in summary.result.records] == list(epochs)


def test_result_holds_the_optimized_model():
    summary, _ = train(
        nc.train,
        [nc.FactorDense(epoch=1, rank=3, filter_function=lambda layer: layer.name == 'hidden')],
    )
    assert 'W2' in [parameter.name for parameter in summary.result.model.parameters]
    assert summary.result.records[0].samples == SAMPLES


@pytest.mark.parametrize(
    'callback', [nc.FactorDense(1, rank=2), nc.Lower(), Identity], ids=['made', 'Lower', 'class']
)
def test_cntks_own_train_refuses_what_it_would_leave_out(callback):
    kind = callback if isinstance(callback, type) else type(callback)
    with pytest.raises(TypeError, match=f'takes no {kind.__name__}; call netopt_callbacks.train'):
        train(C.Function.train, [callback])


def test_callback_of_an_unknown_type_is_refused():
    with pytest.raises(TypeError, match="got 'x'"):
        train(nc.train, ['x'])


@pytest.mark.parametrize('wrong', [Identity(), 'x', iter([Identity()])])
def test_callbacks_that_are_no_list_are_refused_as_by_a_session(wrong):
    script = Script()
    for refuse in (
        lambda: nc.train(C.combine([script.loss]), (script.images, script.labels), callbacks=wrong),
        lambda: nc.attach(script.trainer, wrong, epoch_size=64),
    ):
        with pytest.raises(TypeError, match=r'callbacks must be a list, got .*callbacks=\[...\]'):
            refuse()


def test_no_callbacks_are_an_empty_list_as_in_a_session():
    script = Script()
    criterion = C.combine([script.loss, script.metric])
    summary = nc.train(
        criterion,
        (script.images, script.labels),
        parameter_learners=script.learners,
        callbacks=None,
    )
    assert summary.result.complete


@pytest.mark.parametrize('wrong', [None, 'loss', ()])
def test_criterion_that_is_no_function_is_refused(wrong):
    with pytest.raises(TypeError, match='criterion must be a cntk.Function.*cntk.combine'):
        nc.train(wrong, ())


def test_cntks_session_is_put_back_after_an_error():
    module = inspect.getmodule(C.train.training_session)
    before = module.training_session
    with pytest.raises(ValueError, match='past the end'):
        train(nc.train, [Identity(epoch=9)], epoch_size=SAMPLES)
    assert module.training_session is before


def test_observer_of_ours_in_function_train():
    class Counts(nc.Observer):
        minibatches = 0

        def on_minibatch(self, samples, loss, metric):
            self.minibatches += 1

    observer = Counts()
    train(C.Function.train, [observer])
    assert observer.minibatches == 33


class Inner(nc.Observer):
    """Trains another network while the first is trained."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.summary = None

    def on_epoch(self, epoch, samples):
        if self.summary is None:
            self.summary, self.outcome = train(self.how)


@pytest.mark.parametrize('how', [nc.train, C.Function.train])
def test_training_within_training(how):
    alone = train(C.Function.train)[1]
    inner = Inner(how)
    _, outer = train(nc.train, [inner])
    assert inner.outcome == alone and outer == alone
    assert hasattr(inner.summary, 'result') == (how is nc.train)


def test_function_train_of_another_thread_is_cntks():
    found = []

    class Threads(nc.Observer):
        def on_start(self, run):
            other = threading.Thread(
                target=lambda: found.append(
                    sys.modules['cntk.train.training_session'].training_session
                )
            )
            other.start()
            other.join()

    train(nc.train, [Threads()])
    assert found == [C.train.training_session]


def test_interrupt_carries_the_partial_result():
    class Interrupts(nc.Observer):
        def on_epoch(self, epoch, samples):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(nc.train, [Interrupts(), Identity(epoch=2)])
    assert caught.value.result.model is not None and not caught.value.result.complete


def test_epoch_after_max_epochs_is_refused_before_training():
    with pytest.raises(
        ValueError, match=r'Identity\(epoch=9\) is after the last epoch, max_epochs=3'
    ):
        train(nc.train, [Identity(epoch=9)])
