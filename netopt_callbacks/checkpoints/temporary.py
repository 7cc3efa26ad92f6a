"""Checks that temporary checkpoints fit on the disk and are whole, since CNTK does not check.

CNTK ends the process when it reads a truncated graph.
"""
import shutil
import tempfile

import numpy as np

from ..temporary_folder import make_again
from ..trainers import remember
from ..trainers.learner_facts import parameters_of
from . import disk, pair

# Numbers that a learner keeps for each number that it trains, by the name of its factory.
_KEPT = {
    'sgd_learner': 0,
    'momentum_sgd_learner': 1,
    'nesterov_learner': 1,
    'ada_grad_learner': 1,
    'adam_learner': 2,
    'fsada_grad_learner': 2,
    'rmsprop_learner': 3,
    'ada_delta_learner': 2,
}
_MOST = 3
_BESIDE = 1 << 16  # bytes of everything that is not an array


def room_for(folder, graph, learners, what):
    """Refuses to write a checkpoint if there is no room for it.

    Args:
        folder (str): where to write it; made again if it has been removed since it was made.
        graph (cntk.Function): the graph to write.
        learners (list of cntk.learners.Learner): those whose state to write.
        what (str): what the checkpoint is for.

    Raises:
        RuntimeError: says how much room is needed and how much there is, or why there is no folder.
    """
    make_again(folder, what)
    needed = _BESIDE + _bytes(graph.parameters) + _bytes(graph.constants)
    for learner in learners:
        needed += _KEPT.get(remember.learner(learner)[0], _MOST) * _bytes(parameters_of([learner]))
    if shutil.disk_usage(folder).free < needed:
        raise RuntimeError(
            '%s takes a temporary file of about %.1f MB in %s, and that is on %s: make room, or '
            'name another folder in the environment variable TMPDIR'
            % (what, needed / 1e6, tempfile.gettempdir(), disk.disk_of(folder))
        )


def _bytes(leaves):
    return sum(max(0, int(np.prod(leaf.shape))) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def check(file, what):
    """Refuses a temporary checkpoint that CNTK could not write whole.

    Raises:
        RuntimeError: says what is missing.
    """
    torn = pair.fault(file)
    if torn is not None:
        raise RuntimeError(
            f'{what} takes a temporary file, which could not be written whole to '
            f'{disk.disk_of(file)} ({torn}): make room, or name another folder in the environment '
            'variable TMPDIR'
        )
