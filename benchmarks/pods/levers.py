"""What a form of a computation costs on a TPU, by the compiler's own figures: each lever off and on.

    python -m benchmarks.pods.levers [--only NAME ...]

Needs the extra `aot` and no TPU. A row compiles one update with the forms that are right for CPUs forced upon the TPU,
or with another value of a config field, and as it is. Each takes minutes of one core; `--only` measures some rows anew
and leaves the others as they are in docs/results/pods_levers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.verbs import aot

ROOT = Path(__file__).parent.parent.parent
TITLE = "What differs by platform, compiled for TPU v5e 2x2"
NAME = "pods_levers"
TRUNK_ALONE = tuple(
    f"model.weights.{term}=0.0" for term in ("translation", "distance", "angular", "transport", "consensus")
)
"""DRDR's baseline: the same ResNet-50 step with one pass through the trunk, which compiles in half the time."""


class Lever(NamedTuple):
    """A step, compiled in several ways. what: the change, for readers. ways: name -> overrides; of the name `CPU`, with
    the forms for CPUs forced upon it."""

    what: str
    config: str
    overrides: tuple[str, ...]
    ways: Mapping[str, tuple[str, ...]]


CPU, NATIVE = "forms for CPUs", "by platform"
LEVERS = {
    "resnet50": Lever(
        "1x1 convolutions as products, batch norm's sums as one reduction: DRDR's ResNet-50 alone, 64 images, float32",
        "drdr/office31.py:uda_a_w",
        (*TRUNK_ALONE, "precision.compute=float32"),
        {CPU: (), NATIVE: ()},
    ),
    "drdr": Lever(
        "the same: DRDR's whole step, 64 + 64 images, bfloat16",
        "drdr/office31.py:uda_a_w",
        (),
        {CPU: (), NATIVE: ()},
    ),
}


@contextlib.contextmanager
def forced():
    """Whatever the platform, the form for CPUs."""
    with mock.patch.object(jax.lax, "platform_dependent", lambda *args, cpu, default: cpu(*args)):
        yield


def measured(lever: Lever, way: str) -> dict[str, Any]:
    """Figures of the update, per device."""
    config = configs.load(ROOT / "configs" / lever.config, (*lever.overrides, *lever.ways[way]))
    with forced() if way == CPU else contextlib.nullcontext():
        jax.clear_caches()  # a trace of the other form may not be taken
        (found,) = aot.aot(config, "v5e:2x2", objectives=(_update(config),), also="none", trials=0)["programs"]
    if "error" in found:
        return {"error": found["error"]}
    exchanged = found["collectives"]
    return {
        "bytes": found["bytes"]["all_turns"],
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


def _update(config) -> str:
    return next(iter(session.build_method(configs.with_length(config, configs.NOMINAL_EPOCH)).objectives))


def rows_of(raw: Mapping[str, Any]) -> list[list[Any]]:
    rows = []
    for name, lever in LEVERS.items():
        for way in lever.ways:
            f = raw.get(name, {}).get(way)
            if f is None:
                continue
            if "error" in f:
                rows.append([lever.what, way, "does not fit", *[""] * 4])
                continue
            gb, mib = f["bytes"] / 1e9, f["temporaries"] / 2**20
            relayouts = f"{f['relayouts']} ({f['relayout_bytes'] / 1e9:.2f} GB)"
            exchanged = f"{f['collectives']} ({f['collective_bytes'] / 1e6:.1f} MB)"
            rows.append([lever.what, way, f"{gb:.1f}", f"{mib:.0f}", relayouts, exchanged, str(f["loops"])])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=tuple(LEVERS), default=tuple(LEVERS))
    args = parser.parse_args()
    file = results.FOLDER / f"{NAME}.json"
    raw = json.loads(file.read_text(encoding="utf-8"))["raw"] if file.is_file() else {}
    for name in args.only:
        for way in LEVERS[name].ways:
            raw.setdefault(name, {})[way] = measured(LEVERS[name], way)
            save(raw)
    save(raw)
    return 0


def save(raw: Mapping[str, Any]) -> None:
    note = (
        "Per device and update, from the executable (`jaxvl aot` explains each figure); compiled with least effort, so "
        "memory is an upper bound. Relayouts are copies of an array into another layout of the same values. Nothing "
        "was run: bytes are what the compiler counts, not a measured time."
    )
    sys.argv[1:] = ["--only", *(name for name in LEVERS if name in raw)]  # what makes this table
    columns = ("step", "compiled with", "HBM GB", "temporaries MiB", "relayouts", "collectives", "loops")
    results.save(NAME, TITLE, columns, rows_of(raw), note, raw)


if __name__ == "__main__":
    raise SystemExit(main())
