"""SlimCLR's claim in small: naive sharing hurts every width; with the remedies each is as good as a network of its own.

    python -m benchmarks.claims.slimclr [--seeds 0 1 2] [--steps 400] [--root DIR]

The pattern world of configs/slimclr/patterns.py (40 classes, 4,096 unlabelled and 2,000 test pictures, rendered to PNG
and read through the folder reader), MoCo v2, widths 1, 1/2, 1/4. Arms differ in the config's name and the seed (of
weights, order and augmentation) only. The features of each width are labelled by kNN and by a linear probe fitted to
the training pictures; controls: the network at its random start, and raw pixels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core.evaluation import evaluate
from jaxvl.core.writers import read_metrics
from jaxvl.metrics.classification import accuracy
from jaxvl.metrics.knn import knn_scores
from jaxvl.metrics.linear_probe import probe_scores
from jaxvl.verbs import train

CONFIG = Path(__file__).parents[2] / "configs" / "slimclr" / "patterns.py"
ARMS = {
    "alone_100": "separate network, full size",
    "alone_025": "separate network, a quarter",
    "naive": "naive sharing",
    "slow_start": "slow start alone",
    "distill": "distillation alone",
    "reweight": "re-weighting alone",
    "slim": "SlimCLR, as released",
}
WIDTHS = ("w100", "w050", "w025")
RATIO = "gradient/rest_over_w025"


def arm_config(arm: str, seed: int, steps: int, root: Path):
    c = configs.load(f"{CONFIG}:{arm}")
    c.seed = seed
    c.train.update({"steps": steps, "checkpoint_every": steps})
    c.data.root = str(root / "world")
    return c


def run(arm: str, seed: int, steps: int, root: Path) -> dict[str, Any]:
    """One training run: its metrics and the mean of the gradient ratio over the second half, kept under `root`."""
    workdir = root / "runs" / f"{arm}-{seed}"
    done = workdir / "eval" / "test.json"
    if not done.is_file() or json.loads(done.read_text())["step"] != steps:
        print(f"{arm} seed {seed}", flush=True)
        train.train(arm_config(arm, seed, steps, root), workdir, say=lambda line: None, pictures=False)
    metrics = dict(json.loads(done.read_text())["metrics"])
    seen = [r for r in read_metrics(workdir, "train") if RATIO in r]
    rows = [r for r in seen if r["step"] > steps / 2]
    if rows:
        if arm in ("slim", "slow_start"):  # the full width alone: an ordinary network
            metrics["ratio_alone"] = float(np.mean([r[RATIO] for r in seen if r["step"] <= steps / 2]))
        for key in (RATIO, "gradient/share_w025", "gradient/cosine_w100_w025"):
            metrics[key] = float(np.mean([r[key] for r in rows if key in r]))
    if arm == "alone_025":  # its full width is the quarter of the others
        metrics = {k.replace("w100", "w025"): v for k, v in metrics.items() if not k.startswith("gradient/")}
    return metrics


def controls(seed: int, root: Path) -> dict[str, dict[str, float]]:
    """Features of the untrained network, and raw pixels; kept under `root` like the runs."""
    kept = root / f"controls-{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    c = arm_config("slim", seed, 1, root)
    workdir = root / "runs" / f"random-{seed}"
    data = session.build_data(c, workdir, print)
    compiled = session.compile_method(c)
    streams = train.eval_streams(c, data, "test", workdir)
    variables = compiled.fresh_state().variables()
    random, _ = evaluate(compiled.method, compiled.predict, variables, streams, compiled.mesh, "test")
    look = lambda e: [e.make(e.source[i], np.random.default_rng(0)) for i in range(len(e.source))]  # noqa: E731
    bank, query = (look(data.splits["test"][s]) for s in ("bank", "query"))
    x, z = (np.stack([r["image"].reshape(-1) for r in rows]) / 255 for rows in (bank, query))
    y, wanted = (np.array([r["_label"] for r in rows]) for rows in (bank, query))
    pixels = {
        "knn/w100": accuracy(knn_scores(x - 0.5, y, z - 0.5, 40, 20), wanted, (1,))["top1"],
        "linear/w100": accuracy(probe_scores(x, y, z, 40), wanted, (1,))["top1"],
    }
    kept.write_text(json.dumps({"random": random, "pixels": pixels}))
    return {"random": random, "pixels": pixels}


def cell(rows: Sequence[dict[str, float]], key: str, digits: int = 1) -> str:
    return results.mean_sd([r[key] for r in rows], digits) if all(key in r for r in rows) else ""


def verdicts(raw: dict[str, list[dict[str, float]]]) -> dict[str, bool]:
    """The claims of the specification (section 9b), each with every seed; the seeds of an arm stand in one order."""
    pairs = {arm: [r.get("linear/w100") for r in raw[arm]] for arm in ("alone_100", "naive", "slim")}
    naive = min(a - b for a, b in zip(pairs["alone_100"], pairs["naive"], strict=True))
    slim = min(a - b for a, b in zip(pairs["slim"], pairs["alone_100"], strict=True))
    narrow = min(a["linear/w025"] - b["linear/w025"] for a, b in zip(raw["slim"], raw["alone_025"], strict=True))
    ratios = {arm: [r[RATIO] for r in raw[arm]] for arm in ("naive", "slim")}
    probe = {arm: min(r["linear/w100"] - r["shared/w100"] for r in raw[arm]) for arm in ("naive", "slim")}
    said = {
        f"naive sharing at least 10 points below the separate full network (least {naive:.1f})": naive >= 10,
        f"SlimCLR within 2 points of it or above (least {slim:+.1f})": slim >= -2,
        f"SlimCLR's quarter at least 4 points above the separate one (least {narrow:+.1f})": narrow >= 4,
        f"ratio below 1 under naive sharing (largest {max(ratios['naive']):.2f})": max(ratios["naive"]) < 1,
        "ratio of SlimCLR above naive sharing's": all(a < b for a, b in zip(ratios["naive"], ratios["slim"])),
        f"the shared probe loses at full width (least {min(probe.values()):.1f})": min(probe.values()) > 0,
    }
    alone = [r["ratio_alone"] for r in raw["slim"] if "ratio_alone" in r]
    if alone:
        said[f"ratio above 2 while the full width trains alone (least {min(alone):.2f})"] = min(alone) > 2
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--root", default="runs/claims/slimclr", help="the world and finished runs are kept here")
    parser.add_argument("--dry", action="store_true", help="print only, for seeds that are not reported")
    args = parser.parse_args()
    root = Path(args.root)
    raw: dict[str, list[dict[str, float]]] = {a: [] for a in args.arms}
    for seed in args.seeds:
        for arm in args.arms:
            raw[arm].append(run(arm, seed, args.steps, root))
    both = [controls(seed, root) for seed in args.seeds]
    raw |= {"random": [b["random"] for b in both], "pixels": [b["pixels"] for b in both[:1]]}
    names = ARMS | {"random": "random start", "pixels": "raw pixels"}
    kinds = [("linear", w) for w in WIDTHS] + [("knn", w) for w in WIDTHS] + [("shared", "w100"), ("shared", "w025")]
    rows = [
        [names[a], *(cell(r, f"{k}/{w}") for k, w in kinds), cell(r, RATIO, 2), cell(r, "gradient/share_w025", 2),
         cell(r, "gradient/cosine_w100_w025", 2)]
        for a, r in raw.items()
    ]  # fmt: skip
    titles = {"linear": "linear", "knn": "kNN", "shared": "shared probe"}
    columns = ["arm", *(f"{titles[k]} {w}" for k, w in kinds), "ratio", "share", "cosine"]
    alone = [r["ratio_alone"] for arm in raw.values() for r in arm if "ratio_alone" in r]
    before = (
        f" While the full width trains alone (slow start) the ratio is {results.mean_sd(alone, 2)}." if alone else ""
    )
    note = (
        f"Top-1 in percent, mean ± sample sd over seeds {args.seeds}, {args.steps} updates of batch 256, no arm tuned; "
        "chance 2.5. ratio: gradient outside the quarter width over gradient inside (published form); share: of the "
        "squared gradient that lies inside the quarter width; cosine: between the gradients of the full and the "
        "quarter width on it; means over the second half of training. The shared probe is one matrix for all widths."
        + before
    )
    if {"alone_100", "alone_025", "naive", "slim"} <= set(raw):
        note += " " + " ".join(f"{'Holds' if ok else 'FAILS'}: {text}." for text, ok in verdicts(raw).items())
    if args.dry:
        print(json.dumps(raw, indent=1))
        for row in rows:
            print(row)
        return
    results.save("slimclr_claim", "SlimCLR on the pattern world", columns, rows, note, raw)


if __name__ == "__main__":
    main()
