"""Replaces the C++ trainer inside a Trainer; the only code that does so.

The user's Trainer object stays. A new C++ trainer is built around the new graph, with the same
writers, and put in place of the old one. Learners whose Parameters changed are rebuilt inside their
own objects.
"""
from ..checkpoints.mark import network_of
from ..trainers import learner_facts
from ..trainers.learner_facts import describe_parameter
from ..trainers.plan import unread
from ..trainers.remember import native_trainer
from .exchanged import class_of


def check(before, after, trained, optimization):
    """Refuses a transformed graph that would crash CNTK or that the user could not train.

    Args:
        before (cntk.Function): the graph given to the transform.
        after (State): the network it returned.
        trained (tuple of Trained): which learner trains which of its Parameters.
        optimization (str): name of the optimization.

    Raises:
        ValueError: outputs changed shape, arguments were replaced, or the model holds a Parameter
            that a learner trains but the loss does not depend on it (CNTK's train_minibatch would
            end the process).
    """
    for index, (old, new) in enumerate(zip(before.outputs, after.whole.outputs)):
        if old.shape != new.shape:
            raise ValueError(
                f'{optimization}: transform(model) must keep the outputs: number {index} was of '
                f'shape {old.shape}, got shape {new.shape}; replace layers by ones of the same '
                'output shape'
            )
    known = {argument.uid for argument in before.arguments}
    strange = [argument for argument in after.whole.arguments if argument.uid not in known]
    if strange:
        raise ValueError(
            '%s: transform(model) must keep the arguments of the model; %s %s new '
            '(clone with {argument: argument}, or use nc.graph)'
            % (
                optimization,
                ', '.join(a.name or a.uid for a in strange),
                'is' if len(strange) == 1 else 'are',
            )
        )
    present = {parameter.uid for parameter in after.whole.parameters}
    lost = [parameter for parameter in unread(trained, after.loss) if parameter.uid in present]
    if lost:
        raise ValueError(
            '%s: the loss of the new graph must depend on each Parameter that a learner trains, '
            'and does not on %s; keep it in the graph'
            % (optimization, ', '.join(map(describe_parameter, lost)))
        )


def check_outputs(expected, model):
    """Raises ValueError if a transform returned another number of outputs than it was given."""
    if len(model.outputs) != expected:
        raise ValueError(
            'transform(model) must return the same outputs in the same order: expected '
            f'{expected}, got {len(model.outputs)}; edit the model with nc.graph, or combine all '
            'of model.outputs'
        )


def exchange(trainer, facts, state, begin_with, writers, label, undo):
    """Puts a new C++ trainer, built around the network of a State, into `trainer`.

    Args:
        trainer (cntk.Trainer): the user's.
        facts (remember.TrainerFacts): what it was built with.
        state (State): the next one.
        begin_with (dict): see `learner_facts.rebuild`.
        writers (list of cntk_py.ProgressWriter): those of the new trainer.
        label (str): the label in its checkpoints, or None.
        undo (contextlib.ExitStack): receives what restores everything.
    """
    learners = [learner_facts.rebuild(one, begin_with, undo) for one in state.trained]
    trained = tuple(
        one._replace(learner=learner, state=None) for one, learner in zip(state.trained, learners)
    )
    model, loss = network_of(state, unread(trained, state.loss), label)
    new = native_trainer(model, (loss, state.metric), learners, list(writers))
    tested = facts.tracker is not None and facts.tracker.tested is not None
    for name, value in (
        ('last', facts.last or trainer.this),
        ('learners', learners),
        ('last_tested', facts.last_tested or (trainer.this if tested else None)),
        ('state', state._replace(trained=trained)),
        ('label', label),
    ):
        undo.callback(setattr, facts, name, getattr(facts, name))
        setattr(facts, name, value)
    undo.callback(setattr, trainer, '__class__', type(trainer))
    trainer.__class__ = class_of(trainer)
    undo.callback(setattr, trainer, 'this', trainer.this)
    trainer.this = new.this
