"""Functions keep the names the user gave them: through every edit of a graph, and in a trainer
whatever is attached."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from netopt_callbacks import factorization, graph, quantization


def product(x):
    return C.times(x, C.parameter((4, 2), init=1.0))


def named_later(x):
    """The name is the composite's alone: the primitive that it ends with has none."""
    z = product(x) + 1
    z.name = 'z'
    return z


MODELS = {
    'primitive': lambda x: C.plus(product(x), 1, name='z'),
    'named later': named_later,
    'block': lambda x: C.layers.Dense(2, name='z')(x),
    'last layer named': lambda x: C.layers.Sequential(
        [C.layers.Dense(6, name='hidden'), C.layers.Dense(2, name='z')]
    )(x),
    'sequence named': lambda x: C.layers.Sequential(
        [C.layers.Dense(6, name='hidden'), C.layers.Dense(2)], name='z'
    )(x),
    'combine of one': lambda x: C.combine([product(x)], name='z'),
    'alias': lambda x: C.alias(product(x), name='z'),
    'combine of two': lambda x: C.combine(
        [C.layers.Dense(2, name='left')(x), product(x)], name='z'
    ),
    'without a name': product,
}


class Same(nc.Optimization):
    def transform(self, model):
        return model


class Copy(nc.Optimization):
    def transform(self, model):
        return graph.clone_shared(model)


class Halved(nc.Optimization):
    """Edits every layer of every kind of model."""

    def transform(self, model):
        return graph.substitute(model, {p: p * 0.5 for p in model.parameters if len(p.shape) == 2})


EDITS = {
    'clone_shared': graph.clone_shared,
    'substitute nothing': lambda model: graph.substitute(model, {}),
    'substitute': lambda model: Halved().transform(model),
    'replace': lambda model: graph.replace(
        model,
        {
            layer: layer.rebuilt(
                C.times(
                    C.placeholder(),
                    C.Parameter(layer.W.shape, init=0),
                    output_rank=layer.output_rank,
                ),
                'Zero',
            )
            for layer in graph.layers(model)
        },
    ),
    'factor_dense': lambda model: factorization.factor_dense(model, lambda W: 1),
}


@pytest.mark.parametrize('edit', sorted(EDITS))
@pytest.mark.parametrize('kind', sorted(MODELS))
def test_an_edit_keeps_the_name(kind, edit):
    model = MODELS[kind](C.input_variable(4))
    before = model.name, [output.name for output in model.outputs]
    new = EDITS[edit](model)
    assert (new.name, [output.name for output in new.outputs]) == before
    assert before[0] == ('' if kind == 'without a name' else 'z')


def test_a_binarized_model_keeps_its_name():
    x = C.input_variable((2, 6, 6))
    model = C.layers.Sequential([C.layers.Convolution2D((3, 3), 3), C.layers.Dense(2)], name='z')(x)
    assert quantization.convert_to_binary_convolution(model, lambda layer: True).name == 'z'


CRITERIA = {
    'two Functions': lambda z, y: (
        C.squared_error(z, y, name='loss'),
        C.squared_error(z, y, name='metric'),
    ),
    'loss alone': lambda z, y: (C.squared_error(z, y, name='loss'), None),
    'named later': lambda z, y: tuple(
        named(C.squared_error(z, y) + 0, name) for name in ('loss', 'metric')
    ),
    'one Function of two': lambda z, y: C.combine(
        [C.squared_error(z, y, name='loss'), C.squared_error(z, y, name='metric')], name='criterion'
    ),
}


def named(function, name):
    function.name = name
    return function


@pytest.mark.few(16)
@pytest.mark.parametrize(
    'due',
    [[], [Same], [Copy], [Halved], [Halved, Copy]],
    ids=lambda due: ', '.join(kind.__name__ for kind in due) or 'observers alone',
)
@pytest.mark.parametrize(
    'kind, criterion',
    [(kind, 'two Functions') for kind in sorted(MODELS)]
    + [('block', criterion) for criterion in sorted(CRITERIA)],
)
def test_a_run_keeps_the_names(kind, criterion, due):
    x, y = C.input_variable(4), C.input_variable(2)
    z = MODELS[kind](x)
    given = CRITERIA[criterion](C.combine([z.outputs[0]]), y)
    learner = C.sgd(C.combine(list(z.outputs[:1])).parameters, C.learning_parameter_schedule(0.01))
    trainer = C.Trainer(z, given, learner)
    handed = [
        part for part in (given if isinstance(given, tuple) else (given,)) if part is not None
    ]

    def names():
        return (
            [
                z.name,
                trainer.model.name,
                trainer.loss_function.name,
                trainer.evaluation_function and trainer.evaluation_function.name,
            ],
            [part.name for part in handed],
            [part.output.name for part in handed if len(part.outputs) == 1],
            [output.name for output in z.outputs],
        )

    before = names()
    optimizations = [kind(epoch) for epoch, kind in enumerate(due, 1)]
    with nc.attach(trainer, optimizations + [nc.Observer()], epoch_size=2) as run:
        for _ in range(len(due) + 1):
            trainer.train_minibatch({x: np.ones((2, 4), 'f'), y: np.ones((2, 2), 'f')})
            assert names() == before
    assert run.result.model.name == z.name == before[0][0]
    assert names() == before
