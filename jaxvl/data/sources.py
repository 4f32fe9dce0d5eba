"""Sources of records made of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated(Sequence):
    """A source in which each record comes `times` times, one behind the other."""

    source: Sequence[Any]
    times: int

    def __len__(self) -> int:
        return len(self.source) * self.times

    def __getitem__(self, i: int) -> Any:
        return self.source[range(len(self))[i] // self.times]
