"""Segments with float layers in them leave CNTK: the same bits with the library; without it the
same but for the order of float sums, which is checked part by part."""
import itertools
from types import SimpleNamespace

import cntk as C
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

import native_program_cases as cases  # noqa: E402
import native_program_oracle as oracle  # noqa: E402
from netopt_callbacks import deploy, native  # noqa: E402
from netopt_callbacks.exporting import body_convolution, check, cut, products  # noqa: E402
from netopt_callbacks.lowering import lower_segments  # noqa: E402
from netopt_callbacks.native_program_read import description_of  # noqa: E402
from segment_networks import binarized  # noqa: E402
from test_deploy_body import model_of, random_program, session_of  # noqa: E402

FLOAT_ROWS = ['float_convolution', 'float_dense']
ROWS = sorted(cases.ROWS)
BARE = (
    'order',
    'block',
    'rounded',
    'op',
    'weights',
    'image',
    'strides',
    'dilation',
    'padding',
    'groups',
)


def layer(filters, name, side=3, **options):
    def apply(x):
        y = C.layers.Convolution2D((side, side), filters, pad=True, name=name, **options)(x)
        return C.layers.BatchNormalization(map_rank=1)(y)

    return apply


def chain():
    x = C.input_variable((3, 9, 8), name='image')
    y = C.relu(layer(8, 'float')(x))
    y = C.layers.MaxPooling((2, 2), 2)(C.relu(layer(33, 'second', bias=False)(y)))
    y = C.layers.BatchNormalization()(C.layers.Dense(20, name='hidden')(y))
    return C.layers.Dense(5, name='float')(y)


def residual():
    x = C.input_variable((3, 12, 12), name='image')
    y = C.relu(layer(8, 'float')(x))
    y = C.relu(layer(8, 'one')(y) + y)
    down = layer(12, 'float', 1, strides=2, bias=False)(y)
    y = C.relu(layer(12, 'three')(C.relu(layer(12, 'two', strides=2)(y))) + down)
    return C.layers.Dense(5, name='float')(C.layers.GlobalAveragePooling()(y))


def grouped():
    x = C.input_variable((6, 9, 8), name='image')
    W = C.parameter((10, 3, 3, 3), init=C.glorot_uniform(seed=1))
    y = C.convolution(W, x, auto_padding=[False, True, True], groups=2, name='float')
    return C.layers.Dense(5, name='last')(layer(8, 'one')(C.relu(y)))


def of_images():
    x = C.input_variable((3, 6, 5), name='image')
    return C.layers.Dense(5, name='float')(layer(16, 'one')(x))


NETWORKS = [(chain, 2), (residual, 3), (grouped, 1), (of_images, 1)]


def lowered(make):
    """Returns a network lowered with float layers in its one segment."""
    C.cntk_py.set_fixed_random_seed(1)
    model = make()
    random = np.random.RandomState(0)
    for leaf in list(model.parameters) + list(model.constants):
        if leaf.name in ('bias', 'aggregate_mean', 'b'):
            leaf.value = (random.standard_normal(leaf.shape) * 0.3).astype(np.float32)
        if leaf.name in ('scale', 'aggregate_variance'):
            leaf.value = random.uniform(0.5, 2, leaf.shape).astype(np.float32)
    found = lower_segments(binarized(model), 'native')
    assert len(found.segments) == 1
    return found.model


def images_of(model, samples=20, seed=1):
    shape = model.arguments[0].shape
    return np.random.RandomState(seed).randn(samples, *shape).astype(np.float32)


@pytest.mark.parametrize('make, floats', NETWORKS, ids=lambda value: getattr(value, '__name__', ''))
def test_float_layers_of_a_segment_are_exported(make, floats, tmp_path):
    model, path = lowered(make), str(tmp_path / 'file.onnx')
    exported = deploy.export(model, path, data=images_of(model))
    assert exported.comparison.segments == 1 and exported.comparison.clear == 20
    (tensor,) = [each for each in onnx.load(path).graph.initializer if 'state' in each.name]
    state = tensor.raw_data
    weights = [op.fields['weights'] for op in description_of(state).ops if 'weights' in op.fields]
    assert len(weights) == floats
    with open(path, 'rb') as file:
        content = file.read()
    assert all(content.count(each.tobytes()) == 1 for each in weights)  # the function has none
    for batch in (1, 3, 8):
        values = images_of(model, batch, seed=batch)
        expected = model.eval({model.arguments[0]: values})
        assert batch == 1 or not np.allclose(expected[0], expected[1])
        with_library = deploy.session(path).run(None, {'image': values})[0]
        without = onnxruntime.InferenceSession(path).run(None, {'image': values})[0]
        assert np.array_equal(with_library, expected)
        assert np.abs(without - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_saved_network_with_float_layers_is_exported(tmp_path):
    lowered(chain).save(str(tmp_path / 'lowered.model'))
    loaded = C.load_model(str(tmp_path / 'lowered.model'))
    assert deploy.export(loaded, str(tmp_path / 'file.onnx')).comparison.segments == 1


def test_steps_through_a_segment_with_float_layers(tmp_path):
    x = C.sequence.input_variable(6, name='steps')
    y = C.layers.Dense(40, name='float', activation=C.tanh)(x)
    y = C.layers.Dense(3, name='float')(C.layers.Dense(12, name='layer')(y))
    model = lower_segments(binarized(y), 'native').model
    path = str(tmp_path / 'file.onnx')
    assert deploy.export(model, path).comparison.segments == 1
    values = [np.random.RandomState(4).randn(5, 6).astype(np.float32) for _ in range(3)]
    expected = np.stack(model.eval({model.arguments[0]: values}), axis=1)
    found = deploy.session(path).run(None, {'steps': np.stack(values, axis=1)})[0]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize('most', [3500, 3499], ids=['from the state', 'a constant'])
def test_weights_are_read_as_they_are(most, monkeypatch):
    monkeypatch.setattr(body_convolution, 'MOST_READ', most)
    weights = np.random.RandomState(0).randint(-(2**31), 2**31, 4000).astype(np.int32)
    weights = weights.view(np.float32)[np.isfinite(weights.view(np.float32))][:3500]
    edges = [0, -0.0, 1e-45, -1e-45, 1.17e-38, 1.1754944e-38, 3.4028235e38, -3.4028235e38, 1, -1.5]
    weights[: len(edges)] = edges
    ops = [dict(op='float_dense', input='x', values='y', weights=weights.reshape(7, 500))]
    state = native.Program(ops, {'x': (7,)}, ['y']).state()
    model = model_of(state, False)
    session = session_of(model, False)
    found = np.concatenate(
        [session.run(None, {'x0': row[None]})[0] for row in np.eye(7, dtype=np.float32)]
    )
    assert np.array_equal(found.ravel(), weights)
    assert (len(model.SerializeToString()) > 2 * weights.nbytes) == (most < 3500)


@pytest.mark.parametrize('first', FLOAT_ROWS)
def test_random_programs_with_float_layers(first):
    layers = behind = pools = 0
    for seed in range(120):
        ops, inputs, output, x = random_program(seed, first, ROWS)
        x, ops = moderate(x), [
            dict(op, weights=moderate(op['weights'])) if op['op'] in FLOAT_ROWS else op
            for op in ops
        ]
        program = native.Program(ops, inputs, [output])
        values = oracle.run(ops, {'x': x})
        found = products.products_of(program.state(), [x])
        floats = [op for op in ops if op['op'] in FLOAT_ROWS]
        for (read, given), op in zip(found, floats):
            assert oracle.same(read, values[op['input']])
            layer = layer_of(op, ops, output)
            last = layer[-1]['values']
            assert oracle.same(given, oracle.run(layer, {'x': read})[last])
            pools += len(layer) == 2
            behind += bool(layer[0]['steps'])
        assert len(found) == len(floats)
        layers += len(found)
        compare(program, x)
    assert layers > 40 and behind > 20 and (pools > 0 or first == 'float_dense')


def layer_of(op, ops, output):
    """The ops of a float layer, of which the first reads 'x': the steps in front of the first that
    reads a value, and a maximum over them where nothing else reads them."""
    steps, layer = list(op['steps']), {key: op[key] for key in BARE if key in op}
    own = list(itertools.takewhile(lambda step: not step[0].endswith('_value'), steps))
    layer.update(input='x', values='y', steps=own)
    readers = [
        each
        for each in ops
        if op.get('values') in [each['input']] + each.get('others', [])
        or any(
            name.endswith('_value') and read == [op.get('values')]
            for name, *read in each.get('steps', [])
        )
    ]
    is_read_once = len(readers) == 1 and op['values'] != output and not op.get('bits')
    if own == steps and is_read_once and readers[0]['op'] == 'max_pool':
        return [layer, dict(readers[0], input='y', values='z')]
    return [layer]


def moderate(x):
    """Without what may overflow in one order of adding and not in another."""
    return np.where(np.isfinite(x) & (np.abs(x) < 1e15), x, 1).astype(np.float32)


def compare(program, *xs):
    """Compares a program as a segment, with the library and without."""
    ys = program(*xs)
    ys = ys if isinstance(ys, tuple) else (ys,)
    segment = cut.CutSegment(
        's',
        program.state(),
        [None] * len(xs),
        [C.input_variable(x.shape[1:]) for x in xs],
        [C.input_variable(y.shape[1:]) for y in ys],
        '',
    )
    truth = SimpleNamespace(entries=[xs], exits=[ys])
    for with_library in (True, False):
        check._compare_segments(
            SimpleNamespace(segments=[segment]), onnx.ModelProto(), truth, with_library
        )


def test_a_program_of_several_values_with_float_layers():
    """Among them are bare sums of a float layer, given twice."""
    random = np.random.RandomState(6)
    x, z = (random.standard_normal(shape).astype(np.float32) for shape in ((3, 4, 6, 5), (3, 9)))
    layers = [random.standard_normal((9, 4, 3, 3)).astype(np.float32) for _ in range(2)]
    rows = random.standard_normal((9 * 4 * 3, 7)).astype(np.float32)
    ops = [
        dict(op='float_convolution', input='x', weights=layers[0], values='sums', steps=[]),
        dict(op='map', input='sums', values='moved', steps=[('add_value', 'z'), ('relu',)]),
        dict(op='pack', input='x', bits='b', threshold=0.0),
        dict(op='convolution', input='b', weights=layers[1], values='y', steps=[]),
        dict(op='splice', input='y', others=['moved'], values='both'),
        dict(
            op='float_dense', input='moved', weights=rows, image=(9, 4, 3), values='row', steps=[]
        ),
    ]
    program = native.Program(
        ops, {'x': (4, 6, 5), 'z': (9,)}, ['sums', 'row', 'both', 'sums', 'moved']
    )
    found = products.products_of(program.state(), [x, z])
    assert len(found) == 2 and oracle.same(found[0][1], program(x, z)[0])
    compare(program, x, z)


def test_a_program_without_float_layers_has_no_products():
    ops, inputs, output, x = random_program(1, 'convolution')
    assert products.products_of(native.Program(ops, inputs, [output]).state(), [x]) == []


@pytest.mark.parametrize('number', [0, 1e-45, 1e-40, 1e-30, 1e30, 3e38, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize('at', [1, 2, 3])
def test_a_normalization_of_any_numbers_behind_a_float_layer(number, at):
    random = np.random.RandomState(0)
    vectors = [random.uniform(0.5, 2, 4).astype(np.float32) for _ in range(3)]
    vectors[at - 1][1] = number
    steps = [('add', vectors[0]), ('normalize', *vectors), ('leaky', 0.1), ('normalize', *vectors)]
    weights = random.standard_normal((7, 4)).astype(np.float32)
    ops = [dict(op='float_dense', input='x', values='y', weights=weights, steps=steps)]
    compare(
        native.Program(ops, {'x': (7,)}, ['y']), random.standard_normal((9, 7)).astype(np.float32)
    )


# Ties


def test_a_bit_that_ties_without_the_library_alone_is_counted(tmp_path):
    """Sums that cancel, of which the order of adding decides the sign, in some samples."""
    x = C.input_variable((512, 3, 3), name='image')
    y = C.layers.Convolution2D((1, 1), 32, bias=False, name='float')(x)
    y = C.layers.Convolution2D((3, 3), 16, pad=True, name='one')(y)
    binary = binarized(C.layers.Dense(5, name='float')(y), input_scale=None)
    W = next(each for each in binary.parameters if each.shape == (32, 512, 1, 1))
    half = W.value[:, :256]
    W.value = np.concatenate([half, half], axis=1)
    images = images_of(binary)
    images[:3, 256:] = -images[:3, :256]
    model = lower_segments(binary, 'native').model
    found = deploy.export(model, str(tmp_path / 'file.onnx'), data=images).comparison
    assert found.tied == 3 and found.clear == found.samples == 20


@pytest.mark.parametrize('wrong', [1, 2])
def test_bits_that_tie_everywhere_without_the_library_alone(wrong, tmp_path, monkeypatch):
    model, path = lowered(chain), tmp_path / 'file.onnx'
    compare_whole, calls = check._compare_whole, []

    def with_ties(*arguments):
        calls.append(arguments)
        found, differ = (each.copy() for each in compare_whole(*arguments))
        found[:], differ[:wrong] = found | (len(calls) > 2), differ[:wrong] | (len(calls) > 2)
        return found, differ

    monkeypatch.setattr(check, '_compare_whole', with_ties)
    if wrong == 2:
        said = '^without the library a bit ties in 20 of 20 samples, and 2 predictions'
        with pytest.raises(deploy.ExportError, match=said):
            deploy.export(model, str(path), data=images_of(model))
    else:
        with pytest.warns(UserWarning, match='nothing without the library could be compared'):
            exported = deploy.export(model, str(path), data=images_of(model))
        assert 'scale, 20 with a tie' in str(exported) and exported.comparison.clear == 20
