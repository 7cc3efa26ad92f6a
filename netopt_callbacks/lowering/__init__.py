"""Trained blocks to native ops, and the gate that compares the two networks.

The unit of lowering is one binary layer today; a pass is a function of a model (see
`replace.lower_binary_layers`), so one that lowers a whole binary segment is another such function.
"""
from .lower import Lower, LoweringError
from .parity import LayerParity, Parity, compare
from .replace import lower_binary_layers

__all__ = ['LayerParity', 'Lower', 'LoweringError', 'Parity', 'compare', 'lower_binary_layers']
