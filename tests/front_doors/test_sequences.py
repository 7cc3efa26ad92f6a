"""Random sequences of what a user does to one trainer.

Under optimizations that change nothing, each sequence is done with plain CNTK too: as bytes, after
each action. Under those that change the structure, every checkpoint is restored at once and again
later: the trainer is then as it was, and goes on as it did.
"""
import os
import random

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine.checkpoint import schedule_of
from netopt_callbacks.trainers import remember
from user_script import SAMPLES, Identity, Script, binarize, factor

FAST = 4
ALL = 60
SEEDS = [pytest.param(seed, marks=[] if seed < FAST else pytest.mark.slow) for seed in range(ALL)]
EPOCH = 128

# What plain CNTK says of the last minibatch once the network's memory was used again, or the last
# one was empty; the trainer before a swap, which ours asks until the one after it has trained, may
# still know.
FORGOTTEN = 'forgotten'


def user(**options):
    return Script(sweeps=10**5, test=False, cross_validation=0, frequency=None, **options)


class User:
    """Does things to a script's trainer.

    Args:
        script (Script): as `user` makes it.
        folder (py.path.local): of its checkpoints.
        ours (bool): whether callbacks are given, or the same is done with plain CNTK.
    """

    def __init__(self, script, folder, ours=True):
        self.script = script
        self.number = 0  # of the next minibatch
        self._folder = folder
        self._ours = ours
        self._run = None
        self._made = []  # sessions not trained yet

    def train(self, minibatches):
        script, losses = self.script, []
        for self.number in range(self.number + 1, self.number + 1 + minibatches):
            start = self.number * 64 % (SAMPLES - 64)
            script.trainer.train_minibatch(
                {
                    script.x: script.images[start : start + 64],
                    script.label: script.labels[start : start + 64],
                }
            )
            losses.append(script.trainer.previous_minibatch_loss_average)
        return losses

    def fetch(self):
        script = self.script
        asked = [script.z.output, script.loss.output]
        _, values = script.trainer.train_minibatch(
            {script.x: script.images[:64], script.label: script.labels[:64]}, outputs=asked
        )
        return [values[variable].tobytes() for variable in asked]

    def train_nothing(self):
        return self.script.trainer.train_minibatch({})

    def ask_for_the_last_minibatch(self):
        trainer = self.script.trainer
        try:
            return (
                trainer.previous_minibatch_loss_average,
                trainer.previous_minibatch_sample_count,
                trainer.previous_minibatch_evaluation_average,
            )
        except RuntimeError as error:  # C++'s own session ends with an empty minibatch
            assert 'Value object is invalid' in str(error) or 'the minibatch was empty' in str(
                error
            )
            return FORGOTTEN

    def summarize(self):
        self.script.trainer.summarize_training_progress()

    def test(self):
        script = self.script
        error = script.trainer.test_minibatch(
            {script.x: script.images[:50], script.label: script.labels[:50]}
        )
        script.trainer.summarize_test_progress()
        return error

    def evaluate(self):
        return self.script.z.eval({self.script.x: self.script.images[:7]}).tobytes()

    def save(self, name):
        self.script.trainer.save_checkpoint(self._path(name), {'number': self.number})

    def restore(self, name):
        self.number = self.script.trainer.restore_from_checkpoint(self._path(name))['number']

    def attach(self, callbacks):
        if self._ours:
            self._run = nc.attach(
                self.script.trainer, callbacks, epoch_size=EPOCH, data=self.script.held_out
            )

    def finish(self):
        if self._ours:
            self._run.finish()

    def interrupt(self):
        if self._ours:
            self._run.__exit__(KeyboardInterrupt, None, None)

    def make_session(self, callbacks, samples, frequency):
        seen = self.script.trainer.total_number_of_samples_seen
        arguments = dict(
            self.script.arguments, max_samples=seen + samples, progress_frequency=frequency
        )
        if self._ours:
            arguments.update(callbacks=callbacks, epoch_size=EPOCH, data=self.script.held_out)
        self._made.append((nc if self._ours else C).training_session(**arguments))

    def train_session(self):
        self._made.pop().train()

    def session(self, *arguments):
        self.make_session(*arguments)
        self.train_session()

    def _path(self, name):
        return os.path.join(str(self._folder), name)


def schedule_after(callbacks, before):
    """Returns what the trainer's checkpoints are of: a run without optimizations goes on with
    it."""
    optimizations = [each for each in callbacks or () if isinstance(each, nc.Optimization)]
    return repr(schedule_of(optimizations)) if optimizations else before


def some_callbacks(choice, optimize):
    """Returns optimizations that change nothing, an observer, or no callbacks."""
    if not optimize:
        return choice([[nc.Observer()], []])
    return choice(
        [
            [Identity(epoch=choice([0, 1])) for _ in range(choice([1, 2]))],
            [Identity(epoch=2)],
            [nc.Observer()],
            [],
        ]
    )


def actions(draw, optimize):
    """Yields (name of a method of `User`, arguments), what follows from what was done before.

    Args:
        optimize (bool): whether any of the callbacks are optimizations.
    """
    schedule, attached, saved, made = None, False, {}, []
    # An open window of a trainer that was never attached is not known: docs/training.md.
    yield 'attach', [nc.Observer()]
    yield 'train', 1
    yield 'finish',
    for _ in range(25):
        action = draw.choice(
            [
                'train',
                'train',
                'train',
                'fetch',
                'train_nothing',
                'ask_for_the_last_minibatch',
                'summarize',
                'test',
                'evaluate',
                'save',
                'save',
                'restore',
                'restore',
                'attach',
                'attach',
                'session',
                'make_session',
                'train_session',
            ]
        )
        if action == 'train':
            yield action, draw.randint(1, 6)
        elif action == 'make_session':  # trained when others have trained, or not at all
            if not attached:
                made.append(
                    draw.choice([[Identity(epoch=0)] if optimize else [], [nc.Observer()], None])
                )
                # An optimization needs a sample to train, whatever the others have trained by then.
                samples = 5000 if made[-1] and optimize else draw.randint(300, 1500)
                yield action, made[-1], samples, draw.choice([None, 200, 500])
        elif action == 'train_session':
            if made and not attached:
                schedule = schedule_after(made.pop(), schedule)
                yield action,
        elif action == 'save':
            name = draw.choice('abc')
            saved[name] = schedule
            yield action, name
        elif action == 'restore':
            known = [name for name, of in sorted(saved.items()) if of in (None, schedule)]
            if known:
                yield action, draw.choice(known)
        elif action == 'attach':
            if attached:
                yield 'train', 6  # two epochs: all that is to be applied is due
                yield draw.choice(['finish', 'finish', 'interrupt']),
            else:
                callbacks = some_callbacks(draw.choice, optimize)
                schedule = schedule_after(callbacks, schedule)
                yield action, callbacks
                yield 'train', 1
            attached = not attached
        elif action == 'session':
            if not attached:
                callbacks = some_callbacks(draw.choice, optimize)
                schedule = schedule_after(callbacks, schedule)
                yield action, callbacks or None, draw.randint(300, 900), draw.choice(
                    [None, 200, 500]
                )
        else:
            yield action,
    if attached:
        yield 'train', 6
        yield 'finish',
    yield 'train', 2
    yield 'summarize',


@pytest.mark.few(2)
@pytest.mark.parametrize('seed', SEEDS)
def test_what_changes_nothing_equals_plain_cntk_after_each_action(seed, tmpdir):
    draw = random.Random(seed)
    options = dict(
        learner=draw.choice(
            ['momentum_sgd', 'adam', 'several', 'sgd and user with state', 'rate by sweeps']
        ),
        log=draw.choice([1, 3]),
        # Plain CNTK forgets its state in a checkpoint; an optimization does not.
        dropout=draw.random() < 0.3,
    )
    planned = list(actions(draw, optimize=not options['dropout']))
    plain = User(user(**options), tmpdir.mkdir('plain'), ours=False)
    expected = []
    for name, *arguments in planned:
        expected.append([getattr(plain, name)(*arguments), plain.script.outcome()])
    ours = User(user(**options), tmpdir.mkdir('ours'))
    for step, (name, *arguments) in enumerate(planned):
        answer, outcome = expected[step]
        answers = getattr(ours, name)(*arguments) == answer or answer is FORGOTTEN
        assert answers, planned[: step + 1]
        # Said in a word: pytest takes minutes to explain how two outcomes differ.
        equal = ours.script.outcome() == outcome
        assert equal, planned[: step + 1]


def changes(draw, model):
    """Returns callbacks that can be applied to a model as it is now."""
    names = [function.op_name for function in nc.graph.walk(model)]
    possible = [[Identity(epoch=1)], [nc.Observer()], []]
    dense, convolution = 'DenseFactored' not in names, 'BinaryConvolution' not in names
    if dense:
        possible += [[factor(draw.choice([0, 1]), 3)], [factor(1, 3, learner_state='project')]]
    if convolution:
        possible += [[binarize(1)]]
    if dense and convolution:
        possible += [[factor(1, 3), binarize(2)]]
    return draw.choice(possible)


class Fragile(C.Trainer):
    """Raises once it has restored a checkpoint, where it is told to."""

    breaks = False

    def restore_from_checkpoint(self, filename):
        state = super().restore_from_checkpoint(filename)
        if self.breaks:
            raise ZeroDivisionError('after it')
        return state


def refused(does, name):
    """Tries to restore a checkpoint, which raises."""
    does.script.trainer.breaks = True
    try:
        with pytest.raises((ZeroDivisionError, ValueError)):
            does.restore(name)
    finally:
        does.script.trainer.breaks = False


def ahead(does):
    """Returns what follows in the next minibatches."""
    return does.train(2), does.fetch(), does.train(1), does.script.state()


@pytest.mark.slow
@pytest.mark.parametrize('seed', SEEDS)
def test_a_restored_trainer_is_as_it_was_and_goes_on_as_it_did(seed, tmpdir):
    draw = random.Random(seed)
    script = user(
        learner=draw.choice(['sgd', 'momentum_sgd', 'nesterov']), dropout=draw.random() < 0.6
    )
    script.trainer = Fragile(script.z, (script.loss, script.metric), script.learners, [script.log])
    script.arguments['trainer'] = script.trainer
    other = User(user(learner='several'), tmpdir)
    other.train(2)
    other.save('of other learners')
    does, done = User(script, tmpdir), []
    schedule, attached, saved = None, False, {}

    def seen():
        phases = remember.facts(script.trainer).phases
        return does.number, script.state(), does.evaluate(), phases and list(phases.applied)

    for _ in range(20):
        action = draw.choice(
            [
                'train',
                'summarize',
                'save',
                'save',
                'restore',
                'restore',
                'refused',
                'attach',
                'attach',
                'session',
            ]
        )
        done.append(action)
        if action == 'train':
            does.train(draw.randint(1, 5))
        elif action == 'summarize':
            does.summarize()
        elif action == 'save':
            if schedule is None:
                continue  # plain CNTK's own, without the state of Dropout
            does.train(1)  # what is due is done
            name = draw.choice('abc')
            does.save(name)
            before = seen()
            followed = ahead(does)
            changed = seen()[-1] != before[-1]
            for _ in range(2):
                does.restore(name)
                assert seen() == before, done
                assert ahead(does) == followed, done
            does.restore(name)
            saved[name] = schedule, before, None if changed else followed
        elif action == 'restore':
            known = [name for name, (of, _, _) in sorted(saved.items()) if of == schedule]
            if known:
                name = draw.choice(known)
                _, before, followed = saved[name]
                does.restore(name)
                assert seen() == before, done
                follows = ahead(does)
                # Of one schedule, but in a run that is over nothing more is due.
                if followed is not None and seen()[-1] == before[-1]:
                    assert follows == followed, done
                does.restore(name)
        elif action == 'refused':
            if schedule is None:
                continue
            does.train(1)
            does.save('now')
            before, followed = seen(), ahead(does)
            does.restore('now')
            refused(does, draw.choice(sorted(saved) + ['of other learners']))
            assert seen() == before, done
            assert ahead(does) == followed, done
            does.restore('now')
        elif attached:
            does.train(6)
            does.finish()
            attached = False
        else:
            callbacks = changes(draw, script.z)
            done[-1] = action, callbacks
            schedule = schedule_after(callbacks, schedule)
            if action == 'session':
                does.session(callbacks or None, draw.randint(300, 900), draw.choice([None, 200]))
            else:
                does.attach(callbacks)
                does.train(1)
                attached = True
    if attached:
        does.train(6)
        does.finish()
