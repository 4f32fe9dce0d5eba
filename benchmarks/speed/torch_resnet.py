"""A plain PyTorch ResNet v1.5 with torchvision's parameter names: the other side of comparisons, and of a fixture.

Written from He et al. (arXiv 1512.03385) and the layout of published state dicts.

    python -m benchmarks.speed.torch_resnet        writes tests/nn/resnet_torch.npz

The fixture holds outputs only; the weights come from `numpy_state`, which the test calls too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.nn.resnet_weights import CASES, make_case

FIXTURE = Path(__file__).parents[2] / "tests" / "nn" / "resnet_torch.npz"
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Block(nn.Module):
    """Basic block (two 3x3) or bottleneck (1x1, 3x3 with the stride, 1x1)."""

    def __init__(self, cin: int, cout: int, stride: int, dilation: int, bottleneck: bool):
        super().__init__()
        mid = cout // 4 if bottleneck else cout
        sizes = [(cin, mid, 1, 1, 1), (mid, mid, 3, stride, dilation), (mid, cout, 1, 1, 1)]
        if not bottleneck:
            sizes = [(cin, mid, 3, stride, 1), (mid, cout, 3, 1, 1)]
        self.count = len(sizes)
        for n, (a, b, k, s, d) in enumerate(sizes, 1):
            setattr(self, f"conv{n}", nn.Conv2d(a, b, k, s, padding=d * (k // 2), dilation=d, bias=False))
            setattr(self, f"bn{n}", nn.BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = F.relu(y, inplace=True) if n < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Trunk and classifier; `taps` gives the maps. num_classes None: no `fc`."""

    def __init__(self, depth: int, num_classes: int | None = 1000, width: int = 64, output_stride: int = 32):
        super().__init__()
        bottleneck, channels, dilation = depth >= 50, width, 1
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for s, count in enumerate(BLOCKS[depth], 1):
            out = width * 2 ** (s - 1) * (4 if bottleneck else 1)
            stride, before = (1 if s == 1 else 2), dilation
            if (output_stride == 16 and s == 4) or (output_stride == 8 and s >= 3):
                stride, dilation = 1, dilation * 2
            blocks = [Block(channels, out, stride, before, bottleneck)]
            blocks += [Block(out, out, 1, dilation, bottleneck) for _ in range(count - 1)]
            setattr(self, f"layer{s}", nn.Sequential(*blocks))
            channels = out
        self.fc = None if num_classes is None else nn.Linear(channels, num_classes)

    def taps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[B, 3, H, W]` -> maps `[B, C, h, w]`, `pool`, `logits`."""
        out = {"conv1": F.relu(self.bn1(self.conv1(x)))}
        x = out["stem"] = F.max_pool2d(out["conv1"], 3, 2, 1)
        for s in range(1, 5):
            x = out[f"layer{s}"] = getattr(self, f"layer{s}")(x)
        out["pool"] = x.mean((2, 3))
        if self.fc is not None:
            out["logits"] = self.fc(out["pool"])
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, or pooled features without `fc`."""
        out = self.taps(x)
        return out["pool"] if self.fc is None else out["logits"]


def outputs(case: str) -> dict[str, np.ndarray]:
    """Evaluation taps (a part of each map), training logits, and evaluation logits after one step of SGD (rate 0.1)."""
    made = make_case(case)
    net = ResNet(made.depth, made.classes, made.width, made.output_stride)
    net.load_state_dict({k: torch.tensor(v) for k, v in made.state.items()})
    x = torch.tensor(made.images.transpose(0, 3, 1, 2))
    net.eval()
    with torch.no_grad():
        found = {k: v.movedim(1, -1)[:1, ::3, ::3, :16] if v.ndim == 4 else v for k, v in net.taps(x).items()}
    found = {k: v for k, v in found.items() if k in ("layer1", "layer2", "layer4", "logits")}
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    logits = net(x)
    F.cross_entropy(logits, torch.tensor(made.labels)).backward()
    optimizer.step()
    net.eval()
    with torch.no_grad():
        after = net(x)
    found |= {"train_logits": logits, "after_step": after, "running_var": net.layer4[0].bn2.running_var}
    return {f"{case}/{k}": v.detach().numpy() for k, v in found.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    np.savez_compressed(FIXTURE, **{k: v for case in CASES for k, v in outputs(case).items()})
    print(FIXTURE, FIXTURE.stat().st_size, "bytes")
