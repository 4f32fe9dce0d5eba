"""CLIP4Clip's similarity heads over frame features (arXiv 2104.08860): meanP, seqTransf, seqLSTM, tightTransf.

All take text features `[Bt, E]`, frame (or segment) features `[Bv, S, E]` and their mask `[Bv, S]` and leave frames
behind the mask without influence. They run in float32, with true float32 products where the hardware would by default
round the factors (TPU, TF32). The parameter-free meanP is the last step of the sequential heads.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.sharding import over_batch
from jaxvl.nn.transformer import ACTIVATIONS, ResidualBlock, layer_norm, run_blocks

HEADS = ("meanP", "seqTransf", "seqLSTM", "tightTransf")
POSITIONS = (
    77  # rows of CLIP's text positions, which initialise the frame positions; a CLIP of another length has others
)


class Transformer(nn.Module):
    """`layers` pre-norm blocks under `resblocks_i`, with `scan_layers` as a loop (`transformer.run_blocks`);
    `head_width` 64 as everywhere in CLIP."""

    layers: int
    heads: int
    ln_eps: float
    scan_layers: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, key_mask: jax.Array) -> jax.Array:
        """x `[B, n, E]` float32, key_mask `[B, n]` bool -> `[B, n, E]`."""
        fields = dict(heads=self.heads, layers=self.layers, ln_eps=self.ln_eps)
        names = [f"resblocks_{i}" for i in range(self.layers)]
        return run_blocks(self, ResidualBlock, fields, names, x, key_mask, scan=self.scan_layers)


class SequenceTransformer(nn.Module):
    """seqTransf: `v + blocks(v + P[:S])`. Parameters `frame_position_embeddings [positions, E]`, `transformerClip/...`.

    positions: as many as the text tower has.
    """

    heads: int
    layers: int = 4
    ln_eps: float = 1e-12  # CLIP4Clip's own LayerNorm class; CenterCLIP's copy has 1e-5
    positions: int = POSITIONS
    scan_layers: bool = False

    @jax.default_matmul_precision("highest")
    @nn.compact
    def __call__(self, video: jax.Array, mask: jax.Array) -> jax.Array:
        """video `[B, S, E]`, mask `[B, S]` bool -> `[B, S, E]`. Raises InputError for more frames than positions."""
        length, width = video.shape[1:]
        if length > self.positions:
            raise InputError(f"seqTransf: {length} frames, but there are {self.positions} positions; use fewer")
        positions = self.param("frame_position_embeddings", nn.initializers.normal(0.01), (self.positions, width))
        blocks = Transformer(self.layers, self.heads, self.ln_eps, self.scan_layers, name="transformerClip")
        return video + blocks(video + positions[:length], mask)


class SequenceLSTM(nn.Module):
    """seqLSTM: `v + LSTM(v)`, one layer, forward only, PyTorch's gate order i, f, g, o and two biases.

    Parameters under `lstm_visual`: `weight_ih_l0 [E, 4E]`, `weight_hh_l0 [E, 4E]`, `bias_ih_l0`, `bias_hh_l0 [4E]`.
    The state runs over the valid frames only, which come first; behind them the output is v itself.
    """

    @jax.default_matmul_precision("highest")
    @nn.compact
    def __call__(self, video: jax.Array, mask: jax.Array) -> jax.Array:
        """video `[B, S, E]`, mask `[B, S]` bool -> `[B, S, E]`."""
        w_ih, w_hh, bias = LSTMWeights(video.shape[-1], name="lstm_visual")()
        inputs = jnp.einsum("bse,ef->bsf", video, w_ih) + bias

        def step(carry, x):
            h, c = carry
            gates = x + jnp.matmul(h, w_hh)
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((video.shape[0], video.shape[2]), jnp.float32)
        _, hidden = jax.lax.scan(step, (zeros, zeros), inputs.swapaxes(0, 1))
        return video + jnp.where(mask[..., None].astype(bool), hidden.swapaxes(0, 1), 0.0)


class LSTMWeights(nn.Module):
    """The four arrays of one LSTM layer; PyTorch's uniform initialisation ±E^-0.5."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`(weight_ih [E, 4E], weight_hh [E, 4E], sum of both biases [4E])`."""
        bound = self.width**-0.5
        init = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)  # noqa: E731
        w_ih = self.param("weight_ih_l0", init, (self.width, 4 * self.width))
        w_hh = self.param("weight_hh_l0", init, (self.width, 4 * self.width))
        b_ih = self.param("bias_ih_l0", init, (4 * self.width,))
        b_hh = self.param("bias_hh_l0", init, (4 * self.width,))
        return w_ih, w_hh, b_ih + b_hh


class TightTransformer(nn.Module):
    """tightTransf: a cross-encoder over `[t, v_1 .. v_S]` for every (text, video) pair; no logit scale.

    Parameters: `cross/{embeddings/position_embeddings [positions, E], transformer/..., pooler/{ln_pool, dense}}`,
    `similarity_dense`. Costs O(Bt·Bv) sequences: texts go in chunks of `chunk`.
    """

    heads: int
    layers: int = 4
    ln_eps: float = 1e-12
    dropout: float = 0.1
    chunk: int = 4
    positions: int = POSITIONS
    scan_layers: bool = False

    @jax.default_matmul_precision("highest")
    @nn.compact
    def __call__(self, text: jax.Array, video: jax.Array, mask: jax.Array, train: bool = False) -> jax.Array:
        """text `[Bt, E]`, video `[Bv, S, E]`, mask `[Bv, S]` bool -> scores `[Bt, Bv]`. `train` draws dropout from
        the rng stream 'dropout'."""
        length = video.shape[1] + 1
        if length > self.positions:
            need = f"{length - 1} frames and a text row need {length} positions of {self.positions}"
            raise InputError(f"tightTransf: {need}; use fewer frames")
        texts, videos = text.shape[0], video.shape[0]
        chunk = next(c for c in range(min(self.chunk, texts), 0, -1) if texts % c == 0)
        cross = CrossEncoder(
            self.heads, self.layers, self.ln_eps, self.dropout, self.positions, self.scan_layers, name="cross"
        )
        dense = nn.Dense(1, kernel_init=nn.initializers.normal(0.02), name="similarity_dense")
        valid = jnp.concatenate([jnp.ones((videos, 1), bool), mask.astype(bool)], axis=1)

        def score(part: jax.Array) -> jax.Array:  # [c, E] -> [Bv, c]: pairs of a video lie where the video does
            n = part.shape[0]
            rows = jnp.broadcast_to(part[None, :, None], (videos, n, 1, part.shape[-1]))
            frames = jnp.broadcast_to(video[:, None], (videos, n, *video.shape[1:]))
            x = jnp.concatenate([rows, frames], axis=2).reshape(videos * n, length, -1)
            keys = jnp.broadcast_to(valid[:, None], (videos, n, length)).reshape(videos * n, length)
            return dense(cross(over_batch(x), over_batch(keys), train)).reshape(videos, n)

        if chunk == texts or self.is_initializing():
            return score(text).T
        parts = text.reshape(texts // chunk, chunk, -1)
        run = nn.scan(
            lambda module, carry, part: (carry, score(part)),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
        )
        return run(self, None, parts)[1].swapaxes(1, 2).reshape(texts, videos)


class CrossEncoder(nn.Module):
    """Positions, dropout, blocks and pooler of tightTransf."""

    heads: int
    layers: int
    ln_eps: float
    dropout: float
    positions: int
    scan_layers: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, key_mask: jax.Array, train: bool) -> jax.Array:
        """x `[B, n, E]`, key_mask `[B, n]` -> pooled row 0 `[B, E]`."""
        width = x.shape[-1]
        x = x + CrossPositions(self.positions, width, name="embeddings")()[: x.shape[1]]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Transformer(self.layers, self.heads, self.ln_eps, self.scan_layers, name="transformer")(x, key_mask)
        return CrossPooler(self.ln_eps, name="pooler")(x)


class CrossPositions(nn.Module):
    """The table `position_embeddings [positions, E]`."""

    positions: int
    width: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """The table."""
        return self.param("position_embeddings", nn.initializers.normal(0.01), (self.positions, self.width))


class CrossPooler(nn.Module):
    """LayerNorm, first row, dense E to E, QuickGELU."""

    ln_eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, n, E] -> [B, E]`."""
        row = layer_norm(self.ln_eps, "ln_pool")(x)[:, 0]
        dense = nn.Dense(x.shape[-1], kernel_init=nn.initializers.normal(0.02), name="dense")
        return ACTIVATIONS["quick_gelu"](dense(row))


def init_from_text_tower(head: dict, text: dict) -> dict:
    """Head parameters with blocks and positions copied from CLIP's text tower, as CLIP4Clip starts them.

    head: parameters of one head module; text: `params['text']`. Raises InputError where the sizes differ.
    """
    head = dict(head)

    def blocks(own: dict) -> dict:
        absent = [name for name in own if name not in text]
        if absent:
            raise InputError(f"head: the text tower has no {absent[0]}; it has too few blocks to start the head from")
        return {name: _same(name, own[name], text[name]) for name in own}

    if "transformerClip" in head:
        head["transformerClip"] = blocks(head["transformerClip"])
        head["frame_position_embeddings"] = _positions(head["frame_position_embeddings"], text)
    if "cross" in head:
        cross = dict(head["cross"])
        cross["transformer"] = blocks(cross["transformer"])
        table = cross["embeddings"]["position_embeddings"]
        cross["embeddings"] = {"position_embeddings": _positions(table, text)}
        head["cross"] = cross
    return head


def _positions(table: jax.Array, text: dict) -> jax.Array:
    return _same("positions", table, text["positional_embedding"])


def _same(name: str, own, other):
    shapes, others = (jax.tree.map(np.shape, t) for t in (own, other))
    if shapes != others:
        raise InputError(f"head: {name} of the text tower has other sizes; the head needs text width = embed_dim")
    return other
