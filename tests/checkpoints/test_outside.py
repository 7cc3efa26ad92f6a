"""Checkpoints of runs with callbacks that CNTK is told to restore where there are none."""
import re

import cntk as C
import pytest

import netopt_callbacks as nc
from user_script import EPOCH, Identity, Script, factor, loop


@pytest.fixture(scope='module')
def folder(tmpdir_factory):
    """Holds `early` and `late` of a hand loop, before and after a swap, and a session's `model`."""
    folder = tmpdir_factory.mktemp('outside')
    script = Script(dropout=False)
    with nc.attach(script.trainer, [factor()], epoch_size=EPOCH):
        for name, first, last in ('early', 0, 3), ('late', 3, 8):
            loop(script, first, last)
            script.trainer.save_checkpoint(str(folder.join(name)))
    Script(
        dropout=False, test=False, checkpoint=300, sweeps=2, folder=str(folder), preserve_all=True
    ).run([factor()])
    return folder


def told(error, file):
    """Checks that an error names a file and what to do, and that CNTK's own is its cause."""
    assert re.match(re.escape(f'the checkpoint {file} was saved under callbacks'), str(error))
    for words in ('nc.attach(trainer, callbacks=[...]) first', 'restore inside', 'session'):
        assert words in str(error)
    assert 'isomorphic' not in str(error) and 'CALL STACK' not in str(error)
    assert isinstance(error.__cause__, ValueError) and 'isomorphic' in str(error.__cause__)


@pytest.mark.parametrize('name', ['early', 'late', 'model', 'model1'])
def test_restore_before_attach(name, folder):
    script, file = Script(dropout=False), str(folder.join(name))
    before = script.state()
    with pytest.raises(ValueError) as error:
        script.trainer.restore_from_checkpoint(file)
    told(error.value, file)
    assert script.state() == before
    with nc.attach(script.trainer, [factor()], epoch_size=EPOCH):
        script.trainer.restore_from_checkpoint(file)  # as the error says
        factored = 'DenseFactored' in [f.op_name for f in nc.graph.walk(script.z)]
        assert factored == (name != 'early')
        loop(script, 8, 14)


def test_restore_between_a_session_and_its_training(folder):
    script = Script(dropout=False, test=False)
    nc.training_session(callbacks=[factor()], epoch_size=EPOCH, **script.arguments)
    with pytest.raises(ValueError) as error:
        script.trainer.restore_from_checkpoint(str(folder.join('late')))
    told(error.value, folder.join('late'))


def test_session_of_cntk(folder):
    script = Script(dropout=False, test=False, checkpoint=300, folder=str(folder))
    with pytest.raises(ValueError) as error:
        script.run_plain()
    told(error.value, folder.join('model'))


def test_session_of_cntk_whose_config_was_made_before_the_import(folder):
    script = Script(dropout=False, test=False, checkpoint=300, folder=str(folder))
    del script.arguments['checkpoint_config'].__dict__['_netopt_callbacks']
    with pytest.raises(ValueError, match='the checkpoint to resume from was saved under callbacks'):
        script.run_plain()


class Other(Script):
    """Of another structure."""

    def _network(self, dropout):
        return C.layers.Dense(5)(self.x)


def test_errors_of_plain_cntk_are_its_own(tmpdir):
    other, file = Other(), str(tmpdir.join('model'))
    other.trainer.save_checkpoint(file)
    with pytest.raises(ValueError, match='isomorphic') as error:
        Script(dropout=False).trainer.restore_from_checkpoint(file)
    assert error.value.__cause__ is None
    script = Script(dropout=False, test=False, checkpoint=300, folder=str(tmpdir))
    with pytest.raises(ValueError, match='isomorphic') as error:
        script.run_plain()
    assert error.value.__cause__ is None
    with pytest.raises(Exception) as error:
        script.trainer.restore_from_checkpoint(str(tmpdir.join('none')))
    assert 'callbacks' not in str(error.value) and error.value.__cause__ is None


def test_restore_of_plain_cntk_is_its_own(tmpdir):
    """What it returns, and the methods, as a script that looks at them sees them."""
    script, file = Script(), str(tmpdir.join('model'))
    loop(script, 0, 3)
    script.trainer.save_checkpoint(file, {'mine': 7})
    state, rest = script.state(), loop(script, 3, 6)
    assert script.trainer.restore_from_checkpoint(file)['mine'] == 7
    assert script.state() == state and len(rest) == 6
    assert C.Trainer.restore_from_checkpoint.__name__ == 'restore_from_checkpoint'
    assert 'specified file location' in C.Trainer.restore_from_checkpoint.__doc__


def numbered(folder):
    """Trains three sweeps with numbered checkpoints; returns the script."""
    script = Script(
        dropout=False, test=False, sweeps=3, checkpoint=350, folder=str(folder), preserve_all=True
    )
    script.run([factor(2), Identity(epoch=1)], data=script.held_out)
    return script


@pytest.mark.parametrize('last, applied', [(3, 1), (0, 0)], ids=['between swaps', 'before them'])
def test_earlier_numbered_checkpoint_of_a_session(last, applied, tmpdir):
    """docs/guide.md: with the newer ones moved away, the same script goes on from it."""
    whole = numbered(tmpdir)
    for file in tmpdir.listdir('model*'):
        number = file.basename[len('model') :].replace('.ckp', '')
        if number != '.netopt' and (not number or int(number) > last):
            file.remove()
    assert tmpdir.join(f'model{last}').check() and not tmpdir.join('model').check()
    resumed = numbered(tmpdir)
    assert resumed.state() == whole.state()
    assert [r.to_dict() for r in resumed.session.result.records] == [
        r.to_dict() for r in whole.session.result.records
    ]
    assert len(resumed.log.events) < len(whole.log.events)  # it went on, and did not begin again
