"""What a form of a computation costs on a TPU, by the compiler's own figures: each lever off and on.

    python -m benchmarks.pods.levers [--only NAME ...] [--ways WAY ...]

Needs the extra `aot` and no TPU. A row compiles one step with the forms that are right for CPUs forced upon the TPU,
and as it is. Each takes a minute or two of one core; `--only` and `--ways` measure some rows anew and leave the others
as they are in docs/results/pods_levers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import flash_attention as pallas
from jax.sharding import PartitionSpec as P

from benchmarks import results
from jaxvl.core import chips, costs, flops, laid_out, session, sharding
from jaxvl.core import config as configs
from jaxvl.nn import attention, resnet
from jaxvl.nn.resnet import ResNet
from jaxvl.nn.transformer import ResidualBlock, run_blocks
from jaxvl.verbs import aot

ROOT = Path(__file__).parent.parent.parent
TITLE = "What differs by platform, compiled for TPU v5e 2x2"
NAME = "pods_levers"
TOPOLOGY = "v5e:2x2"
CPU, NATIVE = "forms for CPUs", "by platform"
IN_TURN, LOOP = "blocks in turn", "blocks as a loop"
FLASH = "a flash kernel (Pallas)"
EACH, AT_ONCE = "a pass of each domain", "one pass"
REMAT = {"remat none": "none", "remat dots": "dots", "remat full": "full"}


class Lever(NamedTuple):
    """A step, compiled with the forms for CPUs and with those of the platform, or in other `ways`. what: the change,
    for readers. config: whose first objective it is; None: a stack of `blocks`, or `bottlenecks`. code: machine code is
    generated, too, to see how long that takes."""

    what: str
    config: str | None = None
    blocks: Blocks | None = None
    ways: tuple[str, ...] = (CPU, NATIVE)
    code: bool = False


class Blocks(NamedTuple):
    """A stack of CLIP's blocks over 384 sequences a device (32 clips of 12 frames), width 768, 12 heads, bfloat16."""

    layers: int
    tokens: int
    remat: str = "none"


LEVERS = {
    "bottlenecks": Lever(
        "1x1 convolutions as products, batch norm's sums as one reduction: gradient of a ResNet with one bottleneck in "
        "each of ResNet-50's stages, 64 images, float32"
    ),
    "drdr": Lever(
        "the same: DRDR's whole step, 64 + 64 images, bfloat16",
        "drdr/office31.py:uda_a_w",
    ),
    "b16_blocks": Lever(
        "attention that keeps its weights: gradient of two blocks of ViT-B/16, 384 sequences of 197 tokens, bfloat16",
        blocks=Blocks(2, 197),
        ways=(CPU, NATIVE, FLASH),
    ),
    "b32_blocks": Lever(
        "the same of ViT-B/32, 50 tokens",
        blocks=Blocks(2, 50),
        ways=(CPU, NATIVE, FLASH),
    ),
    "b32_step": Lever(
        "the same: CenterCLIP's whole step, ViT-B/32, 32 clips of 12 frames a chip, bfloat16",
        "centerclip/msrvtt.py:9k_b32_kmedoids_b6_4_49",
    ),
    "mist_step": Lever("the same: MIST's whole step, 32 questions a chip, bfloat16", "mist/agqa.py:paper"),
    "b32_scan": Lever(
        "precision.scan_layers: gradient of the 12 blocks of ViT-B/32, remat none",
        blocks=Blocks(12, 50),
        ways=(IN_TURN, LOOP),
        code=True,
    ),
    "b32_scan_dots": Lever(
        "the same with remat dots",
        blocks=Blocks(12, 50, "dots"),
        ways=(IN_TURN, LOOP),
        code=True,
    ),
    "b32_scan_full": Lever(
        "the same with remat full",
        blocks=Blocks(12, 50, "full"),
        ways=(IN_TURN, LOOP),
        code=True,
    ),
    "drdr_leave_one_out": Lever(
        "batch statistics of runs of rows: DRDR's whole leave-one-out step, 64 images of three domains, bfloat16",
        "drdr/pacs.py:loo_art_painting",
        ways=(EACH, AT_ONCE),
    ),
    "b16_remat": Lever(
        "precision.remat: CenterCLIP's whole step, ViT-B/16, 32 clips of 12 frames a chip, bfloat16, without clusters",
        "centerclip/lsmdc.py:b16_meanp",
        ways=tuple(REMAT),
    ),
    "b16_clusters_remat": Lever(
        "the same with 4 segments of 160 medoids from block 6 on",
        "centerclip/lsmdc.py:b16_kmedoids_b6_4_160",
        ways=tuple(REMAT),
    ),
}


@contextlib.contextmanager
def forced():
    """Whatever the platform, the form for CPUs."""
    with mock.patch.object(jax.lax, "platform_dependent", lambda *args, cpu, default: cpu(*args)):
        yield


@contextlib.contextmanager
def in_turn():
    """A trunk whose batch norms would take the statistics of runs of rows passes each run by itself."""
    call, norm = ResNet.__call__, resnet.Options.norm

    def passes(self, x, train=False, index=0):
        parts = jnp.split(x, np.cumsum(self.bn_runs)[:-1]) if self.bn_runs else [x]
        return jax.tree.map(lambda *taps: jnp.concatenate(taps), *(call(self, part, train, index) for part in parts))

    def plain(self, name, index, **options):
        return norm(dataclasses.replace(self, bn_runs=()), name, index, **options)

    with mock.patch.object(ResNet, "__call__", passes), mock.patch.object(resnet.Options, "norm", plain):
        yield


def measured(name: str, way: str) -> dict[str, Any]:
    """Figures of the update, per device, from a process of its own: the compiler is left before it generates code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __spec__.name, "--only", name, "--ways", way, "--folder", folder]
        subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        found = json.loads(Path(folder, "figures.json").read_text(encoding="utf-8"))
    if "error" in found:
        return {"error": found["error"], "needed": found["needed"]}
    exchanged = found["collectives"]
    return {
        "bytes": found["bytes"]["memory"],
        "on_chip": found["bytes"]["on_chip"],
        "needed": found.get("needed"),
        "temporaries": found["memory"]["temporaries"],
        "relayouts": found["relayouts"]["count"],
        "relayout_bytes": found["relayouts"]["bytes"],
        "relayout_places": found["relayouts"]["places"][:8],
        "collectives": sum(row["count"] for row in exchanged),
        "collective_bytes": sum(row["bytes"] for row in exchanged),
        "loops": sum(row["entered"] for row in found["loops"]),
        "flops": found["flops"]["compiled"],
        "seconds": found["seconds"],
    }


def compiled_here(lever: Lever, way: str, folder: Path) -> dict[str, Any]:
    """The figures themselves. This process has to end then, by `os._exit`."""
    with {CPU: forced, EACH: in_turn}.get(way, contextlib.nullcontext)():
        if lever.blocks is not None:
            return blocks(lever.blocks, way, None if lever.code else folder)
        if lever.config is None:
            return bottlenecks(folder)
        chosen = (f"precision.remat={REMAT[way]}",) if way in REMAT else ()
        config = configs.load(ROOT / "configs" / lever.config, chosen)
        config = configs.with_length(config, configs.NOMINAL_EPOCH)
        name = next(iter(session.build_method(config).objectives))
        settings = aot.Settings(
            code=False, effort=aot.DEFAULT, limit=chips.parse(TOPOLOGY).chip.usable * 2**30, whose=""
        )
        return aot.alone(config, TOPOLOGY, f"objective {name}", settings, folder)


def of_traced(traced: Any, mesh: Any, low: bool, folder: Path | None) -> dict[str, Any]:
    """Figures of a traced program that is no step of a config. low: products should be bfloat16. folder: for the
    compiler, which is left before it generates code; None: it is not."""
    begin = time.process_time()
    lowered = traced.lower(lowering_platforms=("tpu",))
    if folder is None:
        done = lowered.compile()
    else:
        folder.mkdir()
        done = laid_out.lay_out(lowered, {}, folder)
    spent = time.process_time() - begin
    total = flops.of_jaxpr(traced.jaxpr.jaxpr, platform="tpu")
    found, _ = costs.of_program(done, mesh.shape, total, chips.parse(TOPOLOGY).chip, low)
    return {**found, "seconds": {"compile_cpu": spent}}


def bottlenecks(folder: Path) -> dict[str, Any]:
    """Figures of the gradient of a ResNet of four bottlenecks, the images over all devices."""
    place = chips.parse(TOPOLOGY)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, place.devices())
    net, images = ResNet(depth=50, blocks=(1, 1, 1, 1)), jax.ShapeDtypeStruct((64, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)

    def loss(params, rest, images):
        out, changed = net.apply({"params": params, **rest}, images, True, mutable=["batch_stats"])
        return jnp.square(out["pool"]).mean(), changed

    def gradient(variables, images):
        params = variables["params"]
        rest = {"batch_stats": variables["batch_stats"]}
        return jax.value_and_grad(loss, has_aux=True)(params, rest, images)

    where = (sharding.replicated(mesh), sharding.batch_sharding(mesh))
    traced = jax.jit(gradient, in_shardings=where, out_shardings=where[0]).trace(variables, images)
    return of_traced(traced, mesh, False, folder)


class Stack(nn.Module):
    """CLIP's blocks alone."""

    blocks: Blocks
    scan: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fields = dict(heads=12, layers=12, dtype=jnp.bfloat16)
        names = [f"resblocks_{i}" for i in range(self.blocks.layers)]
        return run_blocks(self, ResidualBlock, fields, names, x, remat=self.blocks.remat, scan=self.scan)


def blocks(which: Blocks, way: str, folder: Path | None) -> dict[str, Any]:
    """Figures of the gradient of a stack of blocks for its parameters and inputs."""
    place = chips.parse(TOPOLOGY)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, place.devices())
    net, x = Stack(which, way == LOOP), jax.ShapeDtypeStruct((384 * place.count, which.tokens, 768), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    gradient = jax.grad(lambda v, x: jnp.square(net.apply(v, x)).mean(), (0, 1))
    where = (sharding.replicated(mesh), sharding.batch_sharding(mesh))
    kernel = mock.patch.object(attention, "_einsum", flash) if way == FLASH else contextlib.nullcontext()
    with jax.set_mesh(mesh), kernel:
        traced = jax.jit(gradient, in_shardings=where, out_shardings=where).trace(variables, x)
        return of_traced(traced, mesh, True, folder)


def flash(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: None, **options: Any) -> jax.Array:
    """In the place of `attention._einsum`: JAX's kernel for TPUs, on tokens padded to whole blocks of 128."""
    del key_mask, options
    length, width = query.shape[1], query.shape[-1]
    total = -(-length // 128) * 128
    names = [f.name for f in dataclasses.fields(pallas.BlockSizes) if f.name != "block_b"]

    def local(*arrays: jax.Array) -> jax.Array:
        rows = [jnp.pad(a.swapaxes(1, 2), ((0, 0), (0, 0), (0, total - length), (0, 0))) for a in arrays]
        real = jnp.broadcast_to((jnp.arange(total) < length).astype(jnp.int32), (len(rows[0]), total))
        sizes = pallas.BlockSizes(block_b=1, **dict.fromkeys(names, total))
        ids = pallas.SegmentIds(real, real)
        out = pallas.flash_attention(*rows, segment_ids=ids, sm_scale=width**-0.5, block_sizes=sizes)
        return out[:, :, :length].swapaxes(1, 2)

    spec = P(sharding.BATCH_AXES)
    return jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(query, key, value)


def rows_of(raw: Mapping[str, Any]) -> list[list[Any]]:
    rows = []
    for name, lever in LEVERS.items():
        for way in lever.ways:
            f = raw.get(name, {}).get(way)
            if f is None:
                continue
            if "error" in f:
                needed = f"{f['needed'] / 2**30:.1f}: too much" if f.get("needed") else "too much"
                rows.append([lever.what, way, needed, *[""] * 7])
                continue
            gb, mib = f["bytes"] / 1e9, f["temporaries"] / 2**20
            relayouts = f"{f['relayouts']} ({f['relayout_bytes'] / 1e9:.2f} GB)"
            seconds = f"{f['seconds']['compile_cpu']:.0f}"
            exchanged = f"{f['collectives']} ({f['collective_bytes'] / 1e6:.1f} MB)"
            needed = f"{f['needed'] / 2**30:.2f}" if f.get("needed") else ""
            computed = f"{f['flops'] / 1e12:.2f}"
            figures = (needed, computed, f"{gb:.1f}", f"{mib:.0f}", relayouts, exchanged, str(f["loops"]), seconds)
            rows.append([lever.what, way, *figures])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=tuple(LEVERS), default=tuple(LEVERS))
    every = dict.fromkeys(way for lever in LEVERS.values() for way in lever.ways)
    parser.add_argument("--ways", nargs="*", choices=tuple(every), default=tuple(every))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # one row, for `measured`
    args = parser.parse_args()
    if args.folder is not None:
        found = compiled_here(LEVERS[args.only[0]], args.ways[0], args.folder / "compiler")
        (args.folder / "figures.json").write_text(json.dumps(found), encoding="utf-8")
        os._exit(0)
    for name in args.only:
        for way in (way for way in LEVERS[name].ways if way in args.ways):
            found = measured(name, way)
            raw = kept()
            raw.setdefault(name, {})[way] = found
            save(raw)
    save(kept())
    return 0


def kept() -> dict[str, Any]:
    """What the results file holds, which another process may have changed while this one compiled."""
    file = results.FOLDER / f"{NAME}.json"
    return json.loads(file.read_text(encoding="utf-8"))["raw"] if file.is_file() else {}


def save(raw: Mapping[str, Any]) -> None:
    note = (
        "Per device and update, from the compiler's optimised program (`jaxvl aot` explains each figure). GiB a "
        "device: all that a chip of 15.75 GiB holds, the state and the next batch with it, and not its code; only of "
        "whole steps. TFLOP: what is computed again is counted again. GB moved: through memory, all turns of loops "
        "counted. compile s: without machine code, but for precision.scan_layers. Relayouts are copies of an array "
        "into another layout of the same values. Nothing was run."
    )
    sys.argv[1:] = ["--only", *(name for name in LEVERS if name in raw)]  # what makes this table
    columns = (
        "step",
        "compiled with",
        "GiB a device",
        "TFLOP",
        "GB moved",
        "temporaries MiB",
        "relayouts",
        "collectives",
        "loops",
        "compile s of CPU",
    )
    results.save(NAME, TITLE, columns, rows_of(raw), note, raw)


if __name__ == "__main__":
    raise SystemExit(main())
