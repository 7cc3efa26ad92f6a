"""A table of few rows in which every two values of different axes meet: pairwise coverage."""
import itertools
import random


def every_pair(axes):
    """Returns every pair of values of two axes, each pair as ((axis, value), (axis, value)).

    Args:
        axes (dict): name to list of values (hashable), in an order of its own.
    """
    return {
        ((a, x), (b, y))
        for a, b in itertools.combinations(axes, 2)
        for x in axes[a]
        for y in axes[b]
    }


def pairs_of(row, axes):
    """Returns the pairs of a row, as `every_pair` has them."""
    return set(itertools.combinations([(name, row[name]) for name in axes], 2))


def covering(axes, forbidden=frozenset(), seed=7, candidates=60):
    """Returns rows that cover every pair but the forbidden ones, and hold none of these.

    Greedy: for each pair not covered yet, of some random rows that hold it, the one that
    covers most. The same rows for the same arguments.

    Args:
        axes (dict): as `every_pair` has it.
        forbidden (set): pairs that cannot be run.
        seed (int): of the random rows.
        candidates (int): random rows that are tried for each pair.
    """
    chance = random.Random(seed)
    missing = every_pair(axes) - forbidden
    table = []
    for pair in sorted(missing, key=repr):
        if pair in missing:
            tried = (_random_row(axes, dict(pair), chance) for _ in range(candidates))
            best = max(
                (row for row in tried if not pairs_of(row, axes) & forbidden),
                key=lambda row: len(pairs_of(row, axes) & missing),
            )
            missing -= pairs_of(best, axes)
            table.append(best)
    return table


def _random_row(axes, fixed, chance):
    return {name: fixed[name] if name in fixed else chance.choice(axes[name]) for name in axes}
