"""A SlimCLR of two widths that compiles in seconds, and batches for it."""

from __future__ import annotations

import jax
import numpy as np

from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from tests import tiny

SMALL = (
    "precision.matmul=highest", "train.steps=10", "model.conv_channels=(8,16)", "model.strides=(1,2)", "mesh.data=1",
    "model.widths=(1.0,0.5)", "model.hidden=16", "model.dim=8", "model.queue=32", "model.momentum=0.9",
    "model.analyse_every=0", "data.image_size=8", "data.eval_resize=8", "data.batch_size=16",
    "data.eval_batch_size=16", "optim.main.lr=0.05",
)  # fmt: skip
V3 = ("model.framework=mocov3", "model.head=mocov3_slim", "model.distill_logits=scaled")
SIMCLR = ("model.framework=simclr", "model.head=simclr_slim")


def config(*overrides: str):
    """The quickstart, cut down."""
    return tiny.load("slimclr/quickstart.py", *SMALL, *overrides)


def batch(seed: int, rows: int = 16, size: int = 8):
    """Two noisy copies of random blocks of colour."""
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 216, (rows, 2, 2, 3)).repeat(size // 2, 1).repeat(size // 2, 2)
    view = lambda: (base + rng.integers(-20, 21, (rows, size, size, 3))).clip(0, 255).astype(np.uint8)  # noqa: E731
    return {"train": {"view_a": view(), "view_b": view()}}


def run(cfg, steps: int, mesh=None, state=None, seeds=None):
    """`(states after each update as host trees, scalars of each)`, batch `seed` at each step."""
    if mesh:
        cfg = configs.from_json(configs.to_json(cfg))
        cfg.mesh.update(mesh)
    compiled = session.compile_method(cfg)
    state = compiled.fresh_state() if state is None else jax.device_put(state, compiled.shardings)
    states, scalars = [jax.device_get(state.replace(rng=0))], []
    for step in range(steps):
        fields = batch(step if seeds is None else seeds[step])["train"]
        if cfg.model.framework in ("supervised", "probe"):
            fields = {"image": fields["view_a"], "label": np.arange(16, dtype=np.int32) % cfg.model.dim}
        put = sharding.put_batch({"train": fields}, compiled.mesh)
        state, out = compiled.updates[compiled.method.objective_at(step)](state, put)
        states.append(jax.device_get(state.replace(rng=0)))
        scalars.append({k: float(v) for k, v in out.items()})
    return states, scalars
