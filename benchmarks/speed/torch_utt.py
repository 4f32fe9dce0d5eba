"""UTT in plain PyTorch, from its equations and under the names of its published files, without dropout: the other side
of `benchmarks.speed.utt`. Bilinear samples go through `grid_sample`, assignments through scipy."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from benchmarks.speed.torch_resnet import ResNet
from jaxvl.methods.utt.model import UTTConfig

LARGEST_GROWTH = 4.135166556742356  # log 62.5


def clones(make, count: int) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(count))


def roi_align(cells: torch.Tensor, boxes: torch.Tensor, scale: float, size: int) -> torch.Tensor:
    """`[B, C, H, W]`, corners `[B, N, 4]` -> `[B, N, size², C]`, two samples a side of a bin, boxes get no gradient."""
    batch, _, height, width = cells.shape
    low, high = boxes.detach()[..., :2] * scale - 0.5, boxes.detach()[..., 2:] * scale - 0.5
    inner = (torch.arange(2 * size) + 0.5) / (2 * size)
    at = low[..., None, :] + inner[:, None] * (high - low)[..., None, :]  # [B, N, 2 size, xy]
    limits = torch.tensor([width, height])
    counts = ((at >= -1) & (at <= limits)).float()
    place = 2 * at.clamp(min=0).minimum(limits - 1.0) / (limits - 1) - 1
    n = boxes.shape[1]
    x, y = place[..., 0][:, :, None, :], place[..., 1][:, :, :, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), -1).reshape(batch, n * 2 * size, 2 * size, 2)
    found = F.grid_sample(cells, grid, align_corners=True).reshape(batch, -1, n, 2 * size, 2 * size)
    found = found * (counts[..., 0][:, :, None, :] * counts[..., 1][:, :, :, None])[:, None]
    found = F.avg_pool2d(found.flatten(1, 2), 2).reshape(batch, -1, n, size * size)
    return found.permute(0, 2, 3, 1)


def level_mask(pad: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return F.interpolate(pad[:, None].float(), tuple(shape), mode="nearest")[:, 0] > 0


def sine_position(mask: torch.Tensor, width: int) -> torch.Tensor:
    """`[B, h, w]` -> `[B, h, w, width]`, y first."""
    half, parts = width // 2, []
    scale = 10_000 ** (2 * (torch.arange(half) // 2) / half)
    for axis in (1, 2):
        count = (~mask).float().cumsum(axis)
        last = count.select(axis, -1).unsqueeze(axis)
        angle = (count / (last + 1e-6) * 2 * torch.pi)[..., None] / scale
        parts.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2))
    return torch.cat(parts, -1)


def valid_ratio(mask: torch.Tensor) -> torch.Tensor:
    x, y = (~mask[:, 0]).sum(1).clamp(min=1) / mask.shape[2], (~mask[:, :, 0]).sum(1).clamp(min=1) / mask.shape[1]
    return torch.stack([x, y], -1)


def logit(x: torch.Tensor) -> torch.Tensor:
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def centred(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    side = lambda low, high: (high - low).clamp(min=0).prod(-1)  # noqa: E731
    area = lambda x: (x[..., 2:] - x[..., :2]).prod(-1)  # noqa: E731
    common = side(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a) + area(b) - common
    hull = side(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return common / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


class Feed(nn.Module):
    """`linear1`, ReLU, `linear2`, of whoever inherits it."""

    def __init__(self, width: int, hidden: int, norms: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for i in range(1, norms + 1):
            setattr(self, f"norm{i}", nn.LayerNorm(width))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(F.relu(self.linear1(x)))


class DeformableAttention(nn.Module):
    def __init__(self, c: UTTConfig):
        super().__init__()
        self.c, each = c, c.heads * 4 * c.points
        self.sampling_offsets, self.attention_weights = nn.Linear(c.dim, 2 * each), nn.Linear(c.dim, each)
        self.value_proj, self.output_proj = nn.Linear(c.dim, c.dim), nn.Linear(c.dim, c.dim)

    def forward(self, query, reference, cells, shapes, padding):
        c, (batch, count, _) = self.c, query.shape
        value = self.value_proj(cells).masked_fill(padding[..., None], 0).unflatten(-1, (c.heads, -1))
        offsets = self.sampling_offsets(query).view(batch, count, c.heads, 4, c.points, 2)
        weights = self.attention_weights(query).view(batch, count, c.heads, -1).softmax(-1)
        weights = weights.view(batch, count, c.heads, 4, c.points)
        centre = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 4:
            at = centre + offsets / c.points * reference[:, :, None, :, None, 2:] * 0.5
        else:
            sizes = torch.tensor([(h, w) if c.offset_norm == "hw" else (w, h) for h, w in shapes])
            at = centre + offsets / sizes[:, None]
        total, begin = 0.0, 0
        for level, (h, w) in enumerate(shapes):
            grid = 2 * at[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
            part = value[:, begin : begin + h * w].permute(0, 2, 3, 1).reshape(batch * c.heads, -1, h, w)
            begin += h * w
            found = F.grid_sample(part, grid, align_corners=False)  # [B heads, D, Q, points]
            total = total + (found * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        return self.output_proj(total.view(batch, c.dim, count).transpose(1, 2))


class EncoderLayer(Feed):
    def __init__(self, c: UTTConfig):
        super().__init__(c.dim, c.ff_dim, 2)
        self.self_attn = DeformableAttention(c)

    def forward(self, x, position, reference, shapes, padding):
        x = self.norm1(x + self.self_attn(x + position, reference, x, shapes, padding))
        return self.norm2(x + self.feed(x))


class QueryLayer(Feed):
    def __init__(self, c: UTTConfig):
        super().__init__(c.dim, c.ff_dim, 3)
        self.self_attn = nn.MultiheadAttention(c.dim, c.heads, batch_first=True)
        self.cross_attn = DeformableAttention(c)

    def forward(self, x, position, reference, cells, shapes, padding):
        q = x + position
        x = self.norm2(x + self.self_attn(q, q, x, need_weights=False)[0])
        x = self.norm1(x + self.cross_attn(x + position, reference, cells, shapes, padding))
        return self.norm3(x + self.feed(x))


class TargetLayer(Feed):
    def __init__(self, c: UTTConfig):
        super().__init__(c.dim, c.ff_dim, 3)
        self.self_attn = nn.MultiheadAttention(c.dim, c.heads, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(c.dim, c.heads, batch_first=True)

    def forward(self, t, cells, position, padding):
        t = self.norm1(t + self.self_attn(t, t, t, need_weights=False)[0])
        seen = self.multihead_attn(t, cells + position, cells, key_padding_mask=padding, need_weights=False)[0]
        t = self.norm2(t + seen)
        return self.norm3(t + self.feed(t))


class Correlation(nn.Module):
    def __init__(self, c: UTTConfig):
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(c.dim * c.pool**2, 2 * c.dim), nn.LayerNorm(2 * c.dim)
        self.fc2, self.norm2 = nn.Linear(2 * c.dim, c.dim), nn.LayerNorm(c.dim)

    def forward(self, t, patch):
        x = ((patch @ t[..., None]) * patch).flatten(-2)
        return F.relu(self.norm2(self.fc2(F.relu(self.norm1(self.fc1(x))))))


class InteractLayer(Feed):
    def __init__(self, c: UTTConfig):
        super().__init__(c.dim, c.ff_dim, 3)
        self.self_attn, self.interact = nn.MultiheadAttention(c.dim, c.heads, batch_first=True), Correlation(c)

    def forward(self, t, patch):
        t = self.norm1(t + self.self_attn(t, t, t, need_weights=False)[0])
        t = self.norm2(t + self.interact(t, patch))
        return self.norm3(t + self.feed(t))


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class UTT(nn.Module):
    """The whole network; boxes are corners in pixels of its input."""

    def __init__(self, c: UTTConfig):
        super().__init__()
        self.c, d = c, c.dim
        self.backbone = ResNet(c.depth, None, c.width)
        wide = [c.width * 2**s * (4 if c.depth >= 50 else 1) for s in (1, 2, 3)]
        project = lambda: nn.ModuleList(  # noqa: E731
            [nn.Sequential(nn.Conv2d(w, d, 1), nn.BatchNorm2d(d)) for w in wide]
            + [nn.Sequential(nn.Conv2d(wide[2], d, 3, 2, 1), nn.BatchNorm2d(d))]
        )
        self.tracking_proj, self.detection_proj = project(), project()
        self.target_proj = nn.Sequential(nn.Linear(d * c.object_size**2, d), nn.LayerNorm(d))
        self.level_embed, self.query_embed = nn.Parameter(torch.zeros(4, d)), nn.Embedding(c.queries, 2 * d)
        self.reference_points = nn.Linear(d, 2)
        holder = lambda **parts: nn.ModuleDict(parts)  # noqa: E731
        self.encoder = holder(layers=clones(lambda: EncoderLayer(c), c.encoder_layers))
        self.box_head = clones(lambda: MLP(d), c.detector_layers)
        self.det_decoder = holder(layers=clones(lambda: QueryLayer(c), c.detector_layers), bbox_embed=self.box_head)
        self.class_head = clones(lambda: nn.Linear(d, c.classes), c.detector_layers)
        self.sot_decoder = holder(layers=clones(lambda: TargetLayer(c), c.decoder_layers), norm=nn.LayerNorm(d))
        sizes = [d, d, d // 2, d // 4, d // 8]
        convs = {
            f"conv{i + 1}": nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        }
        self.sot_proposal = holder(**convs, conv5=nn.Conv2d(d // 8, 2, 1))
        hidden = lambda: nn.Sequential(nn.Linear(d, d, bias=False), nn.LayerNorm(d), nn.ReLU())  # noqa: E731
        self.track_head = holder(
            interact_layers=clones(lambda: InteractLayer(c), c.iterations),
            box_module=clones(
                lambda: nn.Sequential(*(hidden() for _ in range(c.box_layers)), nn.Linear(d, 4)), c.iterations
            ),
        )

    def trunk(self, images: torch.Tensor, stages: int) -> list[torch.Tensor]:
        """Maps behind levels 0, 1, 2, as far as `stages` of the ResNet give them."""
        b = self.backbone
        x, found = F.max_pool2d(F.relu(b.bn1(b.conv1(images))), 3, 2, 1), []
        for s in range(1, stages + 1):
            x = getattr(b, f"layer{s}")(x)
            found.append(x)
        return found[1:]

    def vectors(self, cells: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return self.target_proj(roi_align(cells, boxes, 1 / 16, 1)[:, :, 0])

    def track(self, cells, t, boxes) -> list[torch.Tensor]:
        found = []
        for layer, module in zip(self.track_head["interact_layers"], self.track_head["box_module"]):
            t = layer(t, roi_align(cells, boxes, 1 / 16, self.c.pool))
            delta = module(t)
            size = boxes[..., 2:] - boxes[..., :2]
            centre = boxes[..., :2] + size / 2 + delta[..., :2] / 2 * size
            half = size * delta[..., 2:].clamp(max=LARGEST_GROWTH).exp() / 2
            boxes = torch.cat([centre - half, centre + half], -1)
            found.append(boxes)
        return found

    def sot(self, cells, pad, t) -> list[torch.Tensor]:
        """The proposal and all iterations, each `[B, 1, 4]`."""
        batch, d, h, w = cells.shape
        mask, flat = level_mask(pad, (h, w)), cells.flatten(2).transpose(1, 2)
        position = sine_position(mask, d).flatten(1, 2)
        for layer in self.sot_decoder["layers"]:
            t = layer(t, flat, position, mask.flatten(1))
        t = self.sot_decoder["norm"](t)
        x = torch.einsum("bc,bchw->bhw", t[:, 0], cells)[:, None] * cells
        for i in range(1, 5):
            x = self.sot_proposal[f"conv{i}"](x)
        share = self.sot_proposal["conv5"](x).flatten(2).softmax(-1).view(batch, 2, h, w)
        x, y = (share.sum(2) * torch.arange(w) / w).sum(-1), (share.sum(3) * torch.arange(h) / h).sum(-1)
        first = torch.stack([x, y], -1).flatten(1)[:, None] * torch.tensor([pad.shape[2], pad.shape[1]] * 2)
        return [first, *self.track(cells, t, first)]

    def detect(self, taps, pad) -> tuple[torch.Tensor, torch.Tensor]:
        """`logits [layers, B, Q, K]`, `boxes [layers, B, Q, 4]` (centre and size, shares)."""
        c = self.c
        maps = [proj(taps[min(i, 2)]) for i, proj in enumerate(self.detection_proj)]
        masks = [level_mask(pad, m.shape[2:]) for m in maps]
        shapes, ratios = [tuple(m.shape[2:]) for m in maps], torch.stack([valid_ratio(m) for m in masks], 1)
        flat = lambda xs: torch.cat([x.flatten(1, 2) for x in xs], 1)  # noqa: E731
        position = flat([sine_position(m, c.dim) + self.level_embed[i] for i, m in enumerate(masks)])
        x, padding = flat([m.permute(0, 2, 3, 1) for m in maps]), flat(masks)
        centres = []
        for i, (h, w) in enumerate(shapes):
            y, z = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
            centres.append(torch.stack([z, y], -1).flatten(0, 1)[None] / ratios[:, i, None])
        reference = torch.cat(centres, 1)[:, :, None] * ratios[:, None]
        for layer in self.encoder["layers"]:
            x = layer(x, position, reference, shapes, padding)
        place, query = self.query_embed.weight.expand(len(x), -1, -1).split(c.dim, -1)
        reference, logits, boxes = self.reference_points(place).sigmoid(), [], []
        for layer, box, kind in zip(self.det_decoder["layers"], self.box_head, self.class_head):
            scaled = reference[:, :, None] * ratios.repeat(1, 1, reference.shape[-1] // 2)[:, None]
            query = layer(query, place, scaled, x, shapes, padding)
            delta, known = box(query), logit(reference)
            delta = torch.cat([delta[..., : known.shape[-1]] + known, delta[..., known.shape[-1] :]], -1)
            boxes.append(delta.sigmoid())
            logits.append(kind(query))
            reference = boxes[-1].detach()
        return torch.stack(logits), torch.stack(boxes)


def box_loss(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`5 l1 + 2 g` of corners `[N, 4]` as shares; a box with swapped corners costs 1 in place of 1 - GIoU."""
    if not len(predicted):
        return predicted.sum()
    fine = (predicted[:, 2:] >= predicted[:, :2]).all(1)
    off = torch.where(fine, 1 - giou(torch.where(fine[:, None], predicted, truth), truth), 1.0)
    return 5 * (centred(predicted) - centred(truth)).abs().sum(1).mean() + 2 * off.mean()


def sot_loss(model: UTT, images, pad, boxes, ref) -> torch.Tensor:
    """images `[B, T, 3, S, S]` normalised, pad `[B, T, S, S]`, boxes `[B, T, 4]`, ref `[B]`."""
    batch, frames, size = *images.shape[:2], images.shape[-1]
    cells = model.tracking_proj[1](model.trunk(images.flatten(0, 1), 3)[1])
    rows = torch.arange(batch)
    shown = cells.unflatten(0, (batch, frames))[rows, ref]
    t = model.vectors(shown, boxes[rows, ref][:, None]).repeat_interleave(frames, 0)
    truth = boxes.flatten(0, 1) / size
    return torch.stack([box_loss(b[:, 0] / size, truth) for b in model.sot(cells, pad.flatten(0, 1), t)]).mean()


def noisy(truth: torch.Tensor, min_iou: float) -> torch.Tensor:
    """A box `[4]` near the true one, as the published code draws it."""
    sigma = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)[torch.randint(7, ()).item()]
    known = centred(truth)
    for _ in range(16):
        moved = known + sigma * known[2:].prod().sqrt() * torch.randn(4)
        moved[2:] = torch.where(moved[2:] <= 1, known[2:] * (0.15 + 0.35 * torch.rand(2)), moved[2:])
        tried = corners(moved).round()
        common = (torch.minimum(tried[2:], truth[2:]) - torch.maximum(tried[:2], truth[:2])).clamp(min=0).prod()
        if common / ((tried[2:] - tried[:2]).prod() + known[2:].prod() - common) > min_iou:
            return tried
        sigma *= 0.9
    return truth


def matched(cost: torch.Tensor) -> tuple[list[int], list[int]]:
    rows, columns = linear_sum_assignment(cost.detach().numpy())
    return rows.tolist(), columns.tolist()


def detection_loss(logits, boxes, truths, index: int) -> torch.Tensor:
    """truths: a list of `[m, 4]` (centre and size, shares), all of class `index`."""
    number, total = max(1, sum(len(t) for t in truths)), 0.0
    for layer_logits, layer_boxes in zip(logits, boxes):
        wanted = torch.zeros_like(layer_logits)
        for i, truth in enumerate(truths):
            p = layer_logits[i, :, index].sigmoid()
            kind = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
            apart = torch.cdist(layer_boxes[i], truth, 1)
            overlap = giou(corners(layer_boxes[i])[:, None], corners(truth)[None])
            rows, columns = matched(2 * kind[:, None] + 5 * apart - 2 * overlap)
            wanted[i, rows, index] = 1
            near, there = layer_boxes[i][rows], truth[columns]
            total = total + 5 * (near - there).abs().sum() / number
            total = total + 2 * (1 - giou(corners(near), corners(there))).sum() / number
        p = layer_logits.sigmoid()
        cross = F.binary_cross_entropy_with_logits(layer_logits, wanted, reduction="none")
        right = p * wanted + (1 - p) * (1 - wanted)
        total = total + 2 * ((0.25 * wanted + 0.75 * (1 - wanted)) * (1 - right) ** 2 * cross).sum() / number
    return total


def mot_loss(model: UTT, template, search, index: int, min_iou: float) -> torch.Tensor:
    """Each: image `[B, 3, H, W]` normalised, pad, and lists of boxes `[m, 4]` (corners in pixels) and of identities;
    all pictures fill their frame."""
    with torch.no_grad():
        taps = model.trunk(template["image"], 4)
        found = corners(model.detect(taps, template["pad"])[1][-1])
        cells = model.tracking_proj[1](taps[1])
    size = torch.tensor([template["pad"].shape[2], template["pad"].shape[1]] * 2)
    start, marks = found * size, []
    for i, (boxes, ids) in enumerate(zip(template["boxes"], template["ids"])):
        rows, columns = matched(-giou(found[i][:, None], (boxes / size)[None]))
        for q, m in zip(rows, columns):
            if ids[m] in search["ids"][i]:
                truth = search["boxes"][i][search["ids"][i].index(ids[m])]
                start[i, q] = noisy(truth, min_iou)
                marks.append((i, q, truth / size))
    with torch.no_grad():
        pooled = roi_align(cells, found * size, 1 / 16, 1)[:, :, 0]
    taps = model.trunk(search["image"], 4)
    logits, boxes = model.detect(taps, search["pad"])
    moved = model.track(model.tracking_proj[1](taps[1]), model.target_proj(pooled), start)
    truth = torch.stack([t for *_, t in marks])
    where = [i for i, *_ in marks], [q for _, q, _ in marks]
    followed = torch.stack([box_loss(b[where] / size, truth) for b in moved]).mean()
    return followed + detection_loss(logits, boxes, [centred(b / size) for b in search["boxes"]], index)


def from_arrays(config: UTTConfig, arrays) -> UTT:
    """The model of a state dict of numpy arrays."""
    model = UTT(config)
    model.load_state_dict({k: torch.from_numpy(copy.copy(v)) for k, v in arrays.items()})
    return model
