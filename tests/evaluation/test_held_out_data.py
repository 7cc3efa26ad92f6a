"""Held-out data of all kinds CNTK knows, and metrics of all kinds: the number is CNTK's own
evaluator's."""
import warnings

import cntk as C
import numpy as np
import pytest
from cntk import cntk_py
from scipy import sparse

import netopt_callbacks as nc
from netopt_callbacks.evaluation.held_out import Measure, held_out_data, samples_of
from test_held_out import RowsWithPosition
from user_script import Identity

RANDOM = np.random.RandomState(7)
LENGTHS = RANDOM.randint(2, 7, 30)
FRAMES = [RANDOM.rand(length, 6).astype(np.float32) for length in LENGTHS]
EYE4 = np.eye(4, dtype=np.float32)
LETTERS = [2 * np.eye(4, dtype=np.float32)[RANDOM.randint(1, 4, length)] for length in LENGTHS]


def speech():
    """Returns (arguments, metric) of a criterion without dynamic axes: CNTK's number depends on
    the minibatch."""
    x, y = C.sequence.input_variable(6, name='x'), C.sequence.input_variable(4, name='y')
    z = C.layers.Dense(4, init=C.glorot_uniform(seed=3))(x)
    return (x, y), C.edit_distance_error(z, y, squashInputs=True, tokensToIgnore=[0])


def cntks(metric, minibatches):
    """Returns the average as CNTK's cross-validation makes it: of the minibatches, weighted by
    their samples."""
    evaluator = C.eval.Evaluator(metric)
    tested = [(evaluator.test_minibatch(minibatch), samples) for minibatch, samples in minibatches]
    return sum(error * samples for error, samples in tested) / sum(samples for _, samples in tested)


def test_criterion_without_dynamic_axes_over_all_data():
    arguments, metric = speech()
    expected = cntks(metric, [(dict(zip(arguments, (FRAMES, LETTERS))), sum(LENGTHS))])
    # CNTK's evaluator multiplies and divides in another order than it sums here.
    assert Measure(metric)(held_out_data((FRAMES, LETTERS), arguments)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize('size, limit', [(17, 17), (C.minibatch_size_schedule(17), 17), (1, 1)])
def test_criterion_without_dynamic_axes_in_minibatches_of_the_training(size, limit):
    arguments, metric = speech()
    parts, begin = [], 0
    while begin < len(LENGTHS):
        end = begin + 1
        while end < len(LENGTHS) and LENGTHS[begin : end + 1].sum() <= limit:
            end += 1
        parts.append(
            (
                dict(zip(arguments, (FRAMES[begin:end], LETTERS[begin:end]))),
                LENGTHS[begin:end].sum(),
            )
        )
        begin = end
    data = held_out_data((FRAMES, LETTERS), arguments, minibatch_size=size)
    assert Measure(metric)(data) == pytest.approx(cntks(metric, parts), rel=1e-12)
    whole = cntks(metric, [(dict(zip(arguments, (FRAMES, LETTERS))), sum(LENGTHS))])
    assert abs(cntks(metric, parts) - whole) > 1e-4  # the size does matter


def test_metric_of_parameters_alone_is_cntks():
    x, y = C.input_variable(4, name='x'), C.input_variable(1, name='y')
    z = C.layers.Dense(1, name='only')(x)
    metric = C.reduce_sum(C.square(z.W))
    trainer = C.Trainer(
        z,
        (C.squared_error(z, y), metric),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.1))],
    )
    rows = np.ones((600, 4), np.float32), np.ones((600, 1), np.float32)
    minibatch = dict(zip((x, y), (rows[0][:8], rows[1][:8])))
    plain, told = [trainer.test_minibatch(minibatch)], Metrics()
    with nc.attach(trainer, [told], epoch_size=8, data=rows):
        for _ in range(2):
            trainer.train_minibatch(minibatch)
            plain.append(trainer.test_minibatch(minibatch))
    assert told.seen == plain and len(set(plain)) == 3
    assert Measure(metric)(held_out_data(Sized(), [x])) == plain[-1]


class Sized(RowsWithPosition):
    """Notes the sizes it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def next_minibatch(self, num_samples, *rest, **options):
        self.asked.append(num_samples)
        return super().next_minibatch(num_samples, *rest, **options)


@pytest.mark.parametrize('as_data', [True, False])
def test_source_is_read_in_minibatches_of_the_users_size(as_data):
    x, source = C.input_variable(4, name='x'), Sized()
    schedule = C.minibatch_size_schedule([(1, 50), (1, 100)], 200)
    if as_data:
        data = held_out_data(source, [x], minibatch_size=schedule)
    else:
        data = held_out_data(
            None,
            [x],
            cross_validation=dict(
                source=source, streams={x: source.info}, minibatch_size=schedule, max_samples=None
            ),
        )
    Measure(C.reduce_sum(x))(data)
    assert source.asked == [50] * 4 + [100] * 5  # the last finds the end


def test_hand_loop_reads_a_source_in_minibatches_of_its_own_first(tmpdir):
    x, source = C.input_variable(4, name='x'), Sized()
    z = C.layers.Dense(1)(x)
    trainer = C.Trainer(
        z,
        (C.squared_error(z, z * 0), C.squared_error(z, z * 0)),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.01))],
    )
    with nc.attach(trainer, [nc.Observer()], epoch_size=1000, data=source):
        trainer.train_minibatch({x: np.ones((150, 4), np.float32)})
    assert set(source.asked) == {150}


@pytest.mark.parametrize(
    'minibatch, samples',
    [
        (np.zeros((5, 3)), 5),
        ({1: np.zeros((5, 3)), 2: [np.zeros((2, 3)), np.zeros((4, 3))]}, 6),
        (({1: [np.zeros((2, 3)), np.zeros((4, 3))]}, [True, True]), 6),
        ({}, None),
    ],
)
def test_samples_of_a_minibatch(minibatch, samples):
    assert samples_of(minibatch) == samples


def classes(one_hot, sequences=False):
    """Returns (arguments, metric) of a criterion with sparse or dense labels."""
    make = C.sequence.input_variable if sequences else C.input_variable
    x, y = make(6, name='x'), make(4, name='y', is_sparse=one_hot)
    z = C.layers.Dense(4, init=C.glorot_uniform(seed=3))(x)
    return (x, y), C.classification_error(z, y)


NUMBERS = RANDOM.randint(0, 4, 300)
ROWS = RANDOM.rand(300, 6).astype(np.float32)
EYE = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    'rows, labels, one_hot',
    [
        (ROWS, EYE[NUMBERS], False),
        (C.Value(ROWS), C.Value(EYE[NUMBERS]), False),
        (list(ROWS), EYE[NUMBERS], False),
        (ROWS.tolist(), EYE[NUMBERS], False),
        (ROWS.astype(np.float64), EYE[NUMBERS], False),
        (ROWS, sparse.csr_matrix(EYE[NUMBERS]), True),
        (ROWS, sparse.coo_matrix(EYE[NUMBERS]), True),
        (ROWS, C.Value.one_hot(NUMBERS.tolist(), 4), True),
        (C.Value(ROWS), sparse.lil_matrix(EYE[NUMBERS]), True),
    ],
    ids=['arrays', 'Values', 'list', 'nested lists', 'double', 'csr', 'coo', 'one hot', 'lil'],
)
def test_all_forms_of_samples(rows, labels, one_hot):
    arguments, metric = classes(one_hot)
    given = sparse.csr_matrix(EYE[NUMBERS]) if one_hot else EYE[NUMBERS]
    expected = C.eval.Evaluator(metric).test_minibatch(dict(zip(arguments, (ROWS, given))))
    assert Measure(metric)(held_out_data((rows, labels), arguments)) == pytest.approx(
        expected, rel=1e-12
    )


ORDER = [RANDOM.randint(0, 4, length) for length in LENGTHS]


@pytest.mark.parametrize(
    'labels, one_hot',
    [
        ([EYE[each] for each in ORDER], False),
        (C.Value.one_hot([each.tolist() for each in ORDER], 4), True),
        ([sparse.csr_matrix(EYE[each]) for each in ORDER], True),
        ([sparse.coo_matrix(EYE[each]) for each in ORDER], True),
    ],
    ids=['arrays', 'one hot', 'csr', 'coo'],
)
@pytest.mark.parametrize('value', [True, False])
def test_all_forms_of_sequences(labels, one_hot, value):
    arguments, metric = classes(one_hot, sequences=True)
    plain = (
        [sparse.csr_matrix(EYE[each]) for each in ORDER]
        if one_hot
        else [EYE[each] for each in ORDER]
    )
    expected = C.eval.Evaluator(metric).test_minibatch(dict(zip(arguments, (FRAMES, plain))))
    frames = C.Value.create(arguments[0], FRAMES) if value else FRAMES
    assert Measure(metric)(held_out_data((frames, labels), arguments)) == pytest.approx(
        expected, rel=1e-12
    )


def test_images_of_any_size():
    x = C.input_variable((1, C.FreeDimension, C.FreeDimension), name='image')
    metric = C.reduce_sum(C.square(x), axis=C.Axis.all_static_axes())
    sizes = [8, 9, 9, 7, 8]
    images = [RANDOM.rand(1, size, size + 1).astype(np.float32) for size in sizes]
    expected = np.mean([np.sum(np.square(image, dtype=np.float64)) for image in images])
    assert Measure(metric)(held_out_data((images,), [x])) == pytest.approx(expected, rel=1e-6)
    one_size = np.stack(images[1:3])
    assert Measure(metric)(held_out_data(one_size, [x])) == pytest.approx(
        np.square(one_size, dtype=np.float64).sum() / 2, rel=1e-6
    )


def test_images_of_any_size_calibrate_a_binarization():
    x = C.input_variable((2, C.FreeDimension, C.FreeDimension), name='image')
    h = C.layers.Convolution2D(
        (3, 3), 3, pad=True, activation=C.relu, init=C.glorot_uniform(seed=1)
    )(x)
    z = C.reduce_mean(
        C.layers.Convolution2D((3, 3), 4, pad=True, name='c', init=C.glorot_uniform(seed=2))(h),
        axis=(1, 2),
    )
    optimization = nc.BinarizeConvolution(filter_function=lambda layer: layer.name == 'c')
    images = [RANDOM.rand(2, size, size).astype(np.float32) for size in (6, 7, 6, 8)]
    lowered = nc.optimize(z, optimization, data={'image': images})
    assert lowered.eval({lowered.arguments[0]: images[1][None]}).shape == (1, 4, 1, 1)


@pytest.mark.parametrize(
    'data, words',
    [
        ((LETTERS, FRAMES), "data for argument x must have shape [steps, 6], got"),
        (
            (FRAMES, [each.astype(np.int32) for each in LETTERS]),
            'data for argument y must be what CNTK can read',
        ),
        (
            ([frame.astype(object) for frame in FRAMES], LETTERS),
            'data for argument x must be what CNTK can read',
        ),
        ((FRAMES, C.Value(np.zeros((30, 1, 5), np.float32))), 'data for argument y must'),
    ],
    ids=['order', 'integers', 'objects', 'another Value'],
)
def test_what_cntk_cannot_read_is_named_before_training(data, words):
    arguments, _ = speech()
    with pytest.raises(ValueError) as error:
        held_out_data(data, arguments)
    assert words in str(error.value) and 'in the order x, y' in str(error.value)


def test_a_dict_flat_samples_and_axes_of_one_are_the_same_data():
    x, y = C.input_variable((2, 3), name='x'), C.input_variable(4, name='y')
    metric = C.classification_error(C.layers.Dense(4, init=C.glorot_uniform(seed=3))(x), y)
    images, labels = RANDOM.rand(40, 2, 3).astype(np.float32), EYE4[RANDOM.randint(0, 4, 40)]
    expected = cntks(metric, [({x: images, y: labels}, 40)])
    for data in (
        (images, labels),
        {y: labels, x: images},
        (images.reshape(40, 6), labels),
        (images.reshape(40, 1, 2, 3), labels),
    ):
        assert Measure(metric)(held_out_data(data, [x, y])) == expected
    for wrong in images.transpose(0, 2, 1), images.reshape(40, 2, 3, 1), images.reshape(40, 6, 1):
        with pytest.raises(ValueError, match=r'argument x must have shape \[samples, 2, 3\], got'):
            held_out_data((wrong, labels), [x, y])


def test_names_stand_for_arguments_as_in_cntk():
    arguments, metric = classes(one_hot=False)
    labels = EYE[NUMBERS]
    expected = Measure(metric)(held_out_data((ROWS, labels), arguments))
    for data in ({'y': labels, 'x': ROWS}, {arguments[0]: ROWS, 'y': labels}):
        assert Measure(metric)(held_out_data(data, arguments)) == expected
        trained = C.eval.Evaluator(metric).test_minibatch(data)
        assert trained == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    'keys, got',
    [
        (lambda x, y, other: [x], r'got x \(Input\d+\);'),
        (lambda x, y, other: ['x', 'z'], "got 'x', 'z';"),
        (lambda x, y, other: [x, 'x', y], r"got x \(Input\d+\), 'x', y \(Input\d+\);"),
        (lambda x, y, other: [other, 'y'], r"got x \(Input\d+\), 'y';"),
        (lambda x, y, other: [0, 1], 'got 0, 1;'),
        (lambda x, y, other: [], 'got none;'),
    ],
    ids=['missing', 'unknown', 'twice', "another network's", 'numbers', 'none'],
)
def test_keys_that_are_not_the_arguments_are_told(keys, got):
    (x, y), _ = classes(one_hot=False)
    with pytest.raises(ValueError, match=r'each argument of the network, x \(Input\d+\).*' + got):
        held_out_data(dict.fromkeys(keys(x, y, C.input_variable(6, name='x')), ROWS), [x, y])


def test_a_name_that_two_arguments_share_is_refused():
    first, second = C.input_variable(6, name='x'), C.input_variable(6, name='x')
    with pytest.raises(ValueError, match='by its name if no other has it; got .x., x'):
        held_out_data({'x': ROWS, second: ROWS}, [first, second])
    held_out_data({first: ROWS, second: ROWS}, [first, second])


@pytest.mark.parametrize('sequences', [False, True])
def test_arrays_of_cntk_are_the_same_data(sequences):
    arguments, metric = classes(one_hot=True, sequences=sequences)
    labels = EYE[NUMBERS]
    expected = Measure(metric)(held_out_data((ROWS, sparse.csr_matrix(labels)), arguments))
    given = C.NDArrayView.from_dense(ROWS), C.NDArrayView.from_csr(sparse.csr_matrix(labels))
    assert Measure(metric)(held_out_data(given, arguments)) == expected


def test_sequences_may_be_arrays_of_cntk():
    arguments, metric = speech()
    expected = Measure(metric)(held_out_data((FRAMES, LETTERS), arguments))
    given = tuple([C.NDArrayView.from_dense(each) for each in data] for data in (FRAMES, LETTERS))
    assert Measure(metric)(held_out_data(given, arguments)) == expected


@pytest.mark.parametrize(
    'wrong, got',
    [
        ('x', 'got str'),
        ({1, 2}, 'got set'),
        (C.parameter((3, 6)), 'got Parameter'),
        (np.float32(3), 'got one number'),
        (['ab', 'cd'], "got a list that holds 'ab'"),
        ([{1: 2}], 'got a list that holds {1: 2}'),
    ],
    ids=['text', 'set', 'Parameter', 'number', 'list of text', 'list of dicts'],
)
@pytest.mark.parametrize('make', [C.input_variable, C.sequence.input_variable])
def test_what_is_no_array_is_named(make, wrong, got):
    x = make(6, name='x')
    with pytest.raises(ValueError, match=f'data for argument x must be what CNTK can read.*{got}'):
        held_out_data((wrong,), [x])


@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'int16', 'int32', 'uint32'])
@pytest.mark.parametrize('make', [np.asarray, list], ids=['array', 'list'])
def test_integers_that_cntk_does_not_read_are_told_what_to_become(make, dtype):
    x = C.input_variable((1, 2, 2), name='image')
    pixels = np.arange(12).reshape(3, 1, 2, 2).astype(dtype)
    told = f'image .*got ndarray of {dtype}: convert it with .astype.numpy.float32.; data is in'
    with pytest.raises(ValueError, match=told):
        held_out_data((make(pixels),), (x,))
    (minibatch,) = held_out_data((make(pixels.astype(np.float32)),), (x,)).read([x])
    assert (minibatch[x] == pixels).all()


def test_dense_for_sparse_is_named():
    arguments, _ = classes(one_hot=True)
    with pytest.raises(ValueError, match='data for argument y.*got dense numbers.*one_hot'):
        held_out_data((ROWS, EYE[NUMBERS]), arguments)


@pytest.mark.parametrize('make', [lambda rows: rows, list, sparse.csr_matrix])
def test_nan_is_told_early(make):
    rows = ROWS.copy()
    rows[7, 2] = np.nan
    x = C.input_variable(6, name='x', is_sparse=make is sparse.csr_matrix)
    with pytest.warns(UserWarning, match='data for argument x holds NaN, first in sample 7'):
        held_out_data((make(rows),), [x])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        held_out_data((make(ROWS),), [x])


class Metrics(nc.Observer):
    """Keeps the held-out metrics."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_evaluation(self, evaluation):
        self.seen.append(evaluation.metric)


def measured(callbacks=()):
    """Trains with a held-out measurement at each minibatch; returns the metrics, and a fresh
    one of the end."""
    C.cntk_py.reset_random_seed(1)
    x, y = C.input_variable(6, name='x'), C.input_variable(4, name='y')
    z = C.layers.Sequential([C.layers.Dense(5), C.layers.BatchNormalization(), C.layers.Dense(4)])(
        x
    )
    trainer = C.Trainer(
        z,
        (C.cross_entropy_with_softmax(z, y), C.classification_error(z, y) + C.reduce_sum(z)),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.5))],
    )
    watch, uids = Metrics(), []
    with nc.attach(trainer, list(callbacks) + [watch], epoch_size=30, data=(ROWS, EYE[NUMBERS])):
        for start in range(0, 300, 30):
            trainer.train_minibatch(
                {x: ROWS[start : start + 30], y: EYE[NUMBERS][start : start + 30]}
            )
            uids.append(cntk_py.new_unique_id())
    fresh = C.eval.Evaluator(trainer.evaluation_function).test_minibatch({x: ROWS, y: EYE[NUMBERS]})
    return watch.seen, fresh, np.diff(uids)


def test_network_that_measures_is_built_once_and_follows_parameters_and_statistics():
    """Each one CNTK builds costs 46 to 184 KB that stay."""
    seen, fresh, uids = measured()
    assert seen[-1] == pytest.approx(fresh, rel=1e-5)
    assert len(set(seen)) == len(seen)
    assert set(uids) == {1}  # no Function has been made in between


def test_network_that_measures_is_built_anew_after_a_swap():
    seen, fresh, uids = measured([Identity(epoch=3)])
    assert seen[-1] == pytest.approx(fresh, rel=1e-5)
    assert seen[3] == seen[4] and uids[2] > 1 and set(uids[3:]) == {1}
