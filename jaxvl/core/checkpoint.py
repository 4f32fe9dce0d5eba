"""Checkpoints: Orbax, asynchronous and atomic, with a checksum list beside each step.

`checkpoints/STEP/` holds the items `params`, `ema`, `mutables`, `train` (optimiser, key, counters) and `meta`
(data positions, config digest). `integrity/STEP.json` lists size and CRC-32 of every file, because a flipped
byte in array data is otherwise restored in silence; a copy of it lies inside of the step, for the case that the list
is lost. In a bucket it is `STEP.crc32c.json`, the checksums that the service keeps of each object. Restoring goes
newest first and falls back, with a line.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint._src.futures import future, signaling_client
from orbax.checkpoint._src.serialization import tensorstore_utils

from jaxvl.core import processes, storage
from jaxvl.core.errors import InputError, Unavailable
from jaxvl.core.files import MENDS, cannot_write, json_of, mend, printable
from jaxvl.core.state import TrainState

A = ocp.args
THEIRS = re.compile(r"[/\\]orbax[/\\]|orbax-checkpoint|OCDBT|TensorStore")
OF_THE_DISK = re.compile(
    r"OS error|errno|\[Errno|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|HTTP"
)
FOLDER, LISTS, COPY = "checkpoints", "integrity", "checksums"
"""In a workdir: the steps, their lists, and a list's copy inside of a step."""
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
        workdir: str | Path | storage.Disk,
        config: ConfigDict | None = None,
        say: Callable[[str], None] = say_on_stderr,
        read_only: bool = False,
        guard: Callable[[], None] = lambda: None,
    ):
        self.place = storage.at(workdir)
        self.root = self.place.where(FOLDER)
        self.say = say
        self.read_only = read_only
        self.guard = guard
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
        _hush_orbax()
        _keep_time()
        _count_no_bytes()
        _look_up_each_folder_once()
        self._manager = self._open(policies)

    def _open(self, policies: Sequence[Any]) -> ocp.CheckpointManager:
        make = lambda: ocp.CheckpointManager(  # noqa: E731
            self.root,
            options=ocp.CheckpointManagerOptions(
                best_fn=self._value if self._metric else None,
                best_mode=self._best_mode,
                create=not self.read_only,
                read_only=self.read_only,
                cleanup_tmp_directories=not self.read_only,
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            ),
        )
        try:
            with storage.reached(self.root):
                return _listed(make)
        except OSError as error:
            raise cannot_write(self.root, error) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # it reads the metrics of every step at once: one that is damaged would stop it for ever
            damaged = processes.decide(lambda: [s for s in self._folders() if self._damage(s) is not None])
            if not damaged:
                raise
            if self.read_only:
                raise InputError(
                    f"{self.root}: checkpoint {damaged[0]} is damaged ({_short(error)}); move it away, or train on, "
                    "which sets it aside"
                ) from None
            for s in damaged if processes.index() == 0 else ():
                self._set_aside(s)
            processes.barrier()
            return make()

    def _value(self, metrics: Mapping[str, float]) -> float:
        return float(metrics[self._metric])

    def steps(self) -> list[int]:
        """Complete steps on disk, ascending. As process 0 sees them; the others hear it, here and below."""
        with storage.reached(self.root):
            return processes.decide(lambda: sorted(_listed(lambda: self._manager.all_steps(read=True))))

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
        self.guard()
        step = int(state.step)
        if step in self._manager.all_steps():
            return False
        self.wait()  # at most one write in flight, so that the checksum list of each is written
        # the rows of metrics and results up to here, before the step itself
        storage.patiently(self.place.publish, self.say)
        trees = {"params": state.params, "ema": state.ema, "mutables": state.mutables}
        trees = {k: v for k, v in trees.items() if jax.tree.leaves(v)}
        items = {k: A.StandardSave(v) for k, v in trees.items()}
        items["train"] = A.StandardSave(
            {f: getattr(state, f) for f in TRAIN_FIELDS if jax.tree.leaves(getattr(state, f))}
        )
        items["meta"] = A.JsonSave({"positions": dict(positions), "items": sorted(items), **meta})
        unknown = bool(self._metric) and metrics is not None and self._metric not in metrics
        with self._writing(step):
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
            self.wait()

    def wait(self) -> None:
        """Blocks until the save in flight is complete and listed. Raises InputError where it could not be written,
        Unavailable where a bucket does not answer."""
        with self._writing(self._pending):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            step, self._pending = self._pending, None
            if step is not None:
                storage.patiently(lambda: self._finish(step), self.say)

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """A disk that is full, gone or too slow, or a bucket that does not answer, as one line; whatever was saved
        before is as it was."""
        try:
            with storage.as_os_errors():
                yield
        except (OSError, ValueError, RuntimeError) as error:
            away = storage.is_away(error)
            if not away and not _of_the_disk(error):
                raise
            self._pending = None
            with contextlib.suppress(OSError, InputError):
                if jax.process_count() == 1:  # its space is needed by the logs
                    self.place.remove(f"{FOLDER}/{step}.orbax-checkpoint-tmp")
            kept = self._others(step)
            otherwise = "look whether its service answers" if away else "mend that"
            raise (Unavailable if away else InputError)(
                f"checkpoint {step}: cannot be written to {self.root} ({_short(error)}); {mend(error) or otherwise} "
                f"and give the same command again, which goes on from {f'step {kept[-1]}' if kept else 'the start'}"
            ) from None

    def close(self) -> None:
        """Waits, then releases the manager's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _finish(self, step: int) -> None:
        if jax.process_index() == 0:
            rows = list_files(self.place, f"{FOLDER}/{step}")
            for name in (self._copy(step), self._list(step)):
                self.place.write(name, json.dumps(rows, indent=0).encode())
            kept = self._folders()
            for name in self.place.children(LISTS):
                if name.endswith(".json") and name.split(".")[0] not in map(str, kept):
                    self.place.remove(f"{LISTS}/{name}")

    def _folders(self) -> list[int]:
        """The steps on disk, complete or not, ascending."""
        return sorted(int(n) for n in self.place.children(FOLDER) if n.isascii() and n.isdigit())

    def _others(self, step: int | None) -> list[int]:
        """What else there is, as far as that can be told of a place that has just failed."""
        try:
            return [s for s in self._folders() if s != step]
        except (OSError, InputError):
            return []

    def _list(self, step: int) -> str:
        return f"{LISTS}/{step}{self.place.sums}.json"

    def _copy(self, step: int) -> str:
        return f"{FOLDER}/{step}/{COPY}{self.place.sums}.json"

    def _damage(self, step: int) -> str | None:
        """What is wrong with a step, by its list, or by the copy of a list that is lost; None if nothing is, or it has
        neither."""
        lost = not self.place.exists(self._list(step))
        return check_list(self.place, f"{FOLDER}/{step}", self._copy(step) if lost else self._list(step))

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

        with storage.reached(self.root):
            return self._newest(read, step)

    def restore_variables(
        self, target: Mapping[str, Any], step: int | None = None
    ) -> tuple[dict[str, Any], dict] | None:
        """Only the named items (`params`, `ema`, `mutables`) of the newest usable step, or of `step`."""

        def read(s: int):
            meta = self._manager.restore(s, args=A.Composite(meta=A.JsonRestore())).meta
            return self._restore_items(s, target), {**meta, "step": s}

        with storage.reached(self.root):
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
            damage, listed = processes.decide(lambda: (self._damage(s), self._is_listed(s)))  # noqa: B023
            if damage is None:
                if listed:
                    return self._fitting(read, s)
                # killed between the save and its list: whole by its name, which Orbax gives last
                result, damage = _try_to_read(read, s)
                damage = next(filter(None, processes.gather(damage)), None)  # nobody uses what one cannot read
                if damage is None:
                    self.say(f"checkpoint {s}: has no checksum list (killed while it was written); used unverified")
                    return result
            self.say(f"checkpoint {s}: damaged ({damage}); {after}")
        if wanted:
            raise InputError(f"{self.root}: every usable checkpoint ({wanted}) is damaged; start again with --fresh")
        return None

    def _is_listed(self, step: int) -> bool:
        return self.place.exists(self._list(step)) or self.place.exists(self._copy(step))

    def _fitting(self, read: Callable[[int], Any], step: int) -> Any:
        """Reads a step whose files are as they were written. Raises InputError where another model wrote them."""
        try:
            return read(step)
        except (ValueError, KeyError, TypeError) as error:
            if storage.is_away(error):
                raise
            raise InputError(
                f"checkpoint {step}: does not fit the model of this config ({_short(error)}); set the fields of "
                "config.model and config.optim as they were, or start over with --fresh"
            ) from error

    def set_aside_after(self, step: int) -> None:
        """Moves steps newer than `step` (damaged, or the run would have resumed there) to WORKDIR/damaged/, so
        that the run can write them again. Nothing is deleted."""
        for s in self.steps():
            if s > step and jax.process_index() == 0:
                self._set_aside(s)
        processes.barrier()
        self._manager.reload()

    def _set_aside(self, step: int) -> None:
        self.place.move(f"{FOLDER}/{step}", f"damaged/{step}")
        self.say(f"checkpoint {step}: moved to {self.place.where('damaged')}/{step}")


def list_files(place: storage.Disk, folder: str) -> dict[str, list[int]]:
    """`{relative path: [size, checksum]}` of every file under `folder` but the list's copy."""
    return {n: [f.size, f.checksum()] for n, f in place.stored(folder).items() if not _is_copy(n)}


def check_list(place: storage.Disk, folder: str, file: str) -> str | None:
    """What is wrong with `folder` against its list, in a few words; None if nothing is or there is no list."""
    if not place.exists(file):
        return None
    try:
        rows = json_of(place.read(file), dict, file, "")
    except Unavailable:
        raise
    except (InputError, OSError):
        return "its checksum list is not readable"
    if not all(isinstance(row, list) and len(row) == 2 and all(type(n) is int for n in row) for row in rows.values()):
        return "its checksum list is not readable"
    try:
        found = {n: f for n, f in place.stored(folder).items() if not _is_copy(n)}
        for name, (size, checksum) in rows.items():
            if name not in found:
                return f"{printable(name)} is missing"
            if found[name].size != size:
                return f"{name} has {found[name].size} bytes instead of {size}"
            if found[name].checksum() != checksum:
                return f"{name} has changed bytes"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    unlisted = [name for name in found if name not in rows]
    return f"{printable(unlisted[0])} is not in its checksum list" if unlisted else None


def _is_copy(name: str) -> bool:
    return name.startswith(f"{COPY}.")


def _try_to_read(read: Callable[[int], Any], step: int) -> tuple[Any, str | None]:
    """What a step without a list holds, or why it cannot be read."""
    try:
        return read(step), None
    except Exception as error:
        # Orbax raises the bare class for a cut array file; anything that is no read error goes on
        damage = type(error) is Exception or isinstance(error, ValueError | KeyError | TypeError | OSError)
        if not damage or storage.is_away(error):
            raise
        return None, f"cannot be read: {_short(error)}"


@functools.cache
def _keep_time() -> None:
    """Orbax counts the seconds that a save may take by the wall clock and gives it up when somebody sets the clock; by
    this it counts them by one that never jumps."""
    for module in (future, signaling_client):
        module.time = types.SimpleNamespace(**{**vars(time), "time": time.monotonic})


@functools.cache
def _count_no_bytes() -> None:
    """Orbax asks TensorStore six times a save how many bytes it has written, for a report that nobody reads here; and
    TensorStore (0.1.86) holds on to a part of each answer, so that a run would grow by 60 KB a save for ever."""
    if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):  # not in every version
        tensorstore_utils.get_tensorstore_raw_bytes = lambda direction=None: 0


def _look_up_each_folder_once() -> None:
    """For every array Orbax has TensorStore (0.1.86) spell out the folder that all of them lie in, and 250 bytes of
    each answer stay for ever. Here it is asked once for a folder, and the name of the array is put in."""
    build = getattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec", None)  # not in every version
    if build is None or hasattr(build, "once"):
        return
    kept = functools.lru_cache(maxsize=16)(build)

    def named(directory: str, name: str | None = None, **others: Any) -> dict[str, Any]:
        spec = copy.deepcopy(kept(directory, **others))
        return spec if name is None else {**spec, "path": name}

    named.once = kept  # type: ignore[attr-defined]
    tensorstore_utils._build_ocdbt_kvstore_tspec = named


def _listed(look: Callable[[], Any]) -> Any:
    """`look()`, which lists a folder. Remains of a killed save are cleared away in the background, and in a bucket the
    folder is gone with the last of them: where that happens in the middle of it, a second look says so."""
    try:
        return look()
    except FileNotFoundError:
        return look()


def _hush_orbax() -> None:
    """Keeps Orbax's own reports out of the output: what it raises is said in one line here, while its tasks and threads
    print a traceback for every array, some of them long afterwards."""

    def ours(record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        return not THEIRS.search(f"{record.pathname} {record.getMessage()}") and not _raised_there(raised)

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # its loggers ask no filter
    logging.getLogger("asyncio").addFilter(ours)
    thread_hook, unraisable_hook = threading.excepthook, sys.unraisablehook

    def on_thread(args: Any) -> None:
        if not _raised_there(args.exc_value):
            thread_hook(args)

    def on_unraisable(args: Any) -> None:
        late = str(args.exc_value) == "Event loop is closed"  # a thread of TensorStore's
        if not late and not _raised_there(args.exc_value):
            unraisable_hook(args)

    threading.excepthook, sys.unraisablehook = on_thread, on_unraisable


def _raised_there(error: BaseException | None) -> bool:
    frames = traceback.walk_tb(error.__traceback__) if isinstance(error, BaseException) else ()
    return any(THEIRS.search(frame.f_code.co_filename) for frame, _ in frames)


def _of_the_disk(error: Exception) -> bool:
    """Whether the disk or the bucket is at fault. TensorStore tells so in words."""
    return isinstance(error, OSError) or OF_THE_DISK.search(str(error)) is not None


def _short(error: Exception) -> str:
    for number in (*MENDS, errno.EFBIG):
        if (reason := os.strerror(number)) in str(error):
            return reason
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
