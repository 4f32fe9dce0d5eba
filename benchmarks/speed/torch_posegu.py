"""PoseGU (reconstruction) in plain PyTorch: lifters under the names of the published code, generator and weights from
the equations of section 3 and 4; the other side of `benchmarks.speed.posegu`."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxvl.data.readers.poses.motions import FAR_RIGHT, NEAR_LEFT, PITCH_DEG, SCREEN
from jaxvl.methods.posegu.generator import LENGTHS, PARENTS, ROTATED, radial_share
from jaxvl.methods.posegu.model import LifterConfig, edges


class Stage(nn.Module):
    """Two layers and the input added."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, width), nn.Linear(width, width)
        self.batch_norm1, self.batch_norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dropout(F.relu(self.batch_norm1(self.w1(x))))
        return x + self.dropout(F.relu(self.batch_norm2(self.w2(y))))


class SimpleBaseline(nn.Module):
    """`mlp`."""

    def __init__(self, c: LifterConfig):
        super().__init__()
        self.w1, self.batch_norm1 = nn.Linear(32, c.width), nn.BatchNorm1d(c.width)
        self.linear_stages = nn.ModuleList(Stage(c.width, c.dropout) for _ in range(c.stages))
        self.w2, self.dropout = nn.Linear(c.width, 45), nn.Dropout(c.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dropout(F.relu(self.batch_norm1(self.w1(x.flatten(1)))))
        for stage in self.linear_stages:
            y = stage(y)
        return F.pad(self.w2(y), (3, 0)).view(-1, 16, 3)


class SemGraphConv(nn.Module):
    """As published, over all pairs of joints."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.W, self.e = nn.Parameter(torch.empty(2, inputs, outputs)), nn.Parameter(torch.ones(1, len(edges()[0])))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.rows, self.columns = (torch.from_numpy(x) for x in edges())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strength = torch.full((16, 16), -9e15).index_put((self.rows, self.columns), self.e[0])
        strength, eye = F.softmax(strength, 1), torch.eye(16)
        return (strength * eye) @ (x @ self.W[0]) + (strength * (1 - eye)) @ (x @ self.W[1]) + self.bias


class Unit(nn.Module):
    """Graph convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.gconv, self.bn = SemGraphConv(inputs, outputs), nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.gconv(x).transpose(1, 2)).transpose(1, 2))


class Pair(nn.Module):
    """Two units and the input added."""

    def __init__(self, width: int):
        super().__init__()
        self.gconv1, self.gconv2 = Unit(width, width), Unit(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gconv2(self.gconv1(x))


class SemGCN(nn.Module):
    """`semgcn` without dropout."""

    def __init__(self, c: LifterConfig):
        super().__init__()
        self.gconv_input = nn.Sequential(Unit(2, c.width))
        self.gconv_layers = nn.Sequential(*(Pair(c.width) for _ in range(c.stages)))
        self.gconv_output = SemGraphConv(c.width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gconv_output(self.gconv_layers(self.gconv_input(x)))


LIFTERS = {"mlp": SimpleBaseline, "semgcn": SemGCN}
SIGMA = torch.tensor(np.radians([40, 10, 10, 15, 30, 30, 30, 30, 45, 45, 45, 45]), dtype=torch.float32)
LIMIT = torch.clamp(3 * SIGMA, max=math.pi)
INSIDE = torch.tensor([math.log(radial_share(float(t / s))) for t, s in zip(LIMIT, SIGMA)])


def matrices(omega: torch.Tensor) -> torch.Tensor:
    """Rodrigues: `[..., 3] -> [..., 3, 3]`."""
    angle = omega.norm(dim=-1)[..., None, None].clamp_min(1e-6)
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(*omega.shape[:-1], 3, 3)
    return torch.eye(3) + torch.sin(angle) / angle * k + (1 - torch.cos(angle)) / angle**2 * (k @ k)


def act(bones: torch.Tensor, omega: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Bones `[n, 16, 3]` -> poses `[n, 16, 3]`, batched products of matrices down the tree."""
    own = matrices(omega)
    turned: list[torch.Tensor] = [own[:, 0]]
    out = [torch.zeros_like(bones[:, 0])]
    for j in range(1, 16):
        p = PARENTS[j]
        turned.append(turned[p] @ own[:, ROTATED.index(j)] if j in ROTATED else turned[p])
        bone = (turned[j] @ bones[:, j, :, None])[..., 0]
        out.append(out[p] + ratio[:, LENGTHS[j - 1], None] * bone)
    return torch.stack(out, 1)


def within_limits(x: torch.Tensor) -> torch.Tensor:
    """The table of limits, `[n, 16, 3] -> [n]`."""
    unit = lambda v: v / v.norm(dim=-1, keepdim=True).clamp_min(1e-9)  # noqa: E731
    bone = lambda j: unit(x[:, j] - x[:, PARENTS[j]])  # noqa: E731
    angle = lambda a, b: torch.rad2deg(torch.acos((a * b).sum(-1).clamp(-1, 1)))  # noqa: E731
    y, hips = unit(x[:, 8] - x[:, 0]), x[:, 4] - x[:, 1]
    left = unit(hips - (hips * y).sum(-1, keepdim=True) * y)
    frame = torch.stack([left, y, torch.linalg.cross(left, y)], 1)
    local = lambda j: (frame @ bone(j)[..., None])[..., 0]  # noqa: E731
    good = (angle(bone(9), bone(8)) <= 60) & (angle(bone(7), bone(8)) <= 60)
    for s, a, b in ((1, 5, 6), (-1, 2, 3)):
        thigh, shank = local(a), local(b)
        flexion = torch.rad2deg(torch.atan2(thigh[:, 2], -thigh[:, 1]))
        abduction = torch.rad2deg(torch.asin((s * thigh[:, 0]).clamp(-1, 1)))
        hinge = unit(torch.tensor([1.0, 0, 0]) - thigh[:, :1] * thigh)
        good &= (flexion >= -45) & (flexion <= 135) & (abduction >= -35) & (abduction <= 75)
        good &= (angle(thigh, shank) <= 155) & ((torch.linalg.cross(thigh, shank) * hinge).sum(-1) >= -0.17)
    for s, a, b in ((1, 11, 12), (-1, 14, 15)):
        upper, lower = local(a), local(b)
        good &= (upper[:, 2] >= -0.85) & (s * upper[:, 0] >= -0.75) & (angle(upper, lower) <= 150)
    return good


def log_densities(omega: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p and log q of `[n, 12, 3]`, one component."""
    angle = omega.norm(dim=-1)
    p = -0.5 * (angle / SIGMA) ** 2 - 1.5 * torch.log(2 * math.pi * SIGMA**2) - INSIDE
    safe = angle.clamp_min(1e-4)
    q = torch.log((1 - torch.cos(safe)) / safe**2) - torch.log(4 * math.pi * (LIMIT - torch.sin(LIMIT)))
    return p.sum(-1), q.sum(-1)


@torch.no_grad()
def generate(bones: torch.Tensor, n: int, oversample: int = 4) -> tuple[torch.Tensor, ...]:
    """`(poses [n, 16, 3], x2d, x3d, log p, log q)` of seeds' bones `[S, 16, 3]`: draws beyond the largest angle again,
    keeps what is valid, sees each by a camera around it."""
    total = n * oversample
    seed = torch.randint(len(bones), (total,))
    omega = SIGMA[:, None] * torch.randn(total, 12, 3)
    while (far := omega.norm(dim=-1) > LIMIT).any():
        omega[far] = (SIGMA.expand(total, 12)[far])[:, None] * torch.randn(int(far.sum()), 3)
    ratio = 0.85 + 0.3 * torch.rand(total, 9)
    ratio[:, 4] = 1
    pose = act(bones[seed], omega, ratio)
    kept = torch.nonzero(within_limits(pose))[:n, 0]
    assert len(kept) == n
    pose, omega = pose[kept], omega[kept]
    return (pose, *see(pose), *log_densities(omega))


@torch.no_grad()
def see(pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(x2d, x3d)` by cameras around each of `[n, 16, 3]` (z up)."""
    n = len(pose)
    yaw = (2 * torch.rand(n) - 1) * math.pi
    pitch = torch.deg2rad(PITCH_DEG[0] + PITCH_DEG[1] * torch.randn(n))
    zero = torch.zeros(n)
    turn = matrices(torch.stack([pitch, zero, zero], -1)) @ matrices(torch.stack([zero, yaw, zero], -1))
    turn = torch.tensor([1.0, -1, -1])[:, None] * turn @ torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    low, high = (torch.tensor(corner, dtype=torch.float32) for corner in (NEAR_LEFT, FAR_RIGHT))
    x3d = pose @ turn.transpose(1, 2) + (low + (high - low) * torch.rand(n, 3))[:, None]
    return float(SCREEN[0]) * (x3d[..., :2] / x3d[..., 2:]).clamp(-1, 1), x3d


def weights(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """The default: tempered, self-normalised, clipped."""
    z = (log_q - log_p) / 12
    w = torch.exp(z - z.max())
    return torch.clamp(w / w.mean(), max=10)


def risk(losses: torch.Tensor, w: torch.Tensor, lambda_var: float = 0.1) -> torch.Tensor:
    """Variance-penalised mean."""
    u = w * losses
    return u.mean() + lambda_var * torch.sqrt(u.var() / len(u) + 1e-12)
