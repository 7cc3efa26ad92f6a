"""What CNTK's C++ does to Python errors on the way through it, undone.

C++ calls back into Python through SWIG directors. An exception that leaves one of these
is printed through `sys.excepthook`, and what reaches the caller of `train()` is a bare
"SWIG director method error"; Ctrl-C in one becomes a RuntimeError. `guarded` keeps the first
such exception and raises it as it was, with its own traceback.
"""
import contextlib
import signal
import sys
import threading


class EndOfSegment(Exception):
    """Raised from `on_minibatch_end` to leave C++'s training loop; never seen by a user."""


class Caught:
    """The first exception that left a director, and whether Ctrl-C was pressed.

    Attributes:
        error (BaseException): None while there is none.
        interrupted (bool): Ctrl-C was pressed and not acted on yet.
    """

    def __init__(self):
        self.error = None
        self.interrupted = False

    def keep(self, error):
        """Keeps an exception, if it is the first."""
        if self.error is None and not isinstance(error, EndOfSegment):
            self.error = error

    def check(self):
        """Raises KeyboardInterrupt where Ctrl-C was pressed: call it at a safe point."""
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def guarded():
    """Runs C++ training loops: yields a `Caught`.

    Meanwhile `sys.excepthook` keeps instead of printing, and the first Ctrl-C (in the main
    thread) waits for the next safe point, so that no half-trained minibatch is left; a second
    one interrupts at once. A Ctrl-C after the last safe point is raised in the end.
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
_original = []  # the hook that was there before ours


@contextlib.contextmanager
def _hooked(caught):
    """Keeps what C++ prints of errors on this thread; loops of other threads keep their own."""
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


# What Python's signal module wraps: it makes enums of handlers, by far the most of what a
# minibatch under `uninterrupted` would cost.
_get_handler = getattr(signal.getsignal, '__wrapped__', signal.getsignal)
_set_handler = getattr(signal.signal, '__wrapped__', signal.signal)


class uninterrupted:
    """Context that lets a first Ctrl-C wait for the end of a few lines that must run whole.

    It then goes to the handler it found, the user's own or Python's; a second one at once.
    """

    def __enter__(self):
        self._pressed = []
        self._handler = _get_handler(signal.SIGINT)
        try:
            if callable(self._handler):
                _set_handler(signal.SIGINT, self._wait)
        except ValueError:  # a thread that is not the main one, which has no signals
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
    """Calls `train`, a C++ loop, and raises what really went wrong in it.

    Args:
        caught (Caught): of `guarded`.
        train (callable): runs the loop.
        left (callable): tells whether the loop was left by `EndOfSegment`.

    Returns:
        bool: False where the loop was left by `EndOfSegment`, True where it came to its end.
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
