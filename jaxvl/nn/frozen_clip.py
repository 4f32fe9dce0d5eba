"""A CLIP that is only asked: pictures, videos and texts to vectors, on all devices of this process."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.core.errors import InputError
from jaxvl.data.clip_bpe import CLIPTokenizer
from jaxvl.data.text import Tokenizer, WordTokenizer, is_cut, pack
from jaxvl.interop.weights import INFO, load_weights, merge_weights
from jaxvl.nn.clip import CLIP_PRESETS, CLIPConfig, TextTower, VisionTower

RANDOM = "random"
VOCABULARY = "vocabulary.json"  # in a weights folder: the words of a tower that was trained from scratch
TEXTS = 64  # rows of a call of the text tower


class FrozenCLIP:
    """Both towers with fixed weights; features are what `encode_image` and `encode_text` give, not of unit length.

    config: sizes. weights: where they came from, for a provenance. tokenizer: of its texts. Calls of one shape compile
    once.
    """

    def __init__(self, config: CLIPConfig, params: Mapping[str, Any], weights: str, tokenizer: Tokenizer):
        if config.vision_blocks:
            raise InputError("a frozen CLIP is asked for features of a vision transformer; use a ViT")
        self.config, self.weights, self.tokenizer = config, weights, tokenizer
        if tokenizer.vocab_size != config.vocab_size:
            raise InputError(f"a CLIP of {config.vocab_size} ids does not fit a tokenizer of {tokenizer.vocab_size}")
        mesh = Mesh(np.array(jax.local_devices()), ("rows",))
        self._rows, whole = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
        self._devices = mesh.size
        self._params = jax.device_put({name: params[name] for name in ("visual", "text")}, whole)
        self._views = jax.jit(self._encode_views, static_argnames="grid", out_shardings=whole)
        self._texts = jax.jit(
            lambda p, ids: TextTower(config).apply({"params": p["text"]}, ids).features, out_shardings=whole
        )

    def views(self, whole: np.ndarray, tiled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames of one video, as of `data.frame_views`: whole `[T, R, R, 3]`, tiled `[T, gR, gR, 3]`, uint8 -> frames
        `[T, E]` and tiles `[T, g², E]`, float32, tiles row by row."""
        grid = tiled.shape[1] // self.config.image_size
        count = len(whole)
        frames, tiles = self._views(self._params, self._put(whole), self._put(tiled), grid=grid)
        return np.asarray(frames)[:count], np.asarray(tiles)[:count]

    def texts(self, ids: np.ndarray) -> np.ndarray:
        """Packed token ids int32 `[N, L]` -> `[N, E]` float32."""
        parts = []
        for i in range(0, len(ids), TEXTS):
            rows = ids[np.arange(i, i + TEXTS).clip(max=len(ids) - 1)]  # blocks of one size, the last one filled up
            parts.append(np.asarray(self._texts(self._params, self._put(rows)))[: len(ids) - i])
        return np.concatenate(parts)

    def _put(self, rows: np.ndarray) -> jax.Array:
        more = -len(rows) % self._devices
        return jax.device_put(np.concatenate([rows, np.repeat(rows[-1:], more, 0)]) if more else rows, self._rows)

    def _encode_views(self, params, whole, tiled, grid: int):
        size, t = self.config.image_size, len(whole)
        tiles = tiled.reshape(t, grid, size, grid, size, 3).transpose(0, 1, 3, 2, 4, 5)
        pictures = jnp.concatenate([whole[:, None], tiles.reshape(t, grid * grid, size, size, 3)], axis=1)
        tower = VisionTower(self.config)
        features = tower.apply({"params": params["visual"]}, pictures.reshape(-1, size, size, 3)).features
        features = features.reshape(t, 1 + grid * grid, -1)
        return features[:, 0], features[:, 1:]


def load_clip(weights: str | Path, preset: str, field: str) -> FrozenCLIP:
    """The CLIP of a weights folder, or with 'random' an untrained one of the named preset, always the same.

    field: of the config, named in errors. Raises InputError: no folder given, or none of a CLIP.
    """
    if not str(weights):
        raise InputError(
            f"{field}: is empty; name CLIP's weights, a folder that jaxvl convert --from openai_clip wrote"
        )
    if str(weights) == RANDOM:
        if preset not in CLIP_PRESETS:
            raise InputError(f"{field}: there is no CLIP {preset!r}; there are {', '.join(CLIP_PRESETS)}")
        config = CLIP_PRESETS[preset]
        return FrozenCLIP(config, _initial(config), f"untrained {preset}", clip_tokenizer())
    flat, info = load_weights(weights)
    known = {f.name for f in dataclasses.fields(CLIPConfig)}
    stated = info.get("config")
    if not isinstance(stated, dict) or not any(name.startswith("visual/") for name in flat):
        raise InputError(f"{field}: {Path(weights) / INFO} describes no CLIP; convert CLIP's weights")
    config = CLIPConfig(**{k: v for k, v in stated.items() if k in known})
    flat = {name: value for name, value in flat.items() if name.startswith(("visual/", "text/"))}
    abstract = jax.eval_shape(lambda: _initial(config))
    words = Path(weights) / VOCABULARY
    tokenizer = WordTokenizer.load(words) if words.is_file() else clip_tokenizer()
    params = merge_weights(abstract, flat, source=str(weights))
    return FrozenCLIP(config, params, f"sha256 {info['sha256'][:16]}", tokenizer)


def _initial(config: CLIPConfig) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0))
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
    visual = jax.jit(VisionTower(config).init)(keys[0], pixels)["params"]
    text = jax.jit(TextTower(config).init)(keys[1], jnp.zeros((1, config.context_length), jnp.int32))["params"]
    return {"visual": visual, "text": text}


@functools.cache
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own."""
    return CLIPTokenizer()


def pack_texts(texts: Sequence[str], length: int, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """`(ids int32 [n, length], how many were cut)`; a cut text keeps its end token."""
    rows = np.stack([pack(tokenizer, text, length) for text in texts])
    full = np.flatnonzero(rows[:, -1] != 0)
    return rows, sum(is_cut(tokenizer, texts[int(i)], length) for i in full)
