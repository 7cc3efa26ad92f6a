"""Tables of text, for reports."""
import textwrap
from html import escape
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
        return _joined(self._columns())

    def fitted(self, width):
        """Returns the same in lines of at most `width` letters, as far as single columns are narrow
        enough: the later half of columns that do not fit follows below, behind the first one."""
        first, *rest = self._columns()
        return '\n\n'.join(_joined([first] + part) for part in _parts(first, rest, width))

    def _columns(self):
        """Returns the columns as lists of cells of one width, without those with nothing in
        them."""
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
        return padded

    def markdown(self):
        """Returns the table as Markdown, without columns with nothing in them."""
        columns = [
            [heading, '---'] + [cell.replace('|', '\\|') for cell in cells]
            for heading, cells in zip(self.headings, zip(*self._rows))
            if any(cell != '-' for cell in cells)
        ]
        return '\n'.join('| %s |' % ' | '.join(cells) for cells in zip(*columns))


def _parts(first, columns, width):
    """Returns the columns in lists that fit into a width, each behind the first column."""
    if len(columns) < 2 or sum(len(column[0]) + 2 for column in [first] + columns) - 2 <= width:
        return [columns]
    half = (len(columns) + 1) // 2
    return _parts(first, columns[:half], width) + _parts(first, columns[half:], width)


def _joined(columns):
    return '\n'.join('  '.join(line).rstrip() for line in zip(*columns))


def wrapped(text, width):
    """Returns a text with the lines that are longer broken between words, and indented by 4."""
    lines = []
    for line in text.splitlines():
        indent = ' ' * (len(line) - len(line.lstrip()) + 4)
        lines += (
            textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
            if len(line) > width
            else [line]
        )
    return '\n'.join(lines)


def in_html(text):
    """Returns a report as a notebook shows it: in columns, whatever its letters are."""
    return f'<pre style="line-height: 1.2">{escape(text)}</pre>'


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
