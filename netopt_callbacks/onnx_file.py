"""What is looked at in an ONNX file before ONNX Runtime gets it; the standard library only.

ONNX is a protocol buffer: fields of a number and a value, which may hold fields in turn. Only those
are read that say whether the file may be used here: versions, and whether tensors lie in other
files, from which nothing is read.
"""
import os

DOMAIN = 'netopt'
MOST_SEGMENTS = 128  # as many operators as native/onnx/operators.cpp has
# That a node of ours reads beside the state, and that it gives; as in native/onnx/operators.cpp.
MOST_VALUES = 32
OPERATOR = 'Segment'  # that their names begin with; a number follows
VERSION = 1  # of the domain's operators
MOST_DEPTH = 32  # of graphs in graphs
METADATA = 'netopt.'  # that the keys of our metadata begin with

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_METADATA, _MODEL_FUNCTIONS = 7, 8, 14, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_LOCATION = b'location'


class NotOnnx(ValueError):
    """Bytes that are no protocol buffer."""


def checked(path):
    """Returns the bytes of an ONNX file.

    Raises:
        TypeError: the path is no path.
        OSError: it cannot be read.
        ValueError: it is no ONNX file, of a later version of our operators, or one that reads other
            files.
    """
    with open(os.fspath(path), 'rb') as file:
        data = file.read()
    try:
        _check(data, path)
        segments(data)
        metadata(data)
    except NotOnnx as error:
        raise ValueError(
            f'{path} is no whole ONNX file ({error}); export the network again'
        ) from None
    return data


def segments(data):
    """Returns how many operators of ours a checked file needs: one more than the number of its
    last segment; 0 for none."""
    most = 0
    for number, value in fields(data):
        if number != _MODEL_GRAPH:
            continue
        for inner, node in fields(_message(value)):
            if inner != _GRAPH_NODE:
                continue
            node = dict(fields(_message(node)))
            name = _text(node.get(_NODE_OP_TYPE, b''))
            index = name[len(OPERATOR) :]
            if (
                _text(node.get(_NODE_DOMAIN, b'')) == DOMAIN
                and name.startswith(OPERATOR)
                and index.isdecimal()
            ):
                most = max(most, 1 + int(index))
    return most


def metadata(data):
    """Returns the metadata of an ONNX file's bytes, str to str."""
    found = {}
    for number, value in fields(data):
        if number == _MODEL_METADATA:
            entry = dict(fields(_message(value)))
            found[_text(entry.get(1, b''))] = _text(entry.get(2, b''))
    return found


def fields(data):
    """Yields (number, value) of a message: int, or memoryview of what is in the field.

    Raises:
        NotOnnx: the bytes end early, or are of a kind that no protocol buffer has.
    """
    data, at = memoryview(data), 0
    while at < len(data):
        key = data[at]
        if key < 128:
            at += 1
        else:
            key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise NotOnnx('a field has the number 0')
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                size, at = _varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise NotOnnx(f'a field is of the unknown kind {kind}')
            if size > len(data) - at:
                raise NotOnnx('it ends inside a field')
            value, at = data[at : at + size], at + size
        yield number, value


def _varint(data, at):
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise NotOnnx('it ends inside a number')
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise NotOnnx('a number is too long')


def _text(value):
    return bytes(value).decode('utf-8', 'replace') if not isinstance(value, int) else ''


def _message(value):
    if isinstance(value, int):
        raise NotOnnx('a field holds a number where it should hold fields')
    return value


def _check(data, path):
    graphs = 0
    # A tensor in another file names it under this key. Where no such word is, nothing needs to be
    # searched for it.
    names_files = _LOCATION in data
    for number, value in fields(data):
        if number == _MODEL_OPSETS:
            opset = dict(fields(_message(value)))
            if _text(opset.get(1, b'')) == DOMAIN and opset.get(2, 0) != VERSION:
                raise ValueError(
                    f'{path} is of version {opset.get(2, 0)} of the operators of {DOMAIN}, this '
                    f'package has version {VERSION}: install the netopt_callbacks that wrote it, '
                    'or a newer one'
                )
        elif number == _MODEL_GRAPH:
            graphs += 1
            if names_files:
                _check_graph(_message(value), path, 0)
        elif number == _MODEL_FUNCTIONS and names_files:
            _check_nodes(_message(value), _FUNCTION_NODE, path, 0)
    if not graphs and _is_of_cntk(data):
        raise ValueError(
            f"{path} looks like a CNTK model, not an ONNX file: write one with "
            f"nc.deploy.export(cntk.load_model({str(path)!r}), 'model.onnx')"
        )
    if graphs != 1:
        raise NotOnnx(f'it holds {graphs} graphs')


def _is_of_cntk(data):
    """Whether bytes that hold no ONNX graph are a Function that CNTK saved: a dictionary whose
    entries (field 2) have these keys (field 1) among others."""
    entries = [
        value for number, value in fields(data) if number == 2 and not isinstance(value, int)
    ]
    keys = {_text(value) for entry in entries for number, value in fields(entry) if number == 1}
    return {'root', 'primitive_functions'} <= keys


def _check_graph(graph, path, depth):
    if depth > MOST_DEPTH:
        raise NotOnnx(f'graphs are in graphs more than {MOST_DEPTH} deep')
    for number, value in fields(graph):
        if number == _GRAPH_INITIALIZER:
            _check_tensor(_message(value), path)
        elif number == _GRAPH_SPARSE:
            _check_sparse(_message(value), path)
    _check_nodes(graph, _GRAPH_NODE, path, depth)


def _check_nodes(holder, field, path, depth):
    for number, node in fields(holder):
        if number != field:
            continue
        for inner, attribute in fields(_message(node)):
            if inner != _NODE_ATTRIBUTE:
                continue
            for kind, value in fields(_message(attribute)):
                if kind in _ATTRIBUTE_TENSORS:
                    _check_tensor(_message(value), path)
                elif kind in _ATTRIBUTE_GRAPHS:
                    _check_graph(_message(value), path, depth + 1)
                elif kind in _ATTRIBUTE_SPARSE:
                    _check_sparse(_message(value), path)


def _check_sparse(value, path):
    for number, tensor in fields(value):
        if number in _SPARSE_TENSORS:
            _check_tensor(_message(tensor), path)


def _check_tensor(tensor, path):
    for number, value in fields(tensor):
        if number == _TENSOR_EXTERNAL or number == _TENSOR_LOCATION and value != 0:
            raise ValueError(
                f'{path} keeps tensors in other files, from which nothing is read; a file of '
                'deploy.export holds all of its own'
            )
