"""AFE-CNN (reconstruction), experiment A on real motion: does it still recognise people from another side, or smaller?

    python -m benchmarks.claims.afe_cnn_views [--seeds 0 1 2] [--arms full ...]

Twenty classes, the twenty motion-capture clips of `jaxvl.data.mocap`; a sample is 60 to 100 % of a clip on a body whose
bones vary by 8 %, seen by a camera, with noise of 1 cm. 1,500 samples for training, from the front (yaw up to 20
degrees, size .95 to 1.05); 300 for each test: the same, other views (yaw 40 to 320), other sizes (.6 to .8), both.
Width 32, 600 updates of 32, Adam on one cycle up to 4e-3. Nothing was tuned here: the recipe is the specification's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.claims.afe_cnn_worlds import run_all

TESTS = ("same", "view", "size", "both")
ARMS = {
    "coordinates": "coordinates, centred; no modules",
    "no_modules": "+ view and size normalisation",
    "no_modules_no_size": "view normalisation only",
    "full": "full",
    "no_normalisation": "modules, no normalisation",
}


def verdicts(raw: dict) -> dict[str, bool]:
    """The bars of the specification's section 9b, each with every seed."""
    least = min(r["both"] for r in raw["full"])
    most = max(max(r["view"] for r in raw[arm]) for arm in ("coordinates", "no_normalisation"))
    return {
        f"full at least 95 on other views and sizes (least {least:.1f})": least >= 95,
        f"without normalisation at most 50 on other views (largest {most:.1f})": most <= 50,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="fewer: print, write nothing")
    parser.add_argument("--root", type=Path, default=Path("runs/claims/afe_cnn"), help="finished runs are kept here")
    args = parser.parse_args(argv)
    raw = run_all("clips", args.arms, args.seeds, dict.fromkeys(TESTS, 300), 1500, args.root)
    if set(args.arms) != set(ARMS):
        return 0
    table = [[ARMS[arm], *(results.mean_sd([r[t] for r in found]) for t in TESTS)] for arm, found in raw.items()]
    seconds = np.mean([r["train_s"] for found in raw.values() for r in found])
    note = (
        f"Top-1 in percent (chance 5), mean ± sample sd of seeds {args.seeds}, 300 samples a test. A run took "
        f"{seconds:.0f} s. " + " ".join(f"{'Holds' if ok else 'FAILS'}: {text}." for text, ok in verdicts(raw).items())
    )
    title = "AFE-CNN (reconstruction) from other sides and on other bodies"
    results.save("afe_cnn_views", title, ["arm", *TESTS], table, note, raw)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
