"""BERT (Devlin et al., NAACL 2019, arXiv 1810.04805) and DistilBERT (Sanh et al., 2019, arXiv 1910.01108).

Parameter tree:

    embeddings/{word/embedding, position/embedding, token_type/embedding, norm}
    layer_i/{attn/{query,key,value,out}, attn_norm, ffn_in, ffn_out, ffn_norm}
    pooler/{kernel,bias}

`token_type` is absent in DistilBERT, `pooler` unless asked for. Parameters are float32; matmuls run in
`BertConfig.dtype`; residual stream, LayerNorm and softmax in float32.
"""

from __future__ import annotations

import dataclasses
from numbers import Integral, Real
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.nn.attention import ATTENTION_IMPLEMENTATIONS
from jaxvl.nn.transformer import largest, layer_norm, remat_policy, run_post_norm

STD = 0.02
"""Of the normal distribution that all kernels and embeddings start from."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes and numerics of a BERT; the defaults are bert-base-uncased. Hashable.

    vocab_size, max_positions: rows of the word and position tables. width W, layers, heads, ff_dim: of the blocks.
    token_types: rows of the token-type table; 0 makes it a DistilBERT, which has none, and whose dropout does not act
        behind the attention's output.
    pooler: a dense layer with tanh over the first token's vector.
    ln_eps: of every LayerNorm. dropout: in training, of embeddings, attention weights and residual branches.
    dtype: of the matmuls, 'float32' or 'bfloat16'. remat: 'none' | 'dots' | 'full', per block.
    attention: 'auto' | 'einsum' | 'xla' | 'cudnn' (see `jaxvl.nn.attention`; the last two without dropout only).
    scan_layers: the blocks become a loop, which compiles in a fraction of the time (see `transformer.run_blocks`).
    Raises InputError on values that fit nothing.
    """

    vocab_size: int = 30522
    max_positions: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    ff_dim: int = 3072
    token_types: int = 2
    pooler: bool = False
    ln_eps: float = 1e-12
    dropout: float = 0.1
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_layers: bool = False

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype).name)
        kinds = {"int": Integral, "float": Real, "str": str, "bool": bool}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds[field.type]) or (isinstance(value, bool) and field.type != "bool"):
                raise InputError(f"bert.{field.name} {value!r} is not of type {field.type}")
            least = int(field.name not in ("token_types", "layers"))
            if field.type == "int" and not least <= value <= largest(field.name):
                raise InputError(f"bert.{field.name} {value} is not from {least} to {largest(field.name)}")
        if self.width % self.heads:
            raise InputError(f"bert.width {self.width} is not a multiple of heads {self.heads}")
        if not 0 < self.ln_eps < 1:
            raise InputError(f"bert.ln_eps {self.ln_eps} is not in (0, 1)")
        if not 0 <= self.dropout < 1:
            raise InputError(f"bert.dropout {self.dropout} is not in [0, 1)")
        if self.attention not in ATTENTION_IMPLEMENTATIONS:
            raise InputError(f"bert.attention {self.attention!r} is unknown; use one of {ATTENTION_IMPLEMENTATIONS}")
        remat_policy(self.remat)


BERT_PRESETS: dict[str, BertConfig] = {
    "bert-base-uncased": BertConfig(),
    "bert-large-uncased": BertConfig(width=1024, layers=24, heads=16, ff_dim=4096),
    "distilbert-base-uncased": BertConfig(layers=6, token_types=0),
    "minilm-l6": BertConfig(width=384, layers=6, ff_dim=1536),
    "embeddings": BertConfig(vocab_size=256, max_positions=64, width=64, layers=0, heads=4, ff_dim=128),
    "tiny": BertConfig(vocab_size=256, max_positions=64, width=64, layers=2, heads=4, ff_dim=128),
}
"""Published sizes by name, and for tests and quickstarts 'tiny' and, without any block, 'embeddings'. Adapt with
`dataclasses.replace`."""


class BertOutput(NamedTuple):
    """tokens `[B, L, W]` float32, the last hidden state; pooled `[B, W]`, None without a pooler."""

    tokens: jax.Array
    pooled: jax.Array | None = None


class Embeddings(nn.Module):
    """Words + positions (+ token types), LayerNorm, dropout."""

    config: BertConfig

    @nn.compact
    def __call__(self, ids: jax.Array, token_types: jax.Array | None = None, train: bool = False) -> jax.Array:
        """ids `[B, L]`, token_types `[B, L]` (None: all 0) -> `[B, L, W]` float32."""
        cfg = self.config
        if ids.shape[1] > cfg.max_positions:
            raise InputError(f"bert: {ids.shape[1]} tokens, but max_positions is {cfg.max_positions}")

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, cfg.width, embedding_init=nn.initializers.normal(STD), name=name)

        x = table(cfg.vocab_size, "word")(ids) + table(cfg.max_positions, "position").embedding[: ids.shape[1]]
        if cfg.token_types:
            types = table(cfg.token_types, "token_type")
            x = x + (types.embedding[0] if token_types is None else types(token_types))
        return nn.Dropout(cfg.dropout, deterministic=not train)(layer_norm(cfg.ln_eps, "norm")(x))


class Bert(nn.Module):
    """The encoder. Dropout in training draws from the rng stream 'dropout'."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        train: bool = False,
    ) -> BertOutput:
        """Encodes texts.

        Args:
            ids: `[B, L]` int, padded with 0.
            mask: `[B, L]` bool, which tokens are attended to; None: `ids > 0`.
            token_types: `[B, L]` int; None: all 0.
            train: with dropout.
        """
        cfg = self.config
        mask = ids > 0 if mask is None else mask
        x = Embeddings(cfg, name="embeddings")(ids, token_types, train)
        fields = dict(
            heads=cfg.heads,
            ff_dim=cfg.ff_dim,
            dropout=cfg.dropout,
            drop_attention_output=cfg.token_types > 0,
            ln_eps=cfg.ln_eps,
            dtype=jnp.dtype(cfg.dtype),
            implementation=cfg.attention,
        )
        names = [f"layer_{i}" for i in range(cfg.layers)]
        x = run_post_norm(self, fields, names, x, mask, train, remat=cfg.remat, scan=cfg.scan_layers)
        if not cfg.pooler:
            return BertOutput(x)
        dense = nn.Dense(cfg.width, dtype=jnp.dtype(cfg.dtype), kernel_init=nn.initializers.normal(STD), name="pooler")
        return BertOutput(x, jnp.tanh(dense(x[:, 0]).astype(jnp.float32)))
