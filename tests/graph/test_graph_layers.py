"""Which layers are found, and what a filter sees of them."""
import cntk as C
import numpy as np
import pytest

from netopt_callbacks import FactorDense, graph

import graph_networks as networks


def names(model, *arguments, **options):
    return [layer.name for layer in graph.layers(model, *arguments, **options)]


@pytest.mark.parametrize(
    'network, expected',
    [
        (networks.sequential, ['conv', 'hidden', 'classify']),
        (networks.every_dense, ['tensor', 'mapped', 'prelu', 'out']),
        (networks.bare, ['maps', 'hidden', 'out']),
        (networks.skip_links, ['first', 'second', 'left', 'right']),
        (networks.several_outputs, ['a', 'b']),
        (networks.criterion, ['a', 'b', 'a', 'b']),
        (networks.nested, ['outer', 'inner', 'outer', 'inner', 'top']),
        (networks.recurrent, ['step', 'fold', 'out']),
        (networks.recurrent_block, ['', 'out']),
        (networks.batch_normalized, ['conv', 'out']),
        (networks.convolutions, ['planes', 'grouped', 'line']),
        (networks.sequential_convolution, ['steps']),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_layers_are_found_inputs_first(network, expected):
    assert names(network()[0]) == expected


def test_a_filter_and_an_op_name_choose():
    model, _ = networks.sequential()
    assert names(model, op_name='Dense') == ['hidden', 'classify']
    assert names(model, op_name='Convolution') == ['conv']
    assert names(model, lambda block: block.name != 'hidden') == ['conv', 'classify']
    assert names(model, lambda block: False) == []
    with pytest.raises(ValueError, match='Pooling'):
        graph.layers(model, op_name='Pooling')


def test_a_layer_behaves_like_the_block():
    model, _ = networks.sequential()
    layer, block = graph.layers(model)[1], model.hidden
    assert (layer.name, layer.op_name, layer.shape) == (block.name, block.op_name, block.shape)
    assert isinstance(layer.W, C.Parameter) and layer.W.uid == block.W.uid
    assert layer.b.uid == block.b.uid
    assert layer.output.uid == block.output.uid and layer.input.uid == block.inputs[2].uid
    assert np.array_equal(layer.W.value, block.W.value)
    assert (
        layer.uid == block.uid and layer.is_block and layer.block_root.uid == block.block_root.uid
    )
    assert layer.attributes['outputRank'] == 1 and layer.core.op_name == 'Times'
    with pytest.raises(AttributeError):
        layer.no_such_attribute
    assert len({layer, graph.layers(model)[1]}) == 1 and layer != graph.layers(model)[2]


def test_a_layer_without_a_block_shows_the_same_face():
    model, _ = networks.bare()
    conv, hidden, out = graph.layers(model)
    assert (conv.op_name, conv.W.name, conv.b.name) == ('Convolution', 'kernel', 'shift')
    assert conv.attributes['autoPadding'] == [False, True, True]
    assert (hidden.op_name, hidden.W.name, hidden.b.name) == ('Dense', 'weights', 'bias')
    assert hidden.shape == (5,) and isinstance(hidden.b, C.Parameter)
    assert (out.W.name, out.b) == ('last', None)


def test_a_bias_that_others_read_past_is_none_of_the_layer():
    x = C.input_variable(3)
    product = C.times(x, C.parameter((3, 2), init=1))
    model = C.plus(product, C.parameter(2, init=1)) + C.square(product)
    (layer,) = graph.layers(model)
    assert layer.b is None and layer.output.uid == product.output.uid


@pytest.mark.parametrize(
    'make',
    [
        lambda x: C.times(x, C.constant(1, (3, 2))),
        lambda x: C.times(x, 2 * C.parameter((3, 2), init=1)),
        lambda x: C.layers.Embedding(2)(x),
    ],
    ids=['constant', 'expression', 'embedding'],
)
def test_what_is_no_layer_is_not_found(make):
    assert graph.layers(make(C.input_variable(3))) == []


@pytest.mark.parametrize(
    'make, bias',
    [
        (lambda x, W, b: C.times(x, W) + b, True),
        (lambda x, W, b: C.plus(b, C.times(x, W)), True),
        (lambda x, W, b: C.times(x, W), False),
        (lambda x, W, b: C.times(x, W) - b, False),
        (lambda x, W, b: C.times(x, W) + np.ones(2, 'f'), False),
    ],
    ids=['bias right', 'bias left', 'no bias', 'bias taken away', 'constant bias'],
)
def test_a_dense_is_found_however_its_bias_is_written(make, bias):
    W, b = C.parameter((3, 2), init=1), C.parameter(2, init=1)
    (layer,) = graph.layers(make(C.input_variable(3), W, b))
    assert (layer.W.uid, layer.b and layer.b.uid) == (W.uid, b.uid if bias else None)


@pytest.mark.parametrize(
    'make, reason',
    [
        (
            lambda W: C.times_transpose(C.input_variable(3), W, name='p'),
            'times_transpose reads its W',
        ),
        (lambda W: C.times(W, C.input_variable((3, 1)), name='p'), 'its W is on the left'),
        (lambda W: C.times(W, C.input_variable(3), name='p'), 'its W is on the left'),
        (
            lambda W: C.times(C.input_variable(3), C.swapaxes(W), name='p'),
            'its W is transposed first',
        ),
    ],
    ids=['times_transpose', 'column', 'vector', 'transposed'],
)
def test_a_product_that_holds_w_the_other_way_round_is_told_and_left(make, reason):
    W = C.parameter((2, 3), init=1, name='W')
    model = make(W)
    assert graph.layers(model) == []
    (product,) = graph.other_products(model)
    assert product.label == "product 'p' (W of 2x3)" and product.W.uid == W.uid
    assert product.reason.startswith(reason) and product.reason.endswith(
        'write times(x, W) with W of [inputs, outputs]'
    )
    with pytest.raises(ValueError, match=r"product 'p' \(W of 2x3\), which is none \(%s" % reason):
        FactorDense(rank=1).transform(model)


def test_products_of_data_and_those_inside_layers_are_not_told():
    x = C.input_variable((2, 3))
    model = C.times(C.times_transpose(x, x), C.constant(1, (2, 2)))
    assert graph.other_products(C.layers.Dense(2)(model)) == []
    steps = C.sequence.input_variable(3)
    assert (
        graph.other_products(C.layers.Recurrence(C.layers.LSTM(4, use_peepholes=True))(steps)) == []
    )


@pytest.mark.parametrize('cell', [C.layers.LSTM, C.layers.GRU, C.layers.RNNStep])
def test_a_recurrent_cell_holds_no_layers(cell):
    x = C.sequence.input_variable(3)
    model = C.layers.Recurrence(cell(4, enable_self_stabilization=True))(x)
    assert graph.layers(model) == []


def test_a_dense_block_in_an_attention_model_is_found():
    x = C.sequence.input_variable(3)
    attention = C.layers.AttentionModel(4, name='attention')
    model = attention(C.layers.Recurrence(C.layers.GRU(4))(x), C.sequence.last(x))
    assert [layer.op_name for layer in graph.layers(model)] == ['Dense'] * 3


def test_layers_that_share_weights_know_each_other():
    model, _ = networks.criterion()
    a, b, a_again, b_again = graph.layers(model)
    assert a.shared_with == (a_again,) and b_again.shared_with == (b,)
    assert a != a_again and a.W.uid == a_again.W.uid
    assert names(model, lambda block: block.name == 'a') == ['a', 'a']


def test_a_filter_must_treat_layers_that_share_weights_alike():
    x = C.input_variable(4)
    W = C.parameter((4, 4), init=1)
    model = C.times(C.times(x, W, name='left'), W, name='right')
    with pytest.raises(ValueError, match="'right'.*'left'|'left'.*'right'"):
        graph.layers(model, lambda block: block.name == 'left')


def test_multiply_adds_count_every_position_once():
    model, _ = networks.every_dense()
    tensor, mapped, prelu, out = graph.layers(model)
    assert tensor.macs == 24 * 15
    assert mapped.macs == 5 * 3 * 4
    assert prelu.macs == 5 * 4 * 6
    assert out.macs == 30 * 2
    conv = graph.layers(networks.sequential()[0])[0]
    assert conv.macs == 6 * 6 * 4 * 9


def test_multiply_adds_of_convolutions():
    planes, grouped, line = graph.layers(networks.convolutions()[0])
    assert planes.macs == 4 * 6 * 8 * 9
    assert grouped.macs == 6 * 6 * 4 * 2 * 6 and grouped.attributes['groups'] == 2
    assert line.macs == 5 * 4 * 36 * 3
    (steps,) = graph.layers(networks.sequential_convolution()[0])
    assert steps.macs is None  # as many as there are steps
    (free,) = graph.layers(
        C.layers.Convolution2D((3, 3), 8)(C.input_variable((4, C.FreeDimension, 6)))
    )
    assert free.macs is None


def test_the_error_for_no_layers_lists_those_seen():
    error = graph.no_layers_error(networks.nested()[0], 'FactorDense', op_name='Dense')
    assert isinstance(error, ValueError)
    for part in ('FactorDense', 'tower.outer', 'tower.mixed.inner', 'top', '4x3'):
        assert part in str(error)
    assert 'none' in str(graph.no_layers_error(C.square(C.input_variable(2)), 'X'))


@pytest.mark.parametrize('network', networks.ALL, ids=lambda network: network.__name__)
def test_walking_visits_inputs_before_those_who_read_them(network):
    model, _ = network()
    visited = list(graph.walk(model))
    assert len({function.uid for function in visited}) == len(visited)
    place = {function.uid: index for index, function in enumerate(visited)}
    backward = [
        (variable.owner.uid, function.uid)
        for function in visited
        for variable in function.inputs
        if variable.is_output and place[variable.owner.uid] > place[function.uid]
    ]
    loops = sum(function.op_name in ('PastValue', 'FutureValue') for function in visited)
    assert len(backward) <= loops
    assert [function.uid for function in graph.primitives(model)] == [
        function.uid for function in graph.walk(model, into_blocks=False)
    ]
    assert visited[-1].uid == model.root_function.uid or len(model.outputs) > 1
