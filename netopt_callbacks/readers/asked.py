"""Lets a hand-written loop ask for outputs now and then after its C++ trainer was exchanged.

CNTK compiles a network with the outputs that the first minibatch of a trainer asks for, and a later
minibatch may ask for no others. So the first minibatch of a new C++ trainer also asks for all that
the ones before it were asked for. The script gets only what it asks for itself.
"""
import functools

from cntk import cntk_py

from .. import graph
from ..lowering.native_op import told_in_full
from ..trainers import own_random_state, remember
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
        if facts.random is not None:
            own_random_state.put(self)
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
        if facts.random is not None and cntk_py.Trainer.previous_minibatch_sample_count(self):
            facts.random = None
        facts.minibatches += 1
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


def of_the_new_network(train, arguments, rest, options):
    """Calls a `train_minibatch`; outputs that a script kept from before a change are asked for as
    those that replace them.

    Args:
        train (callable): the method.
        arguments, rest (tuple), options (dict): what it was called with.
    """
    outputs = options['outputs'] if 'outputs' in options else (rest or (None,))[0]
    if not outputs or not isinstance(outputs, (list, tuple, set)):
        return train(arguments, *rest, **options)
    asked = {_now(output): output for output in outputs}
    if 'outputs' in options:
        options = dict(options, outputs=list(asked))
    else:
        rest = (list(asked),) + tuple(rest[1:])
    updated, values = train(arguments, *rest, **options)
    return updated, Fetched((asked[output], value) for output, value in values.items())


class Fetched(dict):
    """Outputs fetched in a minibatch at whose start the network may have changed.

    The keys are the Variables that the caller asked for. All Variables that correspond to the same
    output find the same value, so `outputs=[z.output]` followed by `values[z.output]` keeps
    working.
    """

    def __missing__(self, variable):
        for key, value in self.items():
            if _now(key).uid == _now(variable).uid:
                return value
        raise KeyError(variable)

    def __contains__(self, variable):
        return super().__contains__(variable) or any(
            _now(key).uid == _now(variable).uid for key in self
        )

    def get(self, variable, default=None):
        return self[variable] if variable in self else default


def _now(variable):
    """Returns the current output that replaces an output from before a change."""
    return readers.now(variable.output if isinstance(variable, cntk_py.Function) else variable)
