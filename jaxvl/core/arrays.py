"""Arrays in `.npy` and `.npz` files, which may be damaged or anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.core.files import replacing


def read_npz(path: Path, mend: str) -> dict[str, np.ndarray]:
    """All arrays of a `.npz` by name. Raises InputError with `mend` for whatever else is there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if not all(isinstance(value, np.ndarray) for value in found.values()):  # other files in a zip come as bytes
            raise ValueError
        return found
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or "damaged, or no .npz file"
        raise InputError(f"{path}: cannot be read ({reason}); {mend}") from None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces a `.npz` in one go, see `files.replacing`."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)
