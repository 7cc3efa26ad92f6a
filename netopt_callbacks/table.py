"""Tables of text, for reports."""
from numbers import Integral


UNKNOWN = 'unknown'


class Table:
    """Rows of values under headings; a value says by its type how it is shown.

    None is '-', an int is grouped by thousands, a float has 4 digits after the point (a large or
    a small one 4 significant ones), a pair is `before -> after`, once where they are equal.
    A string is taken as it is; UNKNOWN stands for a number that is not known.

    Args:
        *headings (str): one for each column.
    """

    def __init__(self, *headings):
        self.headings = headings
        self._rows = []

    def row(self, *values):
        """Appends a row.

        Raises:
            ValueError: not one value for each heading.
        """
        if len(values) != len(self.headings):
            raise ValueError(
                'a row of this table has %d values (%s), got %d'
                % (len(self.headings), ', '.join(self.headings), len(values))
            )
        self._rows.append(tuple(shown(value) for value in values))

    def __str__(self):
        """The table in aligned columns, numbers to the right; columns with nothing in them left
        out."""
        columns = [
            (heading,) + cells
            for heading, cells in zip(self.headings, zip(*self._rows))
            if any(cell != '-' for cell in cells)
        ]
        padded = []
        for column in columns:
            width = max(len(cell) for cell in column)
            numbers = all(cell == UNKNOWN or cell[:1] in '-+>0123456789' for cell in column[1:])
            cells = [cell.rjust(width) if numbers else cell.ljust(width) for cell in column]
            padded.append([cells[0], '-' * width] + cells[1:])
        return '\n'.join('  '.join(line).rstrip() for line in zip(*padded))

    def markdown(self):
        """Returns the table as Markdown."""
        rows = [self.headings, ['---'] * len(self.headings)] + self._rows
        return '\n'.join(
            '| %s |' % ' | '.join(cell.replace('|', '\\|') for cell in cells) for cells in rows
        )


def shown(value):
    """Returns a value as a table shows it."""
    if value is None:
        return '-'
    if isinstance(value, tuple):
        before, after = (shown(side) for side in value)
        return before if before == after else f'{before} -> {after}'
    if isinstance(value, float):
        return f'{value:.4f}' if value == 0 or 1e-3 <= abs(value) < 1e4 else f'{value:.4g}'
    if isinstance(value, Integral):
        return f'{value:,}'
    return str(value)
