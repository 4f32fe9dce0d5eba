"""One pass of evaluators over a split: jitted predict, streaming host-side metrics, every example counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxvl.core import precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Evaluator, Method
from jaxvl.core.sharding import Mesh, batch_sharding, put_batch, replicated, to_host

EvalStream = tuple[Callable[[], Iterator[Mapping[str, Any]]], int]
"""(opener of one pass over padded host batches, number of examples of the split)."""


def jit_predict(method: Method, mesh: Mesh, settings: Any) -> Callable:
    """`(variables, {stream: fields}) -> outputs`, outputs replicated so that every process reads them whole."""

    def predict(variables, batch):
        with jax.default_matmul_precision(precision.matmul_precision(settings)):
            return method.predict(variables, batch)

    return jax.jit(predict, in_shardings=(None, batch_sharding(mesh)), out_shardings=replicated(mesh))


def device_fields(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fields of a host batch that go to the device: those whose name does not start with `_`."""
    return {k: v for k, v in batch.items() if not k.startswith("_")}


def evaluate(
    method: Method,
    predict: Callable,
    variables: Any,
    streams: Mapping[str, EvalStream],
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
    ask = lambda batch: to_host(predict(variables, {s: put_batch(b, mesh) for s, b in batch.items()}))  # noqa: E731
    cache: dict[str, list[tuple[dict, dict]]] = {}
    for name in chosen:
        evaluator: Evaluator = method.evaluators[name]
        acc = evaluator.init()
        for stream in evaluator.streams or tuple(streams):
            if stream not in streams:
                raise InputError(f"split {split!r}: evaluator {name!r} reads stream {stream!r}, which the data lacks")
            if stream not in cache:
                cache[stream] = list(_outputs(predict, variables, stream, streams[stream], mesh, split, results))
            for outputs, examples in cache[stream]:
                acc = evaluator.update(acc, stream, outputs, examples)
        acc = evaluator.refine(acc, ask)
        prefix = "" if len(method.evaluators) == 1 else f"{name}/"
        results.update({f"{prefix}{k}": float(v) for k, v in evaluator.compute(acc).items()})
        artifacts.update({f"{prefix}{k}": v for k, v in evaluator.artifacts(acc).items()})
    return results, artifacts


def _outputs(predict, variables, stream, source, mesh, split, results):
    opener, total = source
    seen = skipped = 0
    for batch in opener():
        outputs = to_host(predict(variables, {stream: put_batch(device_fields(batch), mesh)}))
        batch = _gather_rows(batch)
        valid = np.asarray(batch["_valid"], bool)
        bad = int(np.sum(batch.get("_bad", 0)))
        seen, skipped = seen + int(valid.sum()) + bad, skipped + bad
        keep = np.flatnonzero(valid)
        yield (
            {k: np.asarray(v)[keep] for k, v in outputs.items()},
            {k: _take(v, keep) for k, v in batch.items() if isinstance(v, list) or np.ndim(v) > 0},
        )
    if seen != total:
        raise RuntimeError(f"split {split!r}, stream {stream!r}: saw {seen} examples, the split has {total}")
    if skipped:
        results["skipped"] = results.get("skipped", 0) + skipped


def _gather_rows(batch):
    """Host fields of all processes in row order; metrics run on every process alike."""
    if jax.process_count() == 1:
        return batch
    import pickle

    from jax.experimental import multihost_utils

    # ids and captions are strings: they travel as padded bytes of a pickle made by this very program
    blob = np.frombuffer(pickle.dumps({k: v for k, v in batch.items() if k.startswith("_")}), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([blob.size]))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: blob.size] = blob
    every = multihost_utils.process_allgather(padded)
    parts = [pickle.loads(bytes(row[: int(n)])) for row, n in zip(every, sizes.ravel())]
    joined: dict[str, Any] = {}
    for key in parts[0]:
        values = [p[key] for p in parts]
        if isinstance(values[0], list):
            joined[key] = [x for v in values for x in v]
        else:
            joined[key] = np.concatenate([np.atleast_1d(v) for v in values])
    return joined


def _take(value, keep):
    if isinstance(value, list):
        return [value[i] for i in keep]
    value = np.asarray(value)
    return value[keep] if value.shape[:1] and value.shape[0] > (keep.max() if keep.size else -1) else value
