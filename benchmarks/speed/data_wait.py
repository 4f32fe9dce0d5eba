"""Does the loop wait for data? Examples a second with decoding against a batch that never changes.

    python -m benchmarks.speed.data_wait [--config FILE] [--steps 40] [--config.field=value ...]

Both run the same compiled update, in turns within one process: `rounds` times a stretch of updates fed by the
pipeline, then as many on one cached batch. A third row is the pipeline alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import loop, session, sharding
from jaxvl.core.evaluation import device_fields
from jaxvl.data import pipeline
from jaxvl.verbs import train


def measure(config, root: Path, steps: int, rounds: int) -> dict:
    data = session.build_data(config, root, print)
    compiled = session.compile_method(config)
    (stream,) = compiled.method.batch_spec
    examples = data.train[stream]
    options = train.pipeline_options(config, root)
    feed = pipeline.train_batches(examples, seed=0, **options)
    put = lambda b: {stream: sharding.put_batch(device_fields(b), compiled.mesh)}  # noqa: E731
    update = compiled.updates[compiled.method.objective_at(0)]
    cached = put(next(feed))
    state, scalars = update(compiled.fresh_state(), cached)
    jax.block_until_ready(scalars)
    compiles = loop.CompileCounter.install()
    before = compiles.count
    rates: dict[str, list[float]] = {"decoding": [], "cached": [], "pipeline": []}
    waits = []
    for _ in range(rounds):
        begun, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            batch = put(next(feed))
            waited += time.perf_counter() - asked
            state, scalars = update(state, batch)
            jax.block_until_ready(scalars)
        span = time.perf_counter() - begun
        rates["decoding"].append(steps * examples.batch_size / span)
        waits.append(waited / span)
        begun = time.perf_counter()
        for _ in range(steps):
            state, scalars = update(state, cached)
            jax.block_until_ready(scalars)
        rates["cached"].append(steps * examples.batch_size / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for _ in range(steps):
            next(feed)
        rates["pipeline"].append(steps * examples.batch_size / (time.perf_counter() - begun))
    feed.close()  # its threads may still write to the log of bad files
    return {"rates": rates, "data_wait": waits, "recompilations": compiles.count - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/centerclip/quickstart.py")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args, rest = parser.parse_known_args()
    config = configs.load(args.config, [w.removeprefix("--config.") for w in rest])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        raw = measure(config, Path(folder), args.steps, args.rounds)
    median = {k: statistics.median(v) for k, v in raw["rates"].items()}
    rows = [
        ["updates fed by the decoder", median["decoding"], median["decoding"] / median["cached"]],
        ["updates on a cached batch", median["cached"], 1.0],
        ["decoder alone", median["pipeline"], median["pipeline"] / median["cached"]],
    ]
    note = (
        f"Medians of {args.rounds} rounds of {args.steps} updates; share of time waiting for data "
        f"{100 * statistics.median(raw['data_wait']):.1f} %; "
        f"recompilations after the first update: {raw['recompilations']}. "
        "On a CPU decoder and update share the cores, so the first row pays for decoding in compute, not in waiting."
    )
    results.save("data_wait", "Decoding against a cached batch", ["", "examples/s", "ratio to cached"], rows, note, raw)


if __name__ == "__main__":
    main()
