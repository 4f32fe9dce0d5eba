"""Values of a table as text, the same in a report and in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Whether a value is a number (Python or numpy), not a truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_float(value: Any) -> bool:
    return isinstance(value, float | np.floating)


def cell(value: Any, decimals: int | None = None) -> str:
    """One value: `None` as a dash, truth as yes/no, whole numbers with thousands parted from 10,000 on,
    floats with `decimals` places (default: four significant digits), anything else as `str`."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if _is_float(value):
        value = float(value)
        if decimals is None or not math.isfinite(value):
            return f"{value:.4g}"
        return f"{value:,.{decimals}f}"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}" if abs(int(value)) >= 10_000 else str(int(value))
    return str(value)


def column(values: Sequence[Any]) -> list[str]:
    """The cells of one column. Its floats share a number of decimals, set by the largest of them: 0 from
    1000 on or where all are whole, 1 from 10 on, 2 from 1 on, else 3; tiny ones (< 0.01) keep three digits."""
    floats = [float(v) for v in values if _is_float(v) and math.isfinite(v)]
    largest = max((abs(v) for v in floats), default=0.0)
    if floats and 0 < largest < 0.01:
        return [f"{float(v):.3g}" if _is_float(v) else cell(v) for v in values]
    whole = all(v == round(v) for v in floats)
    decimals = 0 if largest >= 1000 or whole else 1 if largest >= 10 else 2 if largest >= 1 else 3
    return [cell(v, decimals) for v in values]


def table_texts(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> tuple[list[list[str]], list[bool]]:
    """(texts of every row, which columns hold numbers and go to the right). Raises ValueError for a row whose
    length is not that of `columns`."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells in a row of {len(columns)} columns")
    by_column = [[row[k] for row in rows] for k in range(len(columns))]
    right = [any(map(is_number, c)) and all(is_number(v) or v is None for v in c) for c in by_column]
    texts = [column(c) for c in by_column]
    return [[texts[k][r] for k in range(len(columns))] for r in range(len(rows))], right
