"""What a quickstart ends with: its config as it is, trained from several seeds, scores of its test split.

    python -m benchmarks.claims.quickstart METHOD [--seeds 0 1 2] [--row NAME]

Everything is what `jaxvl train --config configs/METHOD/quickstart.py` does, rendering included; worlds are those of the
config, so that seeds differ in weights and order alone. Finished runs are kept and not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.verbs import train

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def run(method: str, row: str, seed: int, workdir: Path) -> dict[str, float]:
    """Metrics of the run's last evaluation."""
    name = f"{CONFIGS / method / 'quickstart.py'}{':' + row if row else ''}"
    config = configs.load(name, [f"seed={seed}"])
    result = train.train(config, workdir, resume=True, pictures=False)
    assert result.step == config.train.steps
    return json.loads((workdir / "eval" / f"{config.eval.split}.json").read_text())["metrics"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=sorted(p.parent.name for p in CONFIGS.glob("*/quickstart.py")))
    parser.add_argument("--row", default="", help="of the config's EXPERIMENTS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=Path("runs/claims/quickstart"), help="runs are kept here")
    args = parser.parse_args(argv)
    label = "_".join(filter(None, (args.method, args.row)))
    found = []
    for seed in args.seeds:
        kept = args.root / f"{label}-{seed}.json"
        if not kept.is_file():
            metrics = run(args.method, args.row, seed, args.root / f"{label}-{seed}")
            kept.write_text(json.dumps(metrics))
        found.append(json.loads(kept.read_text()))
        print(seed, found[-1], flush=True)
    names = [k for k in found[0] if all(isinstance(m.get(k), int | float) for m in found)]
    table = [[k, *(f"{m[k]:.4g}" for m in found), f"{np.mean([m[k] for m in found]):.4g}"] for k in names]
    title = f"Quickstart of {args.method}{f', {args.row}' if args.row else ''}"
    columns = ["score", *(f"seed {s}" for s in args.seeds), "mean"]
    note = "Test split, after the last update. Shares are of 1, counts are counts."
    results.save(f"quickstart_{label}", title, columns, table, note, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
