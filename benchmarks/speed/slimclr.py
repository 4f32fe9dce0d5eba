"""A training step of SlimCLR-MoCo v2, by set of widths, against plain PyTorch on the same weights, on this CPU.

    python -m benchmarks.speed.slimclr [--rounds 5] [--batch 16] [--size 64] [--threads 2]

Needs PyTorch. Both run in one process in turns, in float32, from the same tensors and batches: two losses in a row are
compared (the second goes through gradient, optimiser, momentum encoder and queue) before anything is timed. Memory is
XLA's own analysis of the compiled step of ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import jax
import numpy as np
import torch

from benchmarks import results
from benchmarks.speed.torch_slimclr import Trainer, normalised
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.interop import keys
from jaxvl.methods.slimclr import published, recipe

SETS = ((1.0,), (1.0, 0.5), (1.0, 0.5, 0.25), (1.0, 0.75, 0.5, 0.25))
WIDTH, HIDDEN, QUEUE, LR = 32, 1024, 1024, 0.02
PAUSE = 0.1


def make_config(widths: tuple[float, ...], batch: int, size: int):
    c = configs.from_json(configs.to_json(recipe.mocov2(200)))
    c.precision.compute = "float32"
    c.mesh.data = 1
    c.train.steps = 100
    c.optim.main.update({"schedule": "constant", "lr": LR, "warmup": 0.0, "floor": 0.0})
    c.model.update({"widths": (1.0, 0.5), "width": WIDTH, "hidden": HIDDEN, "queue": QUEUE, "bn_groups": 1})
    c.model.update({"slow_start": 0.0, "zero_init": False, "widths": widths if len(widths) > 1 else (1.0, 0.5)})
    c.data.update({"batch_size": batch, "image_size": size})
    return c


class Contest:
    """Both sides of one set of widths, ready to be timed. A single width is the slow start's objective."""

    def __init__(self, widths: tuple[float, ...], batch: int, size: int):
        self.widths, c = widths, make_config(widths, batch, size)
        if len(widths) == 1:
            c.model.slow_start = 1.0
        self.compiled = session.compile_method(c)
        self.name = "full" if len(widths) == 1 else "all"
        self.state = self.compiled.fresh_state()
        flat = {k: np.asarray(v) for k, v in keys.to_flat(self.state.variables()).items()}
        arrays, report = published.to_official(
            keys.to_variables(flat, ("batch_stats", "key", "key_stats", "queue")), published.config_of_params(flat)
        )
        report.check()
        self.torch = Trainer(arrays, widths, LR, 1e-4, 0.999)
        rng = np.random.default_rng(0)
        self.views = [rng.integers(0, 256, (batch, size, size, 3), np.uint8) for _ in range(2)]
        self.placed = sharding.put_batch({"train": dict(zip(("view_a", "view_b"), self.views))}, self.compiled.mesh)
        self.tensors = [normalised(v) for v in self.views]
        self.memory = self.compiled.updates[self.name].lower(self.state, self.placed).compile().memory_analysis()
        self.seconds: dict[str, list[float]] = {"jaxvl": [], "torch": []}
        for _ in range(2):
            ours, theirs = self.ours(), self.torch.step(*self.tensors)
            np.testing.assert_allclose(ours, theirs, rtol=2e-3)

    def ours(self) -> float:
        self.state, scalars = self.compiled.updates[self.name](self.state, self.placed)
        return float(jax.block_until_ready(scalars["loss"]))

    def play(self) -> None:
        for side, work in (("jaxvl", self.ours), ("torch", lambda: self.torch.step(*self.tensors))):
            time.sleep(PAUSE)
            begun = time.perf_counter()
            work()
            self.seconds[side].append(time.perf_counter() - begun)

    def row(self) -> list:
        ours, theirs = self.seconds["jaxvl"], self.seconds["torch"]
        low, middle = min(ours) / min(theirs), statistics.median(ours) / statistics.median(theirs)
        temp = self.memory.temp_size_in_bytes / 2**20 if self.memory else float("nan")
        return [
            ", ".join(f"{w:g}" for w in self.widths), f"{1e3 * min(ours):.0f}", f"{1e3 * min(theirs):.0f}",
            f"{low:.2f}", f"{middle:.2f}", f"{temp:.0f}",
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    contests = []
    for widths in SETS:
        contest = Contest(widths, args.batch, args.size)
        for _ in range(args.rounds):
            contest.play()
        contests.append(contest)
        print(contest.row(), flush=True)
    columns = ["widths", "jaxvl ms", "PyTorch ms", "ratio of minima", "ratio of medians", "temporary MiB of ours"]
    note = (
        f"One update (losses, gradients, SGD, momentum encoder, queue) of a slimmable ResNet-50 of {WIDTH} stem "
        f"channels on {args.batch} pairs of {args.size}x{args.size}; {args.rounds} rounds in turns, PyTorch "
        f"{torch.__version__.split('+')[0]} with {args.threads} threads; load of the machine at the start {load:.1f}. "
        "Ratios below 1: jaxvl is faster. The first row is the slow start. Memory is the compiled step's temporary "
        "buffers by XLA's analysis."
    )
    raw = {", ".join(map(str, c.widths)): c.seconds for c in contests}
    results.save("slimclr_speed", "SlimCLR's training step against PyTorch, CPU", columns, [c.row() for c in contests],
                 note, raw)  # fmt: skip


if __name__ == "__main__":
    main()
