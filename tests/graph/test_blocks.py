"""Blocks of somebody else's optimization: found, named, counted and summarized by what its
class says of them."""
import ast
import os
import re
import subprocess
import sys

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks import count, graph, summary

PACKAGE = os.path.dirname(os.path.abspath(nc.__file__))


def network():
    x = C.input_variable(12, name='x')
    return C.layers.Sequential(
        [C.layers.Dense(10, activation=C.tanh, name='first'), C.layers.Dense(8, name='second')]
    )(x)


def doubled(layer, op_name):
    """Returns the layer with twice its weights, as a block of an op name."""
    x = C.placeholder()
    return layer.rebuilt(C.times(x, layer.W * 2, output_rank=layer.output_rank), op_name)


def with_block(op_name, name='first'):
    model = network()
    (layer,) = graph.layers(model, lambda layer: layer.name == name)
    return graph.replace(model, {layer: doubled(layer, op_name)})


class Doubles(nc.Optimization):
    """Counts its weights as bits."""

    def counted(block, row):
        row.binary_weights = row.parameters - 10
        row.binary_macs = row.macs

    blocks = [
        nc.Block('DenseDoubled', was='Dense', kind='doubled Dense', count=counted),
        nc.Block('DenseOther'),
    ]


def test_it_counts_what_the_class_says():
    rows = {row.name: row for row in count.rows(with_block('DenseDoubled'))}
    first = rows['first']
    assert list(rows) == ['first', 'second']
    assert (first.kind, first.parameters, first.macs) == ('doubled Dense', 130, 120)
    assert (first.binary_weights, first.binary_macs, first.bytes) == (120, 120, 15 + 40)
    assert 'doubled Dense' in summary.of_model(with_block('DenseDoubled'))
    assert count.whole(with_block('DenseDoubled')) == (130 + 88, 200, 120, 15 + 40 + 4 * 88)


def test_it_is_found_by_its_op_name_with_the_parameter_its_weights_are_made_of():
    model = with_block('DenseDoubled')
    assert [layer.name for layer in graph.layers(model)] == ['second']
    (layer,) = graph.layers(model, op_name='DenseDoubled')
    assert (layer.name, layer.op_name, layer.W.shape, layer.b.shape) == (
        'first',
        'DenseDoubled',
        (12, 10),
        (10,),
    )
    assert layer.macs == 120 and layer.label == "DenseDoubled 'first' (W of 12x10)"
    with pytest.raises(ValueError, match="Changed already: DenseDoubled 'first'"):
        raise graph.no_layers_error(model, 'Mine', 'Dense')
    again = graph.replace(model, {layer: doubled(layer, 'DenseOther')})
    assert [one.name for one in graph.layers(again, op_name='DenseOther')] == ['first']


def test_a_block_without_one_weight_is_found_too_and_cannot_be_rebuilt():
    model = nc.FactorDense(rank=2, filter_function=lambda layer: True).transform(network()).model
    first, second = graph.layers(model, op_name='DenseFactored')
    assert (first.name, first.W, first.core, first.macs) == ('first', None, None, None)
    assert first.label == "DenseFactored 'first' (W1 of 12x2, W2 of 2x10, b of 10)"
    assert first.shared_with == () and first.input.name == 'x'
    with pytest.raises(
        ValueError, match="DenseFactored 'first'.*must apply one Parameter.*nc.graph.replace"
    ):
        first.rebuilt(C.placeholder() * 1, 'X')
    new = graph.replace(model, {second: C.layers.Dense(8)})
    assert [layer.name for layer in graph.layers(new)] == ['second']


def test_it_goes_on_counting_among_the_layers_whose_place_it_took():
    """BinarizeDense leaves the last Dense of a network alone: the doubled one, or else the one
    before it."""
    taken = [
        note.name
        for note in nc.BinarizeDense().transform(with_block('DenseDoubled', 'second')).layers
        if note.skipped is None
    ]
    assert taken == ['first'] and graph.made_of('Dense') == sorted(graph.made_of('Dense'))
    assert {'DenseDoubled', 'DenseFactored'} <= set(
        graph.made_of('Dense')
    ) and 'DenseOther' not in graph.made_of('Dense')
    with pytest.raises(ValueError, match='BinarizeDense: expected a Dense'):
        nc.BinarizeDense().transform(with_block('DenseOther', 'second'))


def test_what_nobody_says_anything_of_is_named_by_the_block_around_it():
    rows = count.rows(with_block('NobodyKnows'))
    assert {row.name for row in rows} == {'first', 'second'}
    assert sum(row.parameters for row in rows) == 130 + 88 and sum(row.macs for row in rows) == 200


def test_a_replacement_without_a_name_gets_the_name_of_its_layer():
    model = network()
    for new_function in (
        lambda: C.layers.Dense(10),
        lambda: C.placeholder() @ C.parameter((12, 10), init=1)
        if hasattr(C.Function, '__matmul__')
        else C.times(C.placeholder(), C.parameter((12, 10))),
    ):
        layer, _ = graph.layers(model)
        new = graph.replace(model, {layer: new_function()})
        assert [one.name for one in graph.layers(new)] == [
            'first',
            'second',
        ] and new.first.output.name == 'first'
    layer, _ = graph.layers(model)
    assert graph.replace(model, {layer: C.layers.Dense(10, name='mine')}).mine.name == 'mine'


def test_an_op_name_belongs_to_one_class():
    with pytest.raises(
        ValueError, match="Thief: .*got 'DenseDoubled', of which Doubles has said.*another op name"
    ):
        type(
            'Thief',
            (nc.Optimization,),
            {'blocks': [nc.Block('DenseDoubled')], '__qualname__': 'Thief'},
        )
    # The same class again, as when a notebook's cell is run a second time, or its module reloaded.
    type('Doubles', (nc.Optimization,), {'blocks': Doubles.blocks, '__qualname__': 'Doubles'})


def test_a_subclass_makes_the_blocks_of_its_base():
    class More(Doubles):
        pass

    assert More.blocks is Doubles.blocks
    assert next(iter(count.rows(with_block('DenseDoubled')))).kind == 'doubled Dense'


def test_a_count_that_fails_is_told_and_is_unknown():
    class Wrong(nc.Optimization):
        def broken(block, row):
            raise KeyError('no such number')

        blocks = [nc.Block('DenseWrong', count=broken)]

    model = with_block('DenseWrong')
    with pytest.warns(UserWarning, match="DenseWrong 'first': its count.*KeyError.*not known"):
        totals = count.whole(model)
    assert totals.parameters is None and totals.macs is None and totals.bytes is None
    with pytest.warns(UserWarning):
        text = summary.of_model(model)
    assert text.count('unknown') >= 6


MODULE = '''
import sys
import cntk as C
import netopt_callbacks as nc
from netopt_callbacks import summary, graph
if sys.argv[2] == 'import':
    class Doubles(nc.Optimization):
        blocks = [nc.Block('DenseDoubled', kind='doubled Dense')]
model = C.load_model(sys.argv[1])
print('SAID', 'doubled Dense' in summary.of_model(model),
      [row for row in summary.of_model(model).splitlines() if row.startswith('first')].__len__())
'''


@pytest.mark.parametrize('how, said', [('import', 'SAID True 1'), ('not', 'SAID False 3')])
def test_a_loaded_model_is_known_where_the_class_is_imported(how, said, tmpdir):
    with_block('DenseDoubled').save(str(tmpdir.join('model')))
    script = tmpdir.join('script.py')
    script.write(MODULE)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(script), str(tmpdir.join('model')), how],
        env=dict(os.environ, PYTHONPATH=os.path.dirname(PACKAGE)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert said in done.stdout, done.stderr[-2000:]


# What ours are written with is what others have.


def modules(folder):
    for name in sorted(os.listdir(os.path.join(PACKAGE, folder))):
        if name.endswith('.py'):
            with open(os.path.join(PACKAGE, folder, name)) as file:
                yield name, ast.parse(file.read())


def test_our_optimizations_use_nothing_of_graph_that_is_not_public():
    for name, tree in modules('optimizations'):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and node.level == 2
                and (node.module or '').startswith('graph')
            ):
                assert node.module == 'graph', f'{name} imports from {node.module}'
                used = [alias.name for alias in node.names]
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == 'graph'
            ):
                used = [node.attr]
            else:
                continue
            assert set(used) <= set(graph.__all__) | {'blocks'}, (name, used)


def test_the_ground_floor_knows_no_block_of_an_optimization():
    ours = nc.FactorDense, nc.BinarizeConvolution, nc.BinarizeDense
    names = {block.op_name for one in ours for block in one.blocks} & set(graph.blocks.op_names())
    assert {'DenseFactored', 'BinaryConvolution', 'BinaryDense'} <= names
    paths = [
        os.path.join(PACKAGE, 'graph', name)
        for name in os.listdir(os.path.join(PACKAGE, 'graph'))
        if name.endswith('.py')
    ] + [os.path.join(PACKAGE, name) for name in ('count.py', 'summary.py')]
    for path in paths:
        with open(path) as file:
            words = set(re.findall(r'\w+', file.read()))
        assert not words & names, path


def test_all_that_is_public_is_in_the_guide():
    guide = ''
    for page in ('graph.md', 'writing_an_optimization.md'):
        with open(os.path.join(os.path.dirname(PACKAGE), 'docs', page)) as file:
            guide += file.read()
    for name in graph.__all__:
        assert re.search(r'`(nc\.graph\.|nc\.)?%s\b' % name, guide), name
    for name in ('Replaced', 'Transformed', 'LayerNote', 'Optimization', 'Block'):
        assert re.search(r'nc\.%s\b' % name, guide), name
