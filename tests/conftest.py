"""Which tests `make test` leaves out, and what each test begins with."""
import collections

import pytest
from cntk import cntk_py


@pytest.fixture(autouse=True)
def first_weights_do_not_depend_on_other_tests():
    cntk_py.reset_random_seed(1)


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items):
    """Marks all but n cases, evenly spread, of a test marked `few(n)` as slow, of those that are
    not slow anyway."""
    cases = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker('few') and not item.get_closest_marker('slow'):
            cases[item.parent, item.originalname].append(item)
    for these in cases.values():
        (count,) = these[0].get_closest_marker('few').args
        for number, item in enumerate(these):
            if (number * count) % len(these) >= count:
                item.add_marker(pytest.mark.slow)
