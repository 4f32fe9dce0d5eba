"""CenterCLIP's claim on video files: at one token budget, centres keep what random and uniform choices drop.

    python -m benchmarks.claims.centerclip_needle [--seeds 0 1 2] [--steps 400] [--only SPLIT/ARM ...]

Two sprite worlds, rendered to H.264 and read through the MSR-VTT reader. In `needle` the captioned event lives in one
of four temporal segments and everything else is the same still picture; in `plain` it fills the clip. After block 1 of
4, each segment of 3 frames keeps 8 of its 48 patch tokens, chosen by the arm; `none` keeps all. Nothing but the arm and
the seed (of weights, order and sampling) differs; 256 unseen clips and captions. `shuffled` trains on captions dealt to
other videos and must stay at chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.verbs import train

RUNS = {
    "needle": ("kmedoids++", "random", "sparse_sampling"),
    "plain": ("kmedoids++", "none", "shuffled"),
}
WORLD = {
    "needle_segments": 4,
    "seconds": (3.0, 3.0),
    "backgrounds": ("flat",),  # one background, so that nothing but the event tells clips apart
    "tones": ("black",),
    "sizes": ("large",),
    "textures": ("plain", "striped"),
}
QUICKSTART = Path(__file__).parent.parent.parent / "configs" / "centerclip" / "quickstart.py"


def arm_config(split: str, arm: str, seed: int, steps: int, root: Path):
    c = configs.load(QUICKSTART)
    c.seed = seed
    c.train.update({"steps": steps, "checkpoint_every": steps, "log_every": 50})
    c.data.root = str(root / split)
    with c.unlocked():
        c.data.world.update(WORLD | {"needle": split == "needle"})
    c.data.batch_size = 32
    c.data.shuffle_pairs = arm == "shuffled"
    c.model.schedule = {"none": "none", "pooling": "B1-4,16"}.get(arm, "B1-4,8")
    c.model.reduce.algorithm = "kmedoids++" if arm == "shuffled" else arm
    return c


def run(split: str, arm: str, seed: int, steps: int, root: Path) -> dict[str, float]:
    """One training run; its test metrics, kept under `root` so that a stopped benchmark goes on where it was."""
    workdir = root / "runs" / f"{split}-{arm}-{seed}"
    done = workdir / "eval" / "test.json"
    if not done.is_file() or json.loads(done.read_text())["step"] != steps:
        print(f"{split} {arm} seed {seed}", flush=True)
        train.train(arm_config(split, arm, seed, steps, root), workdir, say=lambda line: None, pictures=False)
    return json.loads(done.read_text())["metrics"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--root", default="runs/claims/needle", help="worlds and finished runs are kept here")
    args = parser.parse_args()
    raw = {
        f"{split}/{arm}": [run(split, arm, seed, args.steps, Path(args.root)) for seed in args.seeds]
        for split, arms in RUNS.items()
        for arm in arms
    }
    rows = []
    for name, metrics in raw.items():
        split, arm = name.split("/")
        cells = [results.mean_sd([m[k] for m in metrics]) for k in ("t2v/R@1", "t2v/R@5", "v2t/R@1")]
        tokens = {"none": "16 a frame (192 a clip)", "pooling": "16 a segment (64 a clip)"}.get(
            arm, "8 a segment (32 a clip)"
        )
        rows.append([split, arm, tokens, *cells])
    note = (
        f"Mean ± sample sd over seeds {args.seeds}, {args.steps} updates of batch 32 each, no arm tuned. Gallery of "
        "256 unseen clips: chance R@1 0.4, R@5 2.0. Tokens are patch tokens from block 2 on."
    )
    columns = ["world", "arm", "tokens kept", "T→V R@1", "T→V R@5", "V→T R@1"]
    results.save("centerclip_needle", "CenterCLIP on the needle world", columns, rows, note, raw)


if __name__ == "__main__":
    main()
