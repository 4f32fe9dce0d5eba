"""CenterCLIP's video tower and its clustering, jaxvl against plain PyTorch, on this machine's CPU.

    python -m benchmarks.speed.centerclip [--rounds 5] [--videos 2] [--threads 2]
    python -m benchmarks.speed.centerclip --cpu-seconds

The first measures wall clock and needs a quiet machine. The second counts CPU seconds over all threads, which other
processes hardly change: the work that each side does, not how well it spreads it. PyTorch then has one thread, because
its idle threads spin and would be counted; XLA's sleep.
Needs PyTorch (2.13 was used), which jaxvl itself does not. Both run in one process in turns on the same weights and
inputs, in float32; outputs, gradients and medoids are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import results
from benchmarks.speed import torch_centerclip as reference
from jaxvl.methods.centerclip.model import CenterCLIP, CenterCLIPConfig
from jaxvl.methods.centerclip.reduce import schedule
from jaxvl.nn.clip import CLIP_PRESETS
from jaxvl.ops.clustering import kmedoids

FRAMES, SCALE, MAX_LOAD, MAX_OTHERS = 12, 20.0, 1.5, 0.3
SETS, TOKENS, CENTERS, WIDTH = (16, 6), 98, 49, 768
PAUSE = 0.1  # seconds between timings: idle worker threads of one side spin for a while before they sleep
ARMS = ("none", "B6-4,49")


class Contest:
    """One piece of work: `ours` and one or more `theirs`, functions without arguments that end when done."""

    def __init__(self, name: str, ours: Callable, theirs: dict[str, Callable], repeats: int = 1):
        self.name, self.sides, self.repeats = name, {"jaxvl": ours} | theirs, repeats
        self.seconds: dict[str, list[float]] = {side: [] for side in self.sides}

    def play(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """One timing of every side."""
        for side, work in self.sides.items():
            time.sleep(PAUSE)
            begun = clock()
            for _ in range(self.repeats):
                work()
            self.seconds[side].append((clock() - begun) / self.repeats)

    def row(self) -> list:
        """Name, milliseconds of both sides, ratio of the minima, of the medians, and who was the faster reference."""
        best = min((s for s in self.sides if s != "jaxvl"), key=lambda s: min(self.seconds[s]))
        ours, theirs = self.seconds["jaxvl"], self.seconds[best]
        low, middle = min(ours) / min(theirs), statistics.median(ours) / statistics.median(theirs)
        return [self.name, f"{1e3 * min(ours):.1f}", f"{1e3 * min(theirs):.1f}", f"{low:.2f}", f"{middle:.2f}", best]


def busy_cores(begin: tuple[float, float, float], end: tuple[float, float, float]) -> float:
    """Cores that other processes kept busy between two `usage()`."""
    wall, own, machine = (b - a for a, b in zip(begin, end, strict=True))
    return (machine - own) / wall


def usage() -> tuple[float, float, float]:
    """Wall clock, CPU seconds of this process, busy CPU seconds of the machine (Linux)."""
    ticks = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return time.perf_counter(), time.process_time(), (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def measure(games: Sequence[Contest], rounds: int, cpu_seconds: bool) -> tuple[list[str], str]:
    """Plays `rounds` of all games in turns, each once beforehand: `(columns of a row, how quiet it was)`."""
    clock, load = time.process_time if cpu_seconds else time.perf_counter, os.getloadavg()[0]
    for game in games:
        for work in game.sides.values():
            work()  # compiles, and touches memory once
    begin = usage()
    for _ in range(rounds):
        for game in games:
            game.play(clock)
    others = busy_cores(begin, usage())
    quiet = cpu_seconds or (load <= MAX_LOAD and others <= MAX_OTHERS)
    unit = "CPU ms" if cpu_seconds else "ms"
    columns = ["piece", f"jaxvl {unit}", f"PyTorch {unit}", "ratio of minima", "ratio of medians", "PyTorch form"]
    note = f"Load average at the start {load:.2f}; cores busy with other processes {others:.2f}" + (
        "." if quiet else ": the machine was not quiet, so only the ratios mean something, and little."
    )
    return columns, note


def clustering_contest() -> Contest:
    """k-medoids++ of 96 sets of 98 tokens into 49 clusters; raises AssertionError when medoids differ."""
    x = np.random.default_rng(0).normal(size=(*SETS, TOKENS, WIDTH)).astype(np.float32)
    ours, flat = jax.jit(lambda x: kmedoids(x, CENTERS).medoids), torch.from_numpy(x).flatten(0, 1)
    placed = jax.device_put(x)
    expected = np.asarray(ours(placed)).reshape(-1, CENTERS)
    for name, cluster in reference.CLUSTERINGS.items():
        np.testing.assert_array_equal(expected, cluster(flat, CENTERS).numpy(), err_msg=name)
    theirs = {name: lambda c=c: c(flat, CENTERS) for name, c in reference.CLUSTERINGS.items()}
    return Contest("clustering alone, 16·6 sets, 98 → 49", lambda: jax.block_until_ready(ours(placed)), theirs, 2)


def product_contests(videos: int) -> list[Contest]:
    """The matrix products of an MLP layer at the tower's shapes, alone: output, gradients of input and of weights."""
    draws, width = np.random.default_rng(2), WIDTH
    rows = videos * FRAMES * (CLIP_PRESETS["ViT-B/32"].patches + 1)
    shapes = {"x": (rows, width), "w": (width, 4 * width), "g": (rows, 4 * width)}
    ours = {k: jnp.asarray(draws.normal(size=s).astype(np.float32)) for k, s in shapes.items()}
    theirs = {k: torch.from_numpy(np.array(v)) for k, v in ours.items()}
    contests = []
    for name, equation, left, right, product in (
        ("output", "bi,io->bo", "x", "w", lambda x, w: x @ w),
        ("input gradient", "bo,io->bi", "g", "w", lambda g, w: g @ w.T),
        ("weight gradient", "bi,bo->io", "x", "g", lambda x, g: x.T @ g),
    ):
        ours_product = jax.jit(lambda a, b, e=equation: jnp.einsum(e, a, b))
        run = lambda f=ours_product, a=ours[left], b=ours[right]: jax.block_until_ready(f(a, b))  # noqa: E731
        their_run = lambda f=product, a=theirs[left], b=theirs[right]: f(a, b)  # noqa: E731
        np.testing.assert_allclose(run(), their_run().numpy(), atol=1e-2, rtol=1e-3)
        contests.append(Contest(f"bare product {width} × {4 * width}, {name}", run, {"torch": their_run}, 4))
    return contests


def tower_contests(arm: str, videos: int, fastest: str) -> list[Contest]:
    """Inference and training step of the ViT-B/32 tower; raises AssertionError when outputs or gradients differ."""
    clip = CLIP_PRESETS["ViT-B/32"]
    target, tokens = schedule(arm, layers=clip.vision_layers, frames=FRAMES, patches=clip.patches)
    config = CenterCLIPConfig(clip, FRAMES, target, tokens)
    model = CenterCLIP(config)
    draws = np.random.default_rng(1)
    frames = natural_frames(draws, videos, clip.image_size)
    text = draws.normal(size=(videos, clip.embed_dim)).astype(np.float32)
    mask = np.ones((videos, FRAMES), bool)
    params = jax.jit(lambda k: model.init(k, frames, mask, method=CenterCLIP.encode_video))(jax.random.key(0))["params"]

    def encode(params, frames):
        return model.apply({"params": params}, frames, mask, method=CenterCLIP.encode_video)[0]

    def loss(params, frames):
        return contrastive_loss(encode(params, frames), text)

    w = reference.from_flax(params["visual"])
    options = {"heads": clip.vision_heads, "patch": clip.patch_size}
    if config.plan:
        (point,) = config.plan
        options |= {"reduce_after": point.after, "segments": point.frames_after, "centers": point.tokens_after}
        options["cluster"] = reference.CLUSTERINGS[fastest]
    their_frames, their_text = torch.from_numpy(frames), torch.from_numpy(text)

    def their_inference():
        with torch.inference_mode():
            return reference.encode_video(w, their_frames, **options)

    def their_step():
        value = reference.contrastive_loss(reference.encode_video(w, their_frames, **options), their_text, SCALE)
        return value, torch.autograd.grad(value, tuple(w.values()))

    inference, step, placed = jax.jit(encode), jax.jit(jax.value_and_grad(loss)), jax.device_put(frames)
    np.testing.assert_allclose(inference(params, placed), their_inference().numpy(), atol=1e-3, rtol=1e-3)
    value, gradient = step(params, placed)
    their_value, their_gradient = their_step()
    np.testing.assert_allclose(value, their_value.item(), rtol=1e-3)
    compare_gradients(gradient["visual"], dict(zip(w, their_gradient, strict=True)))
    return [
        Contest(
            f"tower {arm}, inference",
            lambda: jax.block_until_ready(inference(params, placed)),
            {"torch": their_inference},
        ),
        Contest(
            f"tower {arm}, gradient step", lambda: jax.block_until_ready(step(params, placed)), {"torch": their_step}
        ),
    ]


def natural_frames(draws: np.random.Generator, videos: int, size: int) -> np.ndarray:
    """uint8 `[B, T, R, R, 3]`: noise of several scales, so that patches differ and clusters are no accident of
    rounding."""
    levels = [
        draws.normal(size=(videos, FRAMES, n, n, 3)).repeat(size // n, 2).repeat(size // n, 3) for n in (7, 28, 224)
    ]
    return np.clip(128 + 40 * sum(levels), 0, 255).astype(np.uint8)


def contrastive_loss(segments: jax.Array, text: jax.Array) -> jax.Array:
    """Symmetric cross-entropy of pooled segments `[B, S, E]` against text `[B, E]`."""

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    logits = SCALE * unit(text) @ unit(unit(segments).mean(1)).T
    rows, columns = jax.nn.log_softmax(logits, 1), jax.nn.log_softmax(logits, 0)
    return -0.5 * (jnp.diagonal(rows).mean() + jnp.diagonal(columns).mean())


def compare_gradients(ours: dict, theirs: dict[str, torch.Tensor]) -> None:
    """Raises AssertionError unless the gradients agree to 1e-3 of their norm, leaf by leaf."""
    converted = reference.from_flax(ours)
    for name, g in theirs.items():
        difference = (converted[name] - g).norm() / g.norm().clamp(min=1e-12)
        is_key_bias = name.endswith("in.bias")  # its key part is 0 but for rounding
        assert difference < (1e-2 if is_key_bias else 1e-3), f"gradient of {name}: {difference:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    parser.add_argument("--cpu-seconds", action="store_true", help="CPU seconds instead of wall clock")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_seconds else time.perf_counter
    threads = 1 if args.cpu_seconds else args.threads
    torch.set_num_threads(threads)
    load, begin = os.getloadavg()[0], usage()
    clustering = clustering_contest()
    for _ in range(4 * args.rounds):
        clustering.play(clock)
    contests = [clustering, *product_contests(args.videos)]
    for _ in range(args.rounds):
        for contest in contests[1:]:
            contest.play(clock)
    for arm in ARMS:
        pair = tower_contests(arm, args.videos, clustering.row()[-1])
        for _ in range(args.rounds):
            for contest in pair:
                contest.play(clock)
        contests += pair
    others = busy_cores(begin, usage())
    quiet = load <= MAX_LOAD and others <= MAX_OTHERS
    if not quiet and not args.cpu_seconds:
        print(
            f"WARNING: the machine was not quiet (load {load:.1f} at the start, {others:.1f} cores busy with others): "
            "do not publish these numbers"
        )
    unit = "CPU ms" if args.cpu_seconds else "ms"
    columns = [
        "piece",
        f"jaxvl {unit}",
        f"PyTorch {unit}",
        "ratio of minima",
        "ratio of medians",
        "fastest PyTorch form",
    ]
    note = (
        f"Below 1 jaxvl is faster. float32, {args.videos} videos of {FRAMES} frames at 224², {args.rounds} interleaved "
        f"rounds ({4 * args.rounds} of the clustering), PyTorch {torch.__version__} with {threads} thread(s). Load "
        f"average at the start {load:.2f}; cores busy with other processes {others:.2f}"
    )
    if args.cpu_seconds:
        note += ": CPU seconds over all threads, so the work of each side, not its speed on the wall clock."
    else:
        note += "." if quiet else ": NOT QUIET, NOT FOR PUBLICATION."
    raw = {c.name: c.seconds for c in contests}
    raw |= {"load": {"start": load, "others": others, "quiet": quiet}, "torch": torch.__version__}
    name, title = "centerclip_speed", "Speed of CenterCLIP against PyTorch"
    if args.cpu_seconds:
        name, title = "centerclip_speed_cpu", "Work of CenterCLIP against PyTorch, in CPU seconds"
    results.save(name, title, columns, [c.row() for c in contests], note, raw)


if __name__ == "__main__":
    main()
