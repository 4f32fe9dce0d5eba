"""Text files of numbers as tracking data sets hold them: commas, tabs or blanks between, a row a line."""

from __future__ import annotations

import os

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import read_text


def read_table(path: str | os.PathLike, columns: int, what: str, *, exact: bool = True) -> np.ndarray:
    """float64 `[n, columns]`; commas, tabs and blanks may be mixed, blank lines are dropped.

    exact: False takes rows with more numbers, and drops what is too much. Raises InputError with the line that is
    something else; an empty file gives no rows.
    """
    text = read_text(path, what)
    lines = [line for line in text.replace(",", " ").replace(";", " ").split("\n") if line.strip()]
    try:
        widths = {len(line.split()) for line in lines}
        if widths == {columns}:
            return np.array(" ".join(lines).split(), np.float64).reshape(-1, columns)
    except ValueError:
        pass  # the loop below finds the line
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.replace(",", " ").replace(";", " ").split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) < columns or (exact and len(row) > columns):
            needs = f"{columns} numbers" if exact else f"at least {columns} numbers"
            raise InputError(f"{os.fspath(path)}: line {number} ({line.strip()[:60]!r}) needs {needs} ({what})")
        rows.append(row[:columns])
    return np.array(rows, np.float64).reshape(-1, columns)


def read_flags(path: str | os.PathLike, count: int, what: str) -> np.ndarray:
    """bool `[count]` of a file of 0 and 1, in one line or one a line. Raises InputError where it has another number."""
    words = read_text(path, what).replace(",", " ").split()
    try:
        flags = np.array(words, np.float64)
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: holds what is no number ({what}): {str(error)[:80]}") from None
    if len(flags) != count:
        raise InputError(f"{os.fspath(path)}: {len(flags)} flags for {count} boxes ({what}); fetch the file again")
    return flags != 0


def finite_boxes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(boxes, which have a positive size)`; rows that are not finite become zeros, as of an absent target."""
    good = np.isfinite(boxes).all(1)
    boxes = np.where(good[:, None], boxes, 0.0)
    return boxes, good & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
