"""Which cases of a table every run tests, and which only `make test-all`."""
import pytest


def few(values, *fast):
    """Returns the parameters of a test: each of `values`, marked slow if it is not in `fast`."""
    missing = [value for value in fast if value not in values]
    assert not missing, f'not among the cases: {missing}'
    return [
        value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values
    ]
