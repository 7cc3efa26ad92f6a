"""What a copy of a UserFunction has of the original.

CNTK copies a UserFunction by calling its `clone`, by default its class with the new inputs and its
name. A class whose constructor takes more than that is not copied at all, or is without the options
it was made with, and nobody is told. So in our copies of a graph, a class that has no `clone` of
its own is copied by its attributes.

In the engine's edits that is not enough: the script still holds the object that it made, sets its
attributes and reads them, and the trainer computes with a copy. So the copies that are made under
`cloned_sharing` take the attributes of the script's object before each call, and give them back
after it.
"""
import contextlib
import functools
import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List

import cntk as C
from cntk.ops.functions import UserFunction

from ..native_machine import _native
from .walk import walk

# In the `__dict__` of a copy: that of the script's object. It holds none of the graph before.
_SOURCE = '_netopt_source'
# What belongs to one object alone: its C++ object, and what CNTK keeps of a minibatch.
_OWN = frozenset(['this', '_none_state', '_state_wrapped', _SOURCE])
_PACKAGE = __name__.split('.')[0] + '.'
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
    """Lets UserFunctions share their attributes with the clones that are made meanwhile on this
    thread, and stand in for those that CNTK cannot load."""
    for kind in kinds():
        clone = vars(kind).get('clone')
        ours = kind.__module__.startswith(_PACKAGE)  # they keep buffers, which no two may share
        if callable(clone) and not hasattr(clone, 'links') and not ours:
            kind.clone = _linking(clone)
    return _meanwhile('sharing')


def is_sharing() -> bool:
    """Whether `cloned_sharing` is on."""
    return getattr(_local, 'sharing', False)


def _linking(clone: Callable[..., UserFunction]) -> Callable[..., UserFunction]:
    @functools.wraps(clone)
    def method(self: UserFunction, cloned_inputs: List[C.Variable]) -> UserFunction:
        _take(self)
        copy = clone(self, cloned_inputs)
        if is_sharing():
            _link(copy, self)
        return copy

    method.links = True  # type: ignore[attr-defined]
    return method


def _link(copy: UserFunction, original: UserFunction) -> None:
    copy.__dict__[_SOURCE] = original.__dict__.get(_SOURCE, original.__dict__)


def _take(function: UserFunction) -> None:
    """Gives a copy the attributes that the script's object has now."""
    if _SOURCE in function.__dict__:
        _replace(function.__dict__, function.__dict__[_SOURCE])


def _replace(mine: Dict[str, Any], theirs: Dict[str, Any]) -> None:
    for name in [name for name in mine if name not in theirs and name not in _OWN]:
        del mine[name]
    mine.update((name, value) for name, value in list(theirs.items()) if name not in _OWN)


def _with_attributes(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def method(self: UserFunction, *arguments: Any, **options: Any) -> Any:
        _take(self)
        try:
            return call(self, *arguments, **options)
        finally:
            if _SOURCE in self.__dict__:
                _replace(self.__dict__[_SOURCE], self.__dict__)

    return method


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
            _link(function, alike.pop(0))


def _user_functions(variables: Iterable[C.Variable]) -> List[UserFunction]:
    """Returns the Python objects that compute a graph's UserFunctions, inputs first.

    CNTK wraps them anew for whoever walks the graph.
    """
    outputs = list(variables)
    functions = walk(C.combine(outputs)) if outputs else ()
    found = [function for function in functions if function.op_name == 'UserFunction']
    if not found:
        return []
    firsts = {function.uid: function.outputs[0] for function in found}
    # A loaded copy may have the same uids, and one whose graph is gone has no outputs.
    objects = {one.uid: one for one in live() if one.uid in firsts and _has(one, firsts[one.uid])}
    return [objects[uid] for uid in firsts if uid in objects]


def _has(function: UserFunction, output: C.Variable) -> bool:
    try:
        return output in function.outputs
    except RuntimeError:
        return False


def kinds() -> List[Any]:
    """Returns UserFunction and all its subclasses."""
    found: List[Any] = [UserFunction]
    for kind in found:
        found.extend(one for one in kind.__subclasses__() if one not in found)
    return found


def live() -> List[UserFunction]:
    """Returns all UserFunctions that Python keeps alive."""
    return [one for one in _native.live_objects(kinds()) if 'this' in one.__dict__]


def copy_of(function: UserFunction, inputs: Iterable[C.Variable]) -> UserFunction:
    """Returns a UserFunction of the same class and with the same attributes over other inputs; it
    shares them under `cloned_sharing`."""
    _take(function)
    kind: Any = type(function)
    copy = kind.__new__(kind)
    copy.__dict__.update(
        (name, value) for name, value in function.__dict__.items() if name not in _OWN
    )
    UserFunction.__init__(
        copy, list(inputs), function.as_numpy, dict(function.attributes) or None, function.name
    )
    if is_sharing():
        _link(copy, function)
    return copy


def _kept(clone: Callable[..., UserFunction]) -> Callable[..., UserFunction]:
    @functools.wraps(clone)
    def method(self: UserFunction, cloned_inputs: List[C.Variable]) -> UserFunction:
        whole = is_sharing() or getattr(_local, 'whole', False)
        return copy_of(self, cloned_inputs) if whole else clone(self, cloned_inputs)

    return method


UserFunction.clone = _linking(_kept(UserFunction.clone))
for _name in ('_forward', '_backward', '_serialize_impl'):
    setattr(UserFunction, _name, _with_attributes(getattr(UserFunction, _name)))
