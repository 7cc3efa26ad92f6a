"""Which tests `make test` leaves out."""
import collections

import pytest


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
