"""Options on resume: those of what was applied are compared, those of what is to come are free."""
import functools
import json
import re

import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks.checkpoints import phase_file
from user_script import EPOCH, Identity, Script, Stops, binarize, factor, hidden, loop, sgd


class Scales(nc.Optimization):
    """One of the user's own, with options of every kind; it changes one when it is applied."""

    def __init__(self, epoch=0, sizes=(), by=1.0, names=None, shape=None):
        super().__init__(epoch)
        self.sizes, self.by, self.names, self.shape = sizes, by, names, shape

    def transform(self, model):
        self.by = 7.0
        return model


class Shape:
    """An option that is an object."""


def session(folder, *callbacks, **options):
    script = Script(folder=str(folder), test=False, checkpoint=300, dropout=False, **options)
    script.run(list(callbacks), data=script.held_out)
    return script


def files(folder):
    """Returns what is in a folder, but for the empty note that a pair is whole."""
    found = {path.relto(folder): path.read_binary() for path in folder.visit() if path.isfile()}
    found.pop('model.netopt/whole', None)
    return found


def of_two(matrix):
    return 2


def rank(of, **options):
    return nc.FactorDense(epoch=1, rank=of, filter_function=hidden, **options)


def scales(**options):
    return Scales(epoch=1, **options)


CHANGED = {
    'number': (lambda: rank(4), lambda: rank(3), 'rank=4', 'rank=3'),
    'fraction': (lambda: rank(0.25), lambda: rank(0.5), 'rank=0.25', 'rank=0.5'),
    'rule of another number': (
        lambda: rank(nc.parameters(0.5)),
        lambda: rank(nc.parameters(0.25)),
        'rank=parameters(0.5)',
        'rank=parameters(0.25)',
    ),
    'another rule': (
        lambda: rank(nc.stable_rank()),
        lambda: rank(4),
        'rank=stable_rank()',
        'rank=4',
    ),
    'function for a number': (
        lambda: rank(2),
        lambda: rank(of_two),
        'rank=2',
        'rank=<function>',
    ),
    'filter for none': (
        lambda: nc.FactorDense(epoch=1, rank=4),
        lambda: rank(4),
        'filter_function=None',
        'filter_function=<function>',
    ),
    'learner for none': (
        lambda: factor(),
        lambda: factor(learner=sgd),
        'learner=None',
        'learner=<function>',
    ),
    'several': (
        lambda: nc.BinarizeConvolution(epoch=1, filter_function=lambda layer: True),
        lambda: nc.BinarizeConvolution(
            epoch=1, filter_function=lambda layer: True, weight_scale='layer', output_scale=None
        ),
        "weight_scale='channel', output_scale='calibrate'",
        "weight_scale='layer', output_scale=None",
    ),
    'tuple': (
        lambda: scales(sizes=(3, (4,), 'x')),
        lambda: scales(sizes=(3, (5,), 'x')),
        "sizes=(3, (4,), 'x')",
        "sizes=(3, (5,), 'x')",
    ),
    'bool': (lambda: scales(names=True), lambda: scales(names=False), 'names=True', 'names=False'),
    'object of another kind': (
        lambda: scales(shape=Shape()),
        lambda: scales(shape={}),
        'shape=<Shape>',
        'shape=<dict>',
    ),
}


def in_order(text):
    """Returns options as a set: their order is not promised."""
    return set(text.split(', ')) if '(' not in text else {text}


@pytest.mark.parametrize('case', sorted(CHANGED))
def test_option_of_an_applied_optimization_that_has_changed(case, tmpdir):
    before, after, was, has = CHANGED[case]
    session(tmpdir, before(), sweeps=2)
    script = Script(folder=str(tmpdir), test=False, checkpoint=300, dropout=False, sweeps=3)
    written, state = files(tmpdir), script.state()
    with pytest.raises(ValueError) as error:
        script.run([after()], data=script.held_out)
    found = re.fullmatch(
        re.escape(f'the checkpoint {tmpdir.join("model")} was written after ')
        + r'(\w+)\(epoch=1\) was applied with (.*), and this script has (.*), which comes too late'
        + ': give another checkpoint name to train with (.*), or put (.*) back',
        str(error.value),
    )
    assert found, str(error.value)
    assert found.group(1) == before().name
    assert in_order(found.group(2)) == in_order(found.group(5)) == in_order(was)
    assert in_order(found.group(3)) == in_order(found.group(4)) == in_order(has)
    assert files(tmpdir) == written
    assert script.state() == state and script.trainer.total_number_of_samples_seen == 0


SAME = {
    'number of NumPy': (lambda: rank(4), lambda: rank(np.int64(4))),
    'rule of a float': (lambda: rank(nc.speedup(2)), lambda: rank(nc.speedup(2.0))),
    'another function': (
        lambda: nc.FactorDense(epoch=1, rank=of_two, filter_function=hidden),
        lambda: nc.FactorDense(
            epoch=1, rank=functools.partial(of_two), filter_function=lambda layer: False
        ),
    ),
    'list for a tuple': (lambda: scales(sizes=(3, 4)), lambda: scales(sizes=[3, 4])),
    'not a number': (lambda: scales(by=float('nan')), lambda: scales(by=np.float32('nan'))),
    'another object of the class': (
        lambda: scales(shape=Shape()),
        lambda: scales(shape=Shape()),
    ),
    'changed by itself': (lambda: scales(by=2.5), lambda: scales(by=2.5)),
}


@pytest.mark.parametrize('case', sorted(SAME))
def test_option_that_is_the_same_or_cannot_be_compared(case, tmpdir):
    before, after = SAME[case]
    first = session(tmpdir, before(), sweeps=2)
    again = session(tmpdir, after(), sweeps=2)
    assert again.state() == first.state()
    (one,), (other,) = first.session.result.records, again.session.result.records
    assert one.samples == other.samples


def test_option_of_an_optimization_to_come_is_free(tmpdir):
    script = Script(folder=str(tmpdir), test=False, checkpoint=300, dropout=False)
    with pytest.raises(KeyboardInterrupt):
        script.run([Identity(epoch=1), factor(2, rank=4), Stops(18)], data=script.held_out)
    (record,) = script.session.result.records
    assert record.optimization == 'Identity' and tmpdir.join('model').check()
    resumed = session(tmpdir, Identity(epoch=1), factor(2, rank=2, learner=sgd))
    record = resumed.session.result.records[1]
    assert record.layers[0].rank == 2 and record.options['rank'] == 2
    assert resumed.z.hidden.W1.shape[-1] == 2
    with pytest.raises(ValueError, match='was applied with rank=2, and this script has rank=3,'):
        session(tmpdir, Identity(epoch=1), factor(2, rank=3, learner=sgd))


def test_second_of_two_of_a_class_is_the_one_that_is_named(tmpdir):
    def last(layer):
        return layer.name == 'classify'

    def callbacks(of):
        return [factor(1, rank=4), nc.FactorDense(epoch=2, rank=of, filter_function=last)]

    session(tmpdir, *callbacks(2))
    with pytest.raises(ValueError, match=r'after FactorDense\(epoch=2\) was applied with rank=2'):
        session(tmpdir, *callbacks(1))


def test_loop_of_the_users_own(tmpdir):
    file = str(tmpdir.join('model'))
    whole = Script(dropout=False)
    with nc.attach(whole.trainer, [factor(rank=4)], epoch_size=EPOCH):
        loop(whole, 0, 3)
        whole.trainer.save_checkpoint(file + ' early')
        loop(whole, 3, 8)
        whole.trainer.save_checkpoint(file)
        rest = loop(whole, 8, 14)
    other = Script(dropout=False)
    with nc.attach(other.trainer, [factor(rank=2)], epoch_size=EPOCH) as run:
        before = other.state(), other.trainer.this
        with pytest.raises(ValueError, match='applied with rank=4, and this script has rank=2,'):
            other.trainer.restore_from_checkpoint(file)
        assert (other.state(), other.trainer.this) == before
        other.trainer.restore_from_checkpoint(file + ' early')
        loop(other, 3, 8)
    assert run.result.records[0].layers[0].rank == 2
    resumed = Script(dropout=False)
    with nc.attach(resumed.trainer, [factor(rank=4)], epoch_size=EPOCH):
        resumed.trainer.restore_from_checkpoint(file)
        assert loop(resumed, 8, 14) == rest


def test_file_of_a_version_without_options_is_resumed_and_goes_on_without(tmpdir):
    """What they were is not known, so it is not made up either."""
    session(tmpdir, factor(rank=4), sweeps=2)
    for path in tmpdir.join('model.netopt').listdir('phase-1.*'):
        fields = json.loads(path.read())
        del fields['records'][0]['options'], fields['checksum']
        path.write(json.dumps(dict(fields, checksum=phase_file._checksum(fields))))
    resumed = session(tmpdir, factor(rank=2), sweeps=3)
    (record,) = resumed.session.result.records
    assert record.layers[0].rank == 4 and record.options is None
    session(tmpdir, factor(rank=4), sweeps=4)


def test_record_has_the_options(tmpdir):
    (record,) = session(tmpdir, rank(nc.energy(0.9)), sweeps=2).session.result.records
    assert record.options == {
        'rank': {'text': 'energy(0.9)'},
        'filter_function': {'text': '<function>'},
        'factor_function': None,
        'learner': None,
        'learner_state': 'reset',
    }
    assert nc.Record.from_dict(json.loads(record.to_json())).options == record.options
    assert list(record.options) == sorted(record.options)  # a resumed run has the same text
    (record,) = session(tmpdir.mkdir('other'), binarize(1), sweeps=2).session.result.records
    assert (record.options['weight_scale'], record.options['clip']) == ('channel', None)
