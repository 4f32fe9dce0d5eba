"""AFE-CNN (reconstruction) written out in NumPy, float64, from the equations of section 3, one loop after the other."""

from __future__ import annotations

import numpy as np

STRIDES = ((2, 1), (1, 1), (2, 2), (1, 1), (2, 2), (1, 1))


class Numpy:
    """params, stats: flat paths -> arrays. One clip at a time; `train` takes the statistics of all bodies given."""

    def __init__(self, params, stats, parents, columns, switches, eps=1e-5):
        self.p = {k: np.asarray(v, np.float64) for k, v in params.items()}
        self.s = {k: np.asarray(v, np.float64) for k, v in stats.items()}
        self.parents, self.columns, self.on, self.eps = parents, columns, switches, eps

    def norm(self, x, name, bodies):
        """bodies: the rows whose statistics count; None for the running ones."""
        if bodies is None:
            mean, var = self.s[f"{name}/mean"], self.s[f"{name}/var"]
        else:
            values = x[bodies].reshape(-1, x.shape[-1])
            mean, var = values.mean(0), values.var(0)
        return (x - mean) / np.sqrt(var + self.eps) * self.p[f"{name}/scale"] + self.p[f"{name}/bias"]

    def streams(self, x):
        t = x.shape[1]
        parts = [x]
        if self.on["bve"]:
            u = np.zeros_like(x)
            for joint, parent in enumerate(self.parents):
                if parent >= 0:
                    b = x[:, :, joint] - x[:, :, parent]
                    u[:, :, joint] = b / (np.linalg.norm(b, axis=-1, keepdims=True) + 1e-6)
            parts.append(u)
        if self.on["te"]:
            d1, d4 = np.zeros_like(x), np.zeros_like(x)
            for i in range(t):
                if i + 1 < t:
                    d1[:, i] = x[:, i + 1] - x[:, i]
                d4[:, i] = x[:, min(i + 4, t - 1)] - x[:, i]
            parts += [d1, d4]
        return np.concatenate(parts, -1)

    def gates(self, x):
        n, t, j, _ = x.shape
        v = np.zeros((n, t, j))
        v[:, :-1] = np.linalg.norm(x[:, 1:] - x[:, :-1], axis=-1)
        e = np.linalg.norm(x - x.mean(1, keepdims=True), axis=-1)
        rel = lambda a: a / (a.mean(1, keepdims=True) + 1e-6) - 1  # noqa: E731
        joint, frame = np.ones((n, j)), np.ones((n, t))
        if self.on["kje"]:
            q = np.stack([rel(v.mean(1)), rel(v.max(1)), rel(e.mean(1))], -1).reshape(n, 3 * j)
            h = np.maximum(q @ self.p["kje/fc1/kernel"] + self.p["kje/fc1/bias"], 0)
            joint = 1 + 0.5 * np.tanh(h @ self.p["kje/fc2/kernel"] + self.p["kje/fc2/bias"])
        if self.on["kfe"]:
            q = np.stack([rel(v.mean(2)), rel(v.max(2)), rel(e.mean(2))], -1)
            h = np.maximum(self.conv1d(q, "kfe/conv1"), 0)
            frame = 1 + 0.5 * np.tanh(self.conv1d(h, "kfe/conv2")[..., 0])
        return joint, frame

    def conv1d(self, x, name):
        kernel = self.p[f"{name}/kernel"]
        reach = len(kernel) // 2
        padded = np.pad(x, ((0, 0), (reach, reach), (0, 0)))
        out = sum(padded[:, k : k + x.shape[1]] @ kernel[k] for k in range(len(kernel)))
        return out + self.p[f"{name}/bias"]

    @staticmethod
    def conv(x, kernel, stride=(1, 1), depthwise=False):
        rows, columns = kernel.shape[:2]
        padded = np.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
        size = [-(-n // s) for n, s in zip(x.shape[1:3], stride)]
        out = np.zeros((len(x), *size, kernel.shape[-1]))
        for a in range(size[0]):
            for b in range(size[1]):
                window = padded[:, a * stride[0] : a * stride[0] + rows, b * stride[1] : b * stride[1] + columns]
                rule = "nhwc,hwc->nc" if depthwise else "nhwi,hwio->no"
                out[:, a, b] = np.einsum(rule, window, kernel[:, :, 0] if depthwise else kernel)
        return out

    def logits(self, x, present, train=False):
        """`[B, M, T, J, 3]`, `[B, M]` -> `[B, K]`."""
        b, m = present.shape
        x = np.asarray(x, np.float64).reshape(b * m, *x.shape[2:])
        bodies = present.reshape(-1) if train else None
        z = self.streams(x)
        z = self.norm(z.reshape(*z.shape[:2], -1), "data_bn", bodies).reshape(z.shape)
        joint, frame = self.gates(x)
        z = z * joint[:, None, :, None] * frame[:, :, None, None]
        y = np.maximum(
            self.norm(self.conv(z[:, :, list(self.columns)], self.p["stem/conv/kernel"]), "stem/bn", bodies), 0
        )
        for i, stride in enumerate(STRIDES):
            before = y
            y = self.conv(y, self.p[f"block{i}/dw/kernel"], stride, depthwise=True)
            y = np.maximum(self.norm(y, f"block{i}/bn1", bodies), 0)
            y = self.norm(self.conv(y, self.p[f"block{i}/pw/kernel"]), f"block{i}/bn2", bodies)
            if stride == (1, 1):
                y = y + before
            y = np.maximum(y, 0)
        features = y.mean((1, 2)).reshape(b, m, -1)
        pooled = np.stack([features[i][present[i]].max(0) for i in range(b)])
        return pooled @ self.p["head/kernel"] + self.p["head/bias"]
