"""Loaded by pytest in the process that runs CNTK's own tests: see `test_cntk_own_tests`."""
import os
import sys

import cntk as C
import pytest

import netopt_callbacks as nc

MODE = os.environ['NETOPT_SESSION']


class Identity(nc.Optimization):
    """Changes nothing; the engine exchanges trainer and graph all the same."""

    def transform(self, model):
        return model


def session(*arguments, **options):
    """Takes the place of cntk.training_session."""
    if MODE == 'identity after 7 samples':
        options.update(callbacks=[Identity(epoch=1)], epoch_size=7)
    return nc.training_session(*arguments, **options)


if MODE != 'cntk':
    C.training_session = session
    sys.modules['cntk.train.training_session'].training_session = session


@pytest.fixture
def device_id():
    """What the conftest of CNTK's source tree gives on a machine without a GPU."""
    return -1
