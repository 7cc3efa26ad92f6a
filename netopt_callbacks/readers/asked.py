"""Lets a hand-written loop ask for outputs now and then after its C++ trainer was exchanged.

CNTK compiles a network with the outputs that the first minibatch of a trainer asks for, and a later
minibatch may ask for no others. So the first minibatch of a new C++ trainer also asks for all that
the ones before it were asked for. The script gets only what it asks for itself.
"""
import functools

from cntk import cntk_py

from .. import graph
from ..lowering.native_op import told_in_full
from ..trainers import remember
from ..trainers.state import identity
from . import readers

# How many arguments C++ gets where outputs are asked for; they come before the device.
_WITH_OUTPUTS = {'train_minibatch': 4, 'train_minibatch_overload_for_minibatchdata': 3}


def install():
    """Wraps the methods of C++ that train a minibatch; a second call does nothing."""
    for name, count in _WITH_OUTPUTS.items():
        method = getattr(cntk_py.Trainer, name)
        if not hasattr(method, '__wrapped__'):
            setattr(cntk_py.Trainer, name, _asking(method, count))


def _asking(train, count):
    @functools.wraps(train)
    def method(self, *given):
        facts = self.__dict__.get(remember.ATTRIBUTE)
        if facts is None:
            return train(self, *given)
        outputs = given[-2] if len(given) == count else {}
        earlier = _of_earlier(facts) if given[0] else ()
        if earlier:
            values = dict.fromkeys([*outputs, *earlier])
            with told_in_full():
                trained = train(self, *given[: count - 2], values, given[-1])
            outputs.update((output, values[output]) for output in list(outputs))
        else:
            with told_in_full():
                trained = train(self, *given)
        facts.asked.update(dict.fromkeys(map(identity, outputs)))
        return trained

    return method


def _of_earlier(facts):
    """Returns what the C++ trainers before a new one were asked for and its network computes."""
    if facts.last is None or not facts.asked:
        return ()
    whole = facts.state.whole
    variables = list(whole.outputs)
    for function in graph.walk(whole, into_blocks=False):
        variables += function.inputs
    present = {identity(variable): variable for variable in variables}
    keys = dict.fromkeys(map(readers.identity_now, facts.asked))
    return [present[key] for key in keys if key in present]
