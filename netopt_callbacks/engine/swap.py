"""The exchange of a Trainer's inside: the only code that touches it.

The user's Trainer object stays; a new C++ trainer is built around the new graph, with the
same learners and writers, and put in its place. The Functions the user handed to the
Trainer follow the same way, so that `z.eval` and `outputs=[z.output]` go on working.
"""
import cntk as C
from cntk.train.trainer import Trainer

from ..graph.walk import function_of
from .exchanged import class_of
from .mark import unmarked
from .remember import Original, native_trainer


class Outputs(object):
    """Which outputs of the whole graph are the trainer's model, loss and metric.

    Args:
        trainer (cntk.Trainer): its graph is taken as it is now.
    """

    def __init__(self, trainer):
        model, loss, metric = trainer.model, trainer.loss_function, trainer.evaluation_function
        self.models = 0 if model is None else len(model.outputs)
        outputs = [] if model is None else list(model.outputs)
        outputs.append(loss.output)
        if metric is not None:
            outputs.append(metric.output)
        self.has_metric = metric is not None
        self.whole = C.combine(unmarked(outputs))

    def split(self, whole):
        """Returns (model or None, loss, metric or None) of a graph with the same outputs."""
        outputs = list(whole.outputs)
        expected = self.models + 1 + self.has_metric
        if len(outputs) != expected:
            raise ValueError('transform(model) must return the same outputs in the same order: expected %d, '
                             'got %d; edit the model with nc.graph, or combine all of model.outputs'
                             % (expected, len(outputs)))
        model = function_of(outputs[:self.models]) if self.models else None
        loss = function_of([outputs[self.models]])
        metric = function_of([outputs[-1]]) if self.has_metric else None
        return model, loss, metric


def check(outputs, whole, parameters, optimization):
    """Refuses a transformed graph that CNTK would crash on or the user could not train.

    Args:
        outputs (Outputs): of the graph before.
        whole (cntk.Function): the new graph.
        parameters (list of cntk.Parameter): those the learners train.
        optimization (str): name of what made the new graph.

    Raises:
        ValueError: outputs changed shape, arguments were exchanged, or a learner's Parameter
            is not reachable from the loss (CNTK's train_minibatch would end the process).
    """
    old, new = outputs.whole, whole
    _, loss, _ = outputs.split(whole)
    for index, (before, after) in enumerate(zip(old.outputs, new.outputs)):
        if before.shape != after.shape:
            raise ValueError('%s: transform(model) must keep the outputs: number %d was of shape %s, got shape '
                             '%s; replace layers by ones of the same output shape'
                             % (optimization, index, before.shape, after.shape))
    known = set(argument.uid for argument in old.arguments)
    strange = [argument for argument in new.arguments if argument.uid not in known]
    if strange:
        raise ValueError('%s: transform(model) must keep the arguments of the model; %s %s new '
                         '(clone with {argument: argument}, or use nc.graph)'
                         % (optimization, ', '.join(a.name or a.uid for a in strange),
                            'is' if len(strange) == 1 else 'are'))
    reachable = set(parameter.uid for parameter in loss.parameters)
    lost = [parameter for parameter in parameters if parameter.uid not in reachable]
    if lost:
        raise ValueError('%s: the loss of the new graph must depend on each Parameter that a learner trains, '
                         'and does not on %s; keep it in the graph'
                         % (optimization, ', '.join(describe(p) for p in lost)))


def describe(parameter):
    """Returns a Parameter as an error names it."""
    return '%s of shape %s' % (parameter.name or parameter.uid, tuple(parameter.shape))


def exchange(trainer, handed, functions, learners, writers, undo):
    """Puts a new C++ trainer into `trainer`.

    Args:
        trainer (cntk.Trainer): the user's.
        handed (remember.Handed): what it was built with; its Functions follow.
        functions: (model or None, loss, metric or None) of the new graph.
        learners (list of cntk.learners.Learner), writers (list of cntk_py.ProgressWriter):
            of the new trainer.
        undo (contextlib.ExitStack): gets what puts the old ones back.
    """
    model, loss, metric = functions
    new = native_trainer(model, (loss, metric), learners, list(writers))
    undo.callback(setattr, handed, 'last', handed.last)
    handed.last = handed.last or trainer.this
    undo.callback(setattr, handed, 'last_tested', handed.last_tested)
    if handed.tracker is not None and handed.tracker.tested is not None:
        handed.last_tested = handed.last_tested or trainer.this
    undo.callback(setattr, handed, 'original', handed.original)
    handed.original = handed.original or Original(Outputs(trainer).whole, handed.learners)
    undo.callback(setattr, handed, 'learners', handed.learners)
    handed.learners = list(learners)
    undo.callback(setattr, trainer, '__class__', type(trainer))
    trainer.__class__ = class_of(trainer)
    _point(trainer, new, undo)
    _follow(handed, model, loss, metric, undo)


def _follow(handed, model, loss, metric, undo):
    if handed.model is not None:
        _point(handed.model, model, undo)
    parts = [part for part in (loss, metric) if part is not None]
    if len(handed.criterion) == 1 and len(parts) == 2:
        _point(handed.criterion[0], C.combine([part.output for part in parts]), undo)
    else:
        for function, part in zip(handed.criterion, parts):
            _point(function, part, undo)


def _point(mine, new, undo):
    """Lets an object of the user's, a Trainer or a Function, stand for the new one."""
    if isinstance(mine, (Trainer, C.Function)):
        undo.callback(setattr, mine, 'this', mine.this)
        mine.this = new.this
