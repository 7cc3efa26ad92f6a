"""Writes text to a terminal, a pipe or a disk that may fail during training."""
import warnings


def warn(message):
    """Warns; does nothing if the warning cannot be shown, as when `sys.stderr` has failed."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except Warning:  # the user's filters turn warnings into errors
        raise
    except Exception:  # whatever a broken sys.stderr raises
        pass


class TextOutput:
    """A text stream whose errors never reach training.

    A character that the encoding lacks is written as an escape such as `\\xe9`. If the stream has
    no `flush`, none is called. The first error of any other kind ends the output: it warns once and
    writes nothing more.

    All other attributes are those of the stream: tqdm asks it for size and encoding, and compares
    it with `sys.stderr`.

    Args:
        stream: any object with `write`; None, as `sys.stderr` may be, counts as failed.
        what (str): who writes, for the warning.
    """

    def __init__(self, stream, what):
        self._stream = stream
        self._what = what
        self.gone = False
        if stream is None:
            self._give_up('there is no stream, sys.stderr is None')

    def attempt(self, call, *arguments):
        """Calls a function that writes to the stream; an error ends the output and nothing else."""
        try:
            call(*arguments)
        except Exception as error:  # any object with a `write` may raise anything
            self._give_up(f'{type(error).__name__}: {error}')

    def isatty(self):
        try:
            return not self.gone and bool(self._stream.isatty())
        except Exception:  # there is no stream, or it is closed: not a terminal
            return False

    def write(self, text):
        if not self.gone:
            self.attempt(self._write, text)
        return len(text)

    def flush(self):
        if not self.gone:
            self.attempt(getattr(self._stream, 'flush', str))

    def _write(self, text):
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, 'encoding', None) or 'ascii'
            self._stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))

    def _give_up(self, why):
        if self.gone:
            return
        self.gone = True
        warn(
            f'{self._what}: its output has gone ({why}). Training goes on, and nothing more is '
            'shown'
        )

    def __getattr__(self, name):
        return getattr(self.__dict__['_stream'], name)

    def __eq__(self, other):
        return self is other or self._stream is other

    def __hash__(self):
        return hash(self._stream)
