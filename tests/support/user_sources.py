"""Minibatch sources of a user's own, and scripts on them and on sequences."""
import cntk as C
import numpy as np
from cntk import cntk_py
from cntk.io import MinibatchData, StreamInformation

from user_script import SAMPLES, Script


class Rows(C.io.UserMinibatchSource):
    """A source without checkpoint state: shuffled anew in each sweep.

    Attributes:
        read (list): the row numbers of each minibatch, as they were asked for.
    """

    def __init__(self, images, labels, sweeps):
        self._images, self._labels = images, labels
        self._order = np.concatenate(
            [np.random.RandomState(sweep).permutation(SAMPLES) for sweep in range(sweeps)]
        )
        self._place = 0
        self.read = []
        super().__init__()

    def stream_infos(self):
        return [
            StreamInformation('x', 0, 'dense', np.float32, (1, 6, 6)),
            StreamInformation('label', 1, 'dense', np.float32, (5,)),
        ]

    def next_minibatch(self, num_samples, number_of_workers=1, worker_rank=0, device=None):
        end = min(self._place + num_samples, len(self._order))
        rows = self._order[self._place : end]
        if not len(rows):
            return {}
        sweep_end = self._place // SAMPLES != end // SAMPLES
        self._place = end
        self.read.append([int(row) for row in rows])
        return {
            self.streams[name]: MinibatchData(
                C.Value(np.ascontiguousarray(array[rows])), len(rows), len(rows), sweep_end
            )
            for name, array in (('x', self._images), ('label', self._labels))
        }


class PlacedRows(Rows):
    """The same, with checkpoint state."""

    def get_checkpoint_state(self):
        return {'place': self._place}

    def restore_from_checkpoint(self, state):
        self._place = int(state['place'])


class ManualRows(PlacedRows):
    """The same in the form of CNTK's manual: it must be given its worker and its device."""

    def next_minibatch(self, num_samples, number_of_workers, worker_rank, device):
        assert isinstance(device, cntk_py.DeviceDescriptor)
        return super().next_minibatch(num_samples, number_of_workers, worker_rank, device)


OWN = {'user': Rows, 'user with state': PlacedRows, 'user as in the manual': ManualRows}


class Images(Script):
    """The script of the other tests, also on sources of the user's own.

    Args:
        source (str): of `OWN`, or of those of `Script`.
    """

    def _source(self, kind):
        if kind in OWN:
            return OWN[kind](self.images, self.labels, self._sweeps)
        return super()._source(kind)


class Sequences(Script):
    """The same on sequences of 1 to 3 vectors, through a recurrent layer.

    CNTK's source of arrays raises where fewer samples are left than a sequence has, so all data
    is text here.
    """

    width = 6

    def _arrays(self):
        super()._arrays()
        lengths = np.random.RandomState(5).randint(1, 4, SAMPLES)
        self.images = [
            np.ascontiguousarray(image.reshape(6, 6)[:length])
            for image, length in zip(self.images, lengths)
        ]

    def _input(self):
        return C.sequence.input_variable(6, name='x')

    def _rows(self):
        return self.images

    def _small(self, samples):
        source = C.io.MinibatchSource(
            self._deserializer(('x', 'label')), randomize=False, max_samples=samples
        )
        return source, self._streams(source, 'ctf')

    def _network(self, dropout):
        layers = C.layers
        return layers.Sequential(
            [
                layers.Fold(layers.RNNStep(7)),
                layers.Dropout(0.3, seed=5),
                layers.Dense(6, activation=C.tanh, name='hidden'),
                layers.Dense(5, name='classify'),
            ]
        )(self.x)
