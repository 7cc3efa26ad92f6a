"""What a copy of a UserFunction has of the original.

CNTK copies a UserFunction by calling its `clone`, by default its class with the new inputs and its
name. A class whose constructor takes more than that is not copied at all, or is without the options
it was made with, and nobody is told. So in our copies of a graph, a class that has no `clone` of
its own is copied by its attributes.

In the engine's edits that is not enough: the script still holds the object that it made, sets its
attributes and reads them, and the trainer computes with a copy. So the UserFunctions of a network
in training share their attributes with their copies, see `share`.
"""
import contextlib
import functools
import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List

import cntk as C
from cntk.internal import _UDFDeserializeCallbackWrapper
from cntk.ops.functions import UserFunction

from ..native_machine import _native
from .walk import walk

_STATE = '_netopt_attributes'
# What belongs to one object alone: its C++ object, and what CNTK keeps of a minibatch.
_OWN = frozenset(['this', '_none_state', '_state_wrapped', _STATE])
_local = threading.local()


@contextlib.contextmanager
def _meanwhile(name: str) -> Iterator[None]:
    before = getattr(_local, name, False)
    setattr(_local, name, True)
    try:
        yield
    finally:
        setattr(_local, name, before)


def cloned_whole() -> Any:
    """Lets UserFunctions keep their attributes in the clones that are made meanwhile on this
    thread."""
    return _meanwhile('whole')


def cloned_sharing() -> Any:
    """Lets those given to `share` share their attributes with the clones that are made meanwhile
    on this thread."""
    return _meanwhile('sharing')


class _Sharing:
    """Mixin placed before the class of a UserFunction that shares its attributes.

    They are in a dict that several objects hold; none keeps the graph of another one alive.
    """

    def __getattribute__(self, name: str) -> Any:
        shared = object.__getattribute__(self, '__dict__').get(_STATE, ())
        return shared[name] if name in shared else super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        shared = self.__dict__.get(_STATE)
        is_property = hasattr(getattr(type(self), name, None), '__set__')
        if shared is None or name in _OWN or is_property:
            super().__setattr__(name, value)
        else:
            shared[name] = value

    def __delattr__(self, name: str) -> None:
        shared = self.__dict__.get(_STATE, {})
        if name in shared:
            del shared[name]
        else:
            super().__delattr__(name)

    def clone(self, cloned_inputs: List[C.Variable]) -> UserFunction:
        if getattr(_local, 'sharing', False) and _STATE in self.__dict__:
            return _copy(self, cloned_inputs, {_STATE: self.__dict__[_STATE]})
        return super().clone(cloned_inputs)  # type: ignore[misc]


@functools.lru_cache(maxsize=None)
def _sharing_class(kind: Any) -> Any:
    names = {name: getattr(kind, name) for name in ('__doc__', '__module__', '__qualname__')}
    return type(kind.__name__, (_Sharing, kind), names)


def share(variables: Iterable[C.Variable]) -> None:
    """Lets the UserFunctions of a graph share their attributes with copies of them.

    Args:
        variables (iterable of cntk.Variable): the outputs of the graph.
    """
    for function in _user_functions(variables):
        _share(function)


def _share(function: UserFunction) -> Dict[str, Any]:
    """Returns the attributes that a UserFunction shares."""
    if not isinstance(function, _Sharing):
        kind: Any = type(function)
        object.__setattr__(function, '__class__', _sharing_class(kind))
    own = function.__dict__
    if _STATE not in own:
        own[_STATE] = {name: value for name, value in own.items() if name not in _OWN}
        for name in own[_STATE]:
            del own[name]
    return own[_STATE]


def adopt(loaded: Iterable[C.Variable], variables: Iterable[C.Variable]) -> None:
    """Lets the UserFunctions of a loaded graph share the attributes of those in a graph in use.

    They belong together by class and name, several of one name by their order.

    Args:
        loaded, variables (iterable of cntk.Variable): the outputs of the two graphs.
    """
    known: Dict[Any, List[UserFunction]] = {}
    for function in _user_functions(variables):
        known.setdefault((function.op_name, function.name), []).append(function)
    for function in _user_functions(loaded):
        alike = known.get((function.op_name, function.name))
        if alike:
            _share(function)
            function.__dict__[_STATE] = _share(alike.pop(0))


def _user_functions(variables: Iterable[C.Variable]) -> List[UserFunction]:
    """Returns the Python objects that compute a graph's UserFunctions, inputs first.

    CNTK wraps them anew for whoever walks the graph.
    """
    outputs = list(variables)
    functions = walk(C.combine(outputs)) if outputs else ()
    found = [function for function in functions if function.op_name == 'UserFunction']
    if not found:
        return []
    objects = {output: one for one in _live() for output in _outputs(one)}
    firsts = [function.outputs[0] for function in found]
    return [objects[first] for first in firsts if first in objects]


def _outputs(function: UserFunction) -> List[C.Variable]:
    try:
        return list(function.outputs)
    except RuntimeError:  # the graph it was part of is gone
        return []


def _live() -> List[UserFunction]:
    kinds, pending = set(), [UserFunction]
    while pending:
        kind = pending.pop()
        if kind not in kinds:
            kinds.add(kind)
            pending.extend(kind.__subclasses__())
    return [one for one in _native.live_objects(kinds) if 'this' in one.__dict__]


def _copy(
    function: UserFunction, inputs: Iterable[C.Variable], attributes: Dict[str, Any]
) -> UserFunction:
    """Returns a UserFunction of the same class over other inputs, with the attributes given."""
    kind: Any = type(function)
    copy = kind.__new__(kind)
    copy.__dict__.update(attributes)
    UserFunction.__init__(
        copy, list(inputs), function.as_numpy, dict(function.attributes) or None, function.name
    )
    return copy


def _kept(clone: Callable[..., UserFunction]) -> Callable[..., UserFunction]:
    @functools.wraps(clone)
    def method(self: UserFunction, cloned_inputs: List[C.Variable]) -> UserFunction:
        if not getattr(_local, 'whole', False):
            return clone(self, cloned_inputs)
        attributes = dict(self.__dict__.get(_STATE, ()), **self.__dict__)
        return _copy(
            self,
            cloned_inputs,
            {name: value for name, value in attributes.items() if name not in _OWN},
        )

    return method


UserFunction.clone = _kept(UserFunction.clone)


def _with_stand_ins(deserialize: Callable[..., UserFunction]) -> Callable[..., UserFunction]:
    """Wraps how CNTK loads a UserFunction: where its class cannot, one that was given to `share`
    stands in. CNTK loads the whole graph in each restore, but goes on with its own."""

    @functools.wraps(deserialize)
    def method(
        self: Any, inputs: List[C.Variable], name: str, dictionary: Dict[str, Any]
    ) -> UserFunction:
        for one in _live():
            if (
                _STATE in one.__dict__
                and one.name == name
                and one.op_name == dictionary['op_name']
                and type(one).deserialize is UserFunction.deserialize
                and one.op_name not in self.factory_callback_map
            ):
                for variable in inputs:
                    variable.__class__ = C.Variable
                return _copy(one, inputs, {_STATE: one.__dict__[_STATE]})
        return deserialize(self, inputs, name, dictionary)

    return method


_UDFDeserializeCallbackWrapper.__call__ = _with_stand_ins(_UDFDeserializeCallbackWrapper.__call__)
