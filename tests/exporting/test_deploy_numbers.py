"""Numbers of which ONNX's operators make something else than CNTK's: the file gives CNTK's."""
import cntk as C
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='the onnx package is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from netopt_callbacks import deploy  # noqa: E402

X = [
    [0, 1, -1, 0.5, -0.5, 2.5],
    [0, np.nan, 0.2, -0.0, np.inf, -np.inf],
    [1.5, 3, -2.5, 1e-38, 1e-30, 4],
    [-1, -2, -3, 1e-42, 89, -1e38],
    [0, 0, 0, 0, 0, 0],
]
Y = [
    [0, 1, -1, 0.7, 0.5, 2.25],
    [0, np.nan, 0, -0.0, np.inf, np.inf],
    [1.4, 3, -2.5, 0, 0, 4],
    [0, -2, -3, 1, 88.9, 1],
    [1, -1, 0, 0, 2, 0.5],
]


def assert_gives_the_numbers_of_cntk(network, path, dtype=np.float32):
    """Writes network(x, y), and runs it on X and Y, as they are and one sample alone."""
    x, y = (C.input_variable(6, dtype=dtype, name=name) for name in 'xy')
    model = C.combine([network(x, y)])
    deploy.export(model, path)
    feed = {'x': np.array(X, dtype), 'y': np.array(Y, dtype)}
    for session in (deploy.session(path), onnxruntime.InferenceSession(path)):
        for batch in (len(X), 1):
            read = {argument.name: feed[argument.name][-batch:] for argument in model.arguments}
            expected = model.eval({argument: read[argument.name] for argument in model.arguments})
            (found,) = session.run(None, read)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=1e-5)


TRUE_OR_NOT = [
    ('equal', lambda x, y: C.equal(x, y)),
    ('equal to 0.5', lambda x, y: C.equal(x, 0.5)),
    ('equal to constants', lambda x, y: C.equal(C.constant([0.5, 0.2, -3, 0, 1, 4]), x)),
    ('equal, and read elsewhere', lambda x, y: C.equal(x, 0) + x * 2),
    ('equal, twice', lambda x, y: C.equal(x, y) * 2 + C.equal(x, y) - C.equal(y, x)),
    ('a gate', lambda x, y: C.relu(y) * C.equal(C.relu(y - 0.6), 0)),
    ('not_equal', lambda x, y: C.not_equal(x, y)),
    ('less', lambda x, y: C.less(x, y)),
    ('less_equal', lambda x, y: C.less_equal(x, y)),
    ('greater', lambda x, y: C.greater(x, y)),
    ('greater_equal', lambda x, y: C.greater_equal(x, 0.5)),
    ('and', lambda x, y: C.element_and(x, y)),
    ('or', lambda x, y: C.element_or(x, y)),
    ('xor', lambda x, y: C.element_xor(x, y)),
    ('not', lambda x, y: C.element_not(x)),
]


@pytest.mark.parametrize(
    'network', [row[1] for row in TRUE_OR_NOT], ids=[r[0] for r in TRUE_OR_NOT]
)
def test_what_is_true_in_cntk_is_true_in_the_file(network, tmp_path):
    assert_gives_the_numbers_of_cntk(network, str(tmp_path / 'file.onnx'))


def test_what_is_true_of_float64(tmp_path):
    assert_gives_the_numbers_of_cntk(
        lambda x, y: C.equal(x, 0.2) + C.element_and(x, y), str(tmp_path / 'file.onnx'), np.float64
    )


def standardized(x):
    centered = x - C.reduce_mean(x, axis=0)
    return centered / C.sqrt(C.reduce_mean(C.square(centered), axis=0))


FINITE = [
    ('normalized', lambda x, y: C.relu(y) / C.sqrt(C.reduce_sum(C.square(C.relu(x)), axis=0))),
    ('standardized', lambda x, y: standardized(C.equal(x, 0))),
    ('reciprocal', lambda x, y: C.reciprocal(x)),
    ('a quotient', lambda x, y: y / x),
    ('by a constant with a zero', lambda x, y: x / C.constant([0, 1, -2, 0, 0.5, 1e-42])),
    ('log', lambda x, y: C.log(x)),
    ('log of a softmax', lambda x, y: C.log(C.softmax(C.equal(x, 0) * 1000))),
    ('sqrt', lambda x, y: C.sqrt(C.element_select(C.greater(y, 99), -4, y))),
    ('a power of -1', lambda x, y: C.pow(x, -1)),
    ('a power of -0.5', lambda x, y: C.pow(y, -0.5)),
    ('a power of 2', lambda x, y: C.pow(x, 2)),
    ('powers', lambda x, y: C.pow(y, 1 - 2 * C.equal(x, y))),
    ('powers of 0', lambda x, y: C.pow(0, y)),
    ('one of two', lambda x, y: C.element_select(C.greater(y, 1), y, x)),
]


@pytest.mark.parametrize('network', [row[1] for row in FINITE], ids=[row[0] for row in FINITE])
def test_what_is_a_number_in_cntk_is_that_number_in_the_file(network, tmp_path):
    assert_gives_the_numbers_of_cntk(network, str(tmp_path / 'file.onnx'))


def test_what_is_a_number_in_float64(tmp_path):
    assert_gives_the_numbers_of_cntk(
        lambda x, y: y / C.sqrt(x) + C.log(y) + C.pow(y, -2),
        str(tmp_path / 'file.onnx'),
        np.float64,
    )


def test_channels_normalized_without_a_bias(tmp_path):
    x = C.input_variable((3, 2, 2), name='x')
    model = C.local_response_normalization(x, 1, 0, 0.4, 0.5)
    path = str(tmp_path / 'file.onnx')
    deploy.export(model, path)
    values = np.random.RandomState(0).randn(4, 3, 2, 2).astype(np.float32)
    values[0], values[1, :, 0] = 0, 0
    (found,) = deploy.session(path).run(None, {'x': values})
    np.testing.assert_allclose(found, model.eval({x: values}), rtol=1e-5)


def test_constant_divisors_and_exponents_stay_one_operator(tmp_path):
    x = C.input_variable(6, name='x')
    path = str(tmp_path / 'file.onnx')
    deploy.export(C.pow(x / C.constant([1, 2, 3, -4, 5, 0.1]), 2), path)
    assert [node.op_type for node in onnx.load(path).graph.node][:2] == ['Div', 'Pow']
