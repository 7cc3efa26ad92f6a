"""Which parts of a trained graph are segments.

A segment is a set of units (`flat`) that reads one Value, hands one Value on, and holds a binary
layer. It is
*convex*: no path leaves it and comes back, since everything in it is computed from its entry alone.
Segments are taken greedily: first the one with the most binary layers, of these the one with the
most units.
"""


class Segment:
    """Units that one program evaluates.

    Attributes:
        units (list of Unit): inputs first.
        entry (Value): what it reads.
        exit (Value): what it hands on; nothing else it computes is read outside.
    """

    def __init__(self, units, entry):
        self.units = units
        self.entry = entry
        self.exit = units[-1].outputs[0]

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


def largest_segment(flat, taken):
    """Returns the largest Segment of units that may be in one, or None.

    Args:
        flat (FlatGraph): the model.
        taken (set of int): indices of units that are in another segment already.
    """
    search = _Search(flat, taken)
    found = [region for region in map(search.from_entry, search.entries()) if region is not None]
    if not found:
        return None
    _, _, members, entry = max(found, key=lambda region: region[:2])
    return Segment([flat.units[index] for index in members], entry)


class _Search:
    """Sets of units are integers, one bit a unit: intersections of them are cheap."""

    def __init__(self, flat, taken):
        self.units = flat.units
        self.eligible = [
            unit.reason is None and index not in taken for index, unit in enumerate(self.units)
        ]
        index_of = {id(unit): index for index, unit in enumerate(self.units)}
        self.producer = {
            id(value): index for index, unit in enumerate(self.units) for value in unit.outputs
        }
        self.readers = (
            []
        )  # of each unit's output: the set of units that read it, None where others do too
        for unit in self.units:
            mask = 0
            for reader in [reader for value in unit.outputs for reader in value.readers]:
                mask = (
                    None
                    if reader is None or mask is None
                    else mask | 1 << index_of[id(reader.unit)]
                )
            self.readers.append(mask)

    def entries(self):
        """Yields the Values that a largest segment may read."""
        seen = set()
        for index, unit in enumerate(self.units):
            for value in unit.inputs if self.eligible[index] else ():
                if id(value) in seen:
                    continue
                seen.add(id(value))
                before = self.producer.get(id(value))
                # What one unit alone hands on to one other belongs to the segment with both of
                # them.
                if (
                    before is None
                    or not self.eligible[before]
                    or len(self.units[before].inputs) > 1
                    or len(value.readers) > 1
                ):
                    yield value

    def from_entry(self, entry):
        """Returns (layers, units, indices, entry) of the largest segment that reads `entry`, or
        None."""
        ancestors = {}
        for index, unit in enumerate(self.units):
            if not self.eligible[index] or not unit.inputs:
                continue
            before = [
                -1 if value is entry else self.producer.get(id(value)) for value in unit.inputs
            ]
            if all(one == -1 or one in ancestors for one in before):
                ancestors[index] = 1 << index
                for one in before:
                    ancestors[index] |= 0 if one == -1 else ancestors[one]
        best = None
        for last, region in ancestors.items():
            members = [index for index in ancestors if region >> index & 1]
            layers = sum(self.units[index].layer is not None for index in members)
            if not layers or best is not None and (layers, len(members)) <= best[:2]:
                continue
            if all(
                index == last
                or self.readers[index] is not None
                and not self.readers[index] & ~region
                for index in members
            ):
                best = layers, len(members), sorted(members), entry
        return best
