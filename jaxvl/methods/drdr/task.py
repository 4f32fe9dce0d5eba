"""What is adapted to what: the task string `src1/src2->tgt1/tgt2`, and how a batch is shared by its domains."""

from __future__ import annotations

import dataclasses

from jaxvl.core.errors import InputError

ARROW = "->"


@dataclasses.dataclass(frozen=True)
class Task:
    """sources: labelled domains. targets: unlabelled ones; none in leave-one-out generalisation. external: domains
    that are tested and never trained on."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    external: tuple[str, ...] = ()

    @property
    def tested(self) -> tuple[str, ...]:
        """The domains of the test split: targets, then external ones."""
        return self.targets + self.external

    @property
    def setting(self) -> str:
        """The paper's name of it: uda, msda, dal, dg (adapt, then test elsewhere) or loo (no target at all)."""
        if not self.targets:
            return "loo"
        if self.external:
            return "dg"
        if len(self.targets) > 1:
            return "dal"
        return "msda" if len(self.sources) > 1 else "uda"


def parse(text: str, external: str = "") -> Task:
    """`art/clipart->product` -> `Task`. `external`: domains joined by `/`. Raises InputError, naming the field."""
    field = f"config.data.task: {text!r}"
    left, arrow, right = text.partition(ARROW)
    if not arrow:
        raise InputError(f"{field} is not like SOURCE->TARGET or SOURCE/SOURCE->TARGET/TARGET")
    task = Task(*(tuple(filter(None, (d.strip() for d in side.split("/")))) for side in (left, right, external)))
    every = task.sources + task.tested
    if not task.sources:
        raise InputError(f"{field} names no source")
    if twice := [d for i, d in enumerate(every) if d in every[:i]]:
        raise InputError(f"{field} with config.data.external {external!r}: {twice[0]} occurs twice")
    if not task.targets and (len(task.sources) < 2 or not task.external):
        raise InputError(
            f"{field} has no target: leave-one-out generalisation needs two sources and config.data.external"
        )
    return task


def rows_of(domains: int, batch_size: int) -> tuple[int, ...]:
    """Rows of a batch for each domain of a side: `B // n` each, the first one also the remainder."""
    if domains and batch_size < domains:
        raise InputError(f"config.data.batch_size: {batch_size} has no row for each of {domains} domains")
    return tuple(batch_size // domains + (batch_size % domains if i == 0 else 0) for i in range(domains))
