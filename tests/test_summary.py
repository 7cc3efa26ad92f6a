"""Numbers of reports against numbers worked out by hand."""
import os
import subprocess
import sys
from unittest import mock

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import count, summary
from netopt_callbacks.lowering.speed import Speed, Timing
from netopt_callbacks.table import Table, shown


def network():
    """Returns (input, network): 3x8x9 images, two convolutions, BatchNormalization, two Dense."""
    x = C.input_variable((3, 8, 9))
    return x, C.layers.Sequential(
        [
            C.layers.Convolution2D(
                (3, 5), 4, pad=True, strides=(1, 2), activation=C.relu, name='first'
            ),
            C.layers.Dropout(0.2),
            C.layers.Convolution2D((3, 3), 6, pad=True, bias=False, name='second'),
            C.layers.BatchNormalization(map_rank=1, name='norm'),
            C.layers.Dense(20, activation=C.relu, name='hidden'),
            C.layers.Dense((2, 5), name='classify'),
        ]
    )(x)


# By hand. `first`: 8 rows, ceil(9 / 2) = 5 columns, 4 filters of 3x3x5 = 45 weights. `second`: 8x5,
# 6 filters of 4x3x3 = 36. `hidden`: 6x8x5 = 240 inputs to 20: break-even 240 * 20 / 260 = 18.5.
# `classify`: 20 to 10: 200 / 30 = 6.7.
EXPECTED = [
    ('first', 'Convolution', (4, 3, 3, 5), 4 * 45 + 4, 8 * 5 * 4 * 45, None),
    ('second', 'Convolution', (6, 4, 3, 3), 6 * 36, 8 * 5 * 6 * 36, None),
    ('norm', 'BatchNormalization', (6,), 12, 0, None),
    ('hidden', 'Dense', (6, 8, 5, 20), 240 * 20 + 20, 240 * 20, 18),
    ('classify', 'Dense', (20, 2, 5), 20 * 10 + 10, 20 * 10, 6),
]


def fields(row):
    return (row.name, row.kind, row.shape, row.parameters, row.macs, row.break_even_rank)


def test_rows_of_a_network():
    rows = count.rows(network()[1])
    assert [fields(row) for row in rows] == EXPECTED
    assert all(row.bytes == 4 * row.parameters and row.binary_macs == 0 for row in rows)
    assert count.totals(network()[1]) == (184 + 216 + 12 + 4820 + 210, 7200 + 8640 + 4800 + 200)


def test_layers_without_blocks_and_deconvolution_and_float64():
    x = C.input_variable((30,), dtype=np.float64)
    W, b = (C.parameter(shape, init=1, dtype=np.float64) for shape in ((30, 4), (4,)))
    [row] = count.rows(C.times(x, W) + b)
    assert fields(row) == ('', 'Dense', (30, 4), 124, 120, 3) and row.bytes == 8 * 124
    images = C.input_variable((4, 6, 7))
    [row] = count.rows(C.layers.ConvolutionTranspose2D((3, 3), 5, name='up')(images))
    # Each of 4x6x7 inputs is spread over 5 maps by 3x3 taps.
    assert fields(row) == ('up', 'ConvolutionTranspose', (4, 5, 3, 3), 185, 4 * 6 * 7 * 45, None)


def test_a_shared_parameter_counts_once_and_its_work_twice():
    layer, x, y = C.layers.Dense(3), C.input_variable(5), C.input_variable(5)
    rows = count.rows(layer(x) + layer(y))
    assert [row.parameters for row in rows] == [18, 0] and [row.macs for row in rows] == [15, 15]


@pytest.mark.parametrize(
    'left, right, trained',
    [((12,), (7, 12), 'right'), ((2, 5, 12), (7, 12), 'right'), ((7, 12), (12,), 'left')],
)
def test_a_transposed_product_has_as_many_multiply_adds_as_cntk_sums_ones(left, right, trained):
    if trained == 'left':
        product = C.times_transpose(C.parameter(left, init=1), C.input_variable(right))
    else:
        product = C.times_transpose(C.input_variable(left), C.parameter(right, init=1))
    [row] = count.rows(product)
    ones = np.ones((1,) + product.arguments[0].shape, np.float32)
    assert row.kind == 'TransposeTimes' and row.macs == np.sum(product.eval(ones))


def test_the_work_of_a_stack_of_recurrences_is_unknown():
    stack = C.optimized_rnnstack(C.sequence.input_variable(12), C.parameter((588,)), 7, 1)
    assert count.totals(stack) == (588, None)


def in_block(function, *arguments):
    """Returns a block that computes `function` and is no layer, applied to `arguments`."""
    placeholders = [C.placeholder() for _ in arguments]
    return C.as_block(function(*placeholders), list(zip(placeholders, arguments)), 'Own', 'own')


def test_parameters_that_a_block_is_given_count():
    x = C.input_variable(6)
    alpha, W, b = C.parameter((6,)), C.parameter((6, 4)), C.parameter((4,))
    frozen = C.constant(np.ones((6, 4), np.float32))

    def linear(data, weights, bias):
        return in_block(C.times, data, weights) + bias

    def described(model):
        return [(row.kind, row.shape, row.parameters, row.frozen) for row in count.rows(model)]

    assert described(C.param_relu(alpha, x)) == [('ElementTimes', (6,), 6, 0)]
    assert count.totals(C.param_relu(alpha, x) + C.param_relu(alpha, x + 1)) == (6, 0)
    bias = ('Plus', (4,), 4, 0)
    assert described(in_block(linear, x, W, b)) == [('Times', (6, 4), 24, 0), bias]
    assert described(in_block(linear, x, frozen, b)) == [('Times', (6, 4), 0, 24), bias]
    # A Dense(5) of W, which is [6, 4]: 5 columns of 24 weights, and as many biases.
    dense = in_block(lambda data, leaf: data + C.layers.Dense(5)(leaf), C.input_variable(5), W)
    assert described(dense) == [('Dense', (6, 4, 5), 24 + 125, 0)]


def test_groups_and_what_has_no_size():
    x = C.input_variable((4, 6, 6))
    W = C.parameter((8, 2, 3, 3), init=1)
    [row] = count.rows(C.convolution(W, x, auto_padding=[False, True, True], groups=2))
    assert (row.parameters, row.macs) == (8 * 2 * 9, 6 * 6 * 8 * 2 * 9)
    free = C.input_variable((4, C.FreeDimension, 6))
    [row] = count.rows(C.layers.Convolution2D((3, 3), 8, pad=True, bias=False)(free))
    assert (row.parameters, row.macs) == (8 * 4 * 9, None)
    assert '-' in summary.of_model(C.layers.Convolution2D((3, 3), 8, pad=True)(free))


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'weight_scale': 'layer'},
        {'weight_scale': None},
        {'input_scale': None},
        {'input_shift': None},
        {'clip': 'calibrate'},
        {
            'input_shift': 'learn',
            'learner': lambda ps: C.sgd(ps, C.learning_parameter_schedule(0.1)),
        },
    ],
)
def test_optimized_layers_count_as_their_notes_say(options):
    x, model = network()
    before = count.totals(model)
    notes = []
    for optimization in (
        nc.FactorDense(rank=5, filter_function=lambda layer: layer.name == 'hidden'),
        nc.BinarizeConvolution(filter_function=lambda layer: layer.name == 'second', **options),
    ):
        images = np.random.RandomState(0).randn(4, 3, 8, 9).astype('f')
        optimization.prepare(model, [{x: images}])
        transformed = optimization.transform(model)
        model, notes = transformed.model, notes + [
            n for n in transformed.layers if n.skipped is None
        ]
    rows = {row.name: row for row in count.rows(model)}
    assert [rows[note.name].parameters for note in notes] == [
        note.parameters_after for note in notes
    ]
    assert [rows[note.name].macs for note in notes] == [note.macs_after for note in notes]
    hidden, second = rows['hidden'], rows['second']
    assert (hidden.parameters, hidden.macs) == (240 * 5 + 5 * 20 + 20, 240 * 5 + 5 * 20)
    assert (second.binary_weights, second.binary_macs, second.macs) == (216, 8640, 8640)
    assert second.bytes == 27 + 4 * (second.parameters - 216)
    gained = [
        sum(getattr(note, what + '_after') - getattr(note, what + '_before') for note in notes)
        for what in ('parameters', 'macs')
    ]
    assert count.totals(model) == (before[0] + gained[0], before[1] + gained[1])


def test_a_lowered_model_counts_its_bits(tmp_path):
    x, model = network()
    binarize = nc.BinarizeConvolution(
        filter_function=lambda layer: layer.name == 'second', input_shift=None
    )
    trained = binarize.transform(model).model
    lowered = binarize.lower(trained)
    lowered.save(str(tmp_path / 'lowered.model'))
    for function in (lowered, C.load_model(str(tmp_path / 'lowered.model'))):
        row = next(row for row in count.rows(function) if row.name == 'second')
        # 216 bits are 27 bytes; beside them a scale for each of 6 filters.
        assert (row.kind, row.shape) == ('BinaryConvolveOp', (6, 4, 3, 3))
        assert (row.parameters, row.binary_weights, row.bytes) == (222, 216, 27 + 24)
        assert (row.macs, row.binary_macs) == (8640, 8640)


# Of a whole run.


def result(model=None):
    made = nc.Result()
    made.complete = True
    made.model = model
    made.records = [
        nc.Record(
            'FactorDense',
            2,
            2000,
            0.05,
            0.25,
            [(2000, 0.25), (3000, 0.15), (4000, 0.1)],
            [
                nc.LayerNote(
                    'hidden',
                    (240, 20),
                    rank=5,
                    energy=0.9,
                    error=0.31,
                    parameters_before=4820,
                    parameters_after=1320,
                    macs_before=4800,
                    macs_after=1300,
                ),
                nc.LayerNote(
                    'classify',
                    (20, 10),
                    skipped='rank 7 saves nothing',
                    parameters_before=210,
                    parameters_after=210,
                    macs_before=200,
                    macs_after=200,
                ),
            ],
        ),
        nc.Record(
            'BinarizeConvolution',
            4,
            4000,
            0.1,
            0.5,
            [(4000, 0.5), (6000, 0.06)],
            [
                nc.LayerNote(
                    'second',
                    (6, 4, 3, 3),
                    error=0.6,
                    parameters_before=216,
                    parameters_after=222,
                    macs_before=8640,
                    macs_after=8640,
                    binary_macs_after=8640,
                    bits_after=1,
                    message='mind this',
                )
            ],
            ['a note'],
        ),
    ]
    return made


def cells(text, *begins):
    """Returns the cells of the line that begins with the given cells."""
    for line in text.splitlines():
        found = [cell.strip() for cell in line.split('  ') if cell.strip()]
        if found[: len(begins)] == list(begins):
            return found
    raise AssertionError(f'no line begins with {begins} in\n{text}')


def test_recovery_of_each_optimization():
    text = summary.of_result(result())
    assert text.splitlines()[0] == 'Held-out metric, smaller is better:'
    # Recovered: (0.25 - 0.1) / (0.25 - 0.05) and (0.5 - 0.06) / (0.5 - 0.1).
    assert cells(text, 'FactorDense', '2') == [
        'FactorDense',
        '2',
        '0.0500',
        '0.2500',
        '0.2500',
        '0.1000',
        '0.2000',
        '75 %',
    ]
    assert cells(text, 'BinarizeConvolution', '4') == [
        'BinarizeConvolution',
        '4',
        '0.1000',
        '0.5000',
        '0.5000',
        '0.0600',
        '0.4000',
        '>100 %',
    ]
    assert '* a note' in text.splitlines()


def test_layers_of_each_optimization():
    text = summary.of_result(result())
    assert cells(text, 'hidden') == [
        'hidden',
        '240x20',
        '5',
        '0.9000',
        '0.3100',
        '4,820 -> 1,320',
        '4,800 -> 1,300',
        '19,280 -> 5,280',
    ]
    assert cells(text, 'classify') == [
        'classify',
        '20x10',
        '-',
        '-',
        '-',
        '210',
        '200',
        '840',
    ]
    assert '* classify was left as it was: rank 7 saves nothing' in text.splitlines()
    # 216 bits and 6 floats.
    assert cells(text, 'second') == [
        'second',
        '6x4x3x3',
        '0.6000',
        '216 -> 222',
        '8,640',
        '100 %',
        '864 -> 51',
    ]
    assert '* second: mind this' in text.splitlines()


def test_the_whole_network():
    x, model = network()
    run = result(
        nc.BinarizeConvolution(
            filter_function=lambda layer: layer.name == 'second', input_shift=None
        )
        .transform(model)
        .model
    )
    run.records = run.records[1:]
    assert cells(summary.of_result(run), 'before') == ['before'] + 4 * [
        '-'
    ]  # nobody has counted it
    run.records[0].network_before = count.whole(model)
    text = summary.of_result(run)
    parameters, macs = count.totals(model)
    assert cells(text, 'before') == ['before', '5,442', '20,840', '-', '21,768']
    assert cells(text, 'after') == [
        'after',
        '5,448',
        '20,840',
        '%.0f %%' % (100 * 8640 / 20840.0),
        f'{21768 - 864 + 51:,}',
    ]
    assert (parameters, macs) == (5442, 20840)


def test_the_summary_ends_with_ratios_and_says_what_is_slower():
    run = result()
    run.records[0].network_before = count.Totals(1000, 500, 0, 4000)
    run.model = network()[1]  # 5,442 parameters, 20,840 multiply-adds, 21,768 bytes
    run.parity = mock.Mock(speed=Speed([Timing(1, 1.0, 1.3), Timing(32, 3.4, 1.0)]))
    text = ' '.join(summary.ratios(run).split())
    assert text == (
        'In all: 5.4 x MORE parameters, 41.7 x MORE multiply-adds, 5.4 x LARGER in bytes, 1.3 x '
        'SLOWER with 1 sample a call, 3.4 x faster with 32 samples a call. Lowering does not pay '
        'on this machine for calls of 1.'
    )


@pytest.mark.parametrize(
    'before, said',
    [
        (5419, 'as many parameters'),
        (5469, 'as many parameters'),
        (5380, '1.01 x MORE parameters'),
        (5500, '1.01 x fewer parameters'),
        (21768, '4.0 x fewer parameters'),
    ],
)
def test_ratios_of_which_two_digits_are_one_say_as_many(before, said):
    run = result()
    run.records[0].network_before = count.Totals(before, 20841, 0, 21767)
    run.model = network()[1]  # 5,442 parameters, 20,840 multiply-adds, 21,768 bytes
    run.parity = mock.Mock(speed=Speed([Timing(1, 1.0, 1.004)]))
    assert summary.ratios(run).startswith(
        f'In all: {said}, as many multiply-adds, as large in bytes, as fast with 1 sample a call'
    )


def test_a_run_without_held_out_data_without_records_and_a_partial_one():
    run = result()
    run.records = [nc.Record('X', 1, 10, layers=[nc.LayerNote('l', (2, 2))])]
    assert cells(summary.of_result(run), 'X', '1') == ['X', '1']
    run.records, run.complete = [], False
    text = summary.of_result(run)
    assert 'No optimization was applied' in text and 'did not come to its end' in text


def test_parity_is_in_the_summary():
    run = result()
    run.parity = 'Lowered against trained'
    assert 'Lowered against trained' in run.summary().splitlines()


# The command.


def test_the_summary_of_a_saved_model(tmp_path, capsys):
    file = str(tmp_path / 'z.model')
    network()[1].save(file)
    assert summary.main([file]) == 0
    text = capsys.readouterr().out
    assert cells(text, 'hidden') == [
        'hidden',
        'Dense',
        '6x8x5x20',
        '4,820',
        '4,800',
        '32',
        '19,280',
        '18',
    ]
    assert cells(text, 'total') == ['total', '5,442', '20,840', '21,768', '-']


def test_a_file_that_is_no_model(tmp_path, capsys):
    (tmp_path / 'text').write_text('no model')
    for file in ('text', 'missing'):
        assert summary.main([str(tmp_path / file)]) == 1
        assert file in capsys.readouterr().err


def test_the_command_line(tmp_path):
    file = str(tmp_path / 'z.model')
    network()[1].save(file)
    package = os.path.dirname(os.path.dirname(os.path.abspath(nc.__file__)))
    done = subprocess.run(
        [sys.executable, '-m', 'netopt_callbacks', 'summary', file],
        cwd=package,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    assert done.returncode == 0 and cells(done.stdout, 'total')[1] == '5,442'


# Tables.


@pytest.mark.parametrize(
    'value, text',
    [
        (None, '-'),
        (1234567, '1,234,567'),
        (0.25, '0.2500'),
        (0.0, '0.0000'),
        (1e-5, '1e-05'),
        (123456.0, '1.235e+05'),
        ((1, 2), '1 -> 2'),
        ((3, 3), '3'),
        ((None, None), '-'),
        ('as is', 'as is'),
    ],
)
def test_values(value, text):
    assert shown(value) == text


def test_columns():
    table = Table('name', 'count', 'nothing')
    table.row('a', 5, None)
    table.row('long', 1000, None)
    assert str(table) == 'name  count\n----  -----\na         5\nlong  1,000'
    assert table.markdown().splitlines()[2] == '| a | 5 |'
    with pytest.raises(ValueError, match='3 values'):
        table.row('a')


# What a count must get right, or say that it does not know.


def of_run(model, loss, *optimizations, **options):
    """Returns the result of a short run over random numbers."""
    arguments = list(loss.arguments)
    random = np.random.RandomState(0)
    sides = options.get('sides', 6)
    data = {
        argument: random.rand(4, *[sides if side < 0 else side for side in argument.shape]).astype(
            argument.dtype
        )
        for argument in arguments
    }
    trainer = C.Trainer(model, loss, C.sgd(loss.parameters, C.learning_parameter_schedule(0.01)))
    with nc.attach(
        trainer, list(optimizations) + options.get('observers', []), epoch_size=4
    ) as run:
        for _ in range(len(optimizations) + 1):
            trainer.train_minibatch(data)
    return run.result


def totals_of(result):
    return [cells(result.summary(), when) for when in ('before', 'after')]


def test_layers_that_only_the_loss_reads_are_not_the_models():
    x, y = C.input_variable(20), C.input_variable(4)
    trunk = C.layers.Dense(30, name='trunk')(x)
    model = C.layers.Dense(4, name='head')(trunk)
    aux = C.layers.Dense(4, name='aux')(C.layers.Dense(100, name='wide')(trunk))
    loss = C.squared_error(model, y) + C.squared_error(aux, y)
    result = of_run(model, loss, nc.FactorDense(1, rank=2, filter_function=lambda layer: True))
    before, after = 20 * 30 + 30 + 30 * 4 + 4, 2 * 50 + 30 + 2 * 34 + 4
    assert totals_of(result) == [
        ['before', str(before), '720', f'{4 * before:,}'],
        ['after', str(after), '168', str(4 * after)],
    ]
    assert {note.name for note in result.records[0].layers} == {'trunk', 'head', 'wide', 'aux'}


def test_a_layer_applied_twice_counts_its_parameters_once_and_its_work_twice():
    x, y = C.input_variable(20), C.input_variable(20)
    layer = C.layers.Dense(30, name='twin')
    model = layer(x) - layer(y)
    result = of_run(model, C.reduce_sum(C.square(model)), nc.FactorDense(1, rank=2))
    assert totals_of(result) == [
        ['before', '630', '1,200', '2,520'],
        ['after', '130', '200', '520'],
    ]


def test_a_criterion_over_the_model_is_no_second_application():
    x, y = C.input_variable(20), C.input_variable(30)
    model = C.layers.Dense(30, name='once')(x)
    scaled = model.clone('share', {x: x / 255})
    result = of_run(model, C.squared_error(scaled, y), nc.FactorDense(1, rank=2))
    assert totals_of(result) == [['before', '630', '600', '2,520'], ['after', '130', '100', '520']]


def test_two_dtypes_in_one_network():
    x, y = C.input_variable(20), C.input_variable(6)
    with C.layers.default_options(dtype=np.float64):
        wide = C.layers.Dense(6, name='double')
    single = C.layers.Dense(30, name='single')(x)
    model = wide(C.cast(single, np.float64))
    assert count.whole(model).bytes == 4 * 630 + 8 * 186
    [_, row] = count.rows(model)
    assert (row.float_bytes, row.bytes) == (8, 8 * 186)
    factor = nc.FactorDense(1, rank=2, filter_function=lambda layer: True)
    result = of_run(model, C.squared_error(C.cast(model, np.float32), y), factor)
    assert cells(result.summary(), 'single')[-1] == '2,520 -> 520'
    assert cells(result.summary(), 'double')[-1] == '1,488 -> 624'
    assert totals_of(result) == [
        ['before', '816', '780', '4,008'],
        ['after', '208', '172', '1,144'],
    ]


def free():
    """Returns a network over images of any size, and its loss."""
    x, y = C.input_variable((1, C.FreeDimension, C.FreeDimension)), C.input_variable(5)
    maps = C.layers.Convolution2D((3, 3), 8, pad=True, activation=C.relu, name='maps')(x)
    model = C.layers.Sequential([C.layers.Dense(20, name='hidden'), C.layers.Dense(5, name='out')])(
        C.reshape(C.reduce_mean(maps, axis=(1, 2)), (8,))
    )
    return model, C.squared_error(model, y)


def test_free_axes_are_unknown_and_end_no_training(tmp_path):
    model, loss = free()
    result = of_run(
        model,
        loss,
        nc.FactorDense(1, rank=2, filter_function=lambda layer: layer.name == 'hidden'),
        nc.BinarizeConvolution(2, filter_function=lambda layer: True),
        observers=[nc.TensorBoard(str(tmp_path)), nc.ProgressBar(), nc.Observer()],
    )
    assert result.complete and [record.network_after.macs for record in result.records] == [
        None,
        None,
    ]
    assert totals_of(result)[0] == ['before', '365', 'unknown', '1,460']
    assert cells(summary.of_model(result.model), 'total')[2] == 'unknown'
    assert result.records[1].network_before == result.records[0].network_after


def test_records_of_older_checkpoints_know_no_totals():
    fields = result().records[0].to_dict()
    for name in ('network_before', 'network_after'):
        del fields[name]
    for layer in fields['layers']:
        del layer['float_bytes']
    old = nc.Record.from_dict(fields)
    assert old.network_before is None and old.layers[0].float_bytes is None
