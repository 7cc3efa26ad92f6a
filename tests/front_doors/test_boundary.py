"""A boundary between two segments consumes no sample: what a source of the user's own was asked
for."""
import cntk as C
import pytest

from user_script import SAMPLES, Identity
from user_sources import Images, ManualRows

EPOCHS = pytest.mark.parametrize('epochs', [(0,), (1,), (1, 2, 2), (1, 2, 3)], ids=str)


def reads(source, epochs, **options):
    """Returns the minibatches that a source delivered, each as its row numbers."""
    script = Images(source=source, sweeps=3, test=False, cross_validation=0, **options)
    script.run([Identity(epoch=epoch) for epoch in epochs])
    return script.source.read


@pytest.mark.few(4)
@EPOCHS
@pytest.mark.parametrize(
    'options', [{}, dict(max_samples=3 * SAMPLES), dict(minibatch=50)], ids=str
)
def test_source_without_state_is_read_once(epochs, options):
    plain = reads('user', (), **options)
    assert reads('user', epochs, **options) == plain
    assert sum(map(len, plain)) == 3 * SAMPLES


@pytest.mark.few(3)
@EPOCHS
@pytest.mark.parametrize('minibatch', [64, 50])
def test_source_with_state_is_looked_at_one_minibatch_ahead(epochs, minibatch):
    """The look tells the end of the data, in the user's size; the source is put back, and then
    trained on."""
    plain = reads('user with state', (), minibatch=minibatch)
    ours = reads('user with state', epochs, minibatch=minibatch)
    looks = [number for number, rows in enumerate(ours[:-1]) if rows == ours[number + 1]]
    assert [rows for number, rows in enumerate(ours) if number not in looks] == plain
    assert len(looks) <= len({epoch for epoch in epochs if 0 < epoch < 3})


def test_source_in_the_form_of_the_manual_is_read_as_cntk_reads_it():
    def script():
        made = Images(source='user as in the manual', sweeps=3, cross_validation=0)
        held_out = ManualRows(made.images, made.labels, 1)
        streams = {made.x: held_out.streams['x'], made.label: held_out.streams['label']}
        made.arguments['cv_config'] = C.CrossValidationConfig(
            held_out, frequency=300, minibatch_size=50, model_inputs_to_streams=streams
        )
        return made

    plain = script().run_plain()
    assert script().run([Identity(epoch=1), Identity(epoch=2)]) == plain
    ours = script()
    held_out = ManualRows(ours.images, ours.labels, 1)
    assert ours.run([Identity(epoch=1), Identity(epoch=2)], data=held_out) == plain


def test_no_look_is_needed_where_the_end_is_known():
    options = dict(max_samples=3 * SAMPLES)
    assert reads('user with state', (3,), **options) == reads('user with state', (), **options)
