"""Every optimization of the package and of its guide, a row each: `test_every_optimization` runs
over them.

A new optimization is one row more; without it a test fails.
"""
from typing import Callable, NamedTuple

import cntk as C

import guide_optimizations
import netopt_callbacks as nc


class Row(NamedTuple):
    """One optimization."""

    kind: type
    make: Callable  # (filter_function=..., other options of nc.Optimization) -> an instance
    layer: str  # which layer of `user_script.Script` it is to change
    op_name: str  # of the block that takes its place
    called: str  # what a summary calls that block
    finds: str  # the op name by which `nc.graph.layers` finds it then
    new_parameters: list  # names of those it adds


TABLE = [
    Row(
        nc.FactorDense,
        lambda **options: nc.FactorDense(rank=4, **options),
        'hidden',
        'DenseFactored',
        'DenseFactored',
        'DenseFactored',
        ['W1', 'W2'],
    ),
    Row(
        nc.BinarizeConvolution,
        nc.BinarizeConvolution,
        'conv',
        'BinaryConvolution',
        'BinaryConvolution',
        'BinaryConvolution',
        [],
    ),
    Row(
        nc.BinarizeDense,
        nc.BinarizeDense,
        'hidden',
        'BinaryDense',
        'BinaryDense',
        'BinaryDense',
        [],
    ),
    Row(
        guide_optimizations.Prune,
        lambda **options: guide_optimizations.Prune(0.5, **options),
        'hidden',
        'DensePruned',
        'pruned Dense',
        'DensePruned',
        [],
    ),
    Row(
        guide_optimizations.RoundInputs,
        lambda **options: guide_optimizations.RoundInputs(0.25, **options),
        'hidden',
        'DenseRounded',
        'DenseRounded',
        'Dense',
        [],
    ),
]


def trainable(network):
    """Returns the Parameters of a network by uid."""
    return {parameter.uid: parameter for parameter in network.parameters}


def block_of(model, name):
    """Returns the one block of a name, wherever it is in a model."""
    (block,) = (
        function for function in nc.graph.walk(model) if function.is_block and function.name == name
    )
    return block


def combined(script):
    """Returns what the engine gives `transform`: model, loss and metric in one."""
    return C.combine([script.z, script.loss, script.metric])


def made(row, **options):
    """Returns the optimization of a row for its layer of `user_script.Script`."""
    return row.make(filter_function=lambda layer: layer.name == row.layer, **options)


def transformed(row, model, script):
    """Returns the new model as a `Transformed`, as the engine gets it."""
    optimization = made(row)
    optimization.prepare(model, [{script.x: script.images[:50], script.label: script.labels[:50]}])
    returned = optimization.transform(model)
    return returned if isinstance(returned, nc.Transformed) else nc.Transformed(returned)
