"""Memory and time of a training step at paper size: ViT-B/32, T = 12, clustering against all tokens.

    python -m benchmarks.claims.centerclip_cost [--memory-batch 16] [--time-batch 2] [--rounds 3]

Memory is XLA's own analysis of the compiled step (arguments, results and temporaries of one device; nothing is run).
Time is measured on this machine, arms in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.core.state import dummy_batch

PAPER = Path(__file__).parent.parent.parent / "configs" / "centerclip" / "msrvtt.py"
ARMS = ("none", "B6-6,49", "B6-4,49", "B6-3,49")


def compiled(schedule: str, batch: int):
    c = configs.load(PAPER, [f"model.schedule={schedule}", f"data.batch_size={batch}", "precision.compute=float32"])
    c.model.reduce.algorithm = "none" if schedule == "none" else "kmedoids++"
    return session.compile_method(c)


def memory(schedule: str, batch: int) -> dict[str, float]:
    built = compiled(schedule, batch)
    specs = {
        s: {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in f.items()} for s, f in built.method.batch_spec.items()
    }
    program = built.updates["retrieve"].lower(built.target, specs).compile()
    m = program.memory_analysis()
    live = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return {"total": live, "temporary": m.temp_size_in_bytes, "flops": program.cost_analysis()["flops"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-batch", type=int, default=16)
    parser.add_argument("--time-batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sizes = {arm: memory(arm, args.memory_batch) for arm in ARMS}
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    draws = np.random.default_rng(0)
    frames = draws.integers(0, 256, (args.time_batch, 12, 224, 224, 3), np.uint8)
    programs = {}
    for arm in ARMS:  # one state at a time: each is 1.8 GB
        built = compiled(arm, args.time_batch)
        batch = dummy_batch(built.method)
        batch["train"] |= {"frames": frames, "mask": np.ones((args.time_batch, 12), bool)}
        placed = {"train": sharding.put_batch(batch["train"], built.mesh)}
        programs[arm] = (built.updates["retrieve"], placed)
    state = built.fresh_state()
    for turn in range(args.rounds + 1):
        for arm, (update, placed) in programs.items():
            begun = time.perf_counter()
            state, scalars = update(state, placed)
            jax.block_until_ready(scalars)
            if turn:  # the first turn compiles
                times[arm].append(time.perf_counter() - begun)
    base, base_time = sizes["none"], statistics.median(times["none"])
    rows = [
        [
            arm,
            f"{sizes[arm]['temporary'] / 2**30:.2f} GiB",
            f"{sizes[arm]['temporary'] / base['temporary']:.2f}",
            f"{sizes[arm]['total'] / base['total']:.2f}",
            f"{sizes[arm]['flops'] / base['flops']:.2f}",
            f"{statistics.median(times[arm]):.2f} s",
            f"{statistics.median(times[arm]) / base_time:.2f}",
        ]
        for arm in ARMS
    ]
    columns = ["schedule", "temporaries", "ratio", "whole step, ratio", "FLOPs, ratio", "step time", "ratio"]
    note = (
        f"ViT-B/32, T = 12, float32, no remat. Memory: XLA's analysis for batch {args.memory_batch} (CPU backend, "
        "which shares buffers less than an accelerator's); the whole step adds weights, moments and inputs. Time: "
        f"batch {args.time_batch}, median of {args.rounds} interleaved rounds. The paper measured 0.72 of the memory "
        "for B6-4,49."
    )
    raw = {"memory": sizes, "seconds": times}
    results.save("centerclip_cost", "Cost of a training step with clustering", columns, rows, note, raw)


if __name__ == "__main__":
    main()
