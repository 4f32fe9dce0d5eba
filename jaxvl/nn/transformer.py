"""Residual blocks, pre-norm as CLIP's and post-norm as BERT's: float32 residual stream, float32 LayerNorm, matmuls in
`dtype`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxvl.core.errors import InputError
from jaxvl.core.sharding import over_batch
from jaxvl.nn.attention import MultiHeadAttention
from jaxvl.nn.products import product

SAVED_INDICES = "token_indices"
"""`checkpoint_name` of integer selections (medoids, kept tokens): every remat policy here keeps them, since
recomputing a selection costs far more than the few bytes it occupies."""


TENSOR_RULES = (
    (r"attn/(query|key|value)/kernel$", P(None, "tensor", None)),
    (r"attn/(query|key|value)/bias$", P("tensor", None)),
    (r"attn/out/kernel$", P("tensor", None, None)),
    (r"(c_fc|ffn_in)/kernel$", P(None, "tensor")),
    (r"(c_fc|ffn_in)/bias$", P("tensor")),
    (r"(c_proj|ffn_out)/kernel$", P("tensor", None)),
)
"""Partition rules of the blocks here (Shoeybi et al., arXiv 1909.08053, section 3): heads and hidden units lie over the
`tensor` axis, so each device computes its own, and one sum over the axis follows the attention and one the MLP."""


MOST_BLOCKS, LARGEST = 1024, 2**24
"""Above these a size is a slip, and would take the memory before anything else notices."""


def largest(field: str) -> int:
    """The largest value of a config's field of this name: a number of blocks or a size."""
    return 8192 if field == "image_size" else MOST_BLOCKS if field.endswith("layers") else LARGEST


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x · sigmoid(1.702 x)`, the activation of the OpenAI weights. Any shape."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU, the activation of open_clip weights without the `-quickgelu` suffix. Any shape."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"quick_gelu": quick_gelu, "gelu": gelu}


def layer_norm(eps: float, name: str) -> nn.LayerNorm:
    """LayerNorm over the last axis in float32 with two-pass variance (CLIP's stream has channels of large mean)."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=jnp.float32, name=name)


def remat_policy(name: str) -> Callable | None:
    """Checkpoint policy by name: 'none' -> None, 'dots' keeps matmul outputs, 'full' keeps block inputs only.

    Both keep arrays named `SAVED_INDICES`. Raises InputError on another name.
    """
    policies = jax.checkpoint_policies
    keep = policies.save_only_these_names(SAVED_INDICES)
    table = {
        "none": None,
        "dots": policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, keep),
        "full": keep,
    }
    if name not in table:
        raise InputError(f"remat: unknown policy {name!r}; use one of {tuple(table)}")
    return table[name]


class MLP(nn.Module):
    """`W2 · act(W1 x)` with `W -> 4W -> W`; `hidden_std`, `out_std` are those of the normal initialisers."""

    activation: str
    hidden_std: float
    out_std: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., W] -> [..., W]` in `dtype`."""
        width, normal = x.shape[-1], nn.initializers.normal
        dense = functools.partial(nn.Dense, dtype=self.dtype, dot_general=product)
        x = dense(4 * width, kernel_init=normal(self.hidden_std), name="c_fc")(x)
        return dense(width, kernel_init=normal(self.out_std), name="c_proj")(ACTIVATIONS[self.activation](x))


class ResidualBlock(nn.Module):
    """`x += MHA(LN1 x); x += MLP(LN2 x)` on a float32 stream (CLIP spec, arXiv 2103.00020, ViT pre-norm).

    Initialised by CLIP's text scheme: in-projection `W^-0.5`, both output projections
    `W^-0.5 (2·layers)^-0.5`, first MLP layer `(2W)^-0.5`, biases 0.

    Fields: `layers` of the tower (only for the initialiser); `between`: pure function `[B, n, W] -> [B, n, W]`
    applied to the stream after the attention and before the MLP; the rest as in `MultiHeadAttention`.
    """

    heads: int
    layers: int
    activation: str = "quick_gelu"
    ln_eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    implementation: str = "auto"
    between: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
        """x `[B, n, W]` float32, key_mask `[B, n]` bool or None -> `[B, n, W]` float32."""
        width = x.shape[-1]
        out_std = width**-0.5 * (2 * self.layers) ** -0.5
        y = layer_norm(self.ln_eps, "ln_1")(x).astype(self.dtype)
        y = MultiHeadAttention(
            self.heads, width**-0.5, out_std, self.dtype, self.causal, self.implementation, name="attn"
        )(y, key_mask)
        x = x + y.astype(jnp.float32)
        if self.between is not None:
            x = self.between(x)
        y = layer_norm(self.ln_eps, "ln_2")(x).astype(self.dtype)
        y = MLP(self.activation, (2 * width) ** -0.5, out_std, self.dtype, name="mlp")(y)
        return x + y.astype(jnp.float32)


class PostNormBlock(nn.Module):
    """`x = LN(x + drop(MHA x)); x = LN(x + drop(W2 gelu(W1 x)))` on a float32 stream.

    BERT's block (Devlin et al., NAACL 2019, arXiv 1810.04805), and DistilBERT's (Sanh et al., 2019, arXiv 1910.01108),
    which drops nothing behind the attention's output.

    Fields: `ff_dim` of the hidden layer; `dropout` in training of attention weights, of the second residual branch and,
    with `drop_attention_output`, of the first (rng stream 'dropout'); `std` of the normal initialiser of all kernels.
    """

    heads: int
    ff_dim: int
    dropout: float = 0.0
    drop_attention_output: bool = True
    ln_eps: float = 1e-12
    dtype: jnp.dtype = jnp.float32
    implementation: str = "auto"
    std: float = 0.02

    @nn.compact
    def __call__(self, x: jax.Array, key_mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x `[B, n, W]` float32, key_mask `[B, n]` bool or None -> `[B, n, W]` float32."""
        std = self.std
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = MultiHeadAttention(
            self.heads, std, std, self.dtype, False, self.implementation, self.dropout, name="attn"
        )(x.astype(self.dtype), key_mask, train).astype(jnp.float32)  # fmt: skip
        x = layer_norm(self.ln_eps, "attn_norm")(x + (drop(y) if self.drop_attention_output else y))
        normal = nn.initializers.normal(std)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=normal, dot_general=product)
        y = gelu(dense(self.ff_dim, name="ffn_in")(x.astype(self.dtype)))
        y = dense(x.shape[-1], name="ffn_out")(y).astype(jnp.float32)
        return layer_norm(self.ln_eps, "ffn_norm")(x + drop(y))


def block_class(
    remat: str, block: type[nn.Module] = ResidualBlock, static_argnums: tuple[int, ...] = (), in_loop: bool = False
) -> type[nn.Module]:
    """`block`, rematerialised by `remat_policy(remat)` unless it is 'none'. Same parameter tree. static_argnums: of its
    call, counted with `self`; those of `PostNormBlock` are (3,), its `train`. in_loop: it is the body of a loop, where
    the compiler cannot undo it and need not be kept from that."""
    policy = remat_policy(remat)
    if policy is None:
        return block
    return nn.remat(block, policy=policy, static_argnums=static_argnums, prevent_cse=not in_loop)


def run_blocks(
    tower: nn.Module,
    block: type[nn.Module],
    fields: Mapping[str, Any],
    names: Sequence[str],
    x: jax.Array,
    *rest: Any,
    remat: str = "none",
    scan: bool = False,
    static_argnums: tuple[int, ...] = (),
    streams: Sequence[str] = (),
) -> jax.Array:
    """The stream x through alike blocks, children of `tower`, whose compact method calls this: `block(**fields,
    name=name)(x, *rest)` for each of `names`.

    scan: two blocks and more become a loop of one body, which is compiled once. The parameters stay as they are, one
        subtree a block: the loop reads a stack of them, which costs a copy of the blocks' parameters, and one of their
        gradients. Initial values and outputs are those of the blocks in turn.
    streams: of the rngs that a block draws from. Each has a key of its own; in the loop another one than in turn, so
        dropout draws other numbers of the same distribution there.
    remat, static_argnums: as in `block_class`.
    """
    looped = scan and len(names) > 1 and not tower.is_initializing()
    kind = block_class(remat, block, static_argnums, looped)
    if not looped:
        for name in names:
            x = kind(**fields, name=name)(x, *rest)
        return x
    params = tower.variables["params"]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in names))
    keys = {stream: jax.random.split(tower.make_rng(stream), len(names)) for stream in streams}
    one = kind(**fields, parent=None, name=names[0].rpartition("_")[0])

    def turn(x: jax.Array, layer: tuple[Any, dict[str, jax.Array]]) -> tuple[jax.Array, None]:
        own, rngs = layer
        return one.apply({"params": own}, over_batch(x), *rest, rngs=rngs), None  # else fsdp may cut x by its channels

    return jax.lax.scan(turn, x, (stacked, keys))[0]


def run_post_norm(
    tower: nn.Module,
    fields: Mapping[str, Any],
    names: Sequence[str],
    x: jax.Array,
    key_mask: jax.Array | None,
    train: bool,
    *,
    remat: str = "none",
    scan: bool = False,
) -> jax.Array:
    """`run_blocks` of `PostNormBlock`s; arguments as in its call."""
    streams = ("dropout",) if train and fields["dropout"] else ()
    options = dict(remat=remat, scan=scan, static_argnums=(3,), streams=streams)
    return run_blocks(tower, PostNormBlock, fields, names, x, key_mask, train, **options)


def runs(layers: int, starts: Iterable[int]) -> Iterator[range]:
    """The blocks 0 .. layers - 1 in runs; one begins at 0 and at each of `starts` (those that are no block do not
    count)."""
    edges = sorted({0, layers, *(i for i in starts if 0 < i < layers)})
    for first, end in itertools.pairwise(edges):
        yield range(first, end)
