"""Blocks in a loop against the same blocks in turn: one parameter tree, the same numbers, the same exchanges."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxvl.core import flops, hlo, hlo_counts, sharding
from jaxvl.nn.attention import MultiHeadAttention
from jaxvl.nn.bert import Bert, BertConfig
from jaxvl.nn.clip import CLIP_PRESETS, TextTower, VisionTower
from jaxvl.nn.products import product
from jaxvl.nn.transformer import TENSOR_RULES, ResidualBlock, run_blocks, runs
from jaxvl.nn.video_heads import SequenceTransformer, TightTransformer
from tests.tiny import drawn

CLIP = dataclasses.replace(CLIP_PRESETS["tiny"], vocab_size=100, vision_layers=4, text_layers=2)
BERT = BertConfig(vocab_size=100, max_positions=16, width=32, layers=2, heads=2, ff_dim=64, dropout=0.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
IDS = np.random.default_rng(1).integers(1, 99, (3, 9))
VIDEO = np.random.default_rng(2).normal(size=(3, 5, 16)).astype(np.float32)
VALID = np.arange(5) < np.array([[5], [3], [1]])


def clip(scan, **fields):
    return dataclasses.replace(CLIP, scan_layers=scan, **fields)


def halve(i, x):
    """A hook that makes one sequence of two."""
    return x.reshape(-1, 2 * x.shape[1], x.shape[2])[:, :: 1 + i % 2]


class Case(NamedTuple):
    """make: `(scan, **fields of its config) -> module`; inputs and options of its call; loops: lengths of those of
    blocks; twice: some versions trace them a second time, for what a loop around them keeps constant."""

    make: Callable
    inputs: tuple
    loops: list[int]
    options: dict = {}
    twice: bool = False

    def call(self, scan, **fields):
        return functools.partial(
            lambda tower, v: tower.apply(v, *self.inputs, **self.options), self.make(scan, **fields)
        )


IMAGE = Case(lambda scan, **f: VisionTower(clip(scan, **f)), (PIXELS,), [4])
TOWERS = {
    "image": IMAGE,
    "image, reduced before block 3": IMAGE._replace(loops=[2, 2], options={"block_hook": halve, "hooked": (3,)}),
    "image, streams asked for": IMAGE._replace(
        loops=[2, 2], options={"return_layers": (0, 2, 4), "return_tokens": True}
    ),
    "text": Case(lambda scan, **f: TextTower(clip(scan, **f)), (IDS,), [2]),
    "bert": Case(lambda scan, **f: Bert(dataclasses.replace(BERT, scan_layers=scan, **f)), (IDS, IDS > 20), [2]),
    "seqTransf": Case(lambda scan: SequenceTransformer(2, 2, scan_layers=scan), (VIDEO, VALID), [2]),
    "tightTransf": Case(
        lambda scan: TightTransformer(2, 2, scan_layers=scan, chunk=1), (VIDEO[:, 0], VIDEO, VALID), [2], twice=True
    ),
}


@functools.cache
def parameters(name):
    return drawn(TOWERS[name].make(False).init, jax.random.key(3), *TOWERS[name].inputs)


def equations(jaxpr):
    """Every equation, and those inside of it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for part in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(part, "eqns"):
                yield from equations(getattr(part, "jaxpr", part))


def loops(jaxpr):
    """The loops of blocks, in order: those without another one inside."""
    found = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == "scan"]
    return [e for e in found if not any(i.primitive.name == "scan" for i in equations(e.params["jaxpr"].jaxpr))]


def value_and_gradient(apply, variables):
    def loss(v):
        out = apply(v)
        return sum(jnp.sin(x).sum() for x in jax.tree.leaves(out)), out

    return jax.jit(jax.grad(loss, has_aux=True))(variables)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("image", {}),
        ("image, reduced before block 3", {"remat": "dots"}),
        ("image, streams asked for", {"remat": "full"}),
        ("text", {}),
        ("bert", {"remat": "full"}),
        ("seqTransf", {}),
        ("tightTransf", {}),
    ],
)
def test_a_loop_computes_what_blocks_in_turn_do(name, fields):
    variables = parameters(name)
    in_turn, looped = (TOWERS[name].call(scan, **fields) for scan in (False, True))
    traced = jax.make_jaxpr(looped)(variables)
    once, found = TOWERS[name].loops, [e.params["length"] for e in loops(traced.jaxpr)]
    assert found == once or (TOWERS[name].twice and found == 2 * once)
    assert ("remat" in str(traced)) == bool(fields)
    with jax.default_matmul_precision("highest"):
        (da, a), (db, b) = (value_and_gradient(f, variables) for f in (in_turn, looped))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6 * np.abs(x).max()), a, b)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(da))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6 * largest), da, db)


class Stack(nn.Module):
    remat: str

    @nn.compact
    def __call__(self, x):
        names = [f"block_{i}" for i in range(3)]
        return run_blocks(self, ResidualBlock, dict(heads=2, layers=3), names, x, remat=self.remat)


@pytest.mark.parametrize(("platform", "pairs"), [("cpu", 2), ("tpu", 3)])
def test_what_each_remat_policy_computes_again(platform, pairs):
    """`dots`: the products of attention, whose batch axes are no weight's. `full`: all but the last of a block."""
    rows, tokens, width = 2, 5, 16
    x = jax.ShapeDtypeStruct((rows, tokens, width), jnp.float32)
    variables = jax.eval_shape(Stack("none").init, jax.random.key(0), x)
    gradient = lambda remat: jax.grad(lambda v, x: Stack(remat).apply(v, x).sum(), (0, 1))  # noqa: E731
    counted = {r: flops.of(gradient(r), variables, x, platform=platform) for r in ("none", "dots", "full")}
    attention = 3 * pairs * (2 * rows * tokens**2 * width)
    products = 3 * 2 * rows * tokens * width * (3 + 1 + 4) * width  # q, k, v, out, c_fc; c_proj is not needed again
    assert counted["dots"] - counted["none"] == attention
    assert counted["full"] - counted["none"] == attention + products


def test_initial_values_do_not_hang_on_it():
    for name in ("text", "bert"):
        case = TOWERS[name]
        a, b = (jax.jit(case.make(scan).init)(jax.random.key(3), *case.inputs) for scan in (False, True))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_bfloat16_in_a_loop():
    variables = parameters("image")
    a, b = (jax.jit(IMAGE.call(scan, dtype="bfloat16"))(variables).features for scan in (False, True))
    np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)
    traced = jax.make_jaxpr(IMAGE.call(True, dtype="bfloat16"))(variables)
    (loop,) = loops(traced.jaxpr)
    products = [e for e in equations(loop.params["jaxpr"].jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) == 4 + 2 + 3  # three projections in one; attention in both its forms
    assert {x.aval.dtype for e in products for x in e.invars} == {jnp.dtype("bfloat16")}


class Noise(nn.Module):
    """Adds what a block with dropout draws."""

    @nn.compact
    def __call__(self, x):
        return x + self.param("scale", nn.initializers.ones, ()) * jax.random.normal(self.make_rng("dropout"), x.shape)


class Noises(nn.Module):
    """Three of them."""

    scan: bool

    @nn.compact
    def __call__(self, x):
        return run_blocks(self, Noise, {}, ["n_0", "n_1", "n_2"], x, scan=self.scan, streams=("dropout",))


@pytest.mark.parametrize("scan", [False, True])
def test_each_block_draws_numbers_of_its_own(scan):
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(Noises(scan).init)(rngs, np.zeros(4, np.float32))
    x = jax.jit(Noises(scan).apply)(variables, np.zeros(10_000, np.float32), rngs={"dropout": jax.random.key(2)})
    assert np.std(x) == pytest.approx(3**0.5, rel=0.05)  # with the same numbers thrice it would be 3


def test_dropout_acts_in_training_alone():
    bert = Bert(dataclasses.replace(BERT, scan_layers=True, dropout=0.5))
    variables = parameters("bert")
    run = functools.partial(jax.jit, static_argnums=1)(
        lambda key, train: bert.apply(variables, IDS, train=train, rngs={"dropout": key}).tokens
    )
    keys = [jax.random.key(i) for i in range(2)]
    assert np.abs(np.subtract(run(keys[0], True), run(keys[1], True))).max() > 0.1
    np.testing.assert_array_equal(run(keys[0], False), run(keys[1], False))


def test_nothing_is_derived_for_frozen_blocks():
    """With the boundary known, a gradient costs what it does in turn."""

    def cost(scan, frozen):
        tower = VisionTower(clip(scan, frozen_layers=frozen))

        def loss(trained, kept):
            return tower.apply({"params": {**kept, **trained}}, PIXELS).features.var()

        params = parameters("image")["params"]
        trained = {k: params[k] for k in ("resblocks_2", "resblocks_3", "proj")}
        kept = {k: v for k, v in params.items() if k not in trained}
        return flops.of_jaxpr(jax.make_jaxpr(jax.grad(loss))(trained, kept).jaxpr)

    assert cost(True, 2) == cost(False, 2) == cost(False, 0)
    assert cost(True, 0) > 1.2 * cost(True, 2)


@pytest.mark.parametrize("shape", [(2, 1, 4), (2, 4, 1)])
def test_stacks_lie_on_the_mesh_as_the_parameters_do(shape):
    """No parameter is gathered over `tensor`, and none but once a pass over `fsdp`."""
    mesh = Mesh(np.array(jax.devices()).reshape(shape), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    found = []
    for scan in (False, True):
        tower = VisionTower(clip(scan))
        where = sharding.state_shardings(parameters("image"), mesh, TENSOR_RULES)
        inputs = (where, sharding.batch_sharding(mesh))
        gradient = jax.jit(
            jax.grad(lambda v, x, t=tower: t.apply(v, x).features.var()), in_shardings=inputs, out_shardings=where
        )
        with jax.set_mesh(mesh):
            program = hlo.parse(gradient.lower(parameters("image"), PIXELS).compile().as_text())
        sizes = collections.Counter()
        for c in hlo_counts.collectives(program, mesh.shape):
            sizes[c.kind, "fsdp" in c.axis] += c.size * c.run.times
        found.append(sizes)
    in_turn, looped = found
    assert set(looped) == set(in_turn)
    for kind, size in looped.items():
        assert size <= (2 if kind[0] == "all-gather" else 1.01) * in_turn[kind], kind


class Apart(nn.Module):
    """Attention's parameters as Flax draws them, each projection by itself."""

    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.DenseGeneral, kernel_init=nn.initializers.normal(0.5))
        q, k, v = (dense((2, 4), name=name)(x) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
        return dense(8, axis=(-2, -1), name="out")(jnp.einsum("bhqk,bkhd->bqhd", weights, v))


def test_projections_in_one_product_are_those_apart():
    x = np.random.default_rng(4).normal(size=(2, 3, 8)).astype(np.float32)
    own, apart = MultiHeadAttention(2, 0.5, 0.5), Apart()
    a, b = (jax.jit(module.init)(jax.random.key(5), x) for module in (own, apart))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    (da, ya), (db, yb) = (value_and_gradient(lambda v, m=m: m.apply(v, x), a) for m in (own, apart))
    np.testing.assert_allclose(ya, yb, atol=1e-6)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=3e-6), da, db)


def test_product_is_that_of_numpy_in_both_directions():
    rng = np.random.default_rng(6)
    x, kernel, dy = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=(2, 3, 5))

    @jax.jit
    def both(x, kernel, dy):
        y, back = jax.vjp(product, x, kernel)
        return y, *back(dy)

    with jax.default_matmul_precision("highest"):
        y, dx, dkernel = both(*map(np.float32, (x, kernel, dy)))
    np.testing.assert_allclose(y, x @ kernel, atol=1e-5)
    np.testing.assert_allclose(dx, dy @ kernel.T, atol=1e-5)
    np.testing.assert_allclose(dkernel, np.einsum("bnw,bnf->wf", x, dy), atol=1e-5)


def test_runs_begin_where_they_are_told():
    assert [list(r) for r in runs(5, ())] == [[0, 1, 2, 3, 4]]
    assert [list(r) for r in runs(5, {2, 3, 5, 0, 9, -1})] == [[0, 1], [2], [3, 4]]
    assert list(runs(0, ())) == []
