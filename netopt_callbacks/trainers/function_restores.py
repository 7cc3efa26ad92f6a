"""Makes `Function.restore` check the file where a Function asks for it, and tell of new values."""
import functools

from cntk.ops.functions import Function

from . import remember

CHECK = '_netopt_callbacks_check'  # of a Function: checks a file before it is restored into it

_OF_CNTK = '_netopt_callbacks_of_cntk'


def install():
    """Wraps `Function.restore`; a second call does nothing."""
    if not hasattr(Function.restore, _OF_CNTK):
        Function.restore = _checked_restore(Function.restore)


def _checked_restore(restore):
    @functools.wraps(restore)
    def method(self, filename):
        check = self.__dict__.get(CHECK)
        if check is not None:
            check(self, filename)
        restored = restore(self, filename)
        if check is not None:
            values_restored(self)
        _count_restore(self)
        return restored

    setattr(method, _OF_CNTK, restore)
    return method


def _count_restore(function):
    """Counts a restore for the trainers that read a Parameter or Constant of a Function."""
    leaves = set(function.parameters + function.constants)
    for one in remember.trainers():
        criterion = one.loss_function, one.evaluation_function
        parts = [part for part in criterion if part is not None]
        if any(leaf in leaves for part in parts for leaf in part.parameters + part.constants):
            remember.facts(one).restored += 1


def values_restored(function):
    """Notifies CNTK that the values of a Function's Parameters and Constants have changed.

    CNTK's restore does not do this (`Function::RestoreFromCheckpoint`, Function.cpp). Without it,
    CNTK keeps using cached values for what a network computes from Parameters alone, as a binarized
    layer does.
    """
    for leaf in [] if function is None else function.parameters + function.constants:
        leaf.record_value_update()
