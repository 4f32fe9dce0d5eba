"""Errors of lifted poses, data set by data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.method import Evaluator
from jaxvl.metrics import poses

BY_ACTION = ("h36m", "mocap")
"""Data sets whose published figures are means over actions; the others' are over all frames."""
PERCENTILE = 90
KEPT = 10_000


@dataclasses.dataclass(frozen=True)
class PoseErrors(Evaluator):
    """Of every data set of a split, root-relative, in millimetres: `mpjpe/SET`, `pa_mpjpe/SET`, `n_mpjpe/SET`,
    `mpjve/SET` (steps within clips), `p90/SET` (90th percentile of the poses' MPJPE), and `pck/SET`, `auc/SET` in
    percent, over the joints of `joints`; `poses/SET`: how many. The same without `/SET` is that of the first data set.
    Where `averaging` is 'per_action', data sets with actions are averaged over each action's poses first, percentiles
    and PCK, too; `action/SET/NAME` is the MPJPE of an action. What no pose gives (steps, without clips) is NaN.
    """

    averaging: str = "per_action"
    joints: str = "all16"
    streams: tuple[str, ...] = ()

    def init(self) -> dict[str, dict[str, list]]:
        """Nothing seen."""
        return {}

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """One batch of the data set `stream`."""
        seen = acc.setdefault(stream, {name: [] for name in ("predicted", "target", "action", "clip", "frame", "id")})
        if not len(examples["_id"]):
            return acc
        seen["predicted"].append(np.asarray(outputs["x3d"], np.float32))
        target = np.stack(list(examples["_x3d"])).astype(np.float32)
        seen["target"].append(target - target[:, :1])
        for field in ("action", "clip", "frame", "id"):
            seen[field] += list(examples[f"_{field}"])
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """The metrics."""
        out: dict[str, float] = {}
        for stream, seen in acc.items():
            found = self.errors(stream, joined(seen))
            out |= {f"{name}/{stream}" if "/" not in name else name: value for name, value in found.items()}
            if stream == next(iter(acc)):
                out = {name: value for name, value in found.items() if "/" not in name} | out
        return out

    def errors(self, stream: str, seen: Mapping[str, np.ndarray]) -> dict[str, float]:
        """All metrics of one data set, of `predicted` and `target` `[N, 16, 3]`, and `action`, `clip`, `frame`."""
        predicted, target, action = seen["predicted"], seen["target"], seen["action"]
        predicted, target = poses.rooted(predicted), poses.rooted(target)
        how = self.averaging if stream in BY_ACTION else "per_frame"
        mean = lambda values, groups: poses.average(values, groups, how)  # noqa: E731
        each = poses.MILLIMETRES * poses.mpjpe(predicted, target)
        steps, rows = poses.mpjve(predicted, target, seen["clip"], seen["frame"])
        joints = poses.MILLIMETRES * poses.distances(predicted, target)[:, list(poses.JOINT_SETS[self.joints])]
        shares = {"pck": poses.pck, "auc": poses.auc, "p90": _p90}
        values = {"pck": joints, "auc": joints, "p90": each}
        groups = [np.flatnonzero(action == a) for a in np.unique(action)] if how == "per_action" else [slice(None)]
        out = {
            "mpjpe": mean(each, action),
            "pa_mpjpe": poses.MILLIMETRES * mean(poses.pa_mpjpe(predicted, target), action),
            "n_mpjpe": poses.MILLIMETRES * mean(poses.n_mpjpe(predicted, target), action),
            "mpjve": poses.MILLIMETRES * mean(steps, action[rows]),
            **{
                n: float(np.mean([f(values[n][g]) for g in groups])) if len(each) else np.nan for n, f in shares.items()
            },
            "poses": len(each),
        }
        for name in np.unique(action) if len(np.unique(action)) > 1 else ():
            out[f"action/{stream}/{name}"] = float(each[action == name].mean())
        return out

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """Of each data set the MPJPE of every frame in millimetres, and of up to `KEPT` frames, spread evenly, their
        numbers, ids, actions, and predicted and true poses, root-relative."""
        out = {}
        for stream, seen in acc.items():
            rows = joined(seen)
            error = poses.MILLIMETRES * poses.mpjpe(poses.rooted(rows["predicted"]), rows["target"])
            out[f"{stream}/mpjpe"] = error.astype(np.float32)
            row = np.unique(np.linspace(0, max(0, len(error) - 1), min(len(error), KEPT)).astype(int))
            out[f"{stream}/row"] = row
            out |= {f"{stream}/{name}": rows[name][row] for name in ("id", "action", "predicted", "target")}
        return out


def joined(seen: Mapping[str, list]) -> dict[str, np.ndarray]:
    """The collected batches as arrays, also where there is none."""
    empty = np.zeros((0, 16, 3), np.float32)
    out = {name: np.concatenate([empty, *seen[name]]) for name in ("predicted", "target")}
    out |= {name: np.array(seen[name], np.int64) for name in ("clip", "frame")}
    return out | {name: np.array(seen[name], str) for name in ("action", "id")}


def _p90(values: np.ndarray) -> float:
    return float(np.percentile(values, PERCENTILE))
