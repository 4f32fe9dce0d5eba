"""Memory and arithmetic of SlimCLR-MoCo v2's compiled training steps at the paper's network, without running them.

    python -m benchmarks.speed.slimclr_memory [--batch 32] [--size 224]

ResNet-50, four widths, queue of 65,536: the slow start's step and the one of all widths, by XLA's memory and cost
analysis of the compiled programs (CPU). Both are properties of the program, not of the machine's load.
"""

from __future__ import annotations

import argparse
import time

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.methods.slimclr import recipe

STEPS = (("full", "none"), ("all", "none"))
EXPECTED = (12.3 + 4.1) / (23.2 + 4.1)
"""Of the published table's multiply-adds: slow start over all widths, key view included."""


def analyse(name: str, remat: str, batch: int, size: int) -> dict[str, float]:
    c = configs.from_json(configs.to_json(recipe.mocov2(200)))
    c.precision.update({"compute": "float32", "remat": remat})
    c.mesh.data = 1
    c.model.bn_groups = 1
    c.data.update({"batch_size": batch, "image_size": size})
    compiled = session.compile_method(c)
    begun = time.perf_counter()
    program = compiled.updates[name].lower(compiled.target, dict(compiled.method.batch_spec)).compile()
    memory, cost = program.memory_analysis(), program.cost_analysis()
    print(name, remat, f"compiled in {time.perf_counter() - begun:.0f} s", flush=True)
    return {
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "state_mib": memory.argument_size_in_bytes / 2**20,
        "gflop": cost["flops"] / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    raw = {f"{n}, remat {r}": analyse(n, r, args.batch, args.size) for n, r in STEPS}
    names = {"full": "slow start, full width", "all": "all four widths"}
    rows = [
        [names[k.split(",")[0]], f"{v['temporary_mib']:.0f}", f"{v['state_mib']:.0f}", f"{v['gflop']:.0f}"]
        for k, v in raw.items()
    ]
    full, everyone = (raw[f"{n}, remat none"] for n in ("full", "all"))
    note = (
        f"Batch {args.batch} of {args.size}x{args.size}, float32. Slow start over all widths: arithmetic "
        f"{full['gflop'] / everyone['gflop']:.3f} (the table of the specification gives {EXPECTED:.3f} for the trunk), "
        f"temporary memory {full['temporary_mib'] / everyone['temporary_mib']:.2f}."
    )
    columns = ["step", "temporary MiB", "state and batch MiB", "GFLOP"]
    results.save("slimclr_memory", "SlimCLR's training step: memory and arithmetic", columns, rows, note, raw)


if __name__ == "__main__":
    main()
