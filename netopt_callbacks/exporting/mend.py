"""What CNTK's exporter wrote, as ONNX has to be: any batch, one name for one thing, opset 13.

CNTK 2.7 writes opset 9 for a batch of one. What is done here was found by exporting small networks
and comparing them:

* the batch axis is fixed to 1, in inputs, outputs and the shapes of Reshape;
* weights are inputs;
* a tensor that two operations need (W as a matrix) is computed twice under one name.
"""
import os
import tempfile

import cntk as C
import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from .body import OPSET
from .finite import make_finite
from .ready import EQUAL
from .truth import sequence_axis

BATCH, STEPS = 'batch', 'steps'
END = 2**31 - 1  # of any axis
_STATE_OPS = ('LSTM', 'GRU', 'RNN')


def exported(network):
    """Returns the ModelProto of a cut network (cntk.Function), mended; names of inputs are those of
    its arguments.

    Raises:
        NotImplementedError: CNTK's exporter refuses the network, or what it wrote cannot be mended.
    """
    model = _written(network)
    _weights_are_no_inputs(model)
    _one_name_for_one_thing(model)
    _no_other_outputs(model, network)
    make_finite(model.graph)
    _free_batch(model, _names_of_steps(network))
    _drop_unused(model)
    _no_constant_of_other_paddings(model)
    _slices_to_the_end(model)
    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            raise NotImplementedError(
                f"deploy.export: CNTK writes {node.op_type} as an operator of a draft of the "
                "standard, which the standard does not have; write what it computes with other "
                "operations"
            )
    try:
        converted = version_converter.convert_version(model, OPSET)
    except Exception as error:  # it raises whatever its C++ does
        raise NotImplementedError(
            f'deploy.export: what CNTK wrote cannot be converted to opset {OPSET}: '
            f'{_first_line(error)}; write what this computes with other operations'
        ) from error
    _equal(converted)
    return converted


def _written(network):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'network.onnx')
        try:
            network.save(path, format=C.ModelFormat.ONNX)
        except Exception as error:  # it raises RuntimeError, ValueError and others
            raise NotImplementedError(
                f"deploy.export: CNTK's exporter refuses the network: {_first_line(error)}; write "
                "what the node computes with other operations, or end the network before it"
            ) from error
        return onnx.load(path)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')


def _weights_are_no_inputs(model):
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)


def _one_name_for_one_thing(model):
    """Leaves out what is the same a second time, and renames what is not."""
    graph = model.graph
    tensors = {}
    for tensor in list(graph.initializer):
        if tensor.name in tensors:
            if tensor.SerializeToString() != tensors[tensor.name]:
                raise NotImplementedError(
                    f"deploy.export: CNTK's exporter gave two tensors the name '{tensor.name}'; "
                    "give the layers names that differ"
                )
            graph.initializer.remove(tensor)
        else:
            tensors[tensor.name] = tensor.SerializeToString()
    made, current = {}, {}
    for node in list(graph.node):
        for place, name in enumerate(node.input):
            node.input[place] = current.get(name, name)
        key = (
            node.op_type,
            tuple(node.input),
            b''.join(sorted(a.SerializeToString() for a in node.attribute)),
        )
        if any(name in made for name in node.output):
            if all(made.get(name) == key for name in node.output):
                graph.node.remove(node)
                continue
            for place, name in enumerate(node.output):
                if name in made:
                    current[name] = f'{name}_{len(made)}'
                    node.output[place] = current[name]
        made.update((name, key) for name in node.output)


def _no_other_outputs(model, network):
    """Of an operation that gives two values, as TopK does, both are made outputs where one is."""
    own = {output.owner.name for output in network.outputs}
    own.update([name + '_Output' for name in own])
    for value in [value for value in model.graph.output if value.name not in own]:
        model.graph.output.remove(value)


def _names_of_steps(network):
    """Returns the name that the axis of steps has in the file, by names of inputs and outputs: that
    of each axis is its own, as ONNX Runtime takes one name for one length."""
    names, found = {}, {}
    for variable in list(network.arguments) + list(network.outputs):
        axis = sequence_axis(variable)
        if axis is not None:
            names.setdefault(axis, STEPS if not names else f'{STEPS}_{len(names) + 1}')
            name = variable.owner.name if variable.is_output else variable.name
            found[name] = found[name + '_Output'] = names[axis]
    return found


def _free_batch(model, names_of_steps):
    """Lets the batch be of any size, and the steps of each sequence axis."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    # What has an axis of steps, before that of the batch. CNTK's exporter names it and no other.
    stepped = {
        value.name
        for value in graph.input
        for first in value.type.tensor_type.shape.dim[:1]
        if first.dim_param
    }
    for value in list(graph.input) + list(graph.output):
        dims = value.type.tensor_type.shape.dim
        first = 0
        if dims and dims[0].dim_param:
            dims[0].dim_param, first = names_of_steps.get(value.name, STEPS), 1
        if len(dims) > first and dims[first].dim_value == 1:
            dims[first].dim_param = BATCH
    del graph.value_info[:]
    live = {value.name for value in graph.input}
    for node in graph.node:
        if live.intersection(node.input):
            live.update(node.output)
        if stepped.intersection(node.input) and not _ends_steps(node):
            stepped.update(node.output)
    producer = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        axis = 1 if node.input and node.input[0] in stepped else 0
        if node.op_type in _STATE_OPS:
            _free_state(node, weights)
        elif node.op_type == 'Reshape' and node.output[0] in live and node.input[1] in weights:
            _free_reshape(graph, node, axis, weights, producer)


def _ends_steps(node):
    """Whether a node reduces the axis of steps, as a sum over a sequence does."""
    return node.op_type.startswith('Reduce') and any(
        attribute.name == 'axes' and 0 in attribute.ints for attribute in node.attribute
    )


def _free_state(node, weights):
    """An initial state of zeros for a batch of one is what there is without one."""
    for place in (5, 6):
        if len(node.input) > place and node.input[place] in weights:
            if np.any(numpy_helper.to_array(weights[node.input[place]])):
                raise NotImplementedError(
                    f'deploy.export: a {node.op_type} begins with a state that is not 0, which the '
                    'file would have for a batch of one only; begin it with 0'
                )
            node.input[place] = ''


def _free_reshape(graph, node, axis, weights, producer):
    before = producer.get(node.input[0])
    while before is not None and before.op_type in ('Reshape', 'Flatten'):
        node.input[0] = before.input[0]  # of reshapes in a row, the last one says all
        before = producer.get(node.input[0])
    shape = numpy_helper.to_array(weights[node.input[1]]).copy()
    if len(shape) <= axis or shape[axis] != 1:
        return
    if axis == 0:
        shape[0] = -1 if not (shape == -1).any() else 0
    elif (shape == -1).any():
        raise NotImplementedError(
            'deploy.export: a reshape in a sequence has more than one free axis; give the input a '
            'fixed size'
        )
    else:
        shape[axis] = -1
    name = f'{node.input[1]}_of_{node.output[0]}'
    graph.initializer.extend([numpy_helper.from_array(shape, name)])
    node.input[1] = name


def _no_constant_of_other_paddings(model):
    """A Pad that reflects is written with the number of a constant one, which its conversion
    leaves there."""
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == 'Pad' and {'mode', 'value'}.issubset(attributes):
            if attributes['mode'].s != b'constant':
                node.attribute.remove(attributes['value'])


def _slices_to_the_end(model):
    """An end of 0, which is the end of the axis in CNTK, is before its first place in ONNX."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == 'Slice' and attribute.name == 'ends':
                attribute.ints[:] = [end or END for end in attribute.ints]


def _equal(model):
    """Makes an Equal of floats, which the opset of CNTK's exporter does not have yet, of each
    Greater that stands for one."""
    for node in model.graph.node:
        if node.op_type == 'Greater' and node.output[0].startswith(EQUAL):
            node.op_type = 'Equal'


def _drop_unused(model):
    graph = model.graph
    outputs = {value.name for value in graph.output}
    while True:
        used = outputs.union(*[node.input for node in graph.node]) if graph.node else outputs
        unused = [node for node in graph.node if not used.intersection(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
