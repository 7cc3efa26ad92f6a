"""Sequences given as lists of arrays: in a session, in `nc.train` and in a loop of the user's own.

CNTK's source of arrays gives nothing at all where it is asked for fewer samples than a sequence
has, so that it must not be asked for another number than the user's.
"""
import cntk as C
import numpy as np
import pytest
from cntk.layers.typing import Sequence, Tensor

import netopt_callbacks as nc
from user_script import Identity, Log

STEPS, NUMBER = 4, 30
RANDOM = np.random.RandomState(4)
XS = [RANDOM.rand(STEPS, 5).astype(np.float32) for _ in range(NUMBER)]
YS = [np.eye(3, dtype=np.float32)[RANDOM.randint(3, size=STEPS)] for _ in range(NUMBER)]
SAMPLES = STEPS * NUMBER


class Script:
    """A recurrent network, its criterion and its trainer, alike each time."""

    def __init__(self, sequences=True):
        C.cntk_py.reset_random_seed(1)
        self.x = C.sequence.input_variable(5, name='x')
        self.y = C.sequence.input_variable(3, name='y')
        z = C.layers.Sequential(
            [
                C.layers.Recurrence(C.layers.RNNStep(6)),
                C.layers.Dense(8, activation=C.tanh, name='middle'),
                C.layers.Dense(3),
            ]
        )(self.x)
        self.criterion = C.combine(
            [C.cross_entropy_with_softmax(z, self.y), C.classification_error(z, self.y)]
        )
        self.learner = C.momentum_sgd(z.parameters, C.learning_parameter_schedule(0.1), 0.9)
        self.log = Log()
        self.z = z

    def trained(self):
        """Returns what a run left: events and parameters, as bytes."""
        events = [event for event in self.log.events if event[0] != 'write']
        return repr(events), b''.join(p.value.tobytes() for p in self.criterion.parameters)


def in_session(callbacks):
    script = Script()
    source = C.io.MinibatchSourceFromData(
        dict(x=(XS, Sequence[Tensor[5]]), y=(YS, Sequence[Tensor[3]]))
    )
    trainer = C.Trainer(script.z, script.criterion, [script.learner], [script.log])
    arguments = dict(
        trainer=trainer,
        mb_source=source,
        mb_size=3 * STEPS,
        progress_frequency=50,
        model_inputs_to_streams={script.x: source.streams['x'], script.y: source.streams['y']},
        max_samples=3 * SAMPLES,
    )
    if callbacks is None:
        C.training_session(**arguments).train()
        return script.trained(), None
    session = nc.training_session(
        callbacks=callbacks, epoch_size=SAMPLES, data=(XS, YS), **arguments
    )
    session.train()
    return script.trained(), session.result


def by_train(callbacks):
    script = Script()
    options = dict(minibatch_size=3 * STEPS, max_epochs=8, parameter_learners=[script.learner])
    if callbacks is None:
        script.criterion.train((XS, YS), callbacks=[script.log], **options)
        return script.trained(), None
    summary = nc.train(
        script.criterion, (XS, YS), callbacks=[script.log] + callbacks, data=(XS, YS), **options
    )
    return script.trained(), summary.result


def by_hand(callbacks):
    script = Script()
    trainer = C.Trainer(script.z, script.criterion, [script.learner], [script.log])

    def loop():
        for start in 2 * list(range(0, NUMBER, 3)):
            trainer.train_minibatch(
                {script.x: XS[start : start + 3], script.y: YS[start : start + 3]}
            )

    if callbacks is None:
        loop()
        return script.trained(), None
    with nc.attach(trainer, callbacks, epoch_size=SAMPLES, data=(XS, YS)) as run:
        loop()
    return script.trained(), run.result


@pytest.mark.few(1)
@pytest.mark.parametrize('how', [in_session, by_train, by_hand])
def test_identity_equals_plain(how):
    ours, result = how([Identity(epoch=1), Identity(epoch=2)])
    assert ours == how(None)[0]
    assert [record.epoch for record in result.records] == [1, 2]
    assert all(0 < record.metric_after < 1 for record in result.records)


@pytest.mark.few(1)
@pytest.mark.parametrize('how', [in_session, by_train, by_hand])
def test_layer_is_factored(how):
    _, result = how(
        [nc.FactorDense(epoch=1, rank=2, filter_function=lambda layer: layer.name == 'middle')]
    )
    assert result.complete and [record.epoch for record in result.records] == [1]


def test_epochs_of_nc_train_are_those_of_function_train():
    """`Function.train` takes the number of sequences for an epoch, and counts samples against
    it."""
    ends = []

    class Epochs(nc.Observer):
        def on_epoch(self, epoch, samples):
            ends.append((epoch, samples))

    script = Script()
    summary = nc.train(
        script.criterion,
        (XS, YS),
        minibatch_size=3 * STEPS,
        max_epochs=8,
        callbacks=[Epochs()],
        parameter_learners=[script.learner],
    )
    assert len(summary.epoch_summaries) == len(ends) == 8
    assert np.cumsum([each.samples for each in summary.epoch_summaries]).tolist() == [
        end for _, end in ends
    ]
