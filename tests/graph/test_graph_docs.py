"""What the examples of docs/writing_an_optimization.md compute, and the names of docs/graph.md."""
import os
import re

import cntk as C
import numpy as np

from graph_guide import snippets
from paths import CLONE


def test_the_optimization_of_the_guide_works():
    names = {}
    for snippet in snippets('Prune'):
        exec(snippet, names)
    model, pruned, x = names['model'], names['pruned'], names['x']
    W = model.hidden.W.value
    kept = W * (abs(W) > np.median(abs(W)))
    assert (kept == 0).sum() == W.size // 2
    data = np.random.RandomState(0).randn(5, 20).astype('f')
    hidden = np.maximum(data.dot(kept) + model.hidden.b.value, 0)
    second = [p for p in model.parameters if p.shape == (30, 2)][0]
    np.testing.assert_allclose(
        pruned.eval({x: data}), hidden.dot(second.value), rtol=1e-5, atol=1e-6
    )
    assert pruned.hidden.op_name == 'DensePruned'
    assert sorted(p.uid for p in pruned.parameters) == sorted(p.uid for p in model.parameters)


def test_every_name_the_guide_gives_a_layer_exists():
    from netopt_callbacks import graph

    with open(os.path.join(CLONE, 'docs', 'graph.md')) as file:
        table = file.read().split('| `Layer` | |')[1].split('\n\n')[0]
    model = C.layers.Dense(3, name='d')(C.input_variable(4))
    (layer,) = graph.layers(model)
    for cell in re.findall(r'^\| (.*?) \|', table, re.MULTILINE):
        for name in re.findall(r'`(\w+)', cell):
            assert hasattr(layer, name), name
