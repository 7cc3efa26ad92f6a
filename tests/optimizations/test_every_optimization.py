"""What every optimization must be: a table of them all against the properties that each one has.

Pure; names and shapes kept; saved and loaded; swapped into a running trainer, resumed, refused as a
whole; reported on; trained on by the learners there are.
"""
import importlib
import pkgutil

import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import count, graph, summary
from optimizations_table import TABLE, block_of, combined, made, trainable, transformed
from user_script import SAMPLES, Identity, Script, Stops

every = pytest.mark.parametrize('row', TABLE, ids=lambda row: row.kind.__name__)
QUIET = dict(test=False, cross_validation=0)


def seen(model):
    """Returns everything a transform must leave alone, but for what CNTK renames of its own
    accord."""
    operations = [(function.uid, function.op_name, function.name) for function in graph.walk(model)]
    leaves = [
        (leaf.uid, leaf.name, leaf.value.tobytes())
        for leaf in list(model.parameters) + list(model.constants)
    ]
    return operations, leaves


def outputs(model, script):
    data = {script.x: script.images[:9], script.label: script.labels[:9]}
    arguments = {argument: data[argument] for argument in model.arguments}
    values = C.combine(list(model.outputs)).eval(arguments)
    return (
        [np.array(values[output]) for output in model.outputs]
        if len(model.outputs) > 1
        else [np.array(values)]
    )


def test_every_optimization_of_the_package_has_a_row():
    for module in pkgutil.walk_packages(nc.__path__, nc.__name__ + '.'):
        if not module.name.split('.')[-1].startswith('_'):
            importlib.import_module(module.name)
    kinds, pending = set(), [nc.Optimization]
    while pending:
        kind = pending.pop()
        mine = [sub for sub in kind.__subclasses__() if sub.__module__.split('.')[0] == nc.__name__]
        pending += mine
        if not mine and kind is not nc.Optimization:
            kinds.add(kind)
    public = {getattr(nc, name) for name in nc.__all__ if name in nc._NAMES}
    kinds |= {
        kind for kind in public if isinstance(kind, type) and issubclass(kind, nc.Optimization)
    }
    kinds.discard(nc.Optimization)
    assert kinds and kinds <= {row.kind for row in TABLE}


@every
def test_it_leaves_the_model_it_gets_as_it_was(row):
    script = Script(**QUIET)
    model = combined(script)
    before, values = seen(model), outputs(model, script)
    new = transformed(row, model, script)
    assert seen(model) == before
    assert all((a == b).all() for a, b in zip(outputs(model, script), values))
    kept, now = trainable(model), trainable(new.model)
    retired = {old.uid for replaced in new.replaced for old in replaced.retired}
    added = {one.uid for replaced in new.replaced for one in replaced.added}
    assert set(now) == set(kept) - retired | added and not retired & set(now)
    assert sorted(now[uid].name for uid in added) == sorted(row.new_parameters)
    assert {argument.uid for argument in new.model.arguments} == {
        argument.uid for argument in model.arguments
    }


@every
def test_the_same_model_gives_the_same_transform_twice(row):
    script = Script(dropout=False, **QUIET)
    first, second = (transformed(row, combined(script), script) for _ in range(2))
    for a, b in zip(outputs(first.model, script), outputs(second.model, script)):
        assert a.tobytes() == b.tobytes()
    assert [note.to_dict() for note in first.layers] == [note.to_dict() for note in second.layers]


@every
def test_names_are_kept_and_the_next_optimization_finds_its_layer(row):
    script = Script(**QUIET)
    others = [layer.name for layer in graph.layers(script.z) if layer.name != row.layer]
    whole = transformed(row, combined(script), script).model
    new = transformed(row, script.z, script).model
    assert [output.name for output in whole.outputs] == [
        output.name for output in combined(script).outputs
    ]
    assert new.name == script.z.name and new.output.name == script.z.output.name == 'classify'
    assert [layer.name for layer in graph.layers(new) if layer.name != row.layer] == others
    block = block_of(new, row.layer)
    assert block.op_name == row.op_name and new.find_by_name(row.layer).uid == block.uid
    assert new.find_by_name(row.layer).output.name == row.layer
    (layer,) = graph.layers(new, lambda layer: layer.name == row.layer, op_name=row.finds)
    assert layer.root.uid == block.uid and row.layer in layer.label
    # What is found, and has one W, is rebuilt under its name like any other.
    if layer.core is not None:
        again = graph.replace(
            new,
            {
                layer: layer.rebuilt(
                    C.as_composite(layer.core).clone(
                        C.CloneMethod.share, {layer.data: C.placeholder(layer.data.shape)}
                    ),
                    'Again',
                )
            },
        )
        assert block_of(again, row.layer).op_name == 'Again'
        assert outputs(again, script)[0].tobytes() == outputs(new, script)[0].tobytes()


@every
def test_shapes_and_axes_are_kept(row):
    script = Script(**QUIET)
    model = combined(script)
    new = transformed(row, model, script).model
    for old_output, new_output in zip(model.outputs, new.outputs):
        assert (old_output.shape, old_output.dynamic_axes, old_output.dtype) == (
            new_output.shape,
            new_output.dynamic_axes,
            new_output.dtype,
        )
    assert len(model.outputs) == len(new.outputs)


@every
def test_it_is_saved_and_loaded(row, tmpdir):
    script = Script(dropout=False, **QUIET)
    new = transformed(row, script.z, script).model
    new.save(str(tmpdir.join('model')))
    loaded = C.load_model(str(tmpdir.join('model')))
    data = script.images[:9]
    assert (
        loaded.eval({loaded.arguments[0]: data}).tobytes() == new.eval({script.x: data}).tobytes()
    )
    assert summary.of_model(loaded) == summary.of_model(new)
    for op_name in (row.finds, None):
        assert [layer.label for layer in graph.layers(loaded, op_name=op_name)] == [
            layer.label for layer in graph.layers(new, op_name=op_name)
        ]


@every
def test_it_is_one_row_of_the_summary(row):
    script = Script(**QUIET)
    new = transformed(row, script.z, script)
    (counted,) = (one for one in count.rows(new.model) if one.name == row.layer)
    assert counted.kind == row.called
    block = block_of(new.model, row.layer)
    assert counted.parameters >= sum(
        int(np.prod(parameter.shape)) for parameter in block.parameters
    )
    assert not [
        one for one in count.rows(new.model) if not one.name and one.kind != 'BatchNormalization'
    ]
    names = ['conv', 'hidden', 'classify']
    assert [one.name for one in count.rows(new.model) if one.name in names] == names
    (note,) = [note for note in new.layers if note.skipped is None] or [nc.LayerNote(row.layer)]
    assert note.name == row.layer
    for claimed, found in (
        (note.parameters_after, counted.parameters),
        (note.macs_after, counted.macs),
        (note.binary_macs_after, counted.binary_macs or None),
    ):
        assert claimed in (None, found)


@every
def test_it_is_swapped_into_a_running_trainer(row):
    script = Script(sweeps=3, dropout=False, **QUIET)
    kept = [p for p in script.z.parameters if p.shape != script.z.find_by_name(row.layer).W.shape]
    before = count.whole(script.z)
    script.run([made(row, epoch=1), nc.Observer()], data=script.held_out)
    (record,) = script.session.result.records
    assert (record.optimization, record.samples) == (row.kind.__name__, SAMPLES)
    assert record.metric_before is not None and record.metric_after is not None
    assert script.trainer.total_number_of_samples_seen == 3 * SAMPLES
    assert block_of(script.z, row.layer).op_name == row.op_name
    assert {p.uid for p in kept} <= {p.uid for p in script.z.parameters}
    model = script.session.result.model
    assert block_of(model, row.layer).op_name == row.op_name
    assert (
        model.eval({model.arguments[0]: script.images[:9]}).tobytes()
        == script.z.eval({script.x: script.images[:9]}).tobytes()
    )
    assert record.network_before == before
    assert record.network_after == count.whole(model)
    text = script.session.result.summary()
    for note in record.layers:
        assert note.name in text
    # As the record shows, so it is read back.
    assert nc.Record.from_dict(record.to_dict()).to_dict() == record.to_dict()


@pytest.mark.few(3)
@every
@pytest.mark.parametrize('learner', ['momentum_sgd', 'adam', 'several'])
def test_everything_goes_on_training(row, learner):
    values = []
    for sweeps in (2, 3):
        script = Script(learner=learner, sweeps=sweeps, dropout=False, **QUIET)
        script.run([made(row, epoch=1)], data=script.held_out)
        values.append(
            [(p.name, p.shape, p.value.tobytes()) for p in script.session.result.model.parameters]
        )
    assert [one[:2] for one in values[0]] == [one[:2] for one in values[1]]
    for old, new in zip(*values):
        assert old != new, old[:2]


@pytest.mark.few(2)
@every
def test_new_parameters_train_under_a_learner_of_their_own(row):
    def learner(parameters):
        handed.extend(parameter.name for parameter in parameters)
        return C.sgd(parameters, C.learning_parameter_schedule(0.05))

    handed = []
    script = Script(sweeps=2, **QUIET)
    optimization = made(row, epoch=1)
    optimization.learner = learner
    script.run([optimization], data=script.held_out)
    assert sorted(handed) == row.new_parameters and script.session.result.complete


@pytest.mark.few(1)
@every
@pytest.mark.parametrize('stop', [14, 25])
def test_it_is_resumed(row, stop, tmpdir):
    """A checkpoint every 300 of 700 samples, minibatches of 64; applied after the 11th
    minibatch."""

    def run(folder, minibatches=0):
        script = Script(checkpoint=300, sweeps=3, folder=str(folder), **QUIET)
        script.run(
            [made(row, epoch=1), Identity(epoch=2), Stops(minibatches)], data=script.held_out
        )
        return script.state(), [record.to_dict() for record in script.session.result.records]

    whole = run(tmpdir.mkdir('whole'))
    folder = tmpdir.mkdir('stopped')
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop)
    assert run(folder) == whole


class Refused(nc.Optimization):
    """Does all that another one does, and then forgets an output."""

    def __init__(self, inner, epoch):
        super().__init__(epoch)
        self.inner = inner

    def prepare(self, model, minibatches):
        self.inner.prepare(model, minibatches)

    def transform(self, model):
        returned = self.inner.transform(model)
        new = returned.model if isinstance(returned, nc.Transformed) else returned
        return C.combine(list(new.outputs[:-1]))


@pytest.mark.few(2)
@every
def test_a_refused_swap_leaves_all_as_it_was(row):
    def minibatch(number):
        rows = slice(64 * number, 64 * number + 64)
        return {script.x: script.images[rows], script.label: script.labels[rows]}

    states = []
    for optimizations in ([], [Refused(made(row), epoch=1)]):
        script = Script(**QUIET)
        run = nc.attach(script.trainer, optimizations, epoch_size=256, data=script.held_out)
        for number in range(4):
            script.trainer.train_minibatch(minibatch(number))
        if optimizations:
            before = (
                script.state(),
                script.trainer.loss_function.uid,
                script.z.uid,
                seen(combined(script)),
            )
            with pytest.raises(ValueError, match='must return the same outputs'):
                script.trainer.train_minibatch(minibatch(4))
            assert before == (
                script.state(),
                script.trainer.loss_function.uid,
                script.z.uid,
                seen(combined(script)),
            )
        states.append((script.state(), script.z.eval({script.x: script.images[:9]}).tobytes()))
        if optimizations:
            with pytest.raises(ValueError, match='must return the same outputs'):
                run.finish()
        else:
            run.finish()
    assert states[0] == states[1]


@every
def test_what_is_lowered_computes_the_same_or_is_the_model_itself(row):
    script = Script(dropout=False, **QUIET)
    new = transformed(row, script.z, script).model
    lowered = made(row).lower(new)
    assert lowered is new or [one.name for one in count.rows(lowered)] == [
        one.name for one in count.rows(new)
    ]
    # float32 sums that CNTK rounds differently
    np.testing.assert_allclose(
        lowered.eval({script.x: script.images[:9]}),
        new.eval({script.x: script.images[:9]}),
        rtol=1e-4,
        atol=1e-5,
    )
