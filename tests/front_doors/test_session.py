"""A session with nothing due, and one with identities due, against plain CNTK: as bytes."""
import inspect
import os

import cntk as C
import pytest
from cntk.train.training_session import DataUnit

import netopt_callbacks as nc
from slices import few
from user_script import LEARNERS, SAMPLES, Identity, Script


def files(folder):
    """Returns the names of the user's checkpoint files, ours (in a folder) left out."""
    return sorted(
        name
        for name in os.listdir(str(folder))
        if name.startswith('model') and os.path.isfile(os.path.join(str(folder), name))
    )


def test_signature_begins_as_cntks():
    ours = list(inspect.signature(nc.training_session).parameters.values())
    theirs = list(inspect.signature(C.training_session).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]


def test_without_callbacks_is_cntk():
    assert Script().run() == Script().run_plain()


def test_identity_equals_plain_and_everything_is_exchanged():
    plain = Script().run_plain()
    script = Script()
    before = script.trainer.this, script.trainer.loss_function.uid, script.z.uid
    outcome = script.run([Identity(epoch=2)], data=script.held_out)
    assert outcome == plain
    assert script.trainer.this is not before[0]
    assert script.trainer.loss_function.uid != before[1]
    assert script.z.uid != before[2]
    assert script.z.output.uid == script.trainer.model.output.uid
    (record,) = script.session.result.records
    assert (record.optimization, record.epoch) == ('Identity', 2)
    assert record.metric_before == record.metric_after


@pytest.mark.few(4)
@pytest.mark.parametrize('learner', sorted(LEARNERS))
def test_identity_equals_plain_for_every_learner(learner):
    options = dict(learner=learner, sweeps=3, test=False)
    assert (
        Script(**options).run([Identity(epoch=1), Identity(epoch=2)])
        == Script(**options).run_plain()
    )


FREQUENCIES = [None, 500, SAMPLES, (7, DataUnit.minibatch), (1, DataUnit.sweep)]


@pytest.mark.few(1)
@pytest.mark.parametrize('frequency', FREQUENCIES, ids=str)
@pytest.mark.parametrize('epochs', few([(0,), (1, 1, 3), (4,)], (1, 1, 3)), ids=str)
def test_identity_equals_plain_for_every_frequency(frequency, epochs):
    options = dict(frequency=frequency)
    assert (
        Script(**options).run([Identity(epoch=epoch) for epoch in epochs])
        == Script(**options).run_plain()
    )


@pytest.mark.parametrize(
    'options',
    [
        dict(max_samples=2 * SAMPLES + 300),
        dict(minibatch=C.minibatch_size_schedule([32, 48, 100], 600)),
        dict(log=5),
        dict(log=0),
        dict(minibatch=SAMPLES + 50, sweeps=6),
    ],
    ids=[
        'max_samples inside an epoch',
        'minibatch size schedule',
        'writer every 5 updates',
        'writer at powers of two',
        'minibatch of more than an epoch',
    ],
)
def test_identity_equals_plain_for(options):
    assert (
        Script(**options).run([Identity(epoch=1), Identity(epoch=2)])
        == Script(**options).run_plain()
    )


@pytest.mark.parametrize('source', ['arrays', 'ctf', 'composite'])
def test_identity_equals_plain_for_every_source(source, tmpdir):
    options = dict(source=source, folder=str(tmpdir))
    assert (
        Script(**options).run([Identity(epoch=1), Identity(epoch=3)])
        == Script(**options).run_plain()
    )


def test_epoch_in_sweeps(tmpdir):
    options = dict(source='ctf', folder=str(tmpdir))
    script = Script(**options)
    assert (
        script.run([Identity(epoch=1), Identity(epoch=(2, DataUnit.sweep))], epoch_size=None)
        == Script(**options).run_plain()
    )
    assert [record.samples for record in script.session.result.records] == [
        704,
        1408,
    ]  # minibatch ends at or past a sweep


@pytest.mark.parametrize('preserve_all', [False, True])
@pytest.mark.parametrize('frequency', few([500, (1, DataUnit.sweep)], 500), ids=str)
def test_checkpoint_files_are_cntks(frequency, preserve_all, tmpdir):
    left = []
    for kind in ('plain', 'ours'):
        folder = tmpdir.mkdir(kind)
        script = Script(checkpoint=frequency, preserve_all=preserve_all, folder=str(folder))
        outcome = (
            script.run_plain()
            if kind == 'plain'
            else script.run([Identity(epoch=1), Identity(epoch=3)])
        )
        left.append((files(folder), outcome))
    assert left[0] == left[1]


def test_without_callbacks_no_file_of_ours_is_written(tmpdir):
    Script(checkpoint=500, folder=str(tmpdir)).run()
    assert sorted(os.listdir(str(tmpdir))) == ['model', 'model.ckp']


def test_cross_validation_callback_decides():
    ended = []
    for run in ('run_plain', 'run'):
        script = Script()
        script.arguments['cv_config'] = C.CrossValidationConfig(
            frequency=300, callback=lambda index, *rest: index < 3
        )
        outcome = getattr(script, run)(*([[Identity(epoch=1)]] if run == 'run' else []))
        ended.append((script.trainer.total_number_of_samples_seen, outcome))
    assert ended[0] == ended[1]
    assert ended[0][0] < 4 * SAMPLES


class Evaluations(nc.Observer):
    """Keeps what it is told of tests."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_evaluation(self, evaluation):
        self.seen.append((evaluation.kind, evaluation.samples, evaluation.metric))


@pytest.mark.parametrize('has_source', [True, False])
def test_test_made_by_a_cross_validation_callback_is_told_where_it_is_made(has_source):
    script, told = Script(test=False), Evaluations()
    source, streams = script._small(110)
    made = []

    def callback(index, error, samples, minibatches):
        script.trainer.test_minibatch(
            {script.x: script.images[:64], script.label: script.labels[:64]}
        )
        script.trainer.summarize_test_progress()
        if has_source:
            made.append(('cross_validation', script.trainer.total_number_of_samples_seen, error))
        made.append(
            (
                'test' if has_source else 'cross_validation',
                script.trainer.total_number_of_samples_seen,
                script.log.events[-1][-1] / 64,
            )
        )
        return True

    options = dict(model_inputs_to_streams=streams) if has_source else {}
    script.arguments['cv_config'] = C.CrossValidationConfig(
        source if has_source else None, frequency=SAMPLES, callback=callback, **options
    )
    script.run([told, Identity(epoch=2)])
    assert [t for t in told.seen if t[0] in ('cross_validation', 'test')] == made
    assert len(made) == (8 if has_source else 4)


def test_users_objects_stay_and_follow():
    script = Script()
    script.trainer.mine = 'kept'
    trainer, learner = script.trainer, script.learners[0]
    stale = C.softmax(script.z)
    before = stale.eval({script.x: script.images[:3]})
    script.run([nc.FactorDense(epoch=1, rank=3, filter_function=lambda b: b.name == 'hidden')])
    assert trainer.mine == 'kept'
    assert (
        trainer.parameter_learners[0].total_number_of_samples_seen()
        == learner.total_number_of_samples_seen()
        == 4 * SAMPLES
    )
    values = trainer.train_minibatch(
        {script.x: script.images[:8], script.label: script.labels[:8]}, outputs=[script.z.output]
    )[1]
    assert values[script.z.output].shape == (8, 5)
    assert [parameter.uid for parameter in trainer.loss_function.parameters] == [
        parameter.uid for parameter in script.loss.parameters
    ]
    # A Function built over the model before the swap goes on reading the storage as the old W.
    assert (stale.eval({script.x: script.images[:3]}) != before).any()
