"""A greedy decoder beside the training, as CNTK's Sequence2Sequence example makes it before the
first minibatch: `UnfoldFrom` over the layers that are trained, which CNTK itself cannot clone."""
import cntk as C
import numpy as np
import pytest
from cntk.layers.typing import Sequence, Tensor

import netopt_callbacks as nc
from user_script import Identity

WORDS = 5
START = C.Constant(np.eye(WORDS, dtype=np.float32)[0])


class Script:
    """Names as in the example."""

    def __init__(self):
        C.cntk_py.reset_random_seed(1)
        self.step = C.layers.Sequential(
            [
                C.layers.Recurrence(C.layers.GRU(6)),
                C.layers.Dense(10, C.tanh, name='hidden'),
                C.layers.Dense(WORDS, name='out'),
            ]
        )
        self.x, self.y = C.sequence.input_variable(WORDS), C.sequence.input_variable(WORDS)
        self.z = self.step(self.x)
        self.greedy = self.decoder()
        # The example gives its Trainer the criterion only.
        self.criterion = C.combine(
            C.cross_entropy_with_softmax(self.z, self.y), C.classification_error(self.z, self.y)
        )
        self.trainer = C.Trainer(
            None, tuple(self.criterion.outputs), [C.adam(self.z.parameters, 0.1, 0.9)]
        )

    def decoder(self):
        """Returns a new decoder over the layers as they are now."""

        @C.Function
        @C.layers.Signature(Sequence[Tensor[WORDS]])
        def greedy(like):
            unfold = C.layers.UnfoldFrom(lambda history: C.hardmax(self.step(history)))
            return unfold(initial_state=START, dynamic_axes_like=like)

        return greedy

    def train(self, callbacks):
        """Returns what is known after each minibatch: loss, decoded words."""
        run = (
            None if callbacks is None else nc.attach(self.trainer, callbacks, epoch_size=3 * 16 * 4)
        )
        random, found = np.random.RandomState(0), []
        for _ in range(8):
            data = [
                np.eye(WORDS, dtype=np.float32)[random.randint(WORDS, size=4)] for _ in range(16)
            ]
            self.trainer.train_minibatch({self.x: data, self.y: data})
            words = [each.argmax(1).tolist() for each in self.greedy(data[:3])]
            found.append((self.trainer.previous_minibatch_loss_average, words))
        self.data = data
        self.result = run and (run.finish(), run.result)[1]
        return found


@pytest.mark.parametrize('callbacks', [[], [Identity(epoch=1)]], ids=['observers', 'identity'])
def test_training_beside_a_decoder_is_plain_cntks(callbacks):
    assert Script().train(callbacks) == Script().train(None)


@pytest.mark.parametrize(
    'kind', [lambda **o: nc.FactorDense(rank=3, **o), nc.BinarizeDense], ids=['factor', 'binarize']
)
def test_a_decoder_follows(kind):
    script = Script()
    script.train([kind(epoch=1, filter_function=lambda layer: layer.name == 'hidden')])
    kept, new = (
        [np.asarray(each) for each in decoder(script.data)]
        for decoder in (script.greedy, script.decoder())
    )
    assert all(np.array_equal(*pair) for pair in zip(kept, new))
    parameters = {parameter.name for parameter in script.greedy.parameters}
    assert parameters == {parameter.name for parameter in script.z.parameters}


def test_the_model_of_the_result_is_not_the_decoder():
    script = Script()
    script.train([Identity(epoch=1)])
    assert 'Hardmax' not in [part.op_name for part in nc.graph.walk(script.result.model)]
    assert np.array_equal(
        script.result.model.eval({script.result.model.arguments[0]: script.data[:1]})[0],
        script.z.eval({script.x: script.data[:1]})[0],
    )


def test_the_graph_can_be_copied_where_cntk_cannot():
    script = Script()
    data = [np.eye(WORDS, dtype=np.float32)[[1, 3, 2]]]
    with pytest.raises(ValueError, match="contain some of the root Function's outputs but not all"):
        script.greedy.clone('share')
    copy = nc.graph.clone_shared(script.greedy)
    assert np.array_equal(copy(data)[0], script.greedy(data)[0])
