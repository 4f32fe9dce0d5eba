"""In how many turns, one after another, CenterCLIP clusters a batch, from 4 to 128 devices.

    python -m benchmarks.pods.turns

Traced for meshes that are not here, with 32 videos a device; nothing is compiled or run. The limit of the distance
matrices (`config.model.reduce.max_bytes`) is of a device; beside it stands what a limit on the global array gives.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import sharding
from jaxvl.methods.centerclip.method import model_config
from jaxvl.methods.centerclip.reduce import reduction_plan
from jaxvl.ops import clustering

CONFIG = Path(__file__).parent.parent.parent / "configs" / "centerclip" / "msrvtt.py"
ROWS = ("9k_b32_kmedoids_b6_4_49", "9k_b16_kmedoids_b6_4_160", "9k_b16_kmedoids_b6_4_160, 4 MiB a device")
DEVICES, VIDEOS = (4, 16, 128), 32


def turns(name: str, devices: int, of_all: bool) -> int:
    """Turns of the loop over chunks; 1 where there is none. of_all: the limit counts the matrices of all devices."""
    row, small, _ = name.partition(", 4 MiB")
    cfg = model_config(configs.load(f"{CONFIG}:{row}"))
    (point,) = reduction_plan(
        cfg.target_frames, cfg.cluster_num, frames=cfg.frames, patches=cfg.clip.patches, layers=cfg.clip.vision_layers
    )
    limit = 4 * 2**20 if small else cfg.reduce.max_bytes
    tokens = point.frames_before // point.frames_after * point.tokens_before
    x = jax.ShapeDtypeStruct((VIDEOS * devices, point.frames_after, tokens, cfg.clip.vision_width), jnp.float32)

    def cluster(x):
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((devices, 1, 1), sharding.AXES)):
            return clustering.kmedoids(
                x,
                point.tokens_after,
                fixed_iters=cfg.reduce.cluster_iters,
                max_bytes=limit // (devices if of_all else 1),
            )

    loops = [e for e in jax.make_jaxpr(cluster)(x).eqns if e.primitive.name == "scan"]
    scans = [e.params["length"] for e in loops if not e.params["num_carry"]]  # the others choose the first centres
    return scans[0] if scans else 1


def main() -> int:
    rows, raw = [], {}
    for name in ROWS:
        for kind, of_all in (("of all devices (before)", True), ("of a device", False)):
            found = [turns(name, n, of_all) for n in DEVICES]
            raw[f"{name} {kind}"] = found
            rows.append([name, kind, *map(str, found)])
    columns = ("config", "limit counts the matrices", *(f"turns on {n} devices" for n in DEVICES))
    results.save("pods_turns", "Turns of CenterCLIP's clustering by number of devices", columns, rows, NOTE, raw)
    return 0


NOTE = "32 videos a device. Read off the traced program; limit 256 MiB where no other is named."

if __name__ == "__main__":
    raise SystemExit(main())
