"""DRDR's training step in plain PyTorch, from the paper's equations: the other side of `benchmarks.speed.drdr` and of
`benchmarks.claims.drdr_digits_torch`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed.torch_resnet import ResNet

THETA, EPSILON_SHARE, THRESHOLD, MAX_ITERATIONS = 0.3, 0.05, 1e-3, 500


def costs_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`|x - y|²/2 [N, M]` of `[N, D]`, `[M, D]`, as a product, the fastest form."""
    centre = y.mean(0).detach()
    x, y = x - centre, y - centre
    return (x.square().sum(1)[:, None] / 2 + y.square().sum(1)[None] / 2 - x @ y.T).clamp(min=0)


def potentials(cost: torch.Tensor, epsilon: torch.Tensor, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Converged dual potentials of uniform measures, the error looked at after every tenth update."""
    n, m = cost.shape
    log_a, log_b = -torch.log(torch.tensor(float(n))), -torch.log(torch.tensor(float(m)))
    f, g = torch.zeros(n), torch.zeros(m)
    scaled = cost / epsilon
    for i in range(MAX_ITERATIONS):
        if symmetric:
            new = -epsilon * torch.logsumexp(g / epsilon + log_b - scaled, 1)
            f = g = (f + new) / 2
        else:
            g = -epsilon * torch.logsumexp((f / epsilon + log_a)[:, None] - scaled, 0)
            f = -epsilon * torch.logsumexp(g / epsilon + log_b - scaled, 1)
        if i % 10 == 9:
            plan = torch.exp((f[:, None] + g) / epsilon - scaled + log_a + log_b)
            error = (plan.sum(0) - 1 / m).abs().sum()
            error = error + (plan.sum(1) - 1 / n).abs().sum() if symmetric else error
            if error < THRESHOLD:
                break
    return f, g


def transport(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Debiased Sinkhorn divergence of uniform measures; the gradient holds the potentials."""
    costs = (costs_of(x, y), costs_of(x, x), costs_of(y, y))
    epsilon, value = EPSILON_SHARE * costs[0].mean().detach(), 0.0
    for cost, factor, symmetric in zip(costs, (1.0, -0.5, -0.5), (False, True, True)):
        n, m = cost.shape
        with torch.no_grad():
            f, g = potentials(cost.detach(), epsilon, symmetric)
        plan = torch.exp((f[:, None] + g - cost) / epsilon) / (n * m)
        value = value + factor * (f.mean() + g.mean() + epsilon * (1 - plan.sum()))
    return value


class DRDR(nn.Module):
    """A trunk that gives `[B, inputs]` (ResNet-50 if none is given), bottleneck, orthogonal layer, classifier."""

    def __init__(self, classes: int, features: int = 256, trunk: nn.Module | None = None, inputs: int = 2048):
        super().__init__()
        self.trunk = trunk or ResNet(50, None, 64)
        self.bottleneck = nn.Linear(inputs, features)
        self.stiefel_linear = nn.Linear(features, features, bias=False)
        self.fc = nn.Linear(features, classes)

    def load(self, arrays) -> None:
        """Tensors of `drdr.published.to_published`, without the second copy of the trunk."""
        found = {k: torch.tensor(v) for k, v in arrays.items() if not k.startswith("feature_layers.")}
        own = ("bottleneck.", "stiefel_linear.", "fc.")
        self.load_state_dict({(k if k.startswith(own) else f"trunk.{k}"): v for k, v in found.items()})


class Trainer:
    """State and one update: `step(source, labels, target) -> loss`. Terms of weight 0 are left out; `decay` is L2 on
    everything; `burn_in` the share of all updates before all terms but the translation act."""

    def __init__(
        self,
        model: DRDR,
        classes: int,
        weights: dict[str, float],
        lr: float,
        steps: int,
        decay: float = 0.0,
        burn_in: float = 0.0,
    ):
        self.decay, self.burn_in = decay, burn_in
        self.model, self.k, self.weights, self.lr, self.steps, self.it = model, classes, weights, lr, steps, 0
        d = model.fc.in_features
        self.anchors = [(torch.zeros(d), torch.zeros(classes, d)) for _ in range(2)]
        flat = {n: p for n, p in model.named_parameters() if not n.startswith("stiefel")}
        groups = [
            {"params": [p for n, p in flat.items() if n.startswith("trunk.") == trunk], "factor": factor}
            for trunk, factor in ((True, 1.0), (False, 10.0))
        ]
        self.sgd = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, weight_decay=decay)
        self.momentum = None

    def anchored(self, i: int, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hot = F.one_hot(y, self.k).float()
        means = (hot.T @ z) / hot.sum(0).clamp(min=1)[:, None]
        g, a = self.anchors[i]
        return THETA * z.mean(0) + (1 - THETA) * g, THETA * means + (1 - THETA) * a

    def loss(self, source: torch.Tensor, labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The whole objective of the next update; keeps the new anchors."""
        m, w = self.model, self.weights
        zs = m.bottleneck(m.trunk(source))
        zt = m.stiefel_linear(m.bottleneck(m.trunk(target)))
        logits, guessed = m.fc(zs), m.fc(zt)
        pseudo = guessed.argmax(1)
        structures = [self.anchored(0, zs, labels), self.anchored(1, zt, pseudo)]
        (gs, a_s), (gt, a_t) = structures
        vs, vt = a_s - gs.detach(), a_t - gt.detach()
        value = w["distance"] * (vs - vt).square().mean()
        ls, lt = (torch.sqrt(v.square().sum(1) + 1e-12) for v in (vs, vt))
        kept = (torch.minimum(ls, lt) >= 1e-3 * (ls.mean() + lt.mean()) / 2).detach()
        value = value + w["angular"] * (1 - (vs * vt).sum(1) / (ls * lt))[kept].mean()
        for z, (g, a) in zip((zs, zt), structures):
            if w["transport"]:
                value = value + w["transport"] * transport(z, a.detach())
            if not w["consensus"]:
                continue
            q = 1 / (1 + 2 * costs_of(z, a.detach()))
            q = (q / q.sum(1, keepdim=True)).detach()
            log_p = F.log_softmax(m.fc(z - g.detach()), 1)
            value = value + w["consensus"] * ((q * (q.log() - log_p)).sum(1) - (log_p.exp() * log_p).sum(1)).mean()
        q = 2 / (1 + torch.exp(torch.tensor(-10.0 * (self.it + 1) / self.steps))) - 1
        self.new = [tuple(x.detach() for x in s) for s in structures]
        value = value if self.it + 1 >= self.burn_in * self.steps else 0.0
        return F.cross_entropy(logits, labels) + q * (w["translation"] * (gt - gs).square().mean() + value)

    def step(self, source: torch.Tensor, labels: torch.Tensor, target: torch.Tensor) -> float:
        """One update of everything."""
        value = self.loss(source, labels, target)
        self.sgd.zero_grad(set_to_none=True)
        self.model.stiefel_linear.weight.grad = None
        value.backward()
        rate = self.lr * (1 + 10 * (self.it + 1) / self.steps) ** -0.75
        for group in self.sgd.param_groups:
            group["lr"] = rate * group["factor"]
        self.sgd.step()
        self.turn(10 * rate)
        self.anchors, self.it = self.new, self.it + 1
        return value.item()

    @torch.no_grad()
    def turn(self, rate: float) -> None:
        """Riemannian SGD of the orthogonal weight: Cayley retraction, momentum carried along."""
        x, g = self.model.stiefel_linear.weight, self.model.stiefel_linear.weight.grad
        m = g if self.momentum is None else self.momentum
        g = g + self.decay * x
        r = g - x @ g.T @ x
        m = 0.9 * m + r
        u = -rate * (r + 0.9 * m)
        half = (u @ x.T - x @ u.T) / 2
        eye = torch.eye(len(x))
        moved = torch.linalg.solve(eye - half, (eye + half) @ torch.cat([x, m], 1))
        self.momentum = moved[:, len(x) :].clone()
        x.copy_(moved[:, : len(x)])
