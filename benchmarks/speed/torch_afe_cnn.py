"""AFE-CNN (reconstruction) in plain PyTorch, from the equations of section 3 and under the names of section 10: the
other side of `benchmarks.speed.afe_cnn`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from jaxvl.methods.afe_cnn.model import STAGES, AFEConfig


class Block(nn.Module):
    """Depthwise, norm, ReLU, pointwise, norm, ReLU."""

    def __init__(self, before: int, after: int, stride: tuple[int, int]):
        super().__init__()
        self.dw = nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False)
        self.bn1, self.pw = nn.BatchNorm2d(before), nn.Conv2d(before, after, 1, bias=False)
        self.bn2, self.skips = nn.BatchNorm2d(after), before == after and stride == (1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.pw(F.relu(self.bn1(self.dw(x)))))
        return F.relu(y + x if self.skips else y)


class AFECNN(nn.Module):
    """Bodies that are not there are left out of the batch, the fastest that plain PyTorch can do."""

    def __init__(self, c: AFEConfig):
        super().__init__()
        j = c.joints
        self.c, self.parents = c, [k if p < 0 else p for k, p in enumerate(c.parents)]
        self.columns = list(c.columns)
        self.data_bn = nn.BatchNorm1d(j * c.channels)
        self.kje_fc1, self.kje_fc2 = nn.Linear(3 * j, c.kje_hidden), nn.Linear(c.kje_hidden, j)
        self.kfe_c1 = nn.Conv1d(3, c.kfe_hidden, c.kfe_size, padding=c.kfe_size // 2)
        self.kfe_c2 = nn.Conv1d(c.kfe_hidden, 1, c.kfe_size, padding=c.kfe_size // 2)
        self.stem, self.stem_bn = nn.Conv2d(c.channels, c.width, 3, padding=1, bias=False), nn.BatchNorm2d(c.width)
        sizes = [c.width, *(c.width * times for times, _ in STAGES)]
        self.blocks = nn.ModuleList(Block(a, b, s) for a, b, (_, s) in zip(sizes, sizes[1:], STAGES))
        self.drop, self.fc = nn.Dropout(c.dropout), nn.Linear(sizes[-1], c.classes)

    def forward(self, x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        b, m = present.shape
        there = present.flatten()
        x = x.flatten(0, 1)[there]
        n, t, j, _ = x.shape
        bone = x - x[:, :, self.parents]
        step = torch.cat([x[:, 1:], x[:, -1:]], 1) - x
        far = x[:, torch.clamp(torch.arange(t) + self.c.te_span, max=t - 1)] - x
        z = torch.cat([x, bone / (bone.norm(dim=-1, keepdim=True) + 1e-6), step, far], -1)
        z = self.data_bn(z.reshape(n, t, -1).transpose(1, 2)).transpose(1, 2).reshape(n, t, j, -1)
        v, e = step.norm(dim=-1), (x - x.mean(1, keepdim=True)).norm(dim=-1)
        q = relative(torch.stack([v.mean(1), v.amax(1), e.mean(1)], -1))
        joint = 1 + 0.5 * torch.tanh(self.kje_fc2(F.relu(self.kje_fc1(q.flatten(1)))))
        q = relative(torch.stack([v.mean(2), v.amax(2), e.mean(2)], -1)).transpose(1, 2)
        frame = 1 + 0.5 * torch.tanh(self.kfe_c2(F.relu(self.kfe_c1(q)))[:, 0])
        z = (z * joint[:, None, :, None] * frame[:, :, None, None])[:, :, self.columns]
        y = z.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        y = F.relu(self.stem_bn(self.stem(y)))
        for block in self.blocks:
            y = block(y)
        features = torch.full((b * m, y.shape[1]), -torch.inf, dtype=y.dtype)
        features = features.index_put((there.nonzero()[:, 0],), y.mean((2, 3)))
        return self.fc(self.drop(features.view(b, m, -1).amax(1)))


def relative(x: torch.Tensor) -> torch.Tensor:
    """Each by its mean over the second axis, minus 1."""
    return x / (x.mean(1, keepdim=True) + 1e-6) - 1
