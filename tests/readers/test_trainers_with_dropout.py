"""Two Trainers over a trunk with a `cntk.layers.Dropout`, a block that callbacks open: what is
saved together is restored together, whichever of the two was opened since."""
import cntk as C
import pytest

import netopt_callbacks as nc
from readers_scripts import Turns

DUE = {'never': 99, 'once': 2}


class Dropped(Turns):
    """Two tasks in turns, with a Dropout layer behind the trunk; `kept` puts CNTK's primitive, whose
    state it keeps, into the network of the first."""

    def __init__(self, kept=False):
        super().__init__()
        layer = C.layers.Dropout(0.2, seed=3, name='drop')(self.trunk)
        trunks = [C.dropout(self.trunk, 0.2, seed=3) if kept else layer, layer]
        self.zs = [C.plus(C.times(trunk, p[2]), p[3]) for trunk, p in zip(trunks, self.parameters)]
        self.build()

    def attach(self, due):
        factor = nc.FactorDense(
            DUE[due], rank=3, filter_function=lambda layer: layer.name == 'hidden'
        )
        return nc.attach(self.trainers[0], [factor, nc.Observer()], epoch_size=2 * 64)

    def save(self, files):
        for trainer, file in zip(self.trainers, files):
            trainer.save_checkpoint(file)
        return self.values()

    def restore(self, files):
        for trainer, file in zip(self.trainers, files):
            trainer.restore_from_checkpoint(file)
        return self.values()

    def values(self):
        return [one.tobytes() for one in self.told()]


def files_in(folder, name):
    return [str(folder.join(name + number)) for number in '12']


def resumed(case, files):
    """Returns what both are after the restore, and three turns later."""
    restored = case.restore(files)
    case.train(3)
    return restored, case.values()


def test_with_nothing_due_a_resume_is_that_of_plain_cntk(tmpdir):
    """With Dropout as a primitive in the one that has callbacks: they open it there."""
    ends = []
    for attach in (False, True):
        files, case = files_in(tmpdir.mkdir(str(attach)), 'early'), Dropped(kept=not attach)
        run = case.attach('never') if attach else None
        case.train(3)
        saved = case.save(files)
        again = Dropped(kept=not attach)
        run_again = again.attach('never') if attach else None
        restored, end = resumed(again, files)
        assert restored == saved
        ends.append((saved, end))
        for one in (run, run_again) if attach else ():
            with pytest.raises(ValueError, match='training ended after'):
                one.finish()
    assert ends[0] == ends[1]


def test_a_resume_from_before_the_swap_ends_as_a_restore_in_the_run_does(tmpdir):
    early, late, case = files_in(tmpdir, 'early'), files_in(tmpdir, 'late'), Dropped()
    with case.attach('once'):
        case.train(3)
        saved = case.save(early)
        case.train(3)
        told = resumed(case, early)
        assert told[0] == saved and case.save(late) == told[1]
    for files in early, late:
        again = Dropped()
        with again.attach('once'):
            restored, end = resumed(again, files)
            assert (restored, end) == told if files is early else restored == told[1]


def test_they_go_back_and_ahead_together(tmpdir):
    """A swap opens the other one's Dropout, too; the early checkpoint has it closed."""
    case, told = Dropped(), {}
    early, late = files_in(tmpdir, 'early'), files_in(tmpdir, 'late')
    with case.attach('once'):
        case.train(3)
        told['early'] = case.save(early)
        case.train(3)
        told['late'] = case.save(late)
        with pytest.raises(ValueError, match='is of another network than this Trainer has now'):
            case.trainers[1].restore_from_checkpoint(early[1])
        assert case.values() == told['late']
        assert case.restore(early) == told['early']
        case.train(3)
        assert case.restore(late) == told['late']
        case.train(1)
        assert case.restore(early) == told['early']
        # Only the one with callbacks goes ahead and back: the other one's Dropout stays open.
        case.trainers[0].restore_from_checkpoint(late[0])
        case.trainers[0].restore_from_checkpoint(early[0])
        opened = files_in(tmpdir, 'opened')
        told['opened'] = case.save(opened)
        assert case.restore(early) == told['early']
        assert case.restore(opened) == told['opened']
        case.train(4)
