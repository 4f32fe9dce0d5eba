"""What the two claims on AFE-CNN (reconstruction) share: samples of a world of real motion, and one trained arm."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.data.readers.skeletons.clips import SkeletonClip
from jaxvl.data.synthetic import actions
from jaxvl.methods.afe_cnn.data import evaluation_maker
from jaxvl.methods.afe_cnn.evaluator import ActionAccuracy

ROOT = Path(__file__).parent.parent.parent / "configs" / "afe_cnn"
FIELDS = ("x", "present", "label")
Rows = dict[str, np.ndarray]


def arm_config(kind: str, row: str, seed: int) -> ConfigDict:
    """The config of one arm: `configs/afe_cnn/mocap.py`."""
    name = kind if row == "full" else f"{kind}_{row}"
    return configs.load(f"{ROOT / 'mocap.py'}:{name}", (f"seed={seed}", "mesh.data=1"))


def draw(kind: str, count: int, seen: str, seed: int) -> list[SkeletonClip]:
    """Samples as a reader gives them."""
    found = actions.samples(kind, count, actions.CONDITIONS[seen], seed)
    return [SkeletonClip(f"{i:05d}", label, joints[None], 0) for i, (label, joints) in enumerate(found)]


def rows(clips: Sequence[SkeletonClip], config: ConfigDict) -> Rows:
    """The method's own batch fields of all samples: normalised as the arm says, resampled."""
    make, rng = evaluation_maker(config), np.random.default_rng(0)
    made = [make(clip, rng) for clip in clips]
    return {name: np.stack([row[name] for row in made]) for name in FIELDS}


class Arms:
    """Trains arms by the house's update. Arms and seeds of one network share its compiled programs."""

    def __init__(self, kind: str, train: Mapping[int, list[SkeletonClip]], tests: Mapping[int, Mapping[str, list]]):
        self.kind, self.train, self.tests = kind, train, tests
        self.compiled: dict[str, session.Compiled] = {}
        self.made: dict[tuple, Rows] = {}

    def rows(self, clips: list[SkeletonClip], config: ConfigDict) -> Rows:
        """`rows`, kept."""
        key = (id(clips), config.data.view, config.data.size)
        if key not in self.made:
            self.made[key] = rows(clips, config)
        return self.made[key]

    def run(self, row: str, seed: int) -> dict[str, Any]:
        """Accuracy in percent on each test set of one arm."""
        config = arm_config(self.kind, row, seed)
        network = json.dumps(config.model.to_dict(), sort_keys=True)
        if network not in self.compiled:
            self.compiled[network] = session.compile_method(config)
        compiled, batch = self.compiled[network], config.data.batch_size
        state = fresh(compiled, seed)
        train = self.rows(self.train[seed], config)
        rng, order = np.random.default_rng([seed, 7]), np.zeros(0, np.int64)
        began = time.monotonic()
        for _ in range(config.train.steps):
            if len(order) < batch:
                order = rng.permutation(len(train["label"]))
            chosen, order = order[:batch], order[batch:]
            put = sharding.put_batch({"clips": {k: v[chosen] for k, v in train.items()}}, compiled.mesh)
            state, scalars = compiled.updates["recognise"](state, put)
        assert int(state.bad_step) == -1
        out: dict[str, Any] = {"loss": float(scalars["loss"]), "train_s": time.monotonic() - began}
        variables = state.variables()
        for name, clips in self.tests[seed].items():
            out[name] = measured(compiled, variables, self.rows(clips, config), config)
        return out


def fresh(compiled: session.Compiled, seed: int):
    """The state of a run with this seed, by the program that another seed compiled."""
    state = compiled.fresh_state()
    if seed == compiled.config.seed:
        return state
    other = configs.from_json(configs.to_json(compiled.config))
    other.seed = seed
    return session.compile_method(other).fresh_state()


def measured(compiled: session.Compiled, variables: Any, test: Rows, config: ConfigDict) -> float:
    """Top-1 in percent."""
    judge, size = ActionAccuracy(config.model.classes), config.data.eval_batch_size
    acc = judge.init()
    for begin in range(0, len(test["label"]), size):
        part = np.arange(begin, min(begin + size, len(test["label"])))
        filled = np.resize(part, size)  # one shape is compiled
        put = {"clips": {k: test[k][filled] for k in ("x", "present")}}
        out = sharding.to_host(compiled.predict(variables, sharding.put_batch(put, compiled.mesh)))
        names = {"_label": test["label"][part], "_id": part}
        acc = judge.update(acc, "clips", {"logits": out["logits"][: len(part)]}, names)
    return judge.compute(acc)["top1"]


def run_all(
    kind: str, arms: Sequence[str], seeds: Sequence[int], tests: Mapping[str, int], train: int, root: Path
) -> dict[str, list[dict[str, Any]]]:
    """`{arm: [result of each seed]}`. tests: how it is seen -> samples. Finished runs are kept in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    data = {s: draw(kind, train, "same", 100 * s) for s in seeds}
    seen = {
        s: {name: draw(kind, count, name, 100 * s + 1 + i) for i, (name, count) in enumerate(tests.items())}
        for s in seeds
    }
    bench = Arms(kind, data, seen)
    raw: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        for seed in seeds:
            kept = root / f"{kind}-{arm}-{seed}.json"
            if not kept.is_file():
                kept.write_text(json.dumps(bench.run(arm, seed)))
            raw.setdefault(arm, []).append(json.loads(kept.read_text()))
            print(kind, arm, seed, {k: round(v, 2) for k, v in raw[arm][-1].items()}, flush=True)
    return raw
