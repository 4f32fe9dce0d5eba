"""CLIP written from its paper and its published key names in numpy alone: random weights and both forward passes.

Nothing here comes from jaxvl's towers or key rules, so that agreement with them means something.
"""

from __future__ import annotations

import numpy as np

from jaxvl.nn.clip import CLIPConfig

TINY = CLIPConfig(
    image_size=16, patch_size=8, vision_width=24, vision_layers=2, vision_heads=3, vocab_size=50, context_length=12,
    text_width=16, text_layers=2, text_heads=2, embed_dim=16,
)  # fmt: skip
TINY_RESNET = CLIPConfig(
    image_size=64, patch_size=32, vision_width=4, vision_heads=2, vision_blocks=(1, 2, 1, 1), vocab_size=50,
    context_length=12, text_width=16, text_layers=1, text_heads=2, embed_dim=16,
)  # fmt: skip


def random_arrays(config: CLIPConfig, seed: int = 0, extras: bool = True) -> dict[str, np.ndarray]:
    """Weights in OpenAI's layout. `extras`: with the three scalars of the released archives."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}

    def put(key, *shape, scale=0.3, mean=0.0):
        out[key] = (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    def norm(key, width):
        put(f"{key}.weight", width, mean=1.0)
        put(f"{key}.bias", width)

    def block(key, w):
        put(f"{key}.attn.in_proj_weight", 3 * w, w)
        put(f"{key}.attn.in_proj_bias", 3 * w)
        put(f"{key}.attn.out_proj.weight", w, w)
        put(f"{key}.attn.out_proj.bias", w)
        norm(f"{key}.ln_1", w)
        put(f"{key}.mlp.c_fc.weight", 4 * w, w)
        put(f"{key}.mlp.c_fc.bias", 4 * w)
        put(f"{key}.mlp.c_proj.weight", w, 4 * w)
        put(f"{key}.mlp.c_proj.bias", w)
        norm(f"{key}.ln_2", w)

    def batch_norm(key, width):
        norm(key, width)
        put(f"{key}.running_mean", width)
        out[f"{key}.running_var"] = rng.uniform(0.5, 2, width).astype(np.float32)
        out[f"{key}.num_batches_tracked"] = np.array(7, np.int64)

    w, e, wt = config.vision_width, config.embed_dim, config.text_width
    if config.vision_blocks:
        for n, (i, o) in enumerate(((3, w // 2), (w // 2, w // 2), (w // 2, w)), 1):
            put(f"visual.conv{n}.weight", o, i, 3, 3)
            batch_norm(f"visual.bn{n}", o)
        channels = w
        for stage, blocks in enumerate(config.vision_blocks):
            planes = w * 2**stage
            for b in range(blocks):
                key = f"visual.layer{stage + 1}.{b}"
                put(f"{key}.conv1.weight", planes, channels, 1, 1)
                put(f"{key}.conv2.weight", planes, planes, 3, 3, scale=0.1)
                put(f"{key}.conv3.weight", 4 * planes, planes, 1, 1)
                for n, width in ((1, planes), (2, planes), (3, 4 * planes)):
                    batch_norm(f"{key}.bn{n}", width)
                if b == 0:
                    put(f"{key}.downsample.0.weight", 4 * planes, channels, 1, 1)
                    batch_norm(f"{key}.downsample.1", 4 * planes)
                channels = 4 * planes
        put("visual.attnpool.positional_embedding", (config.image_size // 32) ** 2 + 1, channels)
        for name, width in (("q", channels), ("k", channels), ("v", channels), ("c", e)):
            put(f"visual.attnpool.{name}_proj.weight", width, channels, scale=0.1)
            put(f"visual.attnpool.{name}_proj.bias", width)
    else:
        put("visual.class_embedding", w)
        put("visual.positional_embedding", (config.image_size // config.patch_size) ** 2 + 1, w)
        put("visual.proj", w, e)
        put("visual.conv1.weight", w, 3, config.patch_size, config.patch_size, scale=0.1)
        norm("visual.ln_pre", w)
        norm("visual.ln_post", w)
        for i in range(config.vision_layers):
            block(f"visual.transformer.resblocks.{i}", w)
    for i in range(config.text_layers):
        block(f"transformer.resblocks.{i}", wt)
    put("positional_embedding", config.context_length, wt)
    put("token_embedding.weight", config.vocab_size, wt)
    norm("ln_final", wt)
    put("text_projection", wt, e)
    out["logit_scale"] = np.array(3.5, np.float32)
    if extras:
        sizes = {"input_resolution": config.image_size, "context_length": config.context_length}
        out |= {k: np.array(v, np.int64) for k, v in {**sizes, "vocab_size": config.vocab_size}.items()}
    return out


def layer_norm(x, a, key, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * a[f"{key}.weight"] + a[f"{key}.bias"]


def attend(q, k, v, heads, causal=False):
    """q `[B, m, W]`, k and v `[B, n, W]`."""
    out = np.zeros((*q.shape[:2], v.shape[-1]))
    d = q.shape[-1] // heads
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(d)
        if causal:
            scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
    return out


def residual_block(x, a, key, heads, eps, activation, causal=False):
    w = x.shape[-1]
    y = layer_norm(x, a, f"{key}.ln_1", eps) @ a[f"{key}.attn.in_proj_weight"].T + a[f"{key}.attn.in_proj_bias"]
    y = attend(y[..., :w], y[..., w : 2 * w], y[..., 2 * w :], heads, causal)
    x = x + y @ a[f"{key}.attn.out_proj.weight"].T + a[f"{key}.attn.out_proj.bias"]
    y = layer_norm(x, a, f"{key}.ln_2", eps) @ a[f"{key}.mlp.c_fc.weight"].T + a[f"{key}.mlp.c_fc.bias"]
    assert activation == "quick_gelu"
    y = y / (1 + np.exp(-1.702 * y))
    return x + y @ a[f"{key}.mlp.c_proj.weight"].T + a[f"{key}.mlp.c_proj.bias"]


def encode_image(a, config: CLIPConfig, pixels):
    """Normalised pixels `[N, R, R, 3]` -> `[N, E]`."""
    a = {k: v.astype(np.float64) for k, v in a.items()}
    if config.vision_blocks:
        return encode_image_resnet(a, config, pixels)
    p, n = config.patch_size, len(pixels)
    x = conv(pixels.transpose(0, 3, 1, 2), a["visual.conv1.weight"], stride=p, padding=0)
    x = x.reshape(n, config.vision_width, -1).transpose(0, 2, 1)
    first = np.broadcast_to(a["visual.class_embedding"], (n, 1, config.vision_width))
    x = np.concatenate([first, x], 1) + a["visual.positional_embedding"]
    x = layer_norm(x, a, "visual.ln_pre", config.ln_eps)
    for i in range(config.vision_layers):
        key = f"visual.transformer.resblocks.{i}"
        x = residual_block(x, a, key, config.vision_heads, config.ln_eps, config.activation)
    return layer_norm(x[:, 0], a, "visual.ln_post", config.ln_eps) @ a["visual.proj"]


def encode_text(a, config: CLIPConfig, ids):
    """ids `[B, L]` -> `[B, E]`."""
    a = {k: v.astype(np.float64) for k, v in a.items()}
    x = a["token_embedding.weight"][ids] + a["positional_embedding"][: ids.shape[1]]
    for i in range(config.text_layers):
        key = f"transformer.resblocks.{i}"
        x = residual_block(x, a, key, config.text_heads, config.ln_eps, config.activation, causal=True)
    x = layer_norm(x, a, "ln_final", config.ln_eps)
    return x[np.arange(len(ids)), ids.argmax(-1)] @ a["text_projection"]


def conv(x, kernel, stride=1, padding=1):
    """Cross-correlation, NCHW and OIHW."""
    size = kernel.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nihwyx,oiyx->nohw", windows, kernel, optimize=True)


def pool(x, s):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // s, s, w // s, s).mean((3, 5))


def encode_image_resnet(a, config, pixels):
    def bn(x, key):
        shape = (1, -1, 1, 1)
        x = (x - a[f"{key}.running_mean"].reshape(shape)) / np.sqrt(a[f"{key}.running_var"].reshape(shape) + 1e-5)
        return x * a[f"{key}.weight"].reshape(shape) + a[f"{key}.bias"].reshape(shape)

    def relu(x):
        return np.maximum(x, 0)

    x = pixels.transpose(0, 3, 1, 2)
    for n, stride in ((1, 2), (2, 1), (3, 1)):
        x = relu(bn(conv(x, a[f"visual.conv{n}.weight"], stride), f"visual.bn{n}"))
    x = pool(x, 2)
    for stage, blocks in enumerate(config.vision_blocks):
        for b in range(blocks):
            key, stride = f"visual.layer{stage + 1}.{b}", 2 if stage and b == 0 else 1
            y = relu(bn(conv(x, a[f"{key}.conv1.weight"], padding=0), f"{key}.bn1"))
            y = relu(bn(conv(y, a[f"{key}.conv2.weight"]), f"{key}.bn2"))
            y = bn(conv(pool(y, stride), a[f"{key}.conv3.weight"], padding=0), f"{key}.bn3")
            if b == 0:
                x = bn(conv(pool(x, stride), a[f"{key}.downsample.0.weight"], padding=0), f"{key}.downsample.1")
            x = relu(x + y)
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    x = np.concatenate([x.mean(1, keepdims=True), x], 1) + a["visual.attnpool.positional_embedding"]

    def linear(x, name):
        return x @ a[f"visual.attnpool.{name}_proj.weight"].T + a[f"visual.attnpool.{name}_proj.bias"]

    y = attend(linear(x[:, :1], "q"), linear(x, "k"), linear(x, "v"), config.vision_heads)
    return linear(y[:, 0], "c")
