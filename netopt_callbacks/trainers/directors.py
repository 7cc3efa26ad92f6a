"""Restores Python errors that CNTK's C++ code hides.

C++ calls back into Python through SWIG directors. An exception that leaves a director is printed
through `sys.excepthook`, and the caller of `train()` gets only "SWIG director method error"; Ctrl-C
in a director becomes a RuntimeError. `guarded` keeps the first such exception, and `run` raises it
unchanged, with its own traceback.
"""
import contextlib
import signal
import sys
import threading


class EndOfSegment(Exception):
    """Raised from `on_minibatch_end` to leave C++'s training loop; users never see it."""


class Caught:
    """The first exception that left a director, and whether Ctrl-C was pressed.

    Attributes:
        error (BaseException): None if there is none.
        interrupted (bool): Ctrl-C was pressed and has not been handled yet.
    """

    def __init__(self):
        self.error = None
        self.interrupted = False

    def keep(self, error):
        """Keeps an exception, if it is the first."""
        if self.error is None and not isinstance(error, EndOfSegment):
            self.error = error

    def check(self):
        """Raises KeyboardInterrupt if Ctrl-C was pressed; call this at a safe point."""
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def guarded():
    """Context for C++ training loops; yields a `Caught`.

    Meanwhile `sys.excepthook` keeps errors instead of printing them. The first Ctrl-C (in the main
    thread) waits for the next safe point, so that no minibatch is left half trained; a second one
    interrupts at once. A Ctrl-C after the last safe point is raised at the end.
    """
    caught = Caught()

    def interrupt(number, frame):
        if caught.interrupted:
            raise KeyboardInterrupt
        caught.interrupted = True

    main = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if main:
        signal.signal(signal.SIGINT, interrupt)
    try:
        with _hooked(caught):
            yield caught
    finally:
        if main:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    caught.check()


_lock = threading.Lock()
_listening = {}  # by thread: the Caught of its innermost loop
_original = []  # the hook that ours replaced


@contextlib.contextmanager
def _hooked(caught):
    """Keeps the errors that C++ prints on this thread; loops of other threads keep their own."""
    me = threading.get_ident()
    with _lock:
        if not _listening:
            _original[:] = [sys.excepthook]
            sys.excepthook = _keep
        outer = _listening.get(me)
        _listening[me] = caught
    try:
        yield
    finally:
        with _lock:
            if outer is None:
                del _listening[me]
            else:
                _listening[me] = outer
            if not _listening and sys.excepthook is _keep:
                sys.excepthook = _original[0]


def _keep(kind, error, traceback):
    caught = _listening.get(threading.get_ident())
    if caught is not None:
        caught.keep(error)
    else:
        _original[0](kind, error, traceback)


# The functions that Python's signal module wraps. The wrappers convert handlers to enums, which
# would be most of the cost of `uninterrupted` in each minibatch.
_get_handler = getattr(signal.getsignal, '__wrapped__', signal.getsignal)
_set_handler = getattr(signal.signal, '__wrapped__', signal.signal)


class uninterrupted:
    """Context that delays the first Ctrl-C to the end of a few lines that must run whole.

    That Ctrl-C then goes to the previous handler, the user's or Python's. A second one goes there
    at once.
    """

    def __enter__(self):
        self._pressed = []
        self._handler = _get_handler(signal.SIGINT)
        try:
            if callable(self._handler):
                _set_handler(signal.SIGINT, self._wait)
        except ValueError:  # not the main thread, so there are no signals
            self._handler = None

    def __exit__(self, kind, error, traceback):
        if not callable(self._handler):
            return
        _set_handler(signal.SIGINT, self._handler)
        if self._pressed:
            self._handler(signal.SIGINT, self._pressed[0])

    def _wait(self, number, frame):
        if self._pressed:
            self._handler(number, frame)
        self._pressed.append(frame)


def run(caught, train, left=lambda: False):
    """Calls `train`, a C++ loop, and raises the original error if one occurred in it.

    Args:
        caught (Caught): of `guarded`.
        train (callable): runs the loop.
        left (callable): tells whether `EndOfSegment` left the loop.

    Returns:
        bool: False if `EndOfSegment` left the loop, True if it ran to its end.
    """
    try:
        train()
        ended = True
    except RuntimeError:
        ended = False
        if caught.error is None and not left():
            raise
    if caught.error is not None:
        error, caught.error = caught.error, None
        raise error
    return ended
