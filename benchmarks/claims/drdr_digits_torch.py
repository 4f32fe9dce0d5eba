"""How far DRDR's accuracy on the digits scatters over seeds, here and in a plain PyTorch implementation of the paper.

    python -m benchmarks.claims.drdr_digits_torch [--seeds 0 ... 19] [--root runs/claims/digits]

The experiment of `benchmarks.claims.drdr_digits`, its arm without transport and consensus, on more seeds, and the same
one in `benchmarks.speed.torch_drdr` (PyTorch, of the extra `bench`), which shares no code with jaxvl: pixels in floats,
PyTorch's own weights, order and optimiser. The convolutions start from jaxvl's distribution (a truncated normal of
variance 1/inputs), and in another row from PyTorch's default (uniform, a third of that variance).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import results
from benchmarks.claims.drdr_digits import run
from benchmarks.speed.torch_drdr import DRDR, Trainer
from jaxvl.data.readers.classification.digits import read_mnist5k, read_optdigits

ARM = "DRDR (global, Stiefel, local)"
WEIGHTS = {"translation": 50.0, "distance": 0.8, "angular": 2.5, "transport": 0.0, "consensus": 0.0}
ROWS = 64


def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(source [5000, 1, 16, 16], labels, target [1797, 1, 16, 16], labels)`, pixels from -1 to 1."""
    source, target = read_mnist5k(), read_optdigits()
    a, b = (torch.tensor(s.images[..., 0], dtype=torch.float32)[:, None] for s in (source, target))
    a = F.interpolate(a[:, :, 4:24, 4:24] / 255, size=(16, 16), mode="bilinear", antialias=True)
    b = F.interpolate(b / 16, size=(16, 16), mode="bilinear")
    return a * 2 - 1, torch.tensor(source.labels).long(), b * 2 - 1, torch.tensor(target.labels).long()


def network(lecun: bool) -> DRDR:
    """Two convolutions of stride 2, bottleneck 64, the identity as orthogonal layer."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32)):
        conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
        if lecun:  # of a normal cut at two of its own, the standard deviation is 0.8796 of it
            sd = (9 * before) ** -0.5 / 0.87962566
            nn.init.trunc_normal_(conv.weight, std=sd, a=-2 * sd, b=2 * sd)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
    model = DRDR(10, 64, nn.Sequential(*layers, nn.Flatten()), 512)
    for layer in (model.bottleneck, model.fc):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.eye_(model.stiefel_linear.weight)
    return model


def batches(n: int, steps: int):
    """Row numbers of every update: shuffled epochs, their last partial batch left out."""
    order: list[torch.Tensor] = []
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(n)[: n // ROWS * ROWS].split(ROWS))
        yield order.pop()


def torch_run(seed: int, steps: int, lecun: bool) -> float:
    """Accuracy on the target in percent after training from a seed."""
    torch.manual_seed(seed)
    source, labels, target, truth = pictures()
    model = network(lecun)
    trainer = Trainer(model, 10, WEIGHTS, lr=3e-3, steps=steps, decay=1e-3, burn_in=0.02)
    for i, j in zip(batches(len(source), steps), batches(len(target), steps)):
        trainer.step(source[i], labels[i], target[j])
    model.eval()
    with torch.no_grad():
        guessed = model.fc(model.stiefel_linear(model.bottleneck(model.trunk(target)))).argmax(1)
    return 100 * float((guessed == truth).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--root", default="runs/claims/digits", help="finished runs of jaxvl are kept here")
    args = parser.parse_args()
    torch.set_num_threads(1)  # batches of 64 tiny pictures: more threads only wait for each other
    raw: dict[str, list[float]] = {"jaxvl": [], "PyTorch": [], "PyTorch, its default start of convolutions": []}
    for seed in args.seeds:
        raw["jaxvl"].append(run(ARM, seed, args.steps, Path(args.root))["accuracy"])
        raw["PyTorch"].append(torch_run(seed, args.steps, lecun=True))
        raw["PyTorch, its default start of convolutions"].append(torch_run(seed, args.steps, lecun=False))
        print(f"seed {seed}: " + ", ".join(f"{v[-1]:.1f}" for v in raw.values()), flush=True)
    rows = [
        [name, results.mean_sd(v), f"{np.median(v):.1f}", f"{sum(x > 80 for x in v)} of {len(v)}",
         ", ".join(f"{x:.1f}" for x in v)]
        for name, v in raw.items()
    ]  # fmt: skip
    note = (
        f"Top-1 in percent on the 1,797 target digits, {args.steps} updates, seeds {args.seeds} of weights and order, "
        "which mean nothing across implementations; mean ± sample sd. No arm is tuned."
    )
    columns = ["implementation", "target accuracy", "median", "above 80", "by seed"]
    results.save("drdr_digits_torch", "DRDR on digits: scatter over seeds", columns, rows, note, raw)


if __name__ == "__main__":
    main()
