"""The graph in a checkpoint: where it holds what, and the same graph on the user's own objects.

CNTK restores by position, and saves outputs of its own beside the user's, so it is written down
which output, input and Parameter of the saved graph is which of the script's.
"""
import hashlib
import tempfile

import cntk as C
from cntk import cntk_py

from .. import graph
from .mark import unmarked
from .remember import native_trainer


def places(trainer, arguments, parameters, owners):
    """Returns where a checkpoint of the present graph holds what, JSON-ready.

    C++ saves outputs of its own beside the user's, so a checkpoint is written and looked at;
    CNTK keeps uids in it. It is written by a trainer of our own around the same graph, since a
    save of the user's would be a synchronization for distributed learners.

    Args:
        trainer (cntk.Trainer): as it is now.
        arguments, parameters, owners: as `rebound` takes and `Phase` holds them, as Variables.
    """
    functions = [trainer.model, trainer.loss_function, trainer.evaluation_function]
    uids = [output.uid for function in functions if function is not None
            for output in function.outputs]
    saved = _saved(functions, list(trainer.loss_function.parameters))
    found = [[output.uid for output in saved.outputs].index(uid) for uid in uids]
    marked = _marked(saved, found)
    inputs = [argument.uid for argument in marked.arguments]
    trained = [parameter.uid for parameter in marked.parameters]
    return {'outputs': found, 'fingerprint': fingerprint(saved, found),
            'arguments': [inputs.index(a.uid) if a.uid in inputs else None for a in arguments],
            'learners': [trained.index(p.uid) for p in parameters],
            'owners': [[index, [trained.index(p.uid) for p in owned]] for index, owned in owners]}


def _saved(functions, parameters):
    """Returns the graph that a checkpoint of a trainer of these functions holds, as loaded."""
    model, loss, metric = functions
    writer = native_trainer(model, (loss, metric), [C.sgd(parameters, 0.0)], [])
    with tempfile.TemporaryDirectory() as folder:
        writer.save_checkpoint(folder + '/places')
        return C.load_model(folder + '/places')


def _marked(saved, places_of_outputs):
    """Returns the saved outputs of model, loss and metric, with what the engine added to the loss.

    That is also where Parameters are that a learner holds and the rest does not read.
    """
    return C.combine([saved.outputs[place] for place in places_of_outputs])


def rebound(saved, phase, arguments, parameters):
    """Returns a saved graph on the user's own inputs and Parameters.

    Args:
        saved (cntk.Function): as loaded.
        phase (Phase): tells what is where in it.
        arguments (list of cntk.Variable): the criterion's, in order.
        parameters (list of cntk.Parameter): those of the user's learners, in order.

    Returns:
        (cntk.Function, list): the outputs of model, loss and metric combined, and for each of
        `phase.owners` [index of the optimization, Parameters].

    Raises:
        ValueError: the script is not the one that wrote the checkpoint.
    """
    if len(phase.arguments) != len(arguments) or len(phase.learners) != len(parameters):
        raise ValueError('the checkpoint was written by a script with %d inputs and %d trained '
                         'Parameters, this one has %d and %d'
                         % (len(phase.arguments), len(phase.learners), len(arguments),
                            len(parameters)))
    marked = _marked(saved, phase.outputs)
    pairs = [(marked.arguments[place], mine)
             for place, mine in zip(phase.arguments, arguments) if place is not None]
    pairs += [(marked.parameters[place], mine) for place, mine in zip(phase.learners, parameters)]
    for theirs, mine in pairs:
        if tuple(theirs.shape) != tuple(mine.shape):
            raise ValueError('the checkpoint was written by another script: its %s is of shape %s, '
                             'and %s of this script is of shape %s'
                             % (theirs.name or theirs.uid, tuple(theirs.shape),
                                mine.name or mine.uid, tuple(mine.shape)))
    owners = [[index, [marked.parameters[place] for place in owned]]
              for index, owned in phase.owners]
    whole = C.combine(unmarked(marked.outputs))
    read = {variable.uid for variable in list(whole.arguments) + list(whole.parameters)}
    return graph.substitute(whole, {theirs: mine for theirs, mine in pairs
                                    if theirs.uid in read}), owners


def is_of(saved, whole):
    """Whether a checkpoint of a run with optimizations holds this very graph, operation by operation.

    Args:
        saved (checkpoint.Saved): its uids are those of when it was saved.
        whole (cntk.Function): outputs of model, loss and metric, combined.
    """
    theirs = C.combine(unmarked(_marked(saved.graph, saved.phase.outputs).outputs))
    return signature(theirs) == signature(whole) and _uids(theirs) == _uids(whole)


def _uids(whole):
    return {function.uid for function in graph.walk(whole, into_blocks=True)
            if function.op_name != 'Combine'}


def advance_unique_id(at_least):
    """Makes the uids of new Variables differ from all that a checkpoint holds."""
    while cntk_py.new_unique_id() < at_least:
        pass


def fingerprint(saved, places_of_outputs):
    """Returns a text that the saved graphs of one phase share: a hash of their operations and shapes.

    Args:
        saved (cntk.Function), places_of_outputs (list of int): see `places`.
    """
    if max(places_of_outputs) >= len(saved.outputs):
        return None
    parts = sorted(_parts(_marked(saved, places_of_outputs)))
    return hashlib.sha256('\n'.join(parts).encode('utf-8')).hexdigest()


def signature(model):
    """Returns a text that two graphs share if they hold the same operations and shapes."""
    return ' '.join(_parts(model))


def _parts(model):
    operations = ['%s%s' % (function.op_name, [tuple(o.shape) for o in function.outputs])
                  for function in graph.walk(model, into_blocks=True)
                  if not function.is_block and function.op_name != 'Combine']
    shapes = [str(tuple(parameter.shape)) for parameter in model.parameters]
    return operations + shapes
