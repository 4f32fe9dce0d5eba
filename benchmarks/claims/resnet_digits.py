"""The shared ResNet learns, and padding matters: small trunks on 1,797 real handwritten digits.

Digits of scikit-learn, 8x8, resized to 32x32 (bilinear, corners not aligned), grey repeated to RGB, values in [-1, 1];
1,400 for training, 397 for the test, by one fixed permutation. Basic blocks (1, 1, 1, 1) of width 16 behind the exact
stem; batches of 64 drawn with replacement, 200 steps of SGD 0.05 with Nesterov momentum 0.9 and weight decay 5e-4,
20 steps of warm-up, then a cosine.

Claims, every seed: batch norm with the default start and with `zero_init` at least 97.5 %, batch norm frozen at its
start at least 95.5 %. Control, which shows that the check can fail: the first arm's weights under TensorFlow's "SAME"
padding, which shifts every strided map by a pixel and raises no error, at most 40 %.

    python -m benchmarks.claims.resnet_digits
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import results
from jaxvl.data.readers.classification.digits import PIXEL_MAX, read_optdigits
from jaxvl.nn import slimmable
from jaxvl.nn.resnet import ResNet

ARMS = {
    "batch norm, default start": {},
    "batch norm, zero-init residuals": {"zero_init": True},
    "batch norm frozen at its start": {"norm": "frozen"},
}
SAME = "the first arm's weights under SAME padding"
LEAST = dict(zip(ARMS, (97.5, 97.5, 95.5), strict=True))
MOST = {SAME: 40.0}
TRAIN, BATCH, STEPS, WARMUP, RATE = 1400, 64, 200, 20, 0.05


def load() -> tuple[np.ndarray, np.ndarray]:
    """Images `[1797, 32, 32, 3]` float32 in [-1, 1] and labels, in the order of the fixed permutation."""
    digits = read_optdigits()
    grey = jnp.asarray(digits.images, jnp.float32) / PIXEL_MAX["optdigits"]
    large = jax.image.resize(grey, (len(grey), 32, 32, 1), "linear", antialias=False)
    order = np.random.RandomState(0).permutation(len(grey))
    return np.asarray(jnp.repeat(large, 3, axis=-1) * 2 - 1)[order], digits.labels[order]


def rate(step: jax.Array) -> jax.Array:
    """Learning rate of step 0 to 199."""
    after = (step - WARMUP) / (STEPS - WARMUP)
    return RATE * jnp.where(step < WARMUP, (step + 1) / WARMUP, 0.5 * (1 + jnp.cos(math.pi * after)))


def train(net: ResNet, images: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """Variables after 200 steps."""
    optimiser = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9, nesterov=True))

    @jax.jit
    def step(variables, state, x, y):
        def loss(params):
            out, changed = net.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(out["logits"], y).mean(), changed

        grads, changed = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimiser.update(grads, state, variables["params"])
        return {**variables, **changed, "params": optax.apply_updates(variables["params"], updates)}, state

    variables = jax.jit(net.init)(jax.random.key(seed), images[:1])
    state = optimiser.init(variables["params"])
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        chosen = rng.integers(0, TRAIN, BATCH)
        variables, state = step(variables, state, images[chosen], labels[chosen])
    return variables


def accuracy(net: ResNet, variables: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent right on the test part."""
    logits = jax.jit(net.apply)(variables, images[TRAIN:])["logits"]
    return 100 * float((logits.argmax(-1) == labels[TRAIN:]).mean())


def accuracy_same_padding(net: ResNet, variables: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """The same, with every convolution and the pool padded as "SAME" pads."""

    def convolve(x, kernel, stride=1, dilation=1):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", None, (dilation,) * 2, layout)

    pool = nn.max_pool
    with (
        mock.patch.object(slimmable, "convolve", convolve),
        mock.patch.object(nn, "max_pool", lambda x, window, strides, padding: pool(x, window, strides, "SAME")),
    ):
        return accuracy(net, variables, images, labels)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs arms × seeds, prints and writes the table; exit code 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    images, labels = load()
    found: dict[str, list[float]] = {arm: [] for arm in (*ARMS, SAME)}
    for arm, fields in ARMS.items():
        net = ResNet(18, 10, ("logits",), width=16, blocks=(1, 1, 1, 1), **fields)
        for seed in args.seeds:
            variables = train(net, images, labels, seed)
            found[arm].append(accuracy(net, variables, images, labels))
            if not fields:
                found[SAME].append(accuracy_same_padding(net, variables, images, labels))
    holds = {arm: min(found[arm]) >= bar for arm, bar in LEAST.items()}
    holds |= {arm: max(found[arm]) <= bar for arm, bar in MOST.items()}
    bars = {arm: f">= {bar}" for arm, bar in LEAST.items()} | {arm: f"<= {bar}" for arm, bar in MOST.items()}
    rows = [
        [arm, results.mean_sd(v), ", ".join(f"{x:.1f}" for x in v), bars[arm], "holds" if holds[arm] else "FAILS"]
        for arm, v in found.items()
    ]
    note = (
        f"Test accuracy in percent on 397 digits, {STEPS} steps, seeds {args.seeds} (weights and batches); chance 10."
    )
    columns = ["arm", "mean ± sd", "by seed", "bar, every seed", "verdict"]
    results.save("resnet_digits", "The ResNet trunk on real digits", columns, rows, note, {"accuracy": found})
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
