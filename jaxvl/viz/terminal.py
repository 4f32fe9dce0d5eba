"""Tables in the terminal: rich where the output is one, plain aligned text everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from jaxvl.viz.cells import table_texts


def format_table(rows: Sequence[Sequence[Any]], columns: Sequence[str], title: str = "") -> str:
    """The table as plain text: columns padded to their widest cell, numbers to the right, a line below the
    headings. Raises ValueError for a row of the wrong length."""
    texts, right = table_texts(rows, columns)
    texts = [[" ".join(text.split()) for text in row] for row in texts]  # no line breaks within a cell
    widths = [max(len(name), *(len(r[k]) for r in texts), 0) for k, name in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right)]
        return "  ".join(padded).rstrip()

    lines = [title] if title else []
    lines += [line(list(columns)), "  ".join("-" * w for w in widths), *(line(r) for r in texts)]
    return "\n".join(lines)


def table(rows: Sequence[Sequence[Any]], columns: Sequence[str], title: str = "", file: TextIO | None = None) -> None:
    """Prints the table to `file` (default: standard output). In a terminal, with the rich package installed,
    it is drawn with rules and colours; in a pipe, a log file or a notebook it is `format_table`'s text.
    Raises ValueError for a row of the wrong length."""
    file = file or sys.stdout
    texts, right = table_texts(rows, columns)
    if file.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:  # rich is optional: the plain table says the same
            pass
        else:
            drawn = Table(title=Text(title) if title else None, title_justify="left", header_style="bold")
            for name, numbers in zip(columns, right):
                drawn.add_column(Text(str(name)), justify="right" if numbers else "left")
            for row in texts:
                drawn.add_row(*(Text(c) for c in row))  # Text: square brackets are no markup
            Console(file=file).print(drawn)
            return
    print(format_table(rows, columns, title), file=file)
