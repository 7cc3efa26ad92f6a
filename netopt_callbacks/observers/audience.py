"""Notifies the observers of a run of each event, in the order of the list."""
import time

from ..trainers import directors


class Audience:
    """The observers of a run.

    Args:
        observers (list of nc.Observer): empty on workers other than the main one.
        seconds (dict): the time they take is added to `seconds['observers']`.
    """

    def __init__(self, observers, seconds):
        self._observers = observers
        self._seconds = seconds
        self._caught = directors.Caught()

    def notify(self, event, *arguments):
        """Calls the method `event` of each observer; an error in one ends training."""
        if not self._observers:
            return
        begin = time.perf_counter()
        for observer in self._observers:
            getattr(observer, event)(*arguments)
        self._seconds['observers'] += time.perf_counter() - begin

    def notify_from_native(self, event, *arguments):
        """Notifies of an event that C++ reports; keeps errors, since none can pass through C++."""
        try:
            self.notify(event, *arguments)
        except BaseException as error:
            self._caught.keep(error)

    def check(self):
        """Raises the error of an observer that C++ called; call this at a safe point."""
        if self._caught.error is not None:
            error, self._caught.error = self._caught.error, None
            raise error

    def end(self, result):
        """Notifies each observer that the run has ended; returns the errors they raise."""
        errors = []
        for observer in self._observers:
            try:
                observer.on_end(result)
            except Exception as error:
                errors.append(error)
        return errors
