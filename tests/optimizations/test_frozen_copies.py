"""Frozen copies of networks that were optimized, `model.clone('freeze')`: their weights are
Constants.

A copy alone is evaluated, counted, lowered and exported as the network it was made of. In the loss
of a student it is a teacher, which nobody trains: observers change nothing, and optimizations leave
it alone.
"""
import io
import subprocess
import sys

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import count, graph, quantization, summary
from netopt_callbacks.lowering.speed import with_float_layers
from netopt_callbacks.optimizations import binary_block
from netopt_callbacks.optimizations.binarize_convolution import binarize_convolution
from netopt_callbacks.optimizations.binarize_dense import binarize_dense
from optimizations_table import TABLE, made, transformed
from user_script import SAMPLES, Identity, Script

every = pytest.mark.parametrize('row', TABLE, ids=lambda row: row.kind.__name__)
QUIET = dict(test=False, cross_validation=0, dropout=False)


def optimized(row):
    """Returns (a script, its network after one optimization)."""
    script = Script(**QUIET)
    return script, transformed(row, script.z, script).model


def frozen_copy(model, folder=None):
    """Returns a frozen copy; with a folder one that was saved there and loaded."""
    frozen = model.clone('freeze')
    assert not frozen.parameters
    if folder is None:
        return frozen
    frozen.save(str(folder.join('frozen.model')))
    return C.load_model(str(folder.join('frozen.model')))


def values(model, data):
    return np.asarray(model.eval({model.arguments[0]: data})).tobytes()


def numbers(model):
    """Returns what is counted of each layer, whether it is trained or frozen."""
    return [
        (
            row.name,
            row.kind,
            row.shape,
            row.parameters + row.frozen,
            row.macs,
            row.binary_macs,
            row.binary_weights,
            row.bytes,
        )
        for row in count.rows(model)
    ]


def assert_the_same(model, frozen, data):
    """Asserts that a frozen copy computes, counts and is lowered as the network it was made of."""
    assert values(frozen, data) == values(model, data)
    assert numbers(frozen) == numbers(model)
    native = [quantization.convert_to_native_binary_convolution(one) for one in (model, frozen)]
    assert values(native[0], data) == values(native[1], data)
    lowered = [nc.optimize(one, Identity(), data=(data,)) for one in (model, frozen)]
    assert values(lowered[0], data) == values(lowered[1], data)
    for op_name in ('BinaryConvolution', 'BinaryDense'):
        assert op_name not in {function.op_name for function in graph.walk(lowered[1])}


# Alone


@every
@pytest.mark.parametrize('through_a_file', [False, True])
def test_a_frozen_copy_is_the_network_it_was_made_of(row, through_a_file, tmpdir):
    script, model = optimized(row)
    frozen = frozen_copy(model, tmpdir if through_a_file else None)
    assert_the_same(model, frozen, script.images[:9])
    assert [one.parameters for one in count.rows(frozen)] == [0] * len(count.rows(model))
    lowered = [made(row).lower(one) for one in (model, frozen)]
    assert values(lowered[0], script.images[:9]) == values(lowered[1], script.images[:9])


@every
def test_its_layers_are_frozen_ones(row, tmpdir):
    _, model = optimized(row)
    for frozen in (frozen_copy(model), frozen_copy(model, tmpdir)):
        assert graph.layers(frozen) == graph.layers(frozen, op_name=row.finds) == []
        assert [found.root.name for found in graph.frozen_layers(frozen)] == [
            'conv',
            'hidden',
            'classify',
        ]
        for optimization in (nc.FactorDense(rank=2), nc.BinarizeDense(), nc.BinarizeConvolution()):
            with pytest.raises(ValueError, match=f"'{row.layer}' .*, which is none .it is frozen"):
                optimization.transform(frozen)


def test_the_summary_of_a_saved_frozen_network(tmpdir):
    _, model = optimized(next(row for row in TABLE if row.kind is nc.BinarizeConvolution))
    frozen = frozen_copy(model, tmpdir)
    said = subprocess.check_output(
        [sys.executable, '-m', 'netopt_callbacks', 'summary', str(tmpdir.join('frozen.model'))],
        stderr=subprocess.DEVNULL,
    ).decode()
    assert said.strip() == summary.of_model(frozen).strip()
    (line,) = (line.split() for line in said.splitlines() if line.startswith('conv '))
    # 54 weights, and for each of 6 filters its scale, offset and bias, and 1 threshold
    kept = 3 * 6 + 1
    assert line[1:] == ['BinaryConvolution', '6x1x3x3', '0', '73', '1,944', '1', str(4 * kept + 7)]


@pytest.mark.parametrize(
    'row',
    [row for row in TABLE if row.op_name != 'DenseRounded'],  # a UserFunction is in no file
    ids=lambda row: row.kind.__name__,
)
def test_it_is_exported(row, tmpdir):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    script, model = optimized(row)
    data = (script.images[:20],)
    trained, frozen = (
        nc.deploy.export(one, str(tmpdir.join(name)), data=data)
        for name, one in (('trained', model), ('frozen', frozen_copy(model)))
    )
    assert len(frozen.segments) == len(trained.segments)
    assert frozen.comparison.samples == 20 and frozen.comparison.different_predictions == 0


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'clip': 'calibrate', 'input_shift': None},
        {'weight_scale': None, 'output_scale': None, 'input_scale': None},
        {'weight_scale': 'layer', 'output_scale': None, 'input_shift': 'learn'},
        {'operands': 'inputs'},
    ],
    ids=lambda options: '-'.join(options) or 'default',
)
@pytest.mark.few(10)
@pytest.mark.parametrize(
    'form', ['plain', 'groups', 'no bias', 'reduced', 'function', 'tensor', 'vector']
)
def test_frozen_binary_layers_of_each_form(form, options, tmpdir):
    """Weights of 4 and more, of which a clip makes half; each is frozen, saved and loaded."""
    kwargs = {'name': 'layer', 'activation': C.tanh, 'bias': form != 'no bias'}
    shape = {'vector': (7,), 'reduced': (6, 6), 'function': (6, 6)}.get(form, (4, 6, 6))
    x = C.input_variable(shape)
    binarized = binarize_convolution
    if form in ('tensor', 'vector'):
        binarized, layer = binarize_dense, C.layers.Dense((3, 2), init=C.normal(8), **kwargs)
    elif form == 'groups':
        W, b = C.parameter((8, 2, 3, 3), init=C.normal(8)), C.parameter((8, 1, 1), init=0.1)

        def layer(x):
            product = C.convolution(W, x, auto_padding=[False, True, True], groups=2)
            return C.plus(product, b, name='layer')

    else:
        reduced = int(form != 'reduced')
        layer = C.layers.Convolution2D(
            (3, 3), 8, pad=True, init=C.normal(8), reduction_rank=reduced, **kwargs
        )
    if form == 'function':
        W = C.parameter((8, 3, 3), init=C.normal(8))

        def layer(x):
            return C.convolution(W, x, reduction_rank=0, auto_padding=[True] * 2, name='layer')

    data = np.random.RandomState(4).randn(9, *shape).astype(np.float32)
    network = C.layers.Dense(4, name='after')(layer(x))

    def made_binary(model, **options):
        return binarized(model, lambda one: one.name == 'layer', [{x: data}], **options).model

    model = made_binary(network, **options)
    if options.get('operands') == 'inputs':
        frozen = frozen_copy(model, tmpdir)
        assert values(frozen, data) == values(model, data)
        assert [found.root.name for found in graph.frozen_layers(frozen)] == ['layer', 'after']
        with pytest.raises(ValueError, match="'layer' .*, which is none .it is frozen"):
            made_binary(frozen)
        model = made_binary(model)
    for frozen in (frozen_copy(model), frozen_copy(model, tmpdir)):
        assert_the_same(model, frozen, data)
        trained, still = (
            binary_block.BinaryLayer(*binary_block.binary_blocks(one)) for one in (model, frozen)
        )
        assert still.W.is_constant and np.array_equal(still.W.value, trained.W.value)
        assert still.weight_clip() == trained.weight_clip()
        assert values(with_float_layers(frozen), data) == values(with_float_layers(model), data)
    assert (trained.weight_clip() != 1) == ('clip' in options)


def test_frozen_float_weights_behind_signs_are_no_signs():
    x = C.input_variable(6)
    for weights, expected in (([-1, 1], 1), ([-1, 0.5], 0)):
        W = np.resize(np.float32(weights), (6, 4))
        model = C.times(C.straight_through_impl(x), C.constant(W))
        assert sum(map(binary_block.is_binary_core, graph.walk(model))) == expected


# Frozen in part


@every
def test_a_trained_head_on_a_frozen_base(row):
    script, model = optimized(row)
    base = C.combine([model.find_by_name('hidden')]).clone('freeze', {script.x: script.x})
    whole = C.layers.Dense(5, name='new head')(base)
    transformed = nc.FactorDense(rank=2).transform(whole)
    notes = {note.name: note for note in transformed.layers}
    assert sorted(notes) == ['hidden', 'new head']
    assert 'it is frozen' in notes['hidden'].skipped and notes['new head'].rank == 2
    binarized = nc.BinarizeDense(filter_function=lambda layer: True).transform(whole)
    notes = {note.name: note.skipped for note in binarized.layers}
    assert 'it is frozen' in notes['hidden'] and notes['new head'] is None
    with pytest.raises(ValueError, match="Convolution 'conv' .*it is frozen"):
        nc.BinarizeConvolution().transform(whole)


@pytest.mark.parametrize('which', ['weights', 'b'])
@every
def test_a_layer_of_which_one_parameter_is_frozen(row, which):
    script, model = optimized(row)
    block = next(each for each in graph.walk(model) if each.name == row.layer and each.is_block)
    (leaf,) = [
        leaf for leaf in block.parameters if leaf.name in (['b'] if which == 'b' else ['W', 'W1'])
    ]
    part = graph.substitute(model, {leaf: C.constant(leaf.value, name=leaf.name)})
    assert {leaf.uid for leaf in part.parameters} == {leaf.uid for leaf in model.parameters} - {
        leaf.uid
    }
    data = script.images[:9]
    assert values(part, data) == values(model, data)
    if which != 'b':
        assert sum(one[3] for one in numbers(part)) == sum(one[3] for one in numbers(model))
    lowered = [nc.optimize(one, Identity(), data=(data,)) for one in (model, part)]
    assert values(lowered[0], data) == values(lowered[1], data)
    for optimization in (nc.FactorDense(rank=2), nc.BinarizeDense()):
        try:
            changed = optimization.transform(part).model
        except ValueError as error:  # none is left but the last
            assert 'expected a Dense layer to change, got none' in str(error)
        else:
            assert any(np.array_equal(one.value, leaf.value) for one in changed.constants)


# In the loss of a student


class Student:
    """A network that learns from a teacher, and the trainer of it."""

    def __init__(self, row, only_the_loss=False):
        self.script, model = optimized(row)
        self.teacher = model.clone('freeze', {self.script.x: self.script.x})
        C.cntk_py.reset_random_seed(5)
        self.z = C.layers.Sequential(
            [C.layers.Convolution2D((3, 3), 6, pad=True, name=name) for name in ('one', 'two')]
            + [C.layers.Convolution2D((3, 3), 2, name='three')]
            + [C.layers.Dense(12, activation=C.tanh, name='hidden')]
            + [C.layers.Dense(5, name='out')]
        )(self.script.x)
        loss = C.squared_error(self.z, self.teacher)
        loss += C.cross_entropy_with_softmax(self.z, self.script.label)
        learner = C.momentum_sgd(
            self.z.parameters,
            C.learning_parameter_schedule(0.01),
            C.momentum_schedule(0.9),
        )
        self.trainer = C.Trainer(None if only_the_loss else self.z, loss, [learner])
        self.records = None

    def trained(self, callbacks=None):
        """Trains for 3 epochs; returns the losses and what the student and the teacher then
        compute."""
        run = None
        if callbacks is not None:
            run = nc.attach(self.trainer, callbacks, epoch_size=128, data=self.script.held_out)
        losses = []
        for start in range(0, 384, 64):
            rows = slice(start % (SAMPLES - 64), start % (SAMPLES - 64) + 64)
            self.trainer.train_minibatch(
                {
                    self.script.x: self.script.images[rows],
                    self.script.label: self.script.labels[rows],
                }
            )
            losses.append(self.trainer.previous_minibatch_loss_average)
        if run is not None:
            self.records = run.finish().records
        data = self.script.images[:9]
        return losses, values(self.z, data), values(self.teacher, data)


@every
def test_observers_and_an_identity_change_nothing_in_distillation(row, tmpdir):
    plain = Student(row).trained()
    observers = [nc.TensorBoard(str(tmpdir)), nc.ProgressBar(io.StringIO()), nc.Observer()]
    assert Student(row).trained(observers) == plain
    assert Student(row).trained([Identity(epoch=1)] + observers) == plain


OF_THE_STUDENT = [
    (nc.FactorDense, 'hidden', ['hidden']),
    (nc.BinarizeDense, 'hidden', ['hidden']),
    (nc.BinarizeConvolution, 'one', ['two']),
]


@pytest.mark.few(8)
@every
@pytest.mark.parametrize('kind, layer, chosen', OF_THE_STUDENT, ids=['factored', 'dense', 'conv'])
@pytest.mark.parametrize('only_the_loss', [False, True])
def test_a_student_is_optimized_and_its_teacher_is_left(row, kind, layer, chosen, only_the_loss):
    for filter_function, expected in (
        (None, chosen),
        (lambda one: one.name == layer and graph.is_trained(one.W), [layer]),
    ):
        student = Student(row, only_the_loss)
        mine = next(one for one in TABLE if one.kind is kind)
        optimization = mine.make(epoch=1, filter_function=filter_function)
        losses, _, teacher = student.trained([optimization, nc.Observer()])
        (record,) = student.records
        taken = [note.name for note in record.layers if note.skipped is None]
        assert taken == expected and np.isfinite(losses).all()
        frozen = [note.name for note in record.layers if 'it is frozen' in (note.skipped or '')]
        dense = kind.__name__.endswith('Dense')
        assert frozen == (['hidden', 'classify'] if dense else ['conv'])
        assert teacher == Student(row, only_the_loss).trained()[2]


@pytest.mark.few(3)
@every
@pytest.mark.parametrize('mine', [row for row in TABLE if not hasattr(nc, row.kind.__name__)])
def test_each_optimization_beside_each_teacher(row, mine):
    for filter_function in (None, lambda layer: layer.name in ('one', 'hidden')):
        student = Student(row)
        losses, _, _ = student.trained([mine.make(epoch=1, filter_function=filter_function)])
        assert len(student.records) == 1 and np.isfinite(losses).all()


def test_only_weights_that_are_trained_flip():
    seen = []

    class Weights(nc.Observer):
        def on_start(self, run):
            self.run = run

        def on_minibatch(self, samples, loss, metric):
            seen.append([name for name, _ in self.run.binary_weights()])

    row = next(row for row in TABLE if row.kind is nc.BinarizeConvolution)
    student = Student(row)
    student.trained([row.make(epoch=1), Weights()])
    assert seen[0] == [] and seen[-1] == ['two']
