"""Trained blocks to native ops, and the gate that compares the two networks.

A pass is a function of a model: `lower_segments` puts one native Function in the place of each
segment of binary layers, `replace.lower_binary_layers` one in the place of each binary layer that
is left.
"""
from .parity import compare
from .lower import Lower, LoweringError
from .segment_pass import lower_segments
from .parity_result import LayerParity, Parity, SegmentParity
from .replace import lower_binary_layers

__all__ = [
    'LayerParity',
    'Lower',
    'LoweringError',
    'Parity',
    'SegmentParity',
    'compare',
    'lower_binary_layers',
    'lower_segments',
]
