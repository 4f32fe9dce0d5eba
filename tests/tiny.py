"""The CenterCLIP quickstart cut down to seconds: the same files, reader, model and loop, all sizes tiny."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from jaxvl.core import config as configs

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "centerclip" / "quickstart.py"

OVERRIDES = (
    "train.steps=2", "train.log_every=1", "train.checkpoint_every=1", "mesh.data=1", "train.eval_split=test",
    "model.image_size=32", "model.vision_width=32", "model.vision_layers=2", "model.vision_heads=2",
    "model.text_width=32", "model.text_layers=1", "model.text_heads=2", "model.embed_dim=16",
    "model.schedule=B1-2,4", "data.frames=4", "data.batch_size=8", "data.eval_batch_size=8", "data.max_words=16",
    "data.world.num_train=24", "data.world.num_val=8", "data.world.num_test=12", "data.world.image_size=32",
    "data.world.captions_per_video=2", "pipeline.threads=1", "pipeline.prefetch=1",
)  # fmt: skip


def quickstart(*overrides: str):
    """The quickstart config at tiny size, with further `a.b=value` overrides."""
    return configs.load(QUICKSTART, (*OVERRIDES, *overrides))


def load(name: str, *overrides: str):
    """The config `configs/NAME` with `a.b=value` overrides."""
    return configs.load(ROOT / "configs" / name, overrides)


def flags(*overrides: str) -> list[str]:
    """The same overrides as words of the command line."""
    return [f"--config.{item}" for item in (*OVERRIDES, *overrides)]


def quiet(line: str) -> None:
    """A `say` that says nothing."""


def read_world(root: Path) -> list[dict]:
    """The records of a rendered sprite world, in the order train, val, test."""
    return [json.loads(line) for line in (root / "world.jsonl").read_text(encoding="utf-8").splitlines()]


def drawn(init, *inputs, seed: int = 0):
    """The variables that `init(*inputs)` would give, with values drawn by numpy: nothing is compiled.

    Kernels and embeddings N(0, 1/fan-in) with the last axis as output, scales and variances near 1, biases and means
    near 0.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return (1 + 0.1 * rng.normal(size=leaf.shape)).clip(0.5).astype(leaf.dtype)
        fan_in = leaf.size // leaf.shape[-1] if leaf.ndim > 1 else 100
        return (rng.normal(size=leaf.shape) * fan_in**-0.5).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, *inputs))
