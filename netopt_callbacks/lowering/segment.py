"""Which parts of a trained graph are segments.

A segment is a set of units (`flat`) that hangs together, holds a binary layer, and is *convex*: no
path leaves it and comes back, so that one call can compute it once all it reads is there. It may
read several Values and hand several on.

Segments are grown from binary layers: what reads from another, or is read, is joined as long as the
union is convex, until nothing can be joined any more. Two sets of units that are convex each may
still wait for each other. So paths are looked for in the graph of what was joined already, which
stays without a cycle.

What a segment hands on waits for all that the segment reads. So each of these values must depend on
every argument of the network that the segment depends on: who evaluates one output of a lowered
network gives it the arguments that the trained one demands.
"""
from ..onnx_file import MOST_VALUES  # what a file has room for


class Segment:
    """Units that one program evaluates.

    Args:
        units (list of Unit): inputs first.

    Attributes:
        units (list of Unit)
        entries (list of Value): what it reads, in the order in which CNTK comes across them in the
            trained graph. Since each exit depends on all arguments that the entries do, the lowered
            network so has its arguments in the order of the trained one.
        exits (list of Value): what of it is read outside, in the order of the units.
    """

    def __init__(self, units):
        self.units = units
        inside = {id(unit) for unit in units}
        computed = {id(value) for unit in units for value in unit.outputs}
        entries = {
            id(value): value for unit in units for value in unit.inputs if id(value) not in computed
        }
        self.entries = sorted(entries.values(), key=lambda value: value.place)
        self.exits = [
            value
            for unit in units
            for value in unit.outputs
            if any(reader is None or id(reader.unit) not in inside for reader in value.readers)
        ]

    @property
    def layers(self):
        """The binary layers in it, inputs first."""
        return [unit.layer for unit in self.units if unit.layer is not None]

    @property
    def nodes(self):
        return [node for unit in self.units for node in unit.nodes]

    @property
    def name(self):
        """Those of its first and last layer."""
        names = [layer.name or 'unnamed' for layer in self.layers]
        return names[0] if len(names) == 1 else f'{names[0]}_to_{names[-1]}'

    def __repr__(self):
        return f'<Segment {self.name}, {len(self.units)} units>'


def segments_of(flat):
    """Returns the Segments of a FlatGraph, of units that have no reason against it, in its
    order."""
    groups = _Groups(flat.units)
    while groups.join_once():
        pass
    groups.check()
    found = map(Segment, groups.of_eligible())
    return [segment for segment in found if segment.layers]


class _Group:
    """Units that were joined.

    Attributes:
        units (list of Unit): in any order.
        start, end (int): the first and the last index of them.
        eligible (bool): may be part of a segment.
        layers (int): how many binary layers it holds.
        arguments (int): a bit for each argument of the network that it depends on.
        after (set of int): indices of the units of other groups that read what it computes.
        reads, gives (dict): by id the Values that it reads from others, and that others read.
    """

    def __init__(self, index, unit):
        self.units = [unit]
        self.start = self.end = index
        self.eligible = unit.reason is None
        self.layers = int(unit.layer is not None)
        self.arguments = 0
        self.after = set()
        self.reads = {id(value): value for value in unit.inputs}
        self.gives = {id(value): value for value in unit.outputs}


class _Groups:
    """All units of a graph in groups. At first every unit is one, and every loop."""

    def __init__(self, units):
        self.index_of = {id(unit): index for index, unit in enumerate(units)}
        producer = {id(value): index for index, unit in enumerate(units) for value in unit.outputs}
        self.before = [
            sorted({producer[id(value)] for value in unit.inputs if id(value) in producer})
            for unit in units
        ]
        self.group_at = [_Group(index, unit) for index, unit in enumerate(units)]
        self.wide = []  # of more than one unit
        for index, before in enumerate(self.before):
            for one in before:
                self.group_at[one].after.add(index)
        # The units of a loop are next to each other, and one of them reads a later one.
        for index, before in enumerate(self.before):
            for one in range(index + 1, max(before, default=index) + 1):
                self._join(self.group_at[index], self.group_at[one])
        self._find_arguments(units, producer)

    def _find_arguments(self, units, producer):
        bits = {}
        for index, unit in enumerate(units):
            group = self.group_at[index]
            for value in unit.inputs:
                if id(value) not in producer:
                    group.arguments |= bits.setdefault(id(value), 1 << len(bits))
            # Of a loop the first unit sees what goes into any of it.
            for one in range(group.start, group.end + 1) if index == group.start else ():
                for before in self.before[one]:
                    group.arguments |= self.group_at[before].arguments
        self.arguments_of = {key: self.group_at[index].arguments for key, index in producer.items()}

    def join_once(self):
        """Joins what can be joined, from the inputs on and back; returns whether anything was."""
        joined = False
        order = list(range(len(self.before)))
        for index in order + order[::-1]:
            for one in sorted(self.before[index], key=lambda one: -self.group_at[one].layers):
                group, reader = self.group_at[one], self.group_at[index]
                if self._may_join(group, reader):
                    self._join(group, reader)
                    joined = True
        return joined

    def of_eligible(self):
        """Returns the units of each group that may be part of a segment, inputs first."""
        groups = {id(group): group for group in self.group_at if group.eligible}
        return [
            sorted(group.units, key=lambda unit: self.index_of[id(unit)])
            for group in groups.values()
        ]

    def _may_join(self, group, reader):
        if (
            group is reader
            or not (group.eligible and reader.eligible)
            or group.layers + reader.layers == 0
            or self._is_led_around(group, reader)
        ):
            return False
        reads, gives = self._around(group, reader)
        arguments = group.arguments | reader.arguments
        return (
            len(reads) <= MOST_VALUES
            and len(gives) <= MOST_VALUES
            and all(self.arguments_of[key] == arguments for key in gives)
        )

    def _is_led_around(self, group, reader):
        """Whether a path leads from one group to the other through a third."""
        end = self._end_of_what_leads_to(reader)
        seen, waiting = {id(group), id(reader)}, set(group.after)
        while waiting:
            third = self.group_at[waiting.pop()]
            if id(third) in seen or third.start > end:
                continue
            seen.add(id(third))
            if any(self.group_at[index] is reader for index in third.after):
                return True
            waiting |= third.after
        return False

    def _end_of_what_leads_to(self, reader):
        """Returns an index behind which no group begins that leads to `reader`.

        From a unit a path goes to later ones, but through a group it may come back to its first.
        """
        end, wide = reader.end, self.wide
        while wide:
            around = [group for group in wide if group.start <= end < group.end]
            if not around:
                break
            end = max(group.end for group in around)
        return end

    def check(self):
        """Makes sure that no groups wait for each other: CNTK would crash.

        Raises:
            RuntimeError: some do, which would be a fault of this class.
        """
        groups = {id(group): group for group in self.group_at}
        waits = dict.fromkeys(groups, 0)
        readers = {
            key: {id(self.group_at[index]) for index in group.after}
            for key, group in groups.items()
        }
        for each in readers.values():
            for key in each:
                waits[key] += 1
        ready = [key for key, count in waits.items() if count == 0]
        for key in ready:  # which grows
            for reader in readers[key]:
                waits[reader] -= 1
                if waits[reader] == 0:
                    ready.append(reader)
        if len(ready) < len(groups):
            raise RuntimeError(
                'segments of the network wait for each other, which is a fault of '
                'netopt_callbacks: please report it with the network'
            )

    def _around(self, *groups):
        """Returns the Values that the union of groups reads, and that others read of it."""
        units = {id(group) for group in groups}
        given = {key: value for group in groups for key, value in group.gives.items()}
        return (
            {
                key: value
                for group in groups
                for key, value in group.reads.items()
                if key not in given
            },
            {
                key: value
                for key, value in given.items()
                if any(
                    reader is None or id(self.group_at[self.index_of[id(reader.unit)]]) not in units
                    for reader in value.readers
                )
            },
        )

    def _join(self, one, other):
        if one is other:
            return
        if len(one.units) < len(other.units):
            one, other = other, one
        one.reads, one.gives = self._around(one, other)
        one.units += other.units
        one.start, one.end = min(one.start, other.start), max(one.end, other.end)
        one.eligible = one.eligible and other.eligible
        one.layers += other.layers
        one.arguments |= other.arguments
        for unit in other.units:
            self.group_at[self.index_of[id(unit)]] = one
        one.after = {index for index in one.after | other.after if self.group_at[index] is not one}
        self.wide = [group for group in self.wide if group not in (one, other)] + [one]
