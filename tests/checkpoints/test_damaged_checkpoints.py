"""A flipped bit, or two files of different saves, never become another run in silence."""
import itertools
import os
import random
import warnings

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.checkpoints import generations, pair
from netopt_callbacks.engine import checkpoint
from user_script import EPOCH, Identity, Script, factor, loop, saving

CALLBACKS = [('FactorDense', 1), ('Identity', 2)]


def trained(folder, preserve_all, sweeps=3):
    """Trains, or goes on; returns (state, warnings about going back)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        one = saving(folder, preserve_all, sweeps)
        one.run([factor(), Identity(epoch=2)])
    return one.state(), [
        str(warning.message)
        for warning in said
        if 'resumes from the one before' in str(warning.message)
    ]


@pytest.fixture(scope='module', params=[False, True], ids=['overwritten', 'preserved'])
def kept(request, tmpdir_factory):
    """(folder of a run of 3 sweeps, whether it keeps all, the state of one that goes on to 4
    sweeps)."""
    folder, whole = tmpdir_factory.mktemp('kept'), tmpdir_factory.mktemp('whole')
    trained(folder, request.param)
    trained(whole, request.param)
    return folder, request.param, trained(whole, request.param, 4)[0]


@pytest.fixture
def copied(kept, tmpdir):
    folder = tmpdir.join('copy')
    kept[0].copy(folder)
    return folder, kept[1], kept[2]


def flip(path, bit):
    content = bytearray(path.read_binary())
    content[bit // 8] ^= 1 << bit % 8
    path.remove()  # not into a file that is linked from elsewhere
    path.write_binary(bytes(content))


def refused(file):
    with pytest.raises(ValueError, match='cannot be read'):
        checkpoint.Checkpoints(file, [list(one) for one in CALLBACKS]).load(file)


@pytest.mark.parametrize('name', ['model', 'model.ckp'])
def test_any_bit(name, copied):
    folder, file = copied[0], str(copied[0].join('model'))
    path = folder.join(name)
    content = path.read_binary()
    for bit in random.Random(3).sample(range(8 * len(content)), 150) + [0, 8 * len(content) - 1]:
        flip(path, bit)
        refused(file)
        path.write_binary(content)
    checkpoint.Checkpoints(file, [list(one) for one in CALLBACKS]).load(file)


@pytest.mark.parametrize('noted', ['at the end', 'before both', 'between'])
def test_graph_of_one_save_and_state_of_another(noted, tmpdir):
    """As of a copy that is made while the run goes on: the folder may be older than both, or
    between."""
    trained(tmpdir, True)
    numbers = [str(tmpdir.join(f'model{number}')) for number in range(6)]
    contents = {
        file + end: open(file + end, 'rb').read() for file in numbers for end in ('', '.ckp')
    }
    journal, mixed = tmpdir.join('model.netopt', 'pairs'), str(tmpdir.join('model7'))
    lines = journal.read_binary().split(b'\n')
    places = {
        file: lines.index(
            next(line for line in lines if line.startswith(' '.join(pair.digests(file)).encode()))
        )
        for file in numbers
    }
    for one, other in itertools.permutations(numbers, 2):
        keep = {
            'at the end': len(lines),
            'before both': min(places[one], places[other]),
            'between': max(places[one], places[other]),
        }[noted]
        if not keep:
            continue
        journal.write_binary(b'\n'.join(lines[:keep]))
        open(mixed, 'wb').write(contents[one])
        open(mixed + '.ckp', 'wb').write(contents[other + '.ckp'])
        refused(mixed)


def test_damage_of_the_newest(copied):
    """Where CNTK kept the one before, the run goes on from it, and ends as it would have."""
    folder, preserve_all, expected = copied
    flip(folder.join('model'), 4321)
    if not preserve_all:
        before = {path.basename: path.read_binary() for path in folder.visit() if path.isfile()}
        with pytest.raises(
            ValueError, match='model is not the file that was written with .*model.ckp'
        ):
            trained(folder, preserve_all, 4)
        assert {
            path.basename: path.read_binary() for path in folder.visit() if path.isfile()
        } == before
        return
    damaged = folder.join('model').read_binary()
    for end in '', '.ckp':
        flip(folder.join('model6' + end), 77)
    state, (first, second) = trained(folder, preserve_all, 4)
    assert state == expected
    assert 'model is damaged' in first and 'model5' in first and 'model6 is damaged' in second
    assert (
        folder.join('model.netopt', 'damaged').check()
        and damaged != folder.join('model').read_binary()
    )


@pytest.mark.parametrize('torn', ['graph', 'state', 'graph cut', 'both', 'state gone', 'empty'])
def test_one_before_while_cntk_writes(torn, copied):
    """A kill after a write that failed, before it was found: the links are there still."""
    folder, preserve_all, expected = copied
    if preserve_all:
        return
    file = str(folder.join('model'))
    generations.Generations(str(folder.join('model.netopt'))).begin(file, 2100)
    graph, state = folder.join('model'), folder.join('model.ckp')
    if torn in ('graph', 'both'):
        flip(graph, 9999)
    if torn in ('state', 'both'):
        flip(state, 999)
    if torn == 'graph cut':
        content = graph.read_binary()
        graph.remove()
        graph.write_binary(content[: len(content) // 2])
    if torn == 'state gone':
        state.remove()
    if torn == 'empty':
        graph.remove()
        graph.write('')
    found, said = trained(folder, preserve_all, 4)
    assert found == expected and len(said) == 1
    assert {path.basename for path in folder.join('model.netopt').listdir()} & {
        'previous',
        'writing',
    } == set()


def test_first_pair_that_a_kill_left_before_it_was_noted_is_taken(copied):
    folder, preserve_all, expected = copied
    folder.join('model.netopt', 'pairs').remove()
    folder.join('model.netopt', 'writing').write('2100')
    assert trained(folder, preserve_all, 4) == (expected, [])


def test_pair_that_the_user_removed_does_not_come_back(copied):
    folder, preserve_all, _ = copied
    if preserve_all:
        return
    generations.Generations(str(folder.join('model.netopt'))).begin(str(folder.join('model')), 2100)
    for end in '', '.ckp':
        folder.join('model' + end).remove()
    assert checkpoint.Checkpoints(str(folder.join('model')), []).find() is None
    assert not folder.join('model').check() and not folder.join('model.netopt', 'previous').check()


def test_copy_under_another_name_with_its_folder(copied):
    """What is known of a pair is known by what it holds."""
    folder, preserve_all, expected = copied
    if preserve_all:
        return
    for end in '', '.ckp', '.netopt':
        folder.join('model' + end).move(folder.join('best' + end))
    other = Script(test=False)
    with nc.attach(other.trainer, [factor(), Identity(epoch=2)], epoch_size=700) as run:
        other.trainer.restore_from_checkpoint(str(folder.join('best')))
        assert run.engine.clock.samples == 2100


def test_plain_pair_beside_a_folder_is_as_before(tmpdir):
    one = Script(test=False, dropout=False)
    one.trainer.save_checkpoint(str(tmpdir.join('plain')))
    with nc.attach(one.trainer, [factor()], epoch_size=EPOCH) as run:
        loop(one, 0, 8)
        one.trainer.save_checkpoint(str(tmpdir.join('model')))
        for end in '', '.ckp':
            tmpdir.join('plain' + end).copy(tmpdir.join('model' + end))
        one.trainer.restore_from_checkpoint(str(tmpdir.join('model')))
        assert run.engine.clock.samples == 0
        loop(one, 0, 8)


def test_line_that_is_damaged_is_none(tmpdir):
    one = Script(test=False)
    file = str(tmpdir.join('model'))
    with nc.attach(one.trainer, [factor()], epoch_size=EPOCH):
        loop(one, 0, 7)
        one.trainer.save_checkpoint(file)
        loop(one, 7, 8)
        one.trainer.save_checkpoint(file)
    known, journal = generations.Generations(file + '.netopt'), tmpdir.join('model.netopt', 'pairs')
    assert len(known.pairs()) == 2 and pair.digests(file) in known.pairs()
    content = journal.read_binary()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        journal.write_binary(bytes(damaged))
        left = known.pairs()
        journal.write_binary(content)
        assert left < known.pairs()
    journal.write_binary(content[:-3])  # a kill in the middle of the line, then another save
    known.begin(file, 1)
    known.done(file, lambda: None)
    assert pair.digests(file) in known.pairs() and len(known.pairs()) == 2


@pytest.mark.slow
def test_cut_anywhere_is_found(tmpdir):
    """CNTK's two files end where a write failed."""
    file = str(tmpdir.join('model'))
    Script(test=False, learner='adam').trainer.save_checkpoint(file)
    assert pair.fault(file) is None
    for path in file, file + '.ckp':
        content = open(path, 'rb').read()
        for size in range(len(content) - 1, -1, -1):
            os.truncate(path, size)
            assert pair.fault(file) is not None
        open(path, 'wb').write(content)
        assert pair.fault(file) is None
    C.load_model(file)
