"""Exports a network as a copy with Parameters of its own."""
import warnings

import cntk as C

from .. import graph
from ..temporary_folder import temporary_folder
from .uids import load_as_saved


def exported(model):
    """Returns a copy of a model with Parameters of its own and the model's arguments.

    CNTK's deep clone refuses some networks that it saves and loads correctly, such as a block with
    three Constants (a Stabilizer is one). Such a network is saved and loaded.

    Args:
        model (cntk.Function): stays unchanged.

    Raises:
        Exception: whatever CNTK's clone raises, if the model cannot be saved either.
    """
    keep = {argument: argument for argument in model.arguments}
    try:
        with graph.cloned_whole():
            return model.clone(C.CloneMethod.clone, keep)
    except Exception as refused:
        try:
            with temporary_folder('copying a network that CNTK cannot clone') as folder:
                model.save(folder + '/model')
                copy = load_as_saved(folder + '/model')
        except Exception as error:
            warnings.warn(
                f'a network that CNTK cannot clone ({_first_line(refused)}) cannot be saved either '
                f'({_first_line(error)})'
            )
            raise refused
    return graph.substitute(copy, dict(zip(copy.arguments, model.arguments)))


def _first_line(error):
    return str(error).strip().split('\n')[0]
