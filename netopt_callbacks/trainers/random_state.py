"""Opens blocks that hide stateful operations.

CNTK keeps the random state of a primitive, but forgets that of a primitive inside a block, and
`cntk.layers.Dropout` is such a block: after a save or a swap, it would repeat its masks. An opened
block (replaced by its body) equals the closed one bit for bit and keeps its state.
"""
import cntk as C

from .. import graph
from . import opened_blocks

# CNTK's PrimitiveFunction::IsStateful. Do not read the attributes of every primitive to find them:
# CNTK ends the process on some attributes that it cannot convert to Python.
STATEFUL = ('Dropout', 'RandomSample', 'RandomSampleInclusionFrequency', 'RandomDistribution')


def stateful_blocks(model):
    """Returns the outermost blocks of `model` that hold a primitive with random state."""
    return [
        function
        for function in graph.walk(model, into_blocks=False)
        if function.is_block and _holds_state(function)
    ]


def _stateful(model):
    """Yields the primitives of `model` with random state, those in blocks too, inputs first."""
    for function in graph.walk(model, into_blocks=True):
        if not function.is_block and function.op_name in STATEFUL:
            yield function


def has_state(model):
    """Whether any primitive of `model`, in a block or not, has random state."""
    return any(True for _ in _stateful(model))


def moved(before, after):
    """Returns (output before, output after) of the primitives with random state.

    They belong together by operation and seed; which of several with one seed is which is not
    known.

    Args:
        before, after (cntk.Function): a graph, and what `open_blocks` made of it.
    """
    old, new = {}, {}
    for found, model in ((old, before), (new, after)):
        for function in _stateful(model):
            key = function.op_name, function.attributes['rngSeed']
            found.setdefault(key, []).append(function.outputs[0])
    return [
        (old[key][0], new[key][0]) for key in old if len(old[key]) == len(new.get(key, ())) == 1
    ]


def draws_when_evaluated(model):
    """Whether `model` draws random numbers even outside training, unlike Dropout."""
    return any(function.op_name != 'Dropout' for function in _stateful(model))


def estimates(model):
    """Whether `model` estimates, once for each trainer, how often a class is drawn.

    CNTK does this for sampling without duplicates.
    """
    return any(
        function.op_name == 'RandomSampleInclusionFrequency'
        and not function.attributes['allowDuplicates']
        for function in _stateful(model)
    )


def draws_normal(model):
    """Whether `model` draws from a normal distribution (`C.random.normal`), except to initialize.

    CNTK saves how many numbers were drawn; a normal one takes more than that of its generator, so
    that a trainer that goes on from a save draws others.
    """
    return any(
        function.op_name == 'RandomDistribution'
        and 'normal' in str(function.attributes['randomDistributionType']).lower()
        for function in _stateful(model)
    )


def _holds_state(block):
    return has_state(C.as_composite(block.block_root))


def open_blocks(model):
    """Returns `model` with every block that hides random state replaced by its body.

    An opened block can still be found by its name: see `opened_blocks`.

    Args:
        model (cntk.Function): a whole graph; its Parameters are shared, not copied.
    """
    while has_state(model):
        blocks = stateful_blocks(model)
        if not blocks:
            break
        model = _open(model, blocks[0])
    return model


def _open(model, block):
    with graph.cloned_whole():
        body = C.as_composite(block.block_root).clone(
            C.CloneMethod.share, opened_blocks.arguments(block)
        )
    if block.name and len(body.outputs) == 1:
        body = opened_blocks.named(block, body)
    return graph.substitute(model, dict(zip(block.outputs, body.outputs)))
