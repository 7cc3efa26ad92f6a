"""The optimizations of docs/writing_an_optimization.md as a module, so that CNTK finds their
operation when it loads a model."""
from graph_guide import snippets

for _snippet in snippets('nc.Optimization)'):
    if 'def transform' in _snippet:  # others show a part of a class
        exec(_snippet)
