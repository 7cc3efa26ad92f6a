"""The contract between an optimization and the engine that runs it.

An optimization says *what* changes in a network; the engine says when, and
carries the trainer, its learners, checkpoints and records across the change.
Nothing in this package sees a trainer.
"""
import math
from numbers import Real
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import cntk as C
import numpy as np

from .._types import Epoch, Filter, MakeLearner, Minibatches, Shape
from ..graph import blocks as known_blocks
from ..signatures import shown, takes
from .epoch import checked_epoch


class LayerNote:
    """What an optimization did to one layer: a row of the record and of the summary.

    Args:
        name (str): the layer's name, or what `nc.graph.Layer.name` calls it.
        shape (tuple of int): shape of its weights as CNTK stores them.
        skipped (str): why the layer was left as it was; None where it was changed.
        rank (int): inner size of a factorization.
        energy (float): fraction of the squared singular values kept, in [0, 1]; 1 where all are 0
            and none is lost.
        error (float): relative Frobenius error of the new weights; 0 where both are 0.
        parameters_before, parameters_after (int): number of stored weights;
            1-bit weights count as one each, `bits_after` tells their size.
        macs_before, macs_after (int): multiply-adds per sample of one application of the layer (of
            a
            sequence: per step); None where an axis has no fixed size.
        binary_macs_after (int): those of `macs_after` that are 1-bit.
        bits_after (int): bits per weight once lowered.
        float_bytes (int): bytes of a number that is not 1-bit: 4 of float32, 8 of float64; None is
            that of the network, where all its Parameters have the same.
        message (str): anything the user should read about this layer.
        singular_values (array): of W, largest first, where it was factored by them: for observers,
            and in no checkpoint.
    """

    FIELDS = (
        'name',
        'shape',
        'skipped',
        'rank',
        'energy',
        'error',
        'parameters_before',
        'parameters_after',
        'macs_before',
        'macs_after',
        'binary_macs_after',
        'bits_after',
        'message',
        'float_bytes',
    )

    def __init__(
        self,
        name: str,
        shape: Shape = (),
        skipped: Optional[str] = None,
        rank: Optional[int] = None,
        energy: Optional[float] = None,
        error: Optional[float] = None,
        parameters_before: Optional[int] = None,
        parameters_after: Optional[int] = None,
        macs_before: Optional[int] = None,
        macs_after: Optional[int] = None,
        binary_macs_after: Optional[int] = None,
        bits_after: int = 32,
        message: Optional[str] = None,
        float_bytes: Optional[int] = None,
        singular_values: Optional[Sequence[float]] = None,
    ) -> None:
        # Plain Python values: notes are kept in JSON, which takes none of NumPy's.
        self.name = str(name)
        self.shape = tuple(_whole('shape', side) for side in shape)
        self.skipped = str(skipped) if skipped else None
        self.rank = _whole('rank', rank)
        self.energy = None if energy is None else float(energy)
        self.error = None if error is None else float(error)
        self.parameters_before = _whole('parameters_before', parameters_before)
        self.parameters_after = _whole('parameters_after', parameters_after)
        self.macs_before = _whole('macs_before', macs_before)
        self.macs_after = _whole('macs_after', macs_after)
        self.binary_macs_after = _whole('binary_macs_after', binary_macs_after)
        self.bits_after = _whole('bits_after', bits_after)
        self.message = None if message is None else str(message)
        self.float_bytes = _whole('float_bytes', float_bytes)
        self.singular_values = singular_values

    def to_dict(self) -> Dict[str, Any]:
        """Returns the JSON-ready fields."""
        return {field: getattr(self, field) for field in self.FIELDS}

    @classmethod
    def from_dict(cls, fields: Dict[str, Any]) -> 'LayerNote':
        """Rebuilds a note from `to_dict`."""
        return cls(**fields)

    def __repr__(self) -> str:
        said = [
            f'{field}={getattr(self, field)!r}'
            for field in self.FIELDS
            if getattr(self, field) is not None
        ]
        return 'LayerNote(%s)' % ', '.join(said)


def _whole(field: str, value: Any) -> Any:
    """Returns a field of a `LayerNote` as an int, or None."""
    if value is None:
        return None
    if not isinstance(value, Real) or not math.isfinite(value) or value != int(value):
        raise TypeError(
            f'LayerNote: {field} must hold whole numbers, got {value!r}; count them as ints'
        )
    return int(value)


class Replaced:
    """Which Parameters of a layer took the place of which: what the engine needs to know, and no
    record holds.

    Args:
        layer (str): the layer's name, as in its `LayerNote`; for messages.
        retired (sequence of cntk.Parameter): those this layer no longer reads.
        added (sequence of cntk.Parameter): those that took their place; what trained `retired`
            trains them.
        projection (callable): for `learner_state='project'`, where one Parameter is retired:
            its smoothed gradient, an array of its shape, to one for each of `added`, arrays of
            as many elements. None where there is no such map.

    Raises:
        TypeError: `retired` or `added` hold something else than Parameters, or `projection` is no
            function.
    """

    def __init__(
        self,
        layer: str,
        retired: Sequence[C.Variable] = (),
        added: Sequence[C.Variable] = (),
        projection: Optional[Callable[[np.ndarray], Sequence[np.ndarray]]] = None,
    ) -> None:
        self.layer = str(layer)
        self.retired = _parameters('retired', retired)
        self.added = _parameters('added', added)
        if projection is not None and not takes(projection, 1):
            raise TypeError(
                'Replaced: projection must be a function of a smoothed gradient or None, got '
                f'{shown(projection)}; write lambda gradient: (gradient_of_W1, gradient_of_W2)'
            )
        self.projection = projection

    def __repr__(self) -> str:
        return 'Replaced({!r}, retired={}, added={})'.format(
            self.layer,
            *[
                [parameter.name or parameter.uid for parameter in parameters]
                for parameters in (self.retired, self.added)
            ],
        )


def _parameters(field: str, given: Any) -> Tuple[C.Parameter, ...]:
    """Returns a field of a `Replaced` as a tuple of Parameters."""
    if isinstance(given, C.cntk_py.Variable):
        given = (given,)
    given = tuple(given)
    for parameter in given:
        if not isinstance(parameter, C.cntk_py.Variable) or not parameter.is_parameter:
            raise TypeError(
                f'Replaced: {field} must hold cntk.Parameters, got {parameter!r}; give those the '
                f'layer reads, as {field}=(layer.W,)'
            )
    return given


class Transformed:
    """A transformed model, with what a record shows of its layers and what the engine needs to know
    of them.

    Args:
        model (cntk.Function): same outputs, in the same order, as the model given.
        layers (sequence of LayerNote): one per layer looked at, in the order of the model.
        replaced (sequence of Replaced): one per layer whose Parameters others took the place of.

    Raises:
        TypeError: `layers` or `replaced` hold something else.
    """

    def __init__(
        self, model: C.Function, layers: Iterable[LayerNote] = (), replaced: Iterable[Replaced] = ()
    ) -> None:
        self.model = model
        self.layers = _all_of(LayerNote, 'layers', layers)
        self.replaced = _all_of(Replaced, 'replaced', replaced)


def _all_of(kind: type, field: str, given: Iterable[Any]) -> List[Any]:
    """Returns a field of a `Transformed` as a list of `kind`."""
    given = list(given)
    for one in given:
        if not isinstance(one, kind):
            raise TypeError(
                f'Transformed: {field} must hold nc.{kind.__name__} objects, got {one!r}; write '
                'nc.Transformed(model, [nc.LayerNote(...), ...], [nc.Replaced(...), ...])'
            )
    return given


def as_transformed(returned: Union[C.Function, Transformed], what: str) -> Transformed:
    """Returns what `transform` of an optimization returned as a `Transformed`.

    Args:
        returned (cntk.Function or Transformed): what it returned.
        what (str): the optimization, for the message.

    Raises:
        TypeError: it is neither.
    """
    transformed = returned if isinstance(returned, Transformed) else Transformed(returned)
    if not isinstance(transformed.model, C.Function):
        raise TypeError(
            f'{what}: transform(model) must return a cntk.Function or an nc.Transformed, got '
            f'{transformed.model!r}; end it with `return new_model`'
        )
    return transformed


class Optimization:
    """Base class of everything that changes a network while it trains.

    A subclass overrides `transform`, and where it needs them `prepare` and `lower`.

    Args:
        epoch (int or (int, cntk.train.DataUnit.sweep)): completed epochs after
            which the transform runs, before the next minibatch; 0 is before the first.
        filter_function (callable): gets each candidate layer (see `nc.graph.Layer`),
            says whether to take it. None takes the optimization's default choice.
        learner (callable): `parameters -> cntk.Learner` for the Parameters the
            transform adds. None packs them into the storage of those it retires,
            so that the learner that trained these goes on training them.
        learner_state (str): what the smoothed gradients of packed Parameters begin with:
            'reset' is zero; 'project' maps that M of W through the transform, for W ~ W1 W2
            to M W2^T and W1^T M. Only sgd, momentum_sgd and nesterov have such a state.

    Raises:
        TypeError, ValueError: an argument is not one of these, or `learner` is given with
            'project': a learner that is made then has no state to project.
    """

    # What a subclass has whose __init__ does not call this one.
    epoch: Epoch = 0
    filter_function: Optional[Filter] = None
    learner: Optional[MakeLearner] = None
    learner_state: str = 'reset'

    # What it says of the blocks it puts into a network, those of `lower` among them. Layers are
    # found, named, counted and summarized by it, also in a model that was saved and loaded, in
    # every process that has imported the class.
    blocks: Sequence[known_blocks.Block] = ()
    works_in_cntks_train = False  # `Function.train` leaves out what is no progress writer

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known_blocks.declare(cls, cls.__dict__.get('blocks', ()))

    def __init__(
        self,
        epoch: Epoch = 0,
        filter_function: Optional[Filter] = None,
        learner: Optional[MakeLearner] = None,
        learner_state: str = 'reset',
    ) -> None:
        self.epoch = checked_epoch(type(self).__name__, epoch)
        for name, value, example in (
            ('filter_function', filter_function, "lambda layer: layer.name == 'hidden'"),
            ('learner', learner, 'lambda parameters: cntk.sgd(parameters, schedule)'),
        ):
            if value is not None and not takes(value, 1):
                raise TypeError(
                    f'{type(self).__name__}: {name} must be a function of one argument, or None, '
                    f'got {shown(value)}; give for example {example}'
                )
        if learner_state not in ('reset', 'project'):
            raise ValueError(
                f"{type(self).__name__}: learner_state must be 'reset' or 'project', got "
                f"{learner_state!r}; leave it out for 'reset'"
            )
        if learner_state == 'project' and learner is not None:
            raise ValueError(
                f"{type(self).__name__}: learner_state='project' carries over the state of the "
                "learner that trained the retired Parameters, and learner= makes a new one for "
                "those added: give one of the two"
            )
        self.filter_function = filter_function
        self.learner = learner
        self.learner_state = learner_state

    @property
    def name(self) -> str:
        """The class name, as records and TensorBoard show it."""
        return type(self).__name__

    def check(self, model: C.Function) -> Union[C.Function, Transformed, None]:
        """Refuses a model this optimization can do nothing with; the default takes any.

        Called before training, so that a filter that matches no layer, or only layers that an
        earlier optimization will have changed, is told at once and not after hours.

        Args:
            model (cntk.Function): as given to `transform`, but not trained yet.

        Returns:
            cntk.Function or Transformed: a model with the layers that the next optimization will
            find, for its own check. A `Replaced` that names the Parameters to be retired lets the
            session refuse a learner that could not train what takes their place: of each layer
            whose `Replaced` names `added` too, and of those that only may change where it is so for
            all of them. None where nothing is known: what comes later is then checked when it is
            applied.

        Raises:
            ValueError: names what was looked for and what is there.
        """

    def prepare(self, model: C.Function, minibatches: Minibatches) -> None:
        """Looks at held-out data just before `transform`; the default does nothing.

        Args:
            model (cntk.Function): as given to `transform`.
            minibatches: may be iterated any number of times; gives dicts of the
                model's arguments to data. Empty where the run has no held-out data.
        """

    def transform(self, model: C.Function) -> Union[C.Function, Transformed]:
        """Returns the transformed model, or a `Transformed` that also says what became of its
        layers.

        Pure: a new graph; the Parameters it keeps are shared, the ones it adds are
        ordinary `cntk.Parameter`s; no value of a Parameter of `model` is written.

        Args:
            model (cntk.Function): in a trainer `combine([model, loss, metric])`.

        Returns:
            cntk.Function or Transformed: same outputs in the same order.
        """
        raise NotImplementedError(
            f'{self.name}: an nc.Optimization must define transform(model), which returns the new '
            'model, and got none; see docs/writing_an_optimization.md'
        )

    def lower(self, model: C.Function) -> C.Function:
        """Returns `model` with what this optimization made replaced by native ops.

        `model` has its binary layers on native ops already; they must stay as they are. The default
        returns the model as it is.
        """
        return model
