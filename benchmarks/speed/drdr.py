"""DRDR's training step and its Sinkhorn divergence, jaxvl against plain PyTorch, on this machine's CPU.

    python -m benchmarks.speed.drdr [--rounds 5] [--threads 2] [--size 64]

Needs PyTorch, which jaxvl itself does not. ResNet-50, 64 source and 64 target images, 65 classes, every term of the
objective on, update included; and the debiased divergence of 64 features to 65 anchors in 256 dimensions with its
gradient. Both run in one process in turns on the same weights and inputs, in float32; losses, gradients and the first
update are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax
import numpy as np
import torch

from benchmarks import results
from benchmarks.speed import torch_drdr
from benchmarks.speed.centerclip import MAX_LOAD, MAX_OTHERS, Contest, busy_cores, usage
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.interop import keys
from jaxvl.methods.drdr import published
from jaxvl.ops import optimal_transport

CONFIG = Path(__file__).parent.parent.parent / "configs" / "drdr" / "office_home.py"
BATCH, CLASSES, FEATURES = 64, 65, 256
COMPARED = {
    "bottleneck/kernel": "bottleneck.weight",
    "fc/kernel": "fc.weight",
    "stiefel/kernel": "stiefel_linear.weight",
}
"""Of the first update. Later ones drift apart: a random ResNet-50 on 2x2 maps amplifies rounding."""
ON = (
    "model.weights.transport=0.01",
    "model.weights.consensus=0.1",
    "model.burn_in=0.0",
    "mesh.data=1",
    "precision.compute=float32",
)


def divergence_contest() -> Contest:
    """Value and gradient of the divergence; raises AssertionError where they differ."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(BATCH, FEATURES)).astype(np.float32)
    y = (0.8 * draws.normal(size=(CLASSES, FEATURES)) + 0.2).astype(np.float32)
    run = jax.jit(jax.value_and_grad(lambda x, y: optimal_transport.sinkhorn_divergence(x, y).value))
    placed = jax.device_put((x, y))
    there = torch.tensor(x, requires_grad=True), torch.tensor(y)

    def theirs():
        value = torch_drdr.transport(*there)
        return value, torch.autograd.grad(value, there[0])[0]

    def on_one_thread():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        found = theirs()
        torch.set_num_threads(threads)
        return found

    (value, gradient), (their_value, their_gradient) = run(*placed), theirs()
    np.testing.assert_allclose(value, their_value.item(), rtol=1e-4)
    np.testing.assert_allclose(gradient, their_gradient.numpy(), atol=1e-4 * np.abs(gradient).max())
    name = f"Sinkhorn divergence with gradient, {BATCH} and {CLASSES} points, D = {FEATURES}"
    return Contest(
        name, lambda: jax.block_until_ready(run(*placed)), {"torch": theirs, "one thread": on_one_thread}, 10
    )


def step_contest(size: int) -> Contest:
    """One update; raises AssertionError where losses or weights after it differ."""
    config = configs.load(CONFIG, (*ON, f"data.image_size={size}"))
    compiled = session.compile_method(config)
    state = compiled.fresh_state()
    draws = np.random.default_rng(1)
    images = draws.integers(0, 256, (2, BATCH, size, size, 3)).astype(np.uint8)
    labels = draws.integers(0, CLASSES, BATCH).astype(np.int32)
    batch = {"source": {"images": images[0], "label": labels}, "target": {"images": images[1]}}
    batch = sharding.put_batch(batch, compiled.mesh)
    weights = published.config_of_params(keys.to_flat(state.variables()))
    model = torch_drdr.DRDR(CLASSES, FEATURES)
    model.load(published.to_published(jax.device_get(state.variables()), weights)[0])
    w = {k: config.model.weights[k] for k in config.model.weights}
    main = config.optim.main
    trainer = torch_drdr.Trainer(model, CLASSES, w, main.lr, config.train.steps, decay=main.weight_decay)
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.model.mean, config.model.std))
    pair = [(torch.tensor(x).permute(0, 3, 1, 2) / 255 - mean) / std for x in images]
    y = torch.tensor(labels, dtype=torch.int64)
    update, held = compiled.updates["adapt"], [state]

    def ours():
        held[0], scalars = update(held[0], batch)
        return jax.block_until_ready(scalars["loss"])

    def theirs():
        return trainer.step(pair[0], y, pair[1])

    before = {k: np.asarray(v) for k, v in keys.to_flat(state.variables()).items() if k in COMPARED}
    loss, their_loss = float(ours()), theirs()  # donates `state`
    np.testing.assert_allclose(loss, their_loss, rtol=1e-4, err_msg="loss of the first update")
    after = {k: np.asarray(v) for k, v in keys.to_flat(held[0].variables()).items() if k in COMPARED}
    for path, name in COMPARED.items():
        moved = after[path] - before[path]
        theirs_moved = model.get_parameter(name).detach().numpy().T - before[path]
        scale = np.abs(moved).max()
        np.testing.assert_allclose(moved, theirs_moved, atol=1e-3 * scale, err_msg=f"first update of {path}")
    name = f"training step, ResNet-50, {BATCH} + {BATCH} images of {size}²"
    return Contest(name, ours, {"torch": theirs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    load, begin = os.getloadavg()[0], usage()
    contests = [divergence_contest(), step_contest(args.size)]
    for _ in range(args.rounds):
        for contest in contests:
            contest.play()
    others = busy_cores(begin, usage())
    quiet = load <= MAX_LOAD and others <= MAX_OTHERS
    if not quiet:
        print(f"WARNING: not quiet (load {load:.1f} at the start, {others:.1f} cores busy with others)")
    columns = ["piece", "jaxvl ms", "PyTorch ms", "ratio of minima", "ratio of medians", "fastest PyTorch form"]
    note = (
        f"Below 1 jaxvl is faster. float32, {args.threads} threads, {args.rounds} interleaved rounds, PyTorch "
        f"{torch.__version__}. Load average at the start {load:.2f}; cores busy with other processes {others:.2f}"
        + ("." if quiet else ": the machine was not quiet, so only the ratios mean something, and little.")
    )
    raw = {c.name: c.seconds for c in contests}
    raw |= {"load": {"start": load, "others": others, "quiet": quiet}, "torch": torch.__version__}
    rows = [c.row() for c in contests]
    results.save("speed_drdr", "Speed of DRDR against PyTorch", columns, rows, note, raw)


if __name__ == "__main__":
    main()
