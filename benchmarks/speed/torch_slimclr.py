"""A plain PyTorch SlimCLR-MoCo v2 training step on a slimmable ResNet-50: the other side of the comparison.

Written from the paper. Weights are the tensors of an official checkpoint (`module.encoder_q.features.0.conv1.weight`),
so that both sides start from the same file.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

BLOCKS = (3, 4, 6, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network:
    """One slimmable encoder as a dictionary of tensors; `index` picks the width."""

    def __init__(self, tensors: dict[str, torch.Tensor], widths: tuple[float, ...]):
        self.t, self.widths = tensors, widths

    def conv(self, name: str, x: torch.Tensor, index: int, stride: int = 1) -> torch.Tensor:
        w = self.t[f"{name}.weight"]
        rows = w.shape[1] if w.shape[1] == 3 else int(self.widths[index] * w.shape[1])
        w = w[: int(self.widths[index] * w.shape[0]), :rows]
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    def norm(self, name: str, x: torch.Tensor, index: int) -> torch.Tensor:
        get = lambda part: self.t[f"{name}.bn.{index}.{part}"]  # noqa: E731
        return F.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"), True, 0.1, 1e-5)

    def __call__(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Normalised pictures `[B, 3, H, W]` -> unit outputs `[B, dim]`."""
        x = F.relu(self.norm("bn1", self.conv("conv1", x, index, 2), index))
        x, b = F.max_pool2d(x, 3, 2, 1), 0
        for stage, count in enumerate(BLOCKS):
            for j in range(count):
                f, stride = f"features.{b}", 2 if stage and not j else 1
                y = F.relu(self.norm(f"{f}.bn1", self.conv(f"{f}.conv1", x, index), index))
                y = F.relu(self.norm(f"{f}.bn2", self.conv(f"{f}.conv2", y, index, stride), index))
                y = self.norm(f"{f}.bn3", self.conv(f"{f}.conv3", y, index), index)
                if j == 0:
                    x = self.norm(f"{f}.shortcut.1", self.conv(f"{f}.shortcut.0", x, index, stride), index)
                x, b = F.relu(x + y), b + 1
        x, w = x.mean((2, 3)), self.widths[index]
        hidden = int(w * self.t["fc.0.weight"].shape[0])
        x = F.relu(F.linear(x, self.t["fc.0.weight"][:hidden, : x.shape[1]], self.t["fc.0.bias"][:hidden]))
        return F.normalize(F.linear(x, self.t["fc.2.weight"][:, :hidden], self.t["fc.2.bias"]))


class Trainer:
    """SGD with momentum on all widths, momentum encoder and queue; `arrays` of an official checkpoint."""

    def __init__(self, arrays: dict[str, np.ndarray], widths: tuple[float, ...], lr: float, decay: float, ema: float):
        self.widths, self.lr, self.decay, self.ema = widths, lr, decay, ema
        pick = lambda p: {k.removeprefix(p): torch.tensor(v) for k, v in arrays.items() if k.startswith(p)}  # noqa: E731
        self.query = Network(pick("module.encoder_q."), widths)
        self.key = Network(pick("module.encoder_k."), widths)
        self.queue, self.pointer = torch.tensor(arrays["module.queue"]), 0
        idle = tuple(f".bn.{i}." for i in range(len(widths), 4))  # norms of widths that do not take part
        self.names = [k for k in self.query.t if k.endswith(("weight", "bias")) and not any(i in k for i in idle)]
        for name in self.names:
            self.query.t[name].requires_grad_(True)
        self.buffers = {k: torch.zeros_like(self.query.t[k]) for k in self.names}

    def loss(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Equation 6 with cosine distillation at temperature 5, weights of mode 5."""
        with torch.no_grad():
            k = self.key(b, 0)
        total, teacher = 0.0, None
        for i in range(len(self.widths)):
            q = self.query(a, i)
            s = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone()], 1)
            contrast = F.cross_entropy(s / 0.2, torch.zeros(len(q), dtype=torch.long))
            if i == 0:
                teacher = s.detach()
                total = (1 + sum(self.widths[1:])) * contrast
            else:
                distill = 25 * -(F.softmax(teacher / 5, 1) * F.log_softmax(s / 5, 1)).sum(1).mean()
                total = total + 0.5 * contrast + 0.5 * distill
        self.latest = k
        return total

    def step(self, a: torch.Tensor, b: torch.Tensor) -> float:
        """One update; the loss before it."""
        value = self.loss(a, b)
        grads = torch.autograd.grad(value, [self.query.t[k] for k in self.names])
        with torch.no_grad():
            self.queue[:, self.pointer : self.pointer + len(a)] = self.latest.T
            self.pointer = (self.pointer + len(a)) % self.queue.shape[1]
            for name, g in zip(self.names, grads, strict=True):
                p = self.query.t[name]
                if not name.endswith("bias"):
                    g = g + self.decay * p
                self.buffers[name].mul_(0.9).add_(g)
                p.sub_(self.lr * self.buffers[name])
                self.key.t[name].mul_(self.ema).add_(p, alpha=1 - self.ema)
        return float(value.detach())


def normalised(images: np.ndarray) -> torch.Tensor:
    """uint8 `[B, H, W, 3]` -> `[B, 3, H, W]`."""
    x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
