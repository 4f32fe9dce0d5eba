"""The one train loop.

The host reads device values at logging steps only; between them it feeds batches, at most two updates ahead of
the device. It stops at the last step, on SIGTERM or Ctrl-C (after a checkpoint), or at a loss that is not finite
(without one).
"""

from __future__ import annotations

import collections
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.evaluation import device_fields
from jaxvl.core.method import Method, StreamOpener
from jaxvl.core.sharding import Mesh, put_batch, to_host
from jaxvl.core.state import TrainState
from jaxvl.core.writers import Progress, Writer

SHOWN_METRICS = 6
RUN_AHEAD = 2  # updates in flight: enough to hide the host, few enough to bound the memory of queued batches


class NotFinite(InputError):
    """The loss or a gradient stopped being finite. `step` is the first such update; the state before it is kept."""

    def __init__(self, step: int, detail: str):
        super().__init__(
            f"step {step}: the loss or a gradient is not finite {detail}; the last checkpoint is untouched. "
            "Lower config.optim.main.lr, set config.train.clip_norm, or look at the inputs named here"
        )
        self.step = step


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag that the loop looks at after every update. A second Ctrl-C interrupts."""

    def __init__(self):
        self.name: str | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self):
        # with several processes SIGTERM belongs to JAX's preemption service, which tells the others of it
        for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._on)
        return self

    def __exit__(self, *_):
        for number, old in self._old.items():
            signal.signal(number, old)

    def _on(self, number, _frame):
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # so that all processes stop, at the same step

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; all processes say the same (preemption reaches one of them first)."""
        if jax.process_count() == 1:
            return self.name is not None
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


class CompileCounter:
    """Counts backend compilations of this process; the listener cannot be removed, so there is one."""

    _installed = False
    count = 0

    @classmethod
    def install(cls) -> type[CompileCounter]:
        """Starts counting (once)."""
        if not cls._installed:
            cls._installed = True
            jax.monitoring.register_event_duration_secs_listener(cls._hear)
        return cls

    @classmethod
    def _hear(cls, event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            cls.count += 1


@dataclasses.dataclass
class Run:
    """Everything the loop works with. `streams` open a stream at a number of batches already consumed."""

    method: Method
    config: ConfigDict
    mesh: Mesh
    updates: Mapping[str, Callable]
    streams: Mapping[str, StreamOpener]
    check: Callable[[Mapping[str, Any], str], None]
    on_batch: Callable[[Mapping[str, Any]], None]
    explain: Callable[[TrainState, str, Mapping[str, Any]], str]
    evaluate: Callable[[TrainState], dict[str, float]] | None
    checkpoints: Checkpoints
    writer: Writer
    progress: Progress
    meta: Mapping[str, Any]


@dataclasses.dataclass
class Outcome:
    """How a run ended: the state, `stopped` (name of the signal, if any), last evaluation, compilations after
    the first update of each objective."""

    state: TrainState
    stopped: str | None
    metrics: dict[str, float] | None
    recompilations: int


def run(r: Run, state: TrainState, start: int, consumed: Mapping[str, int], stop: StopSignal) -> Outcome:
    """Trains from update `start` to `config.train.steps`. `consumed`: batches already taken from each stream.

    Without a step to train (`config.train.steps` 0) the state is evaluated and saved as it is.
    """
    cfg = r.config.train
    compiles = CompileCounter.install()
    taken = {name: int(consumed.get(name, 0)) for name in r.streams}
    feeds: dict[str, Iterator] = {}
    flight: collections.deque = collections.deque(maxlen=RUN_AHEAD)
    history: collections.deque = collections.deque(maxlen=cfg.log_every + RUN_AHEAD + 1)
    compiled = {name for name, update in r.updates.items() if getattr(update, "ready", None)}
    recompiled = 0
    metrics: dict[str, float] | None = None
    examples, updates, waited, since = 0, 0, 0.0, time.monotonic()
    last = start
    stopped = None

    def finish_log(step: int, scalars: Mapping[str, Any]) -> None:
        nonlocal examples, updates, waited, since
        values = {k: v.item() for k, v in to_host(dict(scalars)).items()}
        _raise_if_bad(r, state, int(values.pop("bad_step")), history)
        span = max(time.monotonic() - since, 1e-9)
        values |= {"examples_per_s": examples / span, "step_s": span / max(updates, 1), "data_wait": waited / span}
        examples, updates, waited, since = 0, 0, 0.0, time.monotonic()
        r.writer.scalars(step, "train", values)
        r.progress.log(step, values)

    if cfg.steps == 0:  # weights as they are given: evaluated, and kept for the other verbs
        metrics = r.evaluate(state) if r.evaluate is not None else None
        r.writer.scalars(0, "eval", metrics or {})
        _save(r, state, taken, metrics)
    for step in range(start, cfg.steps):
        name = r.method.objective_at(step)
        begun = time.monotonic()
        host: dict[str, Mapping[str, Any]] = {}
        for stream in r.method.objectives[name].streams:
            if stream not in feeds:
                feeds[stream] = r.streams[stream](taken[stream])
            host[stream] = next(feeds[stream])
            if taken[stream] == int(consumed.get(stream, 0)):
                r.check(host[stream], stream)
            taken[stream] += 1
            r.on_batch(host[stream])
        waited += time.monotonic() - begun
        sizes = {s: next(iter(r.method.batch_spec[s].values())).shape[0] for s in host}
        examples += sum(sizes.values())
        history.append((step, name, {s: (taken[s] - 1, b["_id"]) for s, b in host.items()}))
        batch = {s: put_batch(device_fields(b), r.mesh, sizes[s]) for s, b in host.items()}

        before, called = compiles.count, time.monotonic()
        with jax.transfer_guard("disallow"):
            state, scalars = r.updates[name](state, batch)
        updates += 1
        if compiles.count != before:  # not compiled ahead: leave that out of the rate
            since += time.monotonic() - called
        if name in compiled and compiles.count != before:
            recompiled += 1
            r.progress.say(f"step {step}: objective {name!r} was compiled again; a shape or dtype of the batch changed")
        compiled.add(name)
        flight.append(scalars)
        if len(flight) == RUN_AHEAD:
            jax.block_until_ready(flight[0])
        last = step + 1
        r.progress.step(last)
        r.checkpoints.poll()

        ends = last == cfg.steps
        if ends or last == 1 or last % cfg.log_every == 0:
            finish_log(last, scalars)
        evaluates = r.evaluate is not None and (ends or (cfg.eval_every and last % cfg.eval_every == 0))
        saves = ends or last % cfg.checkpoint_every == 0 or (evaluates and r.config.checkpoint.best_metric)
        if evaluates or saves:
            _raise_if_bad(r, state, int(to_host(state.bad_step)), history)
        if evaluates:
            paused = time.monotonic()
            r.progress.phase("evaluating")
            try:
                metrics = r.evaluate(state)
            except InputError:  # costs no training: mended, the same command goes on from here
                if jax.process_count() == 1:  # others may not have failed, and saving takes all
                    _save(r, state, taken, None)
                    r.checkpoints.wait()
                raise
            r.writer.scalars(last, "eval", metrics)
            if not ends:  # the last one is shown as a table
                r.progress.say(f"step {last}: {_shown(metrics, r.config.checkpoint.best_metric)}")
            since += time.monotonic() - paused
        if saves:
            r.progress.phase("saving")
            _save(r, state, taken, metrics if evaluates else None)
        if not ends and stop.agreed(last):
            stopped = stop.name or "SIGTERM"
            _raise_if_bad(r, state, int(to_host(state.bad_step)), history)
            if not saves:
                _save(r, state, taken, None)
            r.writer.event(last, "stopped", signal=stopped)
            break
    r.checkpoints.wait()
    for feed in feeds.values():
        if hasattr(feed, "close"):
            feed.close()
    return Outcome(state, stopped, metrics, recompiled)


def _shown(metrics: Mapping[str, float], first: str) -> str:
    """An evaluation in one line: the metric that chooses checkpoints, then as many more as a line holds."""
    names = [n for n in (first,) if n in metrics] + [n for n in metrics if n != first]
    more = len(names) - SHOWN_METRICS
    text = "  ".join(f"{n} {metrics[n]:.4g}" for n in names[:SHOWN_METRICS])
    return f"evaluation  {text}" + (f"  and {more} more" if more > 0 else "")


def _save(r: Run, state: TrainState, taken: Mapping[str, int], metrics: Mapping[str, float] | None) -> None:
    """Positions are saved in examples of the global order, so that another number of hosts resumes there too."""
    positions = {
        s: n * next(iter(r.method.batch_spec[s].values())).shape[0]
        for s, n in taken.items()
        if s in r.method.batch_spec
    }
    r.checkpoints.save(state, positions, r.meta, metrics)


def _raise_if_bad(r: Run, state: TrainState, bad: int, history) -> None:
    if bad < 0:
        return
    name, where = next((n, w) for s, n, w in history if s == bad)
    raise NotFinite(bad, r.explain(state, name, where))
