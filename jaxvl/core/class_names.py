"""Names of a classifier's labels, kept in its workdir: what predictions are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jaxvl.core.errors import InputError
from jaxvl.core.files import read_json, write_text

FILE = "classes.json"


def write(workdir: Path, names: Sequence[str]) -> None:
    """`WORKDIR/classes.json`, the names in order of their labels."""
    path, text = workdir / FILE, json.dumps(list(names)) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def read(workdir: Path, count: int) -> list[str]:
    """The `count` names that `write` kept. Raises InputError."""
    path, mend = workdir / FILE, "train in this workdir again, which writes it"
    names = read_json(path, list, mend)
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: holds no list of the {count} classes of this model; {mend}")
    return names
