"""One run of CNTK's C++ training loop between two changes of the network.

The loop cannot exchange its trainer, so it is left where something is due: `on_minibatch_end`
returns False, C++ runs the actions due after this minibatch (progress, cross-validation,
checkpoint), fetches an empty minibatch and calls again. Only an exception leaves the loop there
without the actions that belong to the end of training.
"""
from cntk.train.training_session import TrainingSession

from . import directors


class Segment(TrainingSession):
    """CNTK's session, up to its end or to the next minibatch at which something is due.

    Args:
        session (nc.session.Session): whose engine is asked.
        arguments: those of `cntk.train.TrainingSession`.

    Attributes:
        stopped (bool): whether the user's cross-validation callback has ended training.
    """

    def __init__(self, session, *arguments):
        self._session = session
        self._first = True
        self._due = False
        self.stopped = False
        self._left = False
        super().__init__(*arguments)

    def run(self, caught, device):
        """Trains; returns whether training came to its end in it, and raises what went wrong."""
        return directors.run(caught, lambda: self.train(device), lambda: self._left)

    def on_minibatch_end(self):
        """Called by C++ after each minibatch; False makes it run its due actions and stop."""
        try:
            return self._goes_on()
        except directors.EndOfSegment:
            self._left = True
            raise
        except BaseException as error:
            self._keep(error)

    def _keep(self, error):
        """Leaves C++ with an exception it can carry: SystemExit, say, would end the process
        there."""
        self._session.caught.keep(error)
        raise directors.EndOfSegment

    def _goes_on(self):
        session = self._session
        if self._first:
            self._first = False
            session.segment_started()
        session.caught.check()
        if self._due:
            # The empty minibatch. Where training has come to its end, so let it end in C++.
            if session.at_end(self):
                session.checkpoint_may_come()
                return True
            raise directors.EndOfSegment
        self._due = session.engine.after_minibatch()
        if session.engine.workers.drops_empty_minibatch:
            if self._due:
                return session.leave_at_once(self)
            session.count()
        session.checkpoint_may_come()
        return not self._due

    def on_checkpoint_end(self, index):
        """Called by C++ after it has written a checkpoint."""
        try:
            self._session.checkpoint_written(index)
        except BaseException as error:
            self._keep(error)

    def on_cross_validation_end(self, index, average_error, num_samples, num_minibatches):
        """Called by C++ after a cross-validation: the user's callback decides whether to go on."""
        try:
            engine = self._session.engine
            cntk_tested = engine.tell_test('cross_validation')
            goes_on = super().on_cross_validation_end(
                index, average_error, num_samples, num_minibatches
            )
            # The callback may have tested as well; without a source it is the cross-validation.
            engine.tell_test('test' if cntk_tested else 'cross_validation')
        except BaseException as error:
            self._keep(error)
        self.stopped = self.stopped or not goes_on
        return goes_on
