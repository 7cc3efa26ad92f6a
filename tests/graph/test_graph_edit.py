"""Editing a graph: what is not replaced stays, what is replaced computes, everything is shared."""
import cntk as C
import numpy as np
import pytest

from netopt_callbacks import graph

import graph_networks as networks

every_network = pytest.mark.parametrize(
    'network', networks.ALL, ids=lambda network: network.__name__
)


def twin(layer):
    """The layer once more: its core written anew over the same W."""
    data = C.placeholder()
    attributes = layer.attributes
    if layer.op_name == 'Dense':
        core = C.times(
            data,
            layer.W,
            output_rank=attributes['outputRank'],
            infer_input_rank_to_map=attributes['inferInputRankToMap'],
        )
    else:
        core = C.convolution(
            layer.W,
            data,
            strides=attributes['strides'],
            auto_padding=attributes['autoPadding'],
            groups=attributes['groups'],
            sequential=attributes['sequential'],
        )
    return layer.rebuilt(core, 'Twin')


def uids(variables):
    return [variable.uid for variable in variables]


def same_face(old, new):
    """Asserts that two models look the same from outside."""
    assert sorted(uids(new.arguments)) == sorted(uids(old.arguments))
    assert [output.shape for output in new.outputs] == [output.shape for output in old.outputs]
    assert [output.dtype for output in new.outputs] == [output.dtype for output in old.outputs]
    assert [output.dynamic_axes for output in new.outputs] == [
        output.dynamic_axes for output in old.outputs
    ]
    assert [output.name for output in new.outputs] == [output.name for output in old.outputs]
    assert new.root_function.name == old.root_function.name


def same_values(old, new, data):
    for expected, received in zip(networks.values(old, data), networks.values(new, data)):
        assert np.array_equal(expected, received)


@every_network
def test_replaced_by_its_twin_a_model_is_the_same(network):
    model, data = network()
    before = networks.values(model, data)
    functions = {function.uid for function in graph.walk(model)}
    found = graph.layers(model)
    new = graph.replace(model, {layer: twin(layer) for layer in found})
    same_face(model, new)
    same_values(model, new, data)
    assert sorted(uids(new.parameters)) == sorted(uids(model.parameters))
    assert sum(function.op_name == 'Twin' for function in graph.walk(new)) == len(found) > 0
    assert not functions & {function.uid for function in graph.walk(new)}
    assert functions == {function.uid for function in graph.walk(model)}
    for expected, received in zip(before, networks.values(model, data)):
        assert np.array_equal(expected, received)


@every_network
def test_names_are_found_after_a_replacement(network):
    model, _ = network()
    new = graph.replace(model, {layer: twin(layer) for layer in graph.layers(model)})
    names = {function.name for function in graph.primitives(model) if function.name}
    assert names <= {function.name for function in graph.primitives(new)}
    for name in names:
        assert len(new.find_all_with_name(name)) >= 1


@every_network
def test_only_the_layers_named_are_replaced(network):
    model, data = network()
    for layer in graph.layers(model):
        new = graph.replace(model, {layer: twin(layer)})
        same_face(model, new)
        same_values(model, new, data)
        assert sum(function.op_name == 'Twin' for function in graph.walk(new)) == 1


@every_network
def test_packed_weights_compute_the_same_and_come_back(network):
    model, data = network()
    weights = {layer.W.uid: layer.W for layer in graph.layers(model)}.values()
    storage, packed = {}, {}
    for W in weights:
        size = int(np.prod(W.shape))
        value = np.concatenate([np.full(size, np.nan), W.value.ravel()]).astype(W.dtype)
        storage[W.uid] = C.parameter((2 * size,), init=value, dtype=W.dtype)
        piece = C.slice(C.reshape(storage[W.uid], (-1,)), 0, size, 2 * size)
        packed[W] = C.reshape(piece, W.shape, name='packed ' + W.uid)
    new = graph.substitute(model, packed)
    same_face(model, new)
    same_values(model, new, data)
    assert set(uids(storage.values())) <= set(uids(new.parameters))
    assert not set(uids(weights)) & set(uids(new.parameters))

    by_uid = {W.uid: W for W in weights}
    back = {
        function.output: by_uid[function.name.split()[1]]
        for function in graph.walk(new)
        if function.name.startswith('packed ')
    }
    old = graph.substitute(new, back)
    same_face(model, old)
    same_values(model, old, data)
    assert sorted(uids(old.parameters)) == sorted(uids(model.parameters))


@every_network
def test_a_clone_shares_parameters_and_arguments(network):
    model, data = network()
    new = graph.clone_shared(model)
    same_face(model, new)
    same_values(model, new, data)
    assert uids(new.parameters) == uids(model.parameters)


@pytest.mark.parametrize(
    'network',
    [networks.nested, networks.recurrent, networks.sequential],
    ids=lambda network: network.__name__,
)
def test_an_edited_model_is_saved_and_loaded(network, tmp_path):
    model, data = network()
    new = graph.replace(model, {layer: twin(layer) for layer in graph.layers(model)})
    new.save(str(tmp_path / 'model'))
    loaded = C.load_model(str(tmp_path / 'model'))
    by_name = {argument.name: data[argument] for argument in model.arguments}
    data = {argument: by_name[argument.name] for argument in loaded.arguments}
    assert np.array_equal(
        networks.values(loaded, data)[0],
        networks.values(model, dict(zip(model.arguments, by_name.values())))[0],
    )


@pytest.mark.parametrize(
    'network',
    [networks.nested, networks.recurrent, networks.skip_links, networks.bare],
    ids=lambda network: network.__name__,
)
def test_gradients_are_those_of_the_original(network):
    model, data = network()
    new = graph.replace(model, {layer: twin(layer) for layer in graph.layers(model)})
    for parameter in model.parameters:
        expected = C.reduce_sum(C.square(model)).grad(data, wrt=[parameter])
        received = C.reduce_sum(C.square(new)).grad(data, wrt=[parameter])
        # Only the order of two sums of a few float32 products may differ.
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)


def test_a_layer_that_reads_a_replaced_layer_reads_the_new_one():
    model, data = networks.several_outputs()
    a, b = graph.layers(model)
    double = [
        layer.rebuilt(C.times(C.placeholder(), C.constant(2 * layer.W.value)), 'Double')
        for layer in (a, b)
    ]
    new = graph.replace(model, dict(zip((a, b), double)))
    x = next(iter(data.values()))
    hidden = x.dot(2 * a.W.value) + a.b.value
    out = hidden.dot(2 * b.W.value) + b.b.value
    for expected, received in zip(
        [out, hidden, np.maximum(out, 0), x * x], networks.values(new, data)
    ):
        np.testing.assert_allclose(received, expected.ravel(), rtol=1e-5, atol=1e-6)


def test_a_new_function_may_be_any_layer_of_cntk():
    x = C.input_variable(6)
    model = C.layers.Sequential([C.layers.Dense(8, name='a'), C.layers.Dense(3, name='b')])(x)
    first = graph.layers(model)[0]
    function = C.layers.Sequential([C.layers.Dense(2), C.layers.Dense(8, name='wide')])
    new = graph.replace(model, {first: function})
    assert new.wide.W.shape == (2, 8)
    assert [parameter.shape for parameter in function.parameters] != []
    assert {parameter.uid for parameter in function.parameters} < {p.uid for p in new.parameters}


def test_an_argument_is_substituted():
    x, other = C.input_variable(3), C.input_variable(3)
    new = graph.substitute(C.square(x) + 1, {x: other})
    assert uids(new.arguments) == [other.uid]
    assert np.array_equal(new.eval({other: [[1, 2, 3]]}), [[2, 5, 10]])
    new = graph.substitute(C.square(x) + 1, {x: other * 2})
    assert np.array_equal(new.eval({other: [[1, 2, 3]]}), [[5, 17, 37]])


def test_an_expression_may_read_the_parameter_it_replaces():
    x = C.input_variable(3)
    model = C.layers.Dense(2, name='d')(x)
    new = graph.substitute(model, {model.W: 3 * model.W})
    data = np.float32([[1, -2, 0.5]])
    assert np.allclose(new.eval({x: data}), data.dot(3 * model.W.value))
    assert uids(new.parameters) == uids(model.parameters)


def test_an_expression_may_read_the_model_and_follows_other_replacements():
    x = C.input_variable(3)
    first = C.square(x, name='first')
    second = C.exp(first, name='second')
    third = C.plus(second, 1, name='third')
    new = graph.substitute(third, {first: C.abs(x), second: first * 10})
    assert np.array_equal(new.eval({x: [[1, -2, 3]]}), [[11, 21, 31]])


def test_an_output_of_the_model_is_substituted():
    x = C.input_variable(3)
    first, second = C.square(x), C.exp(x)
    model = C.combine([first, second])
    new = graph.substitute(model, {first.output: C.abs(x)})
    assert np.array_equal(new.eval({x: [[-1, 2, -3]]})[new.outputs[0]], [[1, 2, 3]])
    new = graph.substitute(model, {first.output: second, second.output: C.abs(x)})
    assert [output.uid for output in new.outputs[:1]] == [output.uid for output in new.outputs[1:]]


@pytest.mark.parametrize(
    'function, said',
    [
        (lambda: C.placeholder() + C.placeholder(), 'one placeholder'),
        (lambda: C.square(C.input_variable(3)), 'one placeholder'),
        (lambda: C.combine([C.square(C.placeholder()), C.constant(1)]), 'one output'),
    ],
)
def test_a_new_function_that_is_not_unapplied_is_refused(function, said):
    model, _ = networks.sequential()
    layer = graph.layers(model, lambda block: block.name == 'hidden')[0]
    with pytest.raises(ValueError, match=said) as error:
        graph.replace(model, {layer: function()})
    assert 'hidden' in str(error.value)


def test_a_replacement_of_another_shape_is_refused():
    model, _ = networks.sequential()
    layer = graph.layers(model, lambda block: block.name == 'classify')[0]
    with pytest.raises(ValueError, match=r"'classify'.*same shape: expected \(3,\), got \(4,\)"):
        graph.replace(model, {layer: C.layers.Dense(4)})
    with pytest.raises(ValueError, match=r"core of Dense 'classify'.*expected \(3,\), got \(5,\)"):
        layer.rebuilt(C.layers.Dense(5), 'Other')
    with pytest.raises(ValueError, match='shape'):
        graph.substitute(model, {layer.output: C.parameter(4)})


def test_a_layer_of_another_model_is_refused():
    model, _ = networks.sequential()
    layer = graph.layers(graph.clone_shared(model))[0]
    with pytest.raises(ValueError, match="must be in the model, got .*'conv'"):
        graph.replace(model, {layer: twin(layer)})


def test_a_circular_replacement_is_refused():
    x = C.input_variable(3)
    first, second = C.square(x), C.exp(x)
    with pytest.raises(ValueError, match='reads only itself'):
        graph.substitute(first + second, {first.output: second.output, second.output: first.output})


def test_nothing_to_replace_gives_a_clone():
    model, data = networks.skip_links()
    new = graph.replace(model, {})
    same_face(model, new)
    same_values(model, new, data)
    assert new.root_function.uid != model.root_function.uid


class Doubled(C.ops.functions.UserFunction):
    """2 x in Python, with a backward pass."""

    def __init__(self, x, name='doubled'):
        super().__init__([x], as_numpy=True, name=name)

    def forward(self, x, device=None, outputs_to_retain=None):
        return None, 2 * x

    def backward(self, state, root_gradients):
        return 2 * root_gradients

    def infer_outputs(self):
        return [
            C.output_variable(
                self.inputs[0].shape, self.inputs[0].dtype, self.inputs[0].dynamic_axes
            )
        ]

    def serialize(self):
        return {}

    @staticmethod
    def deserialize(inputs, name, state):
        return Doubled(inputs[0], name)


def test_a_user_function_takes_a_layers_place_and_trains():
    x, y = C.input_variable(4), C.input_variable(2)
    model = C.layers.Dense(2, name='d')(x)
    layer = graph.layers(model)[0]
    data = C.placeholder(4, layer.input.dynamic_axes)
    new = graph.replace(
        model, {layer: layer.rebuilt(C.times(C.user_function(Doubled(data)), layer.W), 'D')}
    )
    value = np.float32([[1, 2, 3, 4]])
    assert np.allclose(new.eval({x: value}), 2 * value.dot(layer.W.value))
    again = graph.clone_shared(new)
    trainer = C.Trainer(
        again,
        C.squared_error(again, y),
        [C.sgd(again.parameters, C.learning_parameter_schedule(0.01))],
    )
    before = layer.W.value.copy()
    trainer.train_minibatch({x: value, y: np.float32([[1, 0]])})
    assert not np.array_equal(before, layer.W.value)
