"""What a report shows of PoseGU (reconstruction): tables of errors, and pictures of poses, seeds and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxvl.core.session import Loaded
from jaxvl.data.skeletons import H36M16
from jaxvl.data.sources import Repeated
from jaxvl.methods.posegu import generator
from jaxvl.methods.posegu.data import STREAM
from jaxvl.methods.posegu.recipe import Seeds
from jaxvl.metrics import poses
from jaxvl.viz import poses as drawing
from jaxvl.viz import skeleton

COLUMNS = ("mpjpe", "pa_mpjpe", "n_mpjpe", "mpjve", "p90", "pck", "auc", "poses")
SHOWN = 4
"""Lifted poses of each data set."""
COMPARED = 2000
"""Poses of each kind that histograms and distances look at."""
SHEET = 16


def results_tables(metrics: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """Errors of each data set, and of the actions of those that have any, the worst first."""
    sets = [name.removeprefix("mpjpe/") for name in metrics if name.startswith("mpjpe/")]
    rows = [[name, *(_shown(metrics.get(f"{column}/{name}"), column) for column in COLUMNS)] for name in sets]
    heads = ["", "MPJPE", "PA-MPJPE", "N-MPJPE", "MPJVE", "90th percentile", "PCK@150 %", "AUC %", "poses"]
    tables = [("Errors of lifted poses", heads, rows, "millimetres, root-relative; joints of PCK as the config says")]
    for name in sets:
        start = f"action/{name}/"
        found = {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}
        worst = sorted(found.items(), key=lambda item: (-float(item[1]), item[0]))
        if worst:
            tables.append((f"MPJPE of each action of {name}, the worst first", ["action", "mm"], [
                [action, _shown(value, "mpjpe")] for action, value in worst
            ], ""))  # fmt: skip
    return tables


def _shown(value: Any, column: str) -> Any:
    number = float("nan") if value is None else float(value)
    return "missing" if np.isnan(number) else int(number) if column == "poses" else round(number, 1)


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: lifted poses, seeds against generated poses, where limbs point, the weights of the pool, and the
    error by how far a pose is from what was trained on."""
    kept = read_kept(Path(loaded.workdir) / "eval" / f"{loaded.config.eval.split}.npz")
    yield from _lifted(kept)
    trained = spread_rows(training_poses(data))
    kinds = {"seeds": trained}
    if loaded.config.model.generated:
        held = Seeds(**loaded.variables["seeds"])
        settings = generator.settings_of(loaded.config)
        drawn = generator.generate_valid(jax.random.key(loaded.config.seed), held, settings, COMPARED)
        kinds["generated"] = drawn.pose
        few = min(8, len(trained))
        seeds = spread_rows(np.asarray(held.world)[: int(held.count)], few)
        parts = [
            skeleton.headed(drawing.sheet(seeds, H36M16), "seeds"),
            skeleton.headed(drawing.sheet(drawn.pose[:SHEET], H36M16), "generated"),
        ]
        yield (
            "Seeds and generated poses",
            drawing.images.grid(parts, 1),
            f"{few} of {int(held.count):,} seeds, spread evenly, and the first {SHEET} poses drawn around them, not "
            "chosen. Seen from one side, whichever way they face; the left side is blue.",
        )
    for name, rows in kept.items():
        kinds[name] = spread_rows(rows["target"])
    counts = {name: poses.direction_histograms(x) for name, x in kinds.items()}
    bits = ", ".join(f"{name} {np.mean(poses.entropy(c)):.2f}" for name, c in counts.items())
    yield (
        "Where limbs point",
        drawing.histograms(counts, [H36M16.joints[j] for j in poses.LIMBS]),
        "Directions of the bones that end in these joints, in the torso's axes: azimuth to the right (the body's left "
        f"in the middle, forward at three quarters), height upwards. Mean entropy in bits, of at most 8.17: {bits}.",
    )
    if loaded.config.model.generated and "pool" in loaded.variables:
        yield from _weights(np.asarray(loaded.variables["pool"]["weight"]))
    yield from _by_distance(kept, trained)


def read_kept(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the evaluator kept of each data set, by field; nothing where there was no evaluation."""
    out: dict[str, dict[str, np.ndarray]] = {}
    if path.is_file():
        with np.load(path) as file:
            for key in file:
                name, _, field = key.rpartition("/")
                out.setdefault(name, {})[field] = file[key]
    return {name: rows for name, rows in out.items() if len(rows.get("target", ()))}


def training_poses(data: Any) -> np.ndarray:
    """`[n, 16, 3]` metres: the seeds, or the poses of the real pairs in the cameras' axes."""
    source = data.train[STREAM].source
    source = source.source if isinstance(source, Repeated) else source
    return source.world if hasattr(source, "world") else source.x3d


def spread_rows(x: np.ndarray, count: int = COMPARED) -> np.ndarray:
    """At most `count` rows, spread evenly."""
    return x[np.unique(np.linspace(0, len(x) - 1, min(count, len(x))).astype(int))]


def _lifted(kept: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[tuple[str, Image.Image, str]]:
    for name, rows in kept.items():
        picked = np.unique(np.linspace(0, len(rows["target"]) - 1, min(SHOWN, len(rows["target"]))).astype(int))
        parts = []
        for i in picked:
            error = poses.MILLIMETRES * poses.mpjpe(rows["predicted"][i], rows["target"][i])
            drawn = drawing.three_sides(rows["predicted"][i], H36M16, truth=rows["target"][i])
            parts.append(skeleton.headed(drawn, f"{rows['id'][i]}: {error:.0f} mm", 12))
        yield (
            f"Lifted poses of {name}",
            drawing.images.grid(parts, 1),
            "Spread evenly over the split, not chosen; predicted, and the truth paler.",
        )


def _weights(weight: np.ndarray) -> Iterator[tuple[str, Image.Image, str]]:
    there = weight[weight >= 0].astype(np.float64)
    if not there.size or not there.any():
        return
    share = there.sum() ** 2 / (len(there) * (there * there).sum())
    yield (
        "Weights of the pool",
        drawing.spread({"weight": there}, "weight of a generated pose"),
        f"{len(there):,} poses; mean {there.mean():.2f}, largest {there.max():.2f}. Effective sample size "
        f"{100 * share:.0f} % of the pool.",
    )


def _by_distance(
    kept: Mapping[str, Mapping[str, np.ndarray]], trained: np.ndarray
) -> Iterator[tuple[str, Image.Image, str]]:
    distance, error = {}, {}
    for name, rows in kept.items():
        far = poses.MILLIMETRES * poses.nearest(spread_rows(rows["target"]), trained)
        good = np.isfinite(far)
        if good.any():
            distance[name] = far[good]
            error[name] = spread_rows(rows["mpjpe"][rows["row"]])[good]
    if distance:
        yield (
            "Error by distance from the training poses",
            drawing.by_distance(distance, error, "mm to the nearest seed, in the torso's axes", "MPJPE, mm"),
            "Tenths of the test poses, from the nearest to the farthest. Seeds are at most "
            f"{COMPARED:,}, spread evenly.",
        )
