"""Sphinx's configuration: the pages of this folder, and the reference of the public API."""
import os
import re
import sys

CLONE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, CLONE)

import netopt_callbacks  # noqa: E402

project = 'netopt_callbacks'
author = 'netopt_callbacks authors'
copyright = author
version = release = netopt_callbacks.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
default_role = 'code'  # `x` is code in docstrings, as it is in the pages
smartquotes = False
html_theme = 'sphinx_rtd_theme'
html_show_sourcelink = False
exclude_patterns = ['requirements.txt']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def files_as_downloads(app, name, source):
    """Makes links to files of the clone, which are no pages, links that Sphinx can follow."""
    link = r'\[([^\]]+)\]\(([^)]+\.(?:json|py))\)'
    source[0] = re.sub(link, r'{download}`\1 <\2>`', source[0])


def plain_text_as_rst(app, what, name, thing, options, lines):
    """Says in reStructuredText what a docstring of plain text shows by its indentation.

    An indented part behind an empty line is a literal block; a line that is continued with an
    indent is an item of a list. Sections such as `Args:` are left to napoleon.
    """
    found, section = [], False
    for paragraph in '\n'.join(lines).split('\n\n'):
        rows = paragraph.split('\n')
        section = re.match(r'\w+:$', rows[0]) is not None or section and rows[0][:1] == ' '
        if not section and not rows[0].startswith('+'):
            if all(row[:1] == ' ' or not row for row in rows) and paragraph.strip():
                if found and not found[-1].endswith('::'):
                    rows = ['::', ''] + rows
            elif any(row[:1] == ' ' for row in rows[1:]):
                rows = ['  ' + row.strip() if row[:1] == ' ' else '* ' + row for row in rows]
        text = '\n'.join(rows)
        if section:  # names of arguments that go on in the next line
            text = re.sub(r'^( +[\w, ]+,)\n +', r'\1 ', text, flags=re.MULTILINE)
        if not text.startswith(('+', '::')):  # |W| is no substitution
            text = re.sub(r'\|(?=[^`]*(?:`[^`]*`[^`]*)*$)', r'\|', text)
        found.append(text)
    lines[:] = '\n\n'.join(found).split('\n')


def setup(app):
    app.connect('source-read', files_as_downloads)
    app.connect('autodoc-process-docstring', plain_text_as_rst, priority=400)
