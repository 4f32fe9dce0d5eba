"""UTT's equations in numpy, float64, from the tensors of a published file: written from the paper and the shapes of the
file, with loops where the model has matrix products. Evaluation mode."""

from __future__ import annotations

import numpy as np

HEADS, POINTS = 8, 4
STRIDES = (8, 16, 32, 64)


def linear(w, key, x):
    y = x @ w[f"{key}.weight"].astype(np.float64).T
    return y + w[f"{key}.bias"] if f"{key}.bias" in w else y


def norm(w, key, x):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * w[f"{key}.weight"] + w[f"{key}.bias"]


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def attention(w, key, query, keys, values, hidden=None):
    """`[n, C]`, `[k, C]`, `[k, C]`, hidden `[k]` bool -> `[n, C]`; head by head."""
    width = query.shape[-1]
    weight, bias = w[f"{key}.in_proj_weight"].astype(np.float64), w[f"{key}.in_proj_bias"]
    q, k, v = (x @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
               for i, x in enumerate((query, keys, values)))  # fmt: skip
    each, out = width // HEADS, []
    for h in range(HEADS):
        part = slice(h * each, (h + 1) * each)
        logits = q[:, part] @ k[:, part].T / np.sqrt(each)
        if hidden is not None:
            logits = np.where(hidden, -np.inf, logits)
        out.append(softmax(logits) @ v[:, part])
    return np.concatenate(out, 1) @ w[f"{key}.out_proj.weight"].astype(np.float64).T + w[f"{key}.out_proj.bias"]


def feed_forward(w, key, x):
    return linear(w, f"{key}.linear2", np.maximum(linear(w, f"{key}.linear1", x), 0))


def conv(x, kernel, bias):
    """`[H, W, in]`, `[out, in, k, k]`, stride 1, padded by k // 2."""
    size = kernel.shape[-1]
    padded = np.pad(x, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    out = np.zeros((*x.shape[:2], len(kernel)))
    for i, j in np.ndindex(size, size):
        out += padded[i : i + x.shape[0], j : j + x.shape[1]] @ kernel[:, :, i, j].astype(np.float64).T
    return out + bias


def batch_norm(w, key, x):
    scale = w[f"{key}.weight"] / np.sqrt(w[f"{key}.running_var"] + 1e-5)
    return x * scale + (w[f"{key}.bias"] - w[f"{key}.running_mean"] * scale)


def bilinear(grid, y, x, outside):
    """A value of `[H, W, C]`; outside: 'zero' beyond the map, 'edge' as RoIAlign."""
    height, width = grid.shape[:2]
    if outside == "edge":
        if y < -1 or y > height or x < -1 or x > width:
            return np.zeros(grid.shape[2])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = np.zeros(grid.shape[2])
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
        for j in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * grid[i, j]
    return total


def roi(grid, box, scale, size):
    """`[size, size, C]`."""
    x1, y1, x2, y2 = np.asarray(box, np.float64) * scale - 0.5
    out = np.zeros((size, size, grid.shape[2]))
    for p, q, i, j in np.ndindex(size, size, 2, 2):
        y, x = y1 + (p + (i + 0.5) / 2) * (y2 - y1) / size, x1 + (q + (j + 0.5) / 2) * (x2 - x1) / size
        out[p, q] += bilinear(grid, y, x, "edge") / 4
    return out


def target_vector(w, grid, box, scale, size):
    pooled = roi(grid, box, scale, size).transpose(2, 0, 1).reshape(-1)  # the channel slowest
    return norm(w, "target_proj.1", linear(w, "target_proj.0", pooled))


def position(hidden, width):
    """`[h, w, width]` of a mask, True in the padding."""
    height, length = hidden.shape
    out = np.zeros((height, length, width))
    half = width // 2
    for i, j in np.ndindex(height, length):
        y, all_y = (~hidden[: i + 1, j]).sum(), (~hidden[:, j]).sum()
        x, all_x = (~hidden[i, : j + 1]).sum(), (~hidden[i]).sum()
        for first, share in ((0, y / (all_y + 1e-6)), (half, x / (all_x + 1e-6))):
            for f in range(half):
                angle = 2 * np.pi * share / 10000 ** (2 * (f // 2) / half)
                out[i, j, first + f] = np.cos(angle) if f % 2 else np.sin(angle)
    return out


def target_decoder(w, t, grid, hidden, layers):
    """t `[n, C]`, grid `[h, w, C]`, hidden `[h, w]`."""
    cells, where, gone = grid.reshape(-1, grid.shape[2]), position(hidden, grid.shape[2]), hidden.reshape(-1)
    keys = cells + where.reshape(cells.shape)
    for i in range(layers):
        key = f"sot_decoder.layers.{i}"
        t = norm(w, f"{key}.norm1", t + attention(w, f"{key}.self_attn", t, t, t))
        t = norm(w, f"{key}.norm2", t + attention(w, f"{key}.multihead_attn", t, keys, cells, gone))
        t = norm(w, f"{key}.norm3", t + feed_forward(w, key, t))
    return norm(w, "sot_decoder.norm", t)


def corner(w, t, grid):
    """One target `[C]` -> corners in shares."""
    x = (grid @ t)[..., None] * grid
    for i in range(1, 5):
        key = f"sot_proposal.conv{i}"
        x = np.maximum(batch_norm(w, f"{key}.1", conv(x, w[f"{key}.0.weight"], w[f"{key}.0.bias"])), 0)
    maps = conv(x, w["sot_proposal.conv5.weight"], w["sot_proposal.conv5.bias"])
    height, width = grid.shape[:2]
    out = []
    for k in range(2):
        share = softmax(maps[..., k].reshape(-1)).reshape(height, width)
        out += [(share.sum(0) * np.arange(width) / width).sum(), (share.sum(1) * np.arange(height) / height).sum()]
    return np.array(out)


def readout(w, key, x):
    i = 0
    while f"{key}.{i}.0.weight" in w:
        x = np.maximum(norm(w, f"{key}.{i}.1", linear(w, f"{key}.{i}.0", x)), 0)
        i += 1
    return linear(w, f"{key}.{i}", x)


def refine(box, delta):
    w, h = box[2] - box[0], box[3] - box[1]
    cx, cy = box[0] + w / 2 + delta[0] / 2 * w, box[1] + h / 2 + delta[1] / 2 * h
    w, h = w * np.exp(min(delta[2], np.log(62.5))), h * np.exp(min(delta[3], np.log(62.5)))
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def target_transformer(w, t, grid, boxes, scale, iterations, pool):
    """t `[n, C]`, boxes `[n, 4]` -> boxes, scores of each iteration."""
    out, scores = [], []
    for i in range(iterations):
        key = f"track_head.interact_layers.{i}"
        patches = [roi(grid, b, scale, pool).reshape(pool**2, -1) for b in boxes]
        t = norm(w, f"{key}.norm1", t + attention(w, f"{key}.self_attn", t, t, t))
        seen = []
        for vector, patch in zip(t, patches):
            x = ((patch @ vector)[:, None] * patch).reshape(-1)
            x = np.maximum(norm(w, f"{key}.interact.norm1", linear(w, f"{key}.interact.fc1", x)), 0)
            seen.append(np.maximum(norm(w, f"{key}.interact.norm2", linear(w, f"{key}.interact.fc2", x)), 0))
        t = norm(w, f"{key}.norm2", t + np.array(seen))
        t = norm(w, f"{key}.norm3", t + feed_forward(w, key, t))
        boxes = np.array([refine(b, d) for b, d in zip(boxes, readout(w, f"track_head.box_module.{i}", t))])
        out.append(boxes)
        scores.append(readout(w, f"track_head.score_module.{i}", t)[:, 0])
    return np.array(out), np.array(scores)


def deformable(w, key, query, reference, grids, hidden, slip):
    """query `[n, C]`, reference `[n, L, 2 or 4]`, grids `[h, w, C]` each -> `[n, C]`. slip: offsets over (H, W)."""
    levels, width = len(grids), query.shape[-1]
    each = width // HEADS
    offsets = linear(w, f"{key}.sampling_offsets", query).reshape(-1, HEADS, levels, POINTS, 2)
    weights = softmax(linear(w, f"{key}.attention_weights", query).reshape(-1, HEADS, levels * POINTS))
    weights = weights.reshape(-1, HEADS, levels, POINTS)
    values = [np.where(m[..., None], 0, linear(w, f"{key}.value_proj", g)) for g, m in zip(grids, hidden)]
    out = np.zeros((len(query), width))
    for n, h, level, p in np.ndindex(len(query), HEADS, levels, POINTS):
        height, length = grids[level].shape[:2]
        dx, dy = offsets[n, h, level, p]
        x, y = reference[n, level, :2]
        if reference.shape[-1] == 4:
            x, y = x + dx / POINTS * reference[n, level, 2] / 2, y + dy / POINTS * reference[n, level, 3] / 2
        elif slip:
            x, y = x + dx / height, y + dy / length
        else:
            x, y = x + dx / length, y + dy / height
        part = slice(h * each, (h + 1) * each)
        sample = bilinear(values[level][..., part], y * height - 0.5, x * length - 0.5, "zero")
        out[n, part] += weights[n, h, level, p] * sample
    return linear(w, f"{key}.output_proj", out)


def inverse(x):
    x = np.clip(x, 0, 1)
    return np.log(np.maximum(x, 1e-5) / np.maximum(1 - x, 1e-5))


def detect(w, grids, hidden, encoders, decoders, slip=True):
    """One picture: grids `[h, w, C]`, hidden `[h, w]` -> logits and boxes of each decoder layer."""
    width = grids[0].shape[2]
    ratios = np.array([[(~m[0]).mean(), (~m[:, 0]).mean()] for m in hidden])
    where = [position(m, width) + w["level_embed"][i] for i, m in enumerate(hidden)]
    reference = []
    for level, m in enumerate(hidden):
        for i, j in np.ndindex(*m.shape):
            point = np.array([(j + 0.5) / m.shape[1], (i + 0.5) / m.shape[0]]) / ratios[level]
            reference.append(point * ratios)
    reference = np.array(reference)
    flat = lambda xs: np.concatenate([x.reshape(-1, width) for x in xs])  # noqa: E731

    def split(x):
        ends = np.cumsum([m.size for m in hidden])[:-1]
        return [part.reshape(*m.shape, width) for part, m in zip(np.split(x, ends), hidden)]

    x, places = flat(grids), flat(where)
    for i in range(encoders):
        key = f"encoder.layers.{i}"
        seen = deformable(w, f"{key}.self_attn", x + places, reference, split(x), hidden, slip)
        x = norm(w, f"{key}.norm1", x + seen)
        x = norm(w, f"{key}.norm2", x + feed_forward(w, key, x))
    memory = split(x)
    place, x = np.split(w["query_embed.weight"].astype(np.float64), 2, 1)
    reference = sigmoid(linear(w, "reference_points", place))
    logits, boxes = [], []
    for i in range(decoders):
        key = f"det_decoder.layers.{i}"
        scaled = reference[:, None] * np.tile(ratios, reference.shape[1] // 2)[None]
        x = norm(w, f"{key}.norm2", x + attention(w, f"{key}.self_attn", x + place, x + place, x))
        seen = deformable(w, f"{key}.cross_attn", x + place, scaled, memory, hidden, slip)
        x = norm(w, f"{key}.norm1", x + seen)
        x = norm(w, f"{key}.norm3", x + feed_forward(w, key, x))
        delta = x
        for j in range(3):
            delta = linear(w, f"box_head.{i}.layers.{j}", delta)
            delta = np.maximum(delta, 0) if j < 2 else delta
        delta[:, : reference.shape[1]] += inverse(reference)
        reference = sigmoid(delta)
        logits.append(linear(w, f"class_head.{i}", x))
        boxes.append(reference)
    return np.array(logits), np.array(boxes)
