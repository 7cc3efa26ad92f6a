"""Loaded by pytest in the process that runs CNTK's own tests: see `test_cntk_own_tests`.

By NETOPT_SESSION: 'cntk' leaves CNTK alone, not even this package is imported; 'import' imports it;
'no callbacks' and 'identity after 7 samples' put our sessions in the place of CNTK's; 'observers'
and 'identity' attach to each Trainer besides, with its first minibatch.
"""
import os
import sys

import cntk as C
import cntk_own_tests_workers
import numpy as np
import pytest

MODE = os.environ['NETOPT_SESSION']

if MODE != 'cntk':
    import netopt_callbacks as nc

    class Identity(nc.Optimization):
        """Changes nothing; the engine exchanges trainer and graph all the same."""

        def transform(self, model):
            return model

    CALLBACKS = {
        'identity after 7 samples': lambda: [Identity(epoch=1)],
        'identity': lambda: [Identity(epoch=1)],
        'observers': lambda: [nc.Observer()],
    }.get(MODE)

    def session(*arguments, **options):
        """Takes the place of cntk.training_session."""
        if CALLBACKS is not None:
            options.update(callbacks=CALLBACKS(), epoch_size=7)
        return nc.training_session(*arguments, **options)

    train_minibatch = C.Trainer.train_minibatch

    def attached(self, *arguments, **options):
        """Attaches to a Trainer that a test trains by hand, and goes on as the test asked."""
        if type(self) is not C.Trainer or C.Trainer.train_minibatch is not attached:
            return train_minibatch(self, *arguments, **options)
        nc.attach(self, CALLBACKS(), epoch_size=1)
        return self.train_minibatch(*arguments, **options)

    if MODE != 'import':
        C.training_session = session
        sys.modules['cntk.train.training_session'].training_session = session
    if MODE in ('observers', 'identity'):
        C.Trainer.train_minibatch = attached


cntk_own_tests_workers.redirect()

# What the conftest of CNTK's source tree does on a machine without a GPU.
C.debugging.set_checked_mode(True)


@pytest.fixture
def device_id():
    return -1


@pytest.fixture(autouse=True)
def same_random_numbers():
    C.cntk_py.reset_random_seed(0)
    np.random.seed(0)  # one test compares with a tolerance that some draws exceed
