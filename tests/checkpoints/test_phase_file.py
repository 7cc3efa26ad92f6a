"""Whatever is wrong in the file of a phase: a sentence that names file and field, and nothing
has changed."""
import copy
import json
import random

import pytest

import netopt_callbacks as nc
from netopt_callbacks.checkpoints import phase_file
from user_script import EPOCH, Identity, Script, factor, loop


class Saved:
    """A run that has saved a checkpoint and trained on since, and how it stands."""

    def __init__(self, folder):
        self.script = Script()
        self.run = nc.attach(
            self.script.trainer,
            [factor(), Identity(epoch=9)],
            epoch_size=EPOCH,
            data=self.script.held_out,
        )
        self.file = str(folder.join('model'))
        loop(self.script, 0, 14)
        self.script.trainer.save_checkpoint(self.file)
        loop(self.script, 14, 17)
        (self.path,) = (
            file
            for file in folder.join('model.netopt').listdir()
            if file.basename.startswith('phase-1.')
        )
        self.bytes = self.path.read_binary()
        self.fields = json.loads(self.bytes.decode())

    def stands(self):
        trainer, clock = self.script.trainer, self.run.engine.clock
        return (
            self.script.state(),
            trainer.this,
            trainer.total_number_of_samples_seen,
            dict(clock.seen),
            clock.base,
            [record.to_dict() for record in self.run.result.records],
            self.run.engine.phases.applied,
            [p.uid for p in trainer.model.parameters],
            self.script.z.uid,
        )

    def refused(self, *words):
        before = self.stands()
        with pytest.raises(ValueError) as error:
            self.script.trainer.restore_from_checkpoint(self.file)
        same = self.stands() == before
        assert same
        for word in (str(self.path),) + words:
            assert word in str(error.value), str(error.value)

    def write(self, fields, checksum=True):
        """Writes other fields, with a checksum that fits them or not."""
        fields = dict(fields)
        if checksum:
            fields.pop('checksum', None)
            fields['checksum'] = phase_file._checksum(fields)
        self.path.write(json.dumps(fields))


@pytest.fixture(scope='module')
def run(tmpdir_factory):
    return Saved(tmpdir_factory.mktemp('phase'))


@pytest.fixture
def saved(run):
    yield run
    run.path.write_binary(run.bytes)


def changed(fields, place, value):
    """Returns the fields with another value at a place such as ('records', 0, 'curve')."""
    fields = copy.deepcopy(fields)
    inner = fields
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return fields


HUGE = 10**12
WRONG = [
    (('outputs',), []),
    (('outputs',), None),
    (('outputs', 0), -1),
    (('outputs', 0), 1.0),
    (('outputs', 0), HUGE),
    (('arguments', 0), '0'),
    (('arguments', 0), HUGE),
    (('parameters', 0), HUGE),
    (('parameters', 0), True),
    (('parameters',), {}),
    (('constants', 0), HUGE),
    (('constants', 0), -1),
    (('learners',), [1]),
    (('learners', 0), [None]),
    (('learners', 0, 0), 2),
    (('learners', 0, 1, 0), HUGE),
    (('learners', 0, 1, 0), None),
    (('others',), 5),
    (('others',), [[[7, []]]]),
    (('others',), [[[None, [[True, HUGE]]]]]),
    (('others',), [[[None, [[0, 0]]]]]),
    (('fingerprint',), 5),
    (('run',), None),
    (('schedule', 0, 1), 'one'),
    (('schedule', 0, 1), [1]),
    (('schedule', 0, 0), 3),
    (('schedule',), 'none'),
    (('fired',), [0, 0]),
    (('fired',), [7]),
    (('fired',), 0),
    (('base',), [0, 0]),
    (('base', 0), -5),
    (('base', 0), 2**63),
    (('base', 0), 10**30),
    (('unique_id',), HUGE),
    (('unique_id',), '9'),
    (('records',), []),
    (('records', 0), None),
    (('records', 0, 'optimization'), 3),
    (('records', 0, 'epoch'), 1.5),
    (('records', 0, 'samples'), -1),
    (('records', 0, 'metric_before'), '0.5'),
    (('records', 0, 'metric_after'), [0.5]),
    (('records', 0, 'error_after'), 'small'),
    (('records', 0, 'curve'), 5),
    (('records', 0, 'curve', 0), [1]),
    (('records', 0, 'curve', 0, 0), None),
    (('records', 0, 'curve', 0, 1), 'x'),
    (('records', 0, 'notes'), [3]),
    (('records', 0, 'larger_is_better'), 0),
    (('records', 0, 'network_after'), []),
    (('records', 0, 'network_after', 'macs'), 'many'),
    (('records', 0, 'network_after', 'more'), 1),
    (('records', 0, 'layers'), {}),
    (('records', 0, 'layers', 0, 'rank'), '4'),
    (('records', 0, 'layers', 0, 'shape'), [1.5]),
    (('records', 0, 'layers', 0, 'name'), 4),
    (('records', 0, 'layers', 0, 'energy'), 'half'),
    (('records', 0, 'options'), []),
    (('records', 0, 'options', 'rank'), {}),
    (('records', 0, 'options', 'rank'), {'text': 4}),
    (('records', 0, 'options', 'rank'), [4, {'words': 'energy(0.5)'}]),
    (('records', 0, 'Curve'), []),
    (('more',), 1),
]


@pytest.mark.parametrize('place, value', WRONG)
def test_field_that_is_wrong(place, value, saved):
    """Under a checksum that fits, as of a file that another program wrote."""
    saved.write(changed(saved.fields, place, value))
    named = [step for step in place if isinstance(step, str)]
    saved.refused(f'"{named[0]}', named[-1] if len(named) < 4 else '')


@pytest.mark.parametrize(
    'name',
    sorted(set(phase_file.Phase.FIELDS) - set(phase_file.Phase.LATER)) + ['version', 'checksum'],
)
def test_field_that_is_missing(name, saved):
    saved.write(
        {key: value for key, value in saved.fields.items() if key != name},
        checksum=name != 'checksum',
    )
    saved.refused(f'"{name}"', 'missing')


def test_file_of_before_a_field_was_added(saved):
    saved.write(
        {key: value for key, value in saved.fields.items() if key not in phase_file.Phase.LATER}
    )
    saved.script.trainer.restore_from_checkpoint(saved.file)
    assert saved.run.engine.phases.applied == [0]
    loop(saved.script, 14, 17)  # as the fixture's run, which the other tests compare with


@pytest.mark.parametrize('name', ['curve', 'layers', 'samples', 'network_before'])
def test_field_of_a_record_that_is_named_otherwise(name, saved):
    fields = changed(
        saved.fields, ('records', 0, name.capitalize()), saved.fields['records'][0][name]
    )
    del fields['records'][0][name]
    saved.write(fields)
    saved.refused(f'records[0].{name.capitalize()}"')


def test_file_of_the_version_before(saved):
    saved.write(dict(saved.fields, version=2))
    saved.refused('version 2', 'packed in the Parameters they replaced', 'resume with the version')


@pytest.mark.parametrize('version', [None, '3', 4, 3.5, []])
def test_file_of_no_version_known(version, saved):
    saved.write(dict(saved.fields, version=version))
    saved.refused('"version" must be 3')


@pytest.mark.parametrize(
    'text', ['', '[]', 'null', '{', '{}', '[' * 100000, '\x00' * 50, '{"version": 3}']
)
def test_file_that_is_none(text, saved):
    saved.path.write(text)
    saved.refused('cannot be read')


def test_value_that_fits_its_field_and_not_the_checksum(saved):
    for place, value in (
        (('records', 0, 'samples'), 3),
        (('base', 0), 64),
        (('records', 0, 'curve', 0, 1), 0.25),
        (('records', 0, 'layers', 0, 'rank'), 5),
        (('unique_id',), 1),
    ):
        saved.write(changed(saved.fields, place, value), checksum=False)
        saved.refused('"checksum"')


def test_numbers_that_are_none_fit(saved):
    saved.write(changed(saved.fields, ('records', 0, 'metric_before'), float('nan')))
    assert phase_file.read(str(saved.path)).records[0]['metric_before'] != 0


def test_record_without_the_error_that_older_files_lack(saved):
    fields = copy.deepcopy(saved.fields)
    assert 0 < fields['records'][0].pop('error_after') < 0.05
    saved.write(fields)
    (record,) = phase_file.read(str(saved.path)).records
    assert nc.Record.from_dict(record).error_after is None


def test_any_bit(saved):
    """What still reads as the same fields is the same; all else is refused."""
    places = random.Random(5).sample(range(8 * len(saved.bytes)), 400)
    refused = 0
    for place in places:
        damaged = bytearray(saved.bytes)
        damaged[place // 8] ^= 1 << place % 8
        saved.path.write_binary(bytes(damaged))
        try:
            same = (
                phase_file.read(str(saved.path)).to_dict()
                == phase_file.Phase(
                    **{name: saved.fields[name] for name in phase_file.Phase.FIELDS}
                ).to_dict()
            )
            assert same
        except ValueError:
            refused += 1
    assert refused > 300


def test_after_all_that_the_checkpoint_is_restored(saved):
    saved.script.trainer.restore_from_checkpoint(saved.file)
    assert (
        saved.script.trainer.total_number_of_samples_seen
        == saved.run.engine.clock.samples
        == 14 * 64
    )
