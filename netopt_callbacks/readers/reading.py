"""Finds which parts of some graphs depend on which.

It goes by the Variables as objects, not by their uids: see `state.identity`.
"""
from ..trainers.uids import variables


class Reading:
    """Which Variables of some graphs depend on which; each Function is visited once.

    Args:
        groups (list of list of cntk.Variable): the outputs of the graphs.
    """

    def __init__(self, groups):
        self._readers = {}  # a leaf, or an output that stands for its Function: such outputs
        self._of = {}  # an output: the first output of its Function
        pending = []

        def enter(output):
            if output not in self._of:
                function = output.owner
                outputs = function.outputs
                self._of.update((each, outputs[0]) for each in outputs)
                pending.append((function, outputs[0]))
            return self._of[output]

        for outputs in groups:
            for output in outputs:
                if output.is_output:
                    enter(output)
        while pending:
            function, reader = pending.pop()
            for variable in function.inputs:
                read = enter(variable) if variable.is_output else variable
                self._readers.setdefault(read, []).append(reader)

    def doubles(self, whole):
        """Returns the Variables outside a network that have the uid of another Variable.

        Args:
            whole (cntk.Function): the outputs of the network.
        """
        by_uid = {}
        for variable in set(self._of).union(self._readers):
            by_uid.setdefault(variable.uid, []).append(variable)
        shared = [variable for same in by_uid.values() if len(same) > 1 for variable in same]
        if not shared:
            return []
        mine = set(variables(whole.outputs))
        return [self._of.get(variable, variable) for variable in shared if variable not in mine]

    def of(self, leaves):
        """Returns a predicate: whether any of some Variables is or depends on one of these."""
        pending, reached = list(leaves), set(leaves)
        while pending:
            new = set(self._readers.get(pending.pop(), ())) - reached
            reached |= new
            pending.extend(new)
        return lambda outputs: any(self._of.get(output) in reached for output in outputs)
