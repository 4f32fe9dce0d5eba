"""Checkpoints: Orbax, asynchronous and atomic, with a checksum list beside each step.

`checkpoints/STEP/` holds the items `params`, `ema`, `mutables`, `train` (optimiser, key, counters) and `meta`
(data positions, config digest). `integrity/STEP.json` lists size and CRC-32 of every file, because a flipped
byte in array data is otherwise restored in silence. Restoring goes newest first and falls back, with a line.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from jaxvl.core import processes
from jaxvl.core.errors import InputError
from jaxvl.core.state import TrainState

A = ocp.args
TRAIN_FIELDS = ("step", "opt_state", "rng", "bad_step")


def say_on_stderr(line: str) -> None:
    """Where checkpoint lines go unless a run redirects them."""
    print(line, file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one workdir.

    keep_last newest steps are kept, and the best one by `best_metric` (a name in the metrics given to `save`).
    read_only: nothing on disk is touched. A run that is still training may be writing its next step there, which
    anybody else would take for the remains of a killed one and clear away.
    """

    def __init__(
        self,
        workdir: str | Path,
        config: ConfigDict | None = None,
        say: Callable[[str], None] = say_on_stderr,
        read_only: bool = False,
    ):
        self.root = Path(workdir).absolute() / "checkpoints"
        self.lists = Path(workdir).absolute() / "integrity"
        self.say = say
        self.read_only = read_only
        self._pending: int | None = None
        keep = config.checkpoint if config is not None else None
        self._metric = keep.best_metric if keep else ""
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(keep.keep_last if keep else 2)]
        if self._metric:
            policies.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=self._value,
                    reverse=keep.best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._best_mode = keep.best_mode if keep else "max"
        if self._best_mode not in ("max", "min"):
            raise InputError(f"config.checkpoint.best_mode: {self._best_mode!r} is neither max nor min")
        self._manager = ocp.CheckpointManager(
            self.root,
            options=ocp.CheckpointManagerOptions(
                best_fn=self._value if self._metric else None,
                best_mode=self._best_mode,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            ),
        )

    def _value(self, metrics: Mapping[str, float]) -> float:
        return float(metrics[self._metric])

    def steps(self) -> list[int]:
        """Complete steps on disk, ascending. As process 0 sees them; the others hear it, here and below."""
        return processes.decide(lambda: sorted(self._manager.all_steps(read=True)))

    def best_step(self) -> int | None:
        """The step with the best `best_metric`, if any was saved with it."""
        return processes.decide(self._manager.best_step) if self._metric else None

    def save(
        self,
        state: TrainState,
        positions: Mapping[str, int],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts to save `state`; False where its step is on disk already. Blocks only for the copy to the host."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return False
        self.wait()  # at most one write in flight, so that the checksum list of each is written
        trees = {"params": state.params, "ema": state.ema, "mutables": state.mutables}
        trees = {k: v for k, v in trees.items() if jax.tree.leaves(v)}
        items = {k: A.StandardSave(v) for k, v in trees.items()}
        items["train"] = A.StandardSave(
            {f: getattr(state, f) for f in TRAIN_FIELDS if jax.tree.leaves(getattr(state, f))}
        )
        items["meta"] = A.JsonSave({"positions": dict(positions), "items": sorted(items), **meta})
        unknown = bool(self._metric) and metrics is not None and self._metric not in metrics
        if not self._manager.save(
            step, args=A.Composite(**items), metrics=dict(metrics) if metrics and not unknown else None, force=True
        ):
            raise RuntimeError(f"orbax refused to save step {step}")
        self._pending = step
        if unknown:
            self.wait()
            raise InputError(
                f"config.checkpoint.best_metric: {self._metric!r} is none of {sorted(metrics)} (step {step} is saved; "
                "go on with --resume and another name)"
            )
        return True

    def poll(self) -> None:
        """Writes the checksum list of a save that has finished since; cheap, called every step."""
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self._finish()

    def wait(self) -> None:
        """Blocks until the save in flight is complete and listed."""
        self._manager.wait_until_finished()
        if self._pending is not None:
            self._finish()

    def close(self) -> None:
        """Waits, then releases the manager's threads."""
        self.wait()
        self._manager.close()

    def _finish(self) -> None:
        step, self._pending = self._pending, None
        if jax.process_index() == 0:
            write_list(self.root / str(step), self.lists / f"{step}.json")
            for old in self.lists.glob("*.json"):
                if not (self.root / old.stem).is_dir():
                    old.unlink()

    def restore(self, target: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest usable state (or `step`), laid out as `target` (ShapeDtypeStructs with shardings), and its meta.

        None where no checkpoint exists. A damaged step is named and the one before is used; if all are damaged,
        InputError. A named `step` is never replaced by another.
        """

        def read(s: int):
            meta = self._manager.restore(s, args=A.Composite(meta=A.JsonRestore())).meta
            trees = {k: getattr(target, k) for k in ("params", "ema", "mutables")}
            trees["train"] = {f: getattr(target, f) for f in TRAIN_FIELDS if jax.tree.leaves(getattr(target, f))}
            got = self._restore_items(s, {k: v for k, v in trees.items() if jax.tree.leaves(v)})
            train = got.pop("train")
            return target.replace(**got, **train), meta

        return self._newest(read, step)

    def restore_variables(
        self, target: Mapping[str, Any], step: int | None = None
    ) -> tuple[dict[str, Any], dict] | None:
        """Only the named items (`params`, `ema`, `mutables`) of the newest usable step, or of `step`."""

        def read(s: int):
            meta = self._manager.restore(s, args=A.Composite(meta=A.JsonRestore())).meta
            return self._restore_items(s, target), {**meta, "step": s}

        return self._newest(read, step)

    def _restore_items(self, step: int, trees: Mapping[str, Any]) -> dict[str, Any]:
        got = self._manager.restore(step, args=A.Composite(**{k: A.StandardRestore(v) for k, v in trees.items()}))
        return {k: got[k] for k in trees}

    def _newest(self, read: Callable[[int], Any], step: int | None) -> Any:
        steps = self.steps()
        if step is not None and step not in steps:
            raise InputError(f"--checkpoint {step}: not in {self.root}; there are {steps or 'none'}")
        wanted = steps if step is None else [step]
        for s in reversed(wanted):
            after = "falling back to the one before" if s != wanted[0] else "none is left"
            file = self.lists / f"{s}.json"
            damage, listed = processes.decide(lambda: (check_list(self.root / str(s), file), file.exists()))  # noqa: B023
            if damage is None:
                if listed:
                    return read(s)
                # killed between the save and its list: whole by its name, which Orbax gives last
                self.say(f"checkpoint {s}: has no checksum list (killed while it was written); used unverified")
                try:
                    result = read(s)
                except Exception as error:
                    # Orbax raises the bare class for a cut array file; anything that is no read error goes on
                    if type(error) is not Exception and not isinstance(error, ValueError | KeyError | OSError):
                        raise
                    damage = f"cannot be read: {_short(error)}"
                damage = next(filter(None, processes.gather(damage)), None)  # nobody uses what one cannot read
                if damage is None:
                    if not self.read_only and processes.index() == 0:
                        write_list(self.root / str(s), file)
                    return result
            self.say(f"checkpoint {s}: damaged ({damage}); {after}")
        if wanted:
            raise InputError(f"{self.root}: every usable checkpoint ({wanted}) is damaged; start again with --fresh")
        return None

    def set_aside_after(self, step: int) -> None:
        """Moves steps newer than `step` (damaged, or the run would have resumed there) to WORKDIR/damaged/, so
        that the run can write them again. Nothing is deleted."""
        for s in self.steps():
            if s > step and jax.process_index() == 0:
                place = self.root.parent / "damaged" / str(s)
                place.parent.mkdir(exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
                (self.root / str(s)).rename(place)
                self.say(f"checkpoint {s}: moved to {place}")
        processes.barrier()
        self._manager.reload()


def write_list(folder: Path, file: Path) -> None:
    """Writes `{relative path: [size, crc32]}` of every file under `folder`, atomically."""
    rows = {str(p.relative_to(folder)): [p.stat().st_size, _crc(p)] for p in sorted(folder.rglob("*")) if p.is_file()}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=0))
    temporary.replace(file)


def check_list(folder: Path, file: Path) -> str | None:
    """What is wrong with `folder` against its list, in a few words; None if nothing is or there is no list."""
    if not file.exists():
        return None
    try:
        rows = json.loads(file.read_text())
    except json.JSONDecodeError:
        return "its checksum list is not readable"
    for name, (size, crc) in rows.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _crc(path) != crc:
            return f"{name} has changed bytes"
    return None


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as f:
        while block := f.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
