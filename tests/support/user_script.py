"""A user's training script, to be run with plain CNTK or with ours, and what it leaves as bytes."""
import os
import sys

import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.internal.utils import _py_dict_to_cntk_dict
from cntk.layers.typing import Tensor

import netopt_callbacks as nc

SAMPLES = 700
EPOCH = 320  # of `loop`
KILLED = 9  # what a process returns that `Killer` ends
RATES = [(1, 0.05), (1, 0.02), (1, 0.01)]

cntk_py.force_deterministic_algorithms()


class Identity(nc.Optimization):
    """Changes nothing; the engine exchanges trainer and graph all the same."""

    def transform(self, model):
        return model


class Stops(nc.Observer):
    """Interrupts training after a number of minibatches of this process; 0 lets it go on."""

    def __init__(self, minibatches):
        super().__init__()
        self._left = minibatches

    def on_minibatch(self, samples, loss, metric):
        self._left -= 1
        if self._left == 0:
            self.stop()

    def stop(self):
        raise KeyboardInterrupt


class Killer(Stops):
    """Ends the process as kill -9 does."""

    def stop(self):
        os._exit(KILLED)


def hidden(layer):
    """A filter_function: the Dense layer of `Script` between the convolution and the classes."""
    return layer.name == 'hidden'


def factor(epoch=1, rank=4, **options):
    return nc.FactorDense(epoch=epoch, rank=rank, filter_function=hidden, **options)


def binarize(epoch):
    return nc.BinarizeConvolution(epoch=epoch, filter_function=lambda layer: True)


def sgd(parameters):
    return C.sgd(parameters, C.learning_parameter_schedule(0.05))


def universal(parameters):
    def update(parameters, gradients):
        return C.combine([C.assign(p, p - 0.01 * g) for p, g in zip(parameters, gradients)])

    return C.universal(update, parameters)


def before_the_import(parameters):
    learner = sgd(parameters)
    del learner.__dict__['_netopt_callbacks']
    return learner


class Log(cntk_py.ProgressWriter):
    """Keeps every event of a progress writer, exactly as CNTK tells it, but for the time it
    took."""

    def __init__(self, frequency=1):
        super().__init__(frequency, 0, sys.maxsize, 0, sys.maxsize, 0)
        self.__disown__()
        self.freq = frequency
        self.events = []

    def on_write_training_update(self, *values):
        self.events.append(('update',) + values)

    def on_write_training_summary(self, *values):
        self.events.append(('summary',) + values[:-1])

    def on_write_test_update(self, *values):
        self.events.append(('test update',) + values)

    def on_write_test_summary(self, *values):
        self.events.append(('test summary',) + values[:-1])

    def on_write_distributed_sync_update(self, *values):
        self.events.append(('sync',) + values)

    def on_training_update_end(self):
        self.events.append(('end',))

    def write(self, key, value):
        self.events.append(('write', key, value))


def _rate(value=None):
    if value is not None:
        return C.learning_parameter_schedule(value)
    return C.learning_parameter_schedule(RATES, epoch_size=SAMPLES)


class Halves(C.learners.UserLearner):
    """A learner of the user's own: plain gradient descent in NumPy."""

    def __init__(self, parameters):
        super().__init__(parameters, C.learning_parameter_schedule(0.05))

    def update(self, gradient_values, training_sample_count, sweep_end):
        for parameter, gradient in gradient_values.items():
            step = np.asarray(gradient.to_ndarray()) * np.float32(0.05 / training_sample_count)
            parameter.value = parameter.value - step
        return True


class Heavy(C.learners.UserLearner):
    """A learner of the user's own with state, momentum, that goes into a checkpoint."""

    def __init__(self, parameters):
        super().__init__(parameters, C.learning_parameter_schedule(0.05))
        self.velocities = [(p, np.zeros(p.shape, np.float32)) for p in parameters]

    def update(self, gradient_values, training_sample_count, sweep_end):
        for parameter, velocity in self.velocities:
            gradient = np.asarray(gradient_values[parameter].to_ndarray())
            velocity *= np.float32(0.9)
            velocity += gradient / np.float32(training_sample_count)
            parameter.value = parameter.value - np.float32(0.05) * velocity
        return True

    def create_checkpoint(self):
        return _py_dict_to_cntk_dict(
            {
                'velocities': [
                    [float(value) for value in velocity.ravel()] for _, velocity in self.velocities
                ]
            }
        )

    def restore_from_checkpoint(self, checkpoint):
        for (_, velocity), saved in zip(self.velocities, checkpoint['velocities']):
            velocity.ravel()[:] = saved


LEARNERS = {
    'sgd': lambda p: [C.sgd(p, _rate())],
    'momentum_sgd': lambda p: [C.momentum_sgd(p, _rate(), 0.9)],
    'nesterov': lambda p: [C.nesterov(p, _rate(), 0.9)],
    'adam': lambda p: [C.adam(p, _rate(0.003), 0.9)],
    'adagrad': lambda p: [C.adagrad(p, _rate())],
    'adadelta': lambda p: [C.adadelta(p, _rate(1.0))],
    'fsadagrad': lambda p: [C.fsadagrad(p, _rate(0.003), 0.9)],
    'rmsprop': lambda p: [C.rmsprop(p, _rate(0.003), 0.95, 1.2, 0.7, 10.0, 0.001)],
    'L1 and L2': lambda p: [
        C.momentum_sgd(
            p, _rate(), 0.9, l1_regularization_weight=1e-4, l2_regularization_weight=1e-3
        )
    ],
    'clipping': lambda p: [
        C.momentum_sgd(p, _rate(), 0.9, gradient_clipping_threshold_per_sample=0.01)
    ],
    'clipping by norm': lambda p: [
        C.sgd(
            p,
            _rate(),
            gradient_clipping_threshold_per_sample=0.01,
            gradient_clipping_with_truncation=False,
        )
    ],
    'noise': lambda p: [C.sgd(p, _rate(), gaussian_noise_injection_std_dev=0.01)],
    'several': lambda p: [C.momentum_sgd(p[:3], _rate(), 0.9), C.adam(p[3:], _rate(0.003), 0.9)],
    'part': lambda p: [C.momentum_sgd(p[:4], _rate(), 0.9)],
    'user': lambda p: [Halves(p)],
    'user and sgd': lambda p: [Halves(p[:3]), C.sgd(p[3:], _rate())],
    'sgd and user with state': lambda p: [C.sgd(p[3:], _rate()), Heavy(p[:3])],
    'rate by sweeps': lambda p: [C.momentum_sgd(p, C.learning_parameter_schedule(RATES), 0.9)],
}


class Script:
    """Data, network, learners and configs of a run, made anew and alike for every instance.

    Args:
        learner (str): of `LEARNERS`.
        source (str): 'arrays', 'data', 'ctf' or 'composite'.
        frequency: of progress; cross-validation has one of its own.
        sweeps (int): how often the data is seen.
        folder (str): where text data and checkpoints go.
    """

    width = 36  # of x in a line of text

    def __init__(
        self,
        learner='momentum_sgd',
        source='data',
        frequency=500,
        sweeps=4,
        minibatch=64,
        max_samples=None,
        checkpoint=None,
        preserve_all=False,
        test=True,
        cross_validation=300,
        folder=None,
        log=1,
        dropout=True,
    ):
        cntk_py.reset_random_seed(1)
        self._arrays()
        self.x = self._input()
        self.label = C.input_variable(5, name='label')
        self.z = self._network(dropout)
        self.loss = C.cross_entropy_with_softmax(self.z, self.label)
        self.metric = C.classification_error(self.z, self.label)
        self.log = Log(log)
        self.learners = LEARNERS[learner](list(self.z.parameters))
        self.trainer = C.Trainer(self.z, (self.loss, self.metric), self.learners, [self.log])
        self._folder = folder
        self._sweeps = sweeps
        self.source = self._source(source)
        self.arguments = dict(
            trainer=self.trainer,
            mb_source=self.source,
            mb_size=minibatch,
            model_inputs_to_streams=self._streams(self.source, source),
            max_samples=max_samples if source != 'arrays' else max_samples or sweeps * SAMPLES,
            progress_frequency=frequency,
        )
        if cross_validation:
            self.arguments['cv_config'] = self._cross_validation(cross_validation)
        if test:
            self.arguments['test_config'] = self._test()
        if checkpoint:
            self.arguments['checkpoint_config'] = C.CheckpointConfig(
                os.path.join(folder, 'model'), frequency=checkpoint, preserve_all=preserve_all
            )
        self.held_out = self.images[:120], self.labels[:120]

    def _arrays(self):
        random = np.random.RandomState(3)
        self.labels = np.eye(5, dtype=np.float32)[random.randint(0, 5, SAMPLES)]
        signal = random.rand(5, 36).astype(np.float32)
        noise = random.rand(SAMPLES, 36).astype(np.float32)
        self.images = (self.labels.dot(signal) + noise).reshape(SAMPLES, 1, 6, 6)

    def _input(self):
        return C.input_variable((1, 6, 6), name='x')

    def _network(self, dropout):
        layers = C.layers
        return layers.Sequential(
            [
                layers.Convolution2D((3, 3), 6, pad=True, activation=C.relu, name='conv'),
                layers.BatchNormalization(map_rank=1),
                layers.Dropout(0.3, seed=5, name='drop') if dropout else C.layers.identity,
                layers.Dense(12, activation=C.tanh, name='hidden'),
                layers.Dense(5, name='classify'),
            ]
        )(self.x)

    def _source(self, kind):
        if kind == 'arrays':
            return self.images, self.labels
        if kind == 'data':
            return C.io.MinibatchSourceFromData(
                dict(x=(self.images, Tensor[1, 6, 6]), label=(self.labels, Tensor[5])),
                max_samples=self._sweeps * SAMPLES,
            )
        names = {'ctf': [('x', 'label')], 'composite': [('x',), ('label',)]}[kind]
        return C.io.MinibatchSource(
            [self._deserializer(part) for part in names], randomize=True, max_sweeps=self._sweeps
        )

    def _rows(self):
        """Returns the values of x of each sample, as a list of one for each line of text."""
        return [[image] for image in self.images.reshape(SAMPLES, -1)]

    def _deserializer(self, names):
        path = os.path.join(self._folder, '-'.join(names) + '.txt')
        if not os.path.exists(path):
            with open(path, 'w') as stream:
                for number, (rows, label) in enumerate(zip(self._rows(), self.labels)):
                    fields = {'x': rows, 'label': [label]}
                    for line in range(max(len(fields[name]) for name in names)):
                        stream.write(
                            '%d %s\n'
                            % (
                                number,
                                ' '.join(
                                    '|{} {}'.format(
                                        name, ' '.join(f'{v:.9g}' for v in fields[name][line])
                                    )
                                    for name in names
                                    if line < len(fields[name])
                                ),
                            )
                        )
        width = {'x': self.width, 'label': 5}
        streams = {name: C.io.StreamDef(field=name, shape=width[name]) for name in names}
        return C.io.CTFDeserializer(path, C.io.StreamDefs(**streams))

    def _streams(self, source, kind):
        if kind == 'arrays':
            return None
        return {self.x: source.streams['x'], self.label: source.streams['label']}

    def _small(self, samples):
        source = C.io.MinibatchSourceFromData(
            dict(
                x=(self.images[:samples], Tensor[1, 6, 6]), label=(self.labels[:samples], Tensor[5])
            ),
            max_samples=samples,
        )
        return source, {self.x: source.streams['x'], self.label: source.streams['label']}

    def _cross_validation(self, frequency):
        source, streams = self._small(110)
        return C.CrossValidationConfig(
            source, frequency=frequency, minibatch_size=50, model_inputs_to_streams=streams
        )

    def _test(self):
        source, streams = self._small(90)
        return C.TestConfig(source, minibatch_size=40, model_inputs_to_streams=streams)

    def run_plain(self):
        """Trains with cntk.training_session; returns the outcome."""
        C.training_session(**self.arguments).train()
        return self.outcome()

    def run(self, callbacks=(), **options):
        """Trains with nc.training_session; returns the outcome."""
        options.setdefault('epoch_size', SAMPLES)
        self.session = nc.training_session(callbacks=callbacks, **dict(self.arguments, **options))
        self.session.train()
        return self.outcome()

    def state(self):
        """Returns parameters, statistics and learner state as bytes."""
        loss = self.trainer.loss_function
        values = [p.value for p in loss.parameters]
        values += [c.value for c in loss.constants if c.name.startswith('aggregate_')]
        for learner in self.learners:
            if isinstance(learner, C.learners.UserLearner):
                values += [velocity for _, velocity in getattr(learner, 'velocities', ())]
                continue
            checkpoint = learner.create_checkpoint()
            values += [np.asarray(g) for g in checkpoint['smoothed_gradients']]
            values.append(
                np.float64(checkpoint['smoothed_count'])
                if 'smoothed_count' in checkpoint.keys()
                else np.zeros(0)
            )
            values.append(
                np.float64([learner.learning_rate(), learner.total_number_of_samples_seen()])
            )
        return b''.join(np.ascontiguousarray(value).tobytes() for value in values)

    def outcome(self):
        """Returns (events, state): the repr of a float tells all its bits, and 0.0 from -0.0."""
        return repr(self.log.events), self.state()


class Primitive(Script):
    """With a dropout that is no block, whose random state CNTK's own checkpoint keeps."""

    def _network(self, dropout):
        layers = C.layers
        return layers.Sequential(
            [
                layers.Dense(12, activation=C.tanh, name='hidden'),
                lambda data: C.dropout(data, 0.3, seed=5),
                layers.Dense(5, name='classify'),
            ]
        )(self.x)


def loop(script, first=0, last=30):
    """The user's loop; returns what it fetched."""
    fetched = []
    for number in range(first, last):
        start = number * 64 % (SAMPLES - 64)
        _, values = script.trainer.train_minibatch(
            {
                script.x: script.images[start : start + 64],
                script.label: script.labels[start : start + 64],
            },
            outputs=[script.z.output],
        )
        fetched.append(values[script.z.output].tobytes())
        fetched.append(script.trainer.previous_minibatch_loss_average)
        if number % 7 == 6:
            script.trainer.summarize_training_progress()
        if number == 12:
            fetched.append(
                script.trainer.test_minibatch(
                    {script.x: script.images[:64], script.label: script.labels[:64]}
                )
            )
            script.trainer.summarize_test_progress()
    return fetched


def saving(folder, preserve_all=False, sweeps=3, learner='momentum_sgd'):
    """Returns a script that saves a checkpoint into a folder each 300 samples."""
    return Script(
        folder=str(folder),
        test=False,
        checkpoint=300,
        cross_validation=0,
        preserve_all=preserve_all,
        sweeps=sweeps,
        learner=learner,
    )
