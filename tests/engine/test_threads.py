"""Several Python threads of one process: what we do in one leaves the others alone."""
import sys
import threading
import time

import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.readers import readers
from user_script import Identity, Script


@pytest.fixture
def threads_switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_finding_readers_leaves_what_another_thread_builds_alone(threads_switch_often):
    """CPython raises SystemError from a tuple that somebody else refers to while it is built."""
    stop, built, errors = threading.Event(), [], []

    def build():
        while not stop.is_set():
            try:
                built.append(tuple([number] for number in range(100)))
            except SystemError as error:
                errors.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        held = C.relu(C.input_variable(3))
        for _ in range(30):
            assert any(function is held for function in readers.live()[0])
    finally:
        stop.set()
        thread.join()
    assert built and not errors


class Slow(Identity):
    """Waits inside a transform, long enough for another thread to come in if it could."""

    inside, overlaps = 0, 0

    def transform(self, model):
        Slow.inside += 1
        time.sleep(0.2)
        Slow.overlaps += Slow.inside > 1
        Slow.inside -= 1
        return super().transform(model)


def test_networks_change_in_two_threads(threads_switch_often):
    """They change in turn; each thread's run is, in every bit, one with no other thread."""
    outcomes = []

    def train(script):
        changes = [
            nc.FactorDense(epoch=1, rank=3, filter_function=lambda layer: layer.name == 'classify'),
            Slow(epoch=1),
            nc.BinarizeDense(epoch=2, filter_function=lambda layer: layer.name == 'hidden'),
        ]
        outcomes.append(script.run(changes))

    # Built here, since CNTK does not build two networks at a time.
    scripts = [Script(test=False, cross_validation=0) for _ in range(3)]
    train(scripts[0])
    threads = [threading.Thread(target=train, args=(script,)) for script in scripts[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone, *beside = outcomes
    assert beside == [alone, alone]
    assert not Slow.overlaps
