"""`nc.training_session`: CNTK's own training session, with callbacks."""
import sys
import warnings
from typing import Any, Callable, Dict, Optional, Union

import cntk as C
from cntk.train.training_session import (
    CheckpointConfig,
    CrossValidationConfig,
    TestConfig,
    TrainingSession,
)

from ._types import Callbacks, EpochSize, Path, Points
from .engine.callbacks import refuse_epochs_that_never_come
from .engine.engine import Engine
from .engine.schedule import Clock
from .engine.segments import Arguments, Segments
from .evaluation import sources
from .evaluation.held_out import held_out_data
from .integers import plain
from .lowering.lower import warn_of_nothing_to_lower
from .records import Result
from .trainers import directors, random_state, remember


def training_session(
    trainer: C.Trainer,
    mb_source: Any,
    mb_size: Any,
    model_inputs_to_streams: Optional[Dict[C.Variable, Any]],
    progress_frequency: Optional[EpochSize] = None,
    max_samples: Optional[int] = None,
    checkpoint_config: Optional[C.CheckpointConfig] = None,
    cv_config: Optional[C.CrossValidationConfig] = None,
    test_config: Optional[C.TestConfig] = None,
    callbacks: Optional[Callbacks] = None,
    epoch_size: Optional[EpochSize] = None,
    data: Any = None,
    progress_writers: Any = None,
    larger_is_better: bool = False,
    model: Optional[C.Function] = None,
    baseline: Union[Path, Points, None] = None,
) -> 'Session':
    """Creates a training session that optimizes the network while it trains.

    The first nine arguments are those of `cntk.training_session`, with the same defaults and
    behaviour. Without callbacks the session is CNTK's.

    Args:
        trainer (cntk.Trainer): stays the same object; the C++ trainer inside it is replaced.
        mb_source, mb_size, model_inputs_to_streams, progress_frequency, max_samples,
            checkpoint_config, cv_config, test_config: as in `cntk.training_session`.
        callbacks (list): `nc.Optimization` and `nc.Observer` objects.
        epoch_size (int or (int, cntk.train.DataUnit)): samples per epoch, the unit of the
            optimizations' `epoch`; None is one sweep of `mb_source`.
        data: held-out data for recovery, calibration and the parity gate: NumPy arrays in the order
            of the criterion's arguments, or a minibatch source. None takes the source of
            `cv_config`.
        progress_writers (list): the writers of a trainer built before this package was imported.
        larger_is_better (bool): direction of the metric, the criterion's second output.
        model (cntk.Function): the network for `result.model`; needed if the trainer was given only
            a criterion and several Functions of the script read its Parameters.
        baseline (str or list): the held-out metric of a run without optimizations, shown beside the
            metric of this run: the folder that `nc.TensorBoard` wrote for that run, or a list of
            (samples, metric).

    Returns:
        Session: call `train()` once, then read `result`.

    Raises:
        TypeError, ValueError: an argument does not fit; raised before training starts.
    """
    facts = remember.trainer(trainer, progress_writers)
    mb_size, max_samples = plain(mb_size), plain(max_samples)
    source, streams = TrainingSession._sanitize_minibatch_source(
        mb_source, model_inputs_to_streams, trainer.loss_function
    )
    arguments = Arguments(
        trainer,
        source,
        mb_size,
        streams,
        max_samples,
        plain(progress_frequency),
        CheckpointConfig(None) if checkpoint_config is None else checkpoint_config,
        CrossValidationConfig(None) if cv_config is None else cv_config,
        TestConfig(None) if test_config is None else test_config,
    )
    checkpoint = remember.config(arguments.checkpoint, 'checkpoint_config')
    remember.config(arguments.cross_validation, 'cv_config')
    remember.config(arguments.test, 'test_config')
    TrainingSession(*arguments)  # CNTK's own checks, before training
    restores = bool(checkpoint['filename'] and checkpoint['restore'])
    left = _samples_left(trainer, max_samples, restores)
    engine = Engine(
        trainer,
        facts,
        callbacks,
        Clock(plain(epoch_size), left, _source_length(source, left, restores)),
        held_out_data(
            data, facts.arguments, streams, remember.config(cv_config, 'cv_config'), mb_size
        ),
        larger_is_better,
        checkpoint['filename'],
        holds_trainer=True,
        model=model,
        baseline=baseline,
    )
    refuse_epochs_that_never_come(
        engine.optimizations,
        engine.clock,
        facts.learners,
        engine.workers,
        sources.reports_sweeps_to_all_workers(source),
    )
    warn_of_nothing_to_lower(callbacks, (model, facts.model, trainer.loss_function), 2)
    if engine.optimizations:
        sources.refuse_half_position(source)
        _warn_of_what_is_not_exact(trainer, source, engine.workers, checkpoint['filename'])
    return Session(
        trainer,
        engine,
        Segments(engine, facts.learners, arguments),
        checkpoint['filename'],
        lambda: _samples_left(trainer, max_samples, restores),
    )


def _samples_left(trainer, max_samples, restores):
    """Returns how many samples the run trains.

    CNTK counts `max_samples` over the life of the learners. A restored checkpoint replaces that
    count, so if one may be restored, this returns `max_samples` itself.
    """
    if max_samples in (None, sys.maxsize) or restores:
        return max_samples
    return max(0, max_samples - trainer.total_number_of_samples_seen)


def _source_length(source, samples_left, restores):
    """Returns an upper bound on the (samples, sweeps) that the run trains.

    It follows from what the source gives and from `max_samples`.
    """
    samples, sweeps = sources.length(source, anew=restores)
    once = sources.sweep_of(source)
    if sweeps is None and once and samples_left not in (None, sys.maxsize):
        sweeps = -(-samples_left // once)
    return samples, sweeps


def _warn_of_what_is_not_exact(trainer, source, workers, checkpoint_file):
    if remember.truncated(source):
        warnings.warn(
            'this source cuts its sequences (truncation_length), and where an '
            'optimization is due it is restored to its position: CNTK then drops the '
            'sequences it has begun, so some samples are not trained',
            stacklevel=3,
        )
    if workers.drops_empty_minibatch and random_state.has_state(trainer.loss_function):
        warnings.warn(
            'block momentum synchronizes at every save, and a swap saves: with random '
            'state in the network (Dropout is such) the run after it is not that of '
            'plain CNTK, bit for bit',
            stacklevel=3,
        )
    if checkpoint_file and not sources.has_position(source):
        warnings.warn(
            f'the minibatch source {type(source).__name__} keeps no position in a '
            'checkpoint, so a resumed run reads its data from the beginning: override '
            'get_checkpoint_state() and restore_from_checkpoint(state)',
            stacklevel=3,
        )


class Session:
    """A training session with callbacks; made by `nc.training_session`.

    Args:
        trainer (cntk.Trainer): the user's.
        engine (engine.Engine), segments (engine.segments.Segments): those of the run.
        checkpoint_file (str): the name C++ writes checkpoints to; None if it writes none.
        samples_left (callable): returns how many samples are left to train, None if the source
            decides. It is called in `train`, since the trainer may have trained after the session
            was made.

    Attributes:
        trainer (cntk.Trainer): the user's.
        result (nc.Result): filled by `train`, even if training is interrupted or fails.
    """

    def __init__(
        self,
        trainer: C.Trainer,
        engine: Engine,
        segments: Segments,
        checkpoint_file: Optional[str],
        samples_left: Callable[[], Optional[int]],
    ) -> None:
        self.trainer = trainer
        self.engine = engine
        self._segments = segments
        self._checkpoint_file = checkpoint_file
        self._samples_left = samples_left
        self._trained = False
        self.result.awaits = 'train() has not been called'

    def __repr__(self):
        return f'<Session: {self.result!r}>'

    def _repr_html_(self):
        return self.result._repr_html_()

    @property
    def result(self) -> Result:
        """The `nc.Result` of the run."""
        return self.engine.result

    def train(self, device: Optional[C.DeviceDescriptor] = None) -> None:
        """Trains to the end and applies each optimization when it is due.

        Args:
            device (cntk.device.DeviceDescriptor): as in `cntk.train.TrainingSession.train`.

        Raises:
            RuntimeError: the session has already trained, or `nc.attach` watches the trainer.
            Whatever an optimization, an observer, a progress writer, a minibatch source or a
                cross-validation callback raises, unchanged; `result` is then partial.
        """
        if self._trained:
            raise RuntimeError(
                'this session has been trained: a session trains once, make a new '
                'one with nc.training_session(...) to train on'
            )
        remember.refuse_attached(self.trainer)
        self._trained = True
        self.result.awaits = 'train() has not ended'
        engine = self.engine
        engine.measure_on(device)
        with directors.guarded() as caught:
            try:
                engine.begin(self._samples_left())
                engine.phases.lock(self._checkpoint_file)
                restored = engine.start(self._segments.to_restore())
                caught.check()
                self._segments.run(caught, device, restored)
                engine.finish()
            except BaseException as error:
                if engine.workers.count > 1 and not getattr(error, 'on_all_workers', False):
                    engine.workers.end_all()
                engine.abandon()
                raise
            engine.close()
