"""Ctrl-C while CNTK clones, which calls Python: a KeyboardInterrupt, and a trainer as it was."""
import os
import signal

import cntk as C
import numpy as np
import pytest
from cntk.ops.functions import UserFunction

import netopt_callbacks as nc

PRESS = []


class Through(UserFunction):
    """Hands its input on; while it is cloned, Ctrl-C is pressed as often as `PRESS` says."""

    def __init__(self, operand, name='through'):
        super().__init__([operand], name=name)

    def forward(self, value, device=None, outputs_to_retain=None):
        return None, value

    def backward(self, state, gradient):
        return gradient

    def infer_outputs(self):
        operand = self.inputs[0]
        return [C.output_variable(operand.shape, operand.dtype, operand.dynamic_axes)]

    def clone(self, operands):
        if PRESS:
            PRESS.pop()
            os.kill(os.getpid(), signal.SIGINT)
        return Through(operands[0], self.name)


class Copies(nc.Optimization):
    """Returns a copy of the network on its own Parameters."""

    def transform(self, model):
        return model.clone(
            C.CloneMethod.share, {argument: argument for argument in model.arguments}
        )


@pytest.fixture(autouse=True)
def keyboard():
    """Python's own answer to Ctrl-C, also where these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    del PRESS[:]


def test_hand_loop():
    random = np.random.RandomState(1)
    x, y = C.input_variable(6), C.input_variable(3)
    z = C.layers.Dense(3)(C.user_function(Through(C.layers.Dense(5)(x))))
    trainer = C.Trainer(
        z,
        C.cross_entropy_with_softmax(z, y),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.1))],
    )
    batch = {
        x: random.rand(8, 6).astype(np.float32),
        y: np.eye(3, dtype=np.float32)[random.randint(0, 3, 8)],
    }
    with nc.attach(trainer, [Copies(epoch=2)], epoch_size=8) as run:
        for _ in range(2):
            trainer.train_minibatch(batch)
        inside, values = trainer.this, [p.value for p in z.parameters]
        PRESS.append(1)
        with pytest.raises(KeyboardInterrupt):
            trainer.train_minibatch(batch)
        assert not PRESS and trainer.this is inside and not run.result.records
        assert all(np.array_equal(p.value, value) for p, value in zip(z.parameters, values))
        trainer.train_minibatch(batch)
        assert len(run.result.records) == 1
