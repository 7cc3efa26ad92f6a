"""A checkpoint of another network than the script's: what was expected, what came, what to do."""
import cntk as C
import pytest

import netopt_callbacks as nc
from user_script import EPOCH, Script, factor, loop

CURE = ': give another checkpoint name, or the network that it was saved from; nothing was changed'


class Deeper(Script):
    """Two Dense more, and no Constant but one of the metric."""

    def _network(self, dropout):
        sizes = C.layers.For(range(2), lambda: C.layers.Dense(7))
        hidden = C.layers.Dense(12, name='hidden')
        return C.layers.Sequential([sizes, hidden, C.layers.Dense(5)])(self.x)


class Wider(Deeper):
    """As many of each kind, of other shapes."""

    def _network(self, dropout):
        sizes = C.layers.For(range(2), lambda: C.layers.Dense(8))
        hidden = C.layers.Dense(12, name='hidden')
        return C.layers.Sequential([sizes, hidden, C.layers.Dense(5)])(self.x)


@pytest.mark.parametrize(
    'theirs, mine, said',
    [
        (
            Script,
            Deeper,
            'was written by a script whose network has 2 inputs, 8 Parameters and 4 Constants, and '
            'the one of this script has 2 inputs, 8 Parameters and 1 Constant',
        ),
        (
            Deeper,
            Script,
            'was written by a script whose network has 2 inputs, 8 Parameters and 1 Constant, and '
            'the one of this script has 2 inputs, 8 Parameters and 4 Constants',
        ),
        (
            Deeper,
            Wider,
            'was written by another script: its W is of shape (7, 7), and W of this script is of '
            'shape (8, 8)',
        ),
    ],
)
def test_other_network(theirs, mine, said, tmpdir):
    file = str(tmpdir.join('model'))
    for kind in theirs, mine:
        script = kind(dropout=False, test=False)
        with nc.attach(script.trainer, [factor()], epoch_size=EPOCH):
            if kind is theirs:
                loop(script, 0, 8)
                script.trainer.save_checkpoint(file)
                continue
            loop(script, 0, 2)
            before = script.state(), script.trainer.this
            with pytest.raises(ValueError) as error:
                script.trainer.restore_from_checkpoint(file)
            assert (script.state(), script.trainer.this) == before
            loop(script, 2, 8)
    assert str(error.value).startswith(f'the checkpoint {file} {said}'), str(error.value)
    assert str(error.value).endswith(CURE), str(error.value)
