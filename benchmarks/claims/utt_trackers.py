"""UTT's three trackers of many objects on the same weights and detections, and what the transformer's boxes do.

    python -m benchmarks.claims.utt_trackers [--seeds 0 1 2] [--steps 600] [--sequences 16]

Trains the quickstart with as few videos and updates as its notebook does, which is enough to tell the trackers apart,
not to track well, and links the detections in sequences of another rendered world. `boxes stay` is the paper's tracker
with each track proposed where it was, as if the target transformer had not moved it. Finished runs are kept and not
repeated.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.core.following import follow
from jaxvl.methods.utt.data import build_data
from jaxvl.methods.utt.evaluators import All, FollowAll
from jaxvl.verbs import train

CONFIG = Path(__file__).parent.parent.parent / "configs" / "utt" / "quickstart.py"
WORLD = {"num_train": 30, "num_test": 4, "frames": 48, "objects": (2, 4)}
UNSEEN_SEED = 1
SHOWN = ("mota", "idf1", "hota", "ids", "fp", "fn")


@dataclasses.dataclass(frozen=True)
class Still(FollowAll):
    """The target transformer's boxes replaced by where each track was."""

    def answer(self, state: All, frame: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> All:
        asked = np.stack([t.box * state.scale for t in state.tracker.tracks[: state.asked]] or [np.zeros(4)])
        moved = np.array(outputs["tracks"], np.float64)
        moved[: state.asked] = asked[: state.asked]
        return super().answer(state, frame, {**outputs, "tracks": moved})


ARMS = {
    "transformer": ("`transformer`, the paper's", FollowAll, "transformer"),
    "still": ("the same, boxes stay", Still, "transformer"),
    "released": ("`released`, GIoU alone", FollowAll, "released"),
    "byte": ("`byte`, ByteTrack (no scores)", FollowAll, "byte"),
}


def trained(seed: int, steps: int, root: Path) -> session.Loaded:
    """The model of a run that is there, or is made."""
    config = configs.load(CONFIG, [f"seed={seed}", f"train.steps={steps}", f"train.checkpoint_every={steps}"])
    with config.unlocked():
        config.data.world = WORLD
        config.data.update({"sot_eval_rows": 4, "mot_eval_rows": 4})
    workdir = root / f"run-{seed}-{steps}"
    if not (workdir / "eval" / "test.json").is_file():
        train.train(config, workdir, resume=True, pictures=False)
    return session.load(workdir, say=lambda line: None)


def unseen(model: session.Loaded, count: int, root: Path) -> Any:
    """Sequences of a world that was not trained on."""
    config = copy.deepcopy(model.config)
    with config.unlocked():
        config.data.world = {**WORLD, "num_train": 1, "num_test": count, "seed": UNSEEN_SEED}
        config.data.root = str(root / f"unseen-{count}")
        config.data.mot_eval_rows = 8
    return build_data(config, root / "cache", lambda line: None).splits["test"]["mot"]


def score(model: session.Loaded, arm: str, sequences: Any) -> dict[str, float]:
    """Scores of an arm."""
    config = copy.deepcopy(model.config)
    with config.unlocked():
        config.eval.mot.update({"tracker": ARMS[arm][2], "beside": ()})
    follower = ARMS[arm][1](config)
    predict = lambda batch: sharding.to_host(model.predict(model.variables, batch))  # noqa: E731
    kept, lost = follow(follower, "mot", sequences, predict, model.mesh, on_error="raise")
    assert not lost
    return follower.compute({("mot", name): value for name, value in kept.items()})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--root", type=Path, default=Path("runs/claims/utt_trackers"), help="runs are kept here")
    args = parser.parse_args(argv)
    raw: dict[str, list[dict[str, float]]] = {}
    for seed in args.seeds:
        kept = args.root / f"scores-{seed}-{args.steps}-{args.sequences}.json"
        if not kept.is_file():
            model = trained(seed, args.steps, args.root)
            sequences = unseen(model, args.sequences, args.root)
            kept.write_text(json.dumps({arm: score(model, arm, sequences) for arm in ARMS}))
        for arm, found in json.loads(kept.read_text()).items():
            raw.setdefault(arm, []).append(found)
            print(seed, arm, {k: round(found[k], 3) for k in SHOWN}, flush=True)
    table = []
    for arm, found in raw.items():
        cells = [np.mean([f[k] for f in found]) for k in SHOWN]
        table.append([ARMS[arm][0], *(f"{100 * v:.1f}" for v in cells[:3]), *(f"{v:.0f}" for v in cells[3:])])
    note = (
        f"Mean of seeds {list(args.seeds)} over {args.sequences} unseen sequences of {WORLD['frames']} frames, after "
        f"{args.steps} updates of the quickstart. MOTA, IDF1, HOTA in percent; the rest are counts. The detections are "
        "the same in all rows."
    )
    columns = ["tracker", "MOTA", "IDF1", "HOTA", "switches", "false boxes", "missed boxes"]
    results.save("utt_trackers", "UTT's trackers of many objects on the same detections", columns, table, note, raw)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
