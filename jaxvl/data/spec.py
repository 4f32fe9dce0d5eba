"""The check at the pipeline's mouth: does a batch look as the method's `batch_spec` promises?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxvl.core.errors import InputError


class ShapeAndType(Protocol):
    """What `jax.ShapeDtypeStruct` and numpy arrays have in common."""

    shape: tuple[int, ...]
    dtype: Any


def check_batch(
    batch: Mapping[str, Any], spec: Mapping[str, ShapeAndType], stream: str, local_batch: int | None = None
) -> None:
    """Raises InputError, one line, at the first field of `batch` that is missing, too many or of another kind.

    spec: field -> shape and dtype; the leading axis is the global batch size.
    local_batch: rows of this process; None checks the global size. Fields that start with `_` are the host's.
    """
    fields = {name: value for name, value in batch.items() if not name.startswith("_")}
    where = f"stream {stream!r}"
    if missing := sorted(spec.keys() - fields.keys()):
        raise InputError(f"{where}: the batch lacks {_names(missing)}; it has {_names(sorted(fields))}")
    if extra := sorted(fields.keys() - spec.keys()):
        raise InputError(f"{where}: the batch has {_names(extra)}, which the method's batch_spec does not name")
    for name, want in spec.items():
        shape = tuple(want.shape) if local_batch is None else (local_batch, *want.shape[1:])
        got = fields[name]
        if tuple(np.shape(got)) != shape or np.dtype(getattr(got, "dtype", object)) != np.dtype(want.dtype):
            kind = f"{getattr(got, 'dtype', type(got).__name__)} {list(np.shape(got))}"
            raise InputError(f"{where}: field {name!r} is {kind}, batch_spec says {np.dtype(want.dtype)} {list(shape)}")


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
