"""One pass of evaluators over a split: jitted predict, streaming host-side metrics, every example counted."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxvl.core import following, precision, processes
from jaxvl.core.errors import InputError
from jaxvl.core.method import Evaluator, Follower, Method, Sequences
from jaxvl.core.sharding import Mesh, batch_sharding, check_batch_size, put_batch, replicated, rows_of_process, to_host

EvalStream = tuple[Callable[[np.ndarray], Iterator[Mapping[str, Any]]], int, int]
"""(`rows -> one pass over padded host batches of these rows`, number of examples, global batch size)."""
IN_FLIGHT = 2
"""Batches that the device has got before the outputs of an earlier one are waited for: it computes while the host reads
and decodes the next."""


@dataclasses.dataclass(frozen=True)
class Followed:
    """A stream of sequences with how it is read: threads, and what bad media do ('skip' or 'raise')."""

    sequences: Sequences
    threads: int = 4
    on_error: str = "skip"


def jit_predict(method: Method, mesh: Mesh, settings: Any) -> Callable:
    """`(variables, {stream: fields}) -> outputs`, outputs replicated so that every process reads them whole."""

    def predict(variables, batch):
        matmul = jax.default_matmul_precision(precision.matmul_precision(settings))
        with matmul, jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return method.predict(variables, batch)

    return jax.jit(predict, in_shardings=(None, batch_sharding(mesh)), out_shardings=replicated(mesh))


def device_fields(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fields of a host batch that go to the device: those whose name does not start with `_`."""
    return {k: v for k, v in batch.items() if not k.startswith("_")}


def evaluate(
    method: Method,
    predict: Callable,
    variables: Any,
    streams: Mapping[str, EvalStream | Followed],
    mesh: Mesh,
    split: str,
    names: tuple[str, ...] = (),
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Runs the evaluators `names` (default all) over `streams`: `({metric: value}, {artifact: array})`.

    Padding rows and skipped bad media carry `_valid` False and never reach a metric. Raises where the pass did
    not see exactly the examples of the split. Metrics that count bad media: `skipped`.
    """
    results: dict[str, float] = {}
    artifacts: dict[str, np.ndarray] = {}
    chosen = names or tuple(method.evaluators)
    place = lambda batches: ({s: put_batch(b, mesh) for s, b in batch.items()} for batch in batches)  # noqa: E731
    ask = lambda batches: _behind(predict(variables, batch) for batch in place(batches))  # noqa: E731
    cache: dict[str, list[tuple[dict, dict]]] = {}
    for name in chosen:
        evaluator: Evaluator = method.evaluators[name]
        acc = evaluator.init()
        for stream in evaluator.streams or tuple(streams):
            if stream not in streams:
                raise InputError(f"split {split!r}: evaluator {name!r} reads stream {stream!r}, which the data lacks")
            if isinstance(evaluator, Follower) != isinstance(streams[stream], Followed):
                raise InputError(
                    f"split {split!r}: evaluator {name!r} cannot read stream {stream!r}; it is of another kind"
                )
            if isinstance(evaluator, Follower):
                acc = _followed(evaluator, acc, predict, variables, stream, streams[stream], mesh, split, results)
                continue
            if stream not in cache:
                cache[stream] = _outputs(predict, variables, stream, streams[stream], mesh, split, results)
            for outputs, examples in cache[stream]:
                acc = evaluator.update(acc, stream, outputs, examples)
        acc = evaluator.refine(acc, ask)
        prefix = "" if len(method.evaluators) == 1 else f"{name}/"
        results.update({f"{prefix}{k}": float(v) for k, v in evaluator.compute(acc).items()})
        artifacts.update({f"{prefix}{k}": v for k, v in evaluator.artifacts(acc).items()})
    return results, artifacts


def _followed(evaluator, acc, predict, variables, stream, source, mesh, split, results):
    """The accumulator of a follower with all sequences of a stream."""
    call = lambda batch: to_host(predict(variables, batch))  # noqa: E731
    kept, bad = following.follow(evaluator, stream, source.sequences, call, mesh, source.threads, source.on_error)
    if len(kept) + bad != len(source.sequences.source):
        raise RuntimeError(
            f"split {split!r}, stream {stream!r}: followed {len(kept) + bad} sequences, it has "
            f"{len(source.sequences.source)}"
        )
    if bad:
        results["skipped"] = results.get("skipped", 0) + bad
    return {**acc, **{(stream, name): kept[name] for name in sorted(kept)}}


def _outputs(predict, variables, stream, source, mesh, split, results) -> list[tuple[dict, dict]]:
    """Outputs and host fields of each batch of a stream, in global order, without padding and bad media."""
    opener, total, size = source
    check_batch_size(size, mesh, f"batch size of stream {stream!r} of split {split!r}")
    fields = []

    def send() -> Iterator[Any]:
        for batch in opener(rows_of_process(mesh, size, jax.process_index())):
            fields.append({k: v for k, v in batch.items() if k.startswith("_")})
            yield predict(variables, {stream: put_batch(device_fields(batch), mesh, size)})

    outputs = list(_behind(send()))
    fields = _all_rows(fields, mesh, size)
    seen = skipped = 0
    pairs = []
    for out, batch in zip(outputs, fields, strict=True):
        valid = np.asarray(batch["_valid"], bool)
        bad = int(np.sum(batch.get("_bad", 0)))
        seen, skipped = seen + int(valid.sum()) + bad, skipped + bad
        keep = np.flatnonzero(valid)
        pairs.append(({k: np.asarray(v)[keep] for k, v in out.items()}, {k: _take(v, keep) for k, v in batch.items()}))
    if seen != total:
        raise RuntimeError(f"split {split!r}, stream {stream!r}: saw {seen} examples, the split has {total}")
    if skipped:
        results["skipped"] = results.get("skipped", 0) + skipped
    return pairs


def _behind(sent: Iterable[Any]) -> Iterator[Any]:
    """Outputs on the host, each read when `IN_FLIGHT` later batches have been sent."""
    flying: collections.deque = collections.deque()
    for outputs in sent:
        flying.append(outputs)
        if len(flying) > IN_FLIGHT:
            yield to_host(flying.popleft())
    while flying:
        yield to_host(flying.popleft())


def mostly_padding(split: str, stream: str, source: EvalStream | Followed, mesh: Mesh) -> str | None:
    """A line where less than half of the rows that a pass computes are examples: most of the devices would idle."""
    if isinstance(source, Followed):
        size = source.sequences.batch_size
        used, computed, best = following.filling(source.sequences)
        what = f"the frames of {len(source.sequences.source):,} sequences"
    else:
        _, used, size = source
        computed, what, best = -(-used // size) * size, f"{used:,} examples", used
    if 2 * used >= computed:
        return None
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    better = -(-best // shards) * shards
    mend = f"a batch of {better:,} would be filled by" if better < size else "fewer devices would do for"
    return (
        f"split {split!r}, stream {stream!r}: {what} fill {100 * used / computed:.0f} % of the rows that are computed, "
        f"in batches of {size:,}; {mend} them"
    )


def _all_rows(batches: list[dict[str, Any]], mesh: Mesh, size: int) -> list[dict[str, Any]]:
    """Host fields of all processes, each at the rows that it has of every batch: the order of the outputs. Metrics run
    on every process alike."""
    if processes.count() == 1:
        return batches
    joined: list[dict[str, Any]] = [{} for _ in batches]
    for p, part in enumerate(processes.gather(batches)):  # ids and captions: some bytes an example
        rows = rows_of_process(mesh, size, p)
        for whole, batch in zip(joined, part, strict=True):
            for key, values in batch.items():
                whole.setdefault(key, [None] * size)
                for row, value in zip(rows, values, strict=True):  # where two have the same rows, they have them alike
                    whole[key][row] = value
    return [{k: v if isinstance(b[k], list) else np.stack(v) for k, v in w.items()} for w, b in zip(joined, batches)]


def _take(value, keep):
    return [value[i] for i in keep] if isinstance(value, list) else np.asarray(value)[keep]
