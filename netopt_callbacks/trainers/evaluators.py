"""Makes a `cntk.Evaluator` follow a change of the network that it evaluates.

C++ cannot give an Evaluator another Function, so the user's object gets another C++ one. CNTK does
not tell what an Evaluator was made with, nor whether a test is open; `install` keeps both.
"""
import functools
import warnings

from cntk import cntk_py
from cntk.eval.evaluator import Evaluator

WRITERS = '_netopt_callbacks_writers'
_TESTING = '_netopt_callbacks_testing'


def install():
    """Wraps the class; `remember.install` calls this once."""
    Evaluator.__init__ = _remembering(Evaluator.__init__)
    Evaluator.test_minibatch = _noting(Evaluator.test_minibatch, True)
    Evaluator.summarize_test_progress = _noting(Evaluator.summarize_test_progress, False)


def _remembering(construct):
    @functools.wraps(construct)
    def constructor(self, eval_function, progress_writers=None):
        construct(self, eval_function, progress_writers)
        writers = [] if progress_writers is None else progress_writers
        setattr(self, WRITERS, list(writers) if isinstance(writers, list) else [writers])

    return constructor


def _noting(method, testing):
    """Wraps a method that begins a test or goes on with it, or that ends it."""

    @functools.wraps(method)
    def wrapper(self, *arguments, **options):
        result = method(self, *arguments, **options)
        self.__dict__[_TESTING] = testing
        return result

    return wrapper


def can_follow(evaluator):
    """Whether an Evaluator was made after the import, so that its writers are known."""
    return WRITERS in evaluator.__dict__


def renew(evaluator, function, name, undo):
    """Makes an Evaluator evaluate another Function; a test that is open is summarized first.

    Args:
        evaluator (cntk.Evaluator): one that `can_follow`.
        function (cntk.Function): what it evaluates from now on.
        name (str): of what it evaluated, for the warning.
        undo (contextlib.ExitStack): receives what restores the old one.
    """
    writers = getattr(evaluator, WRITERS)
    if writers and evaluator.__dict__.get(_TESTING):
        warnings.warn(
            f'the test of an Evaluator ({name}) was not summarized when its network changed: its '
            'summary is written now, and a new test begins'
        )
        evaluator.summarize_test_progress()
    undo.callback(setattr, evaluator, 'this', evaluator.this)
    evaluator.this = cntk_py.create_evaluator(function, writers).this
