"""Optimisers and learning-rate schedules from config, on optax parts.

A transformation here gives the *direction* of the update; `Optimizer.updates` multiplies it by
`-lr(step) * multiplier`. Rate and multiplier stay outside, so that one schedule over the global step drives every
parameter group and the rate can be logged without opening the optimiser state. Where the update is no multiple of the
rate (parameters on a manifold), the transformation is given the rates and returns the update itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxvl.core import named, stiefel
from jaxvl.core.errors import InputError

Schedule = Callable[[jax.Array], jax.Array]
FlatParams = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A named optimiser.

    direction: an optax transformation on flat `{path: leaf}` dicts, called with `rates={path: scalar}`.
    rate: learning rate by step. multiplier: factor of the rate by path.
    moves: whether `direction` gives the update itself for this path, the rate already in it.
    """

    direction: optax.GradientTransformationExtraArgs
    rate: Schedule
    multiplier: Callable[[str], float]
    moves: Callable[[str], bool] = lambda path: False

    def updates(
        self, grads: FlatParams, state: optax.OptState, params: FlatParams, step: jax.Array
    ) -> tuple[FlatParams, optax.OptState, jax.Array]:
        """`(what to add to params, new optax state, rate)` of one update."""
        rate = self.rate(step)
        rates = {path: rate * self.multiplier(path) for path in grads}
        direction, state = self.direction.update(grads, state, params, rates=rates)
        moves = {p: d if self.moves(p) else -rate * self.multiplier(p) * d for p, d in direction.items()}
        return moves, state, rate


def build(cfg: ConfigDict, total_steps: int, name: str = "main") -> Optimizer:
    """The optimiser of one `config.optim` entry; `total_steps` is the length of the schedule in updates."""
    direction, on_manifold = _direction(cfg, name), cfg.get("stiefel", "")
    moves = lambda path: bool(on_manifold) and re.search(on_manifold, path) is not None  # noqa: E731
    if on_manifold:
        if cfg.name != "sgd":
            raise InputError(f"config.optim.{name}.stiefel: only sgd has a manifold form, name is {cfg.name!r}")
        parts = {"flat": direction, "stiefel": stiefel.riemannian_sgd(cfg.momentum, cfg.nesterov, cfg.weight_decay)}
        direction = optax.partition(parts, lambda params: {p: "stiefel" if moves(p) else "flat" for p in params})
    direction = optax.with_extra_args_support(direction)
    return Optimizer(direction, schedule(cfg, total_steps, name), _multiplier(cfg), moves)


def schedule(cfg: ConfigDict, total_steps: int, name: str = "main") -> Schedule:
    """Learning rate at update `t` = 0, 1, ... With `w` warm-up updates and `f = floor`:

    warm-up: `f + (lr - f) t / w` for `t < w`, then
    cosine: `end + (lr - end)/2 (1 + cos(pi (t - w)/(total - w)))`;
    cosine_unshifted: the same with `t/total`, the warm-up being cut out of the cosine;
    linear: from lr to end; step: `lr * decay_factor^(boundaries passed)`; constant;
    inverse_decay: `lr (1 + 10 (t + 1)/total)^-0.75` (Ganin & Lempitsky, ICML 2015, whose updates count from 1).
    Never below `f`. With `late_lr`, that is the `lr` of every formula from the share `late_from` of all steps on. A
    dotted name is a function of the user's own, see `_named_schedule`.
    """
    late_lr, late_from = float(cfg.get("late_lr", 0.0)), float(cfg.get("late_from", 0.5)) * total_steps
    first, end, floor = float(cfg.lr), float(cfg.end_lr), float(cfg.floor)
    warm = cfg.warmup * total_steps if cfg.warmup < 1 else float(cfg.warmup)
    span = max(total_steps - warm, 1e-9)
    if "." in cfg.schedule:
        return _named_schedule(cfg, total_steps, f"config.optim.{name}")
    kinds = ("constant", "cosine", "cosine_unshifted", "linear", "step", "inverse_decay")
    if cfg.schedule not in kinds:
        raise InputError(f"config.optim.{name}.schedule: {cfg.schedule!r} is none of {', '.join(kinds)}")
    boundaries = [b * total_steps for b in cfg.boundaries]

    def rate(step: jax.Array) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        lr = jnp.where(t >= late_from, late_lr, first) if late_lr else first
        if cfg.schedule == "cosine":
            main = end + 0.5 * (lr - end) * (1 + jnp.cos(jnp.pi * jnp.clip((t - warm) / span, 0, 1)))
        elif cfg.schedule == "cosine_unshifted":
            main = end + 0.5 * (lr - end) * (1 + jnp.cos(jnp.pi * jnp.clip(t / total_steps, 0, 1)))
        elif cfg.schedule == "linear":
            main = lr + (end - lr) * jnp.clip((t - warm) / span, 0, 1)
        elif cfg.schedule == "step":
            passed = sum((t >= b).astype(jnp.float32) for b in boundaries) if boundaries else 0.0
            main = lr * cfg.decay_factor**passed
        elif cfg.schedule == "inverse_decay":
            main = lr * (1 + 10 * (t + 1) / total_steps) ** -0.75
        else:
            main = jnp.full((), lr)
        if warm > 0:
            main = jnp.where(t < warm, floor + (lr - floor) * t / warm, main)
        return jnp.maximum(main, floor).astype(jnp.float32)

    return rate


def _named_schedule(cfg: ConfigDict, total_steps: int, field: str) -> Schedule:
    """The schedule at a dotted path, called with `schedule_args`; it gives the rate itself, warm-up and floor included.

    Of what it takes and the arguments lack, `lr`, `init_value` and `peak_value` are `config.optim.NAME.lr`, and
    `total_steps`, `decay_steps` and `transition_steps` the length of the run in updates.
    """
    factory = named.find(cfg.schedule, f"{field}.schedule")
    given = dict(cfg.get("schedule_args", {}))
    filled = dict.fromkeys(("lr", "init_value", "peak_value"), float(cfg.lr))
    filled |= dict.fromkeys(("total_steps", "decay_steps", "transition_steps"), total_steps)
    given |= {k: v for k, v in filled.items() if k not in given and named.takes(factory, k)}
    made = named.call(factory, given, cfg.schedule, f"{field}.schedule_args")
    if not callable(made):
        raise InputError(f"{field}.schedule: {cfg.schedule} gives {type(made).__name__} and no function of the step")
    return lambda step: jnp.asarray(made(step), jnp.float32)


def _named_direction(cfg: ConfigDict, field: str) -> optax.GradientTransformation:
    """The optax optimiser at a dotted path, called with `args`. Where it takes a `learning_rate` it is given 1, and its
    update turned round is the direction; else it is one of optax's `scale_by_...`, a direction already."""
    if cfg.weight_decay or cfg.clip_leaf_norm:
        raise InputError(f"{field}.weight_decay: of the house's own optimisers; give {cfg.name} what it takes in args")
    factory, given = named.find(cfg.name, f"{field}.name"), dict(cfg.get("args", {}))
    if "learning_rate" in given:
        raise InputError(f"{field}.args.learning_rate: is given by {field}.lr and its schedule; leave it out")
    takes_rate = named.takes(factory, "learning_rate")
    made = named.call(factory, given | ({"learning_rate": 1.0} if takes_rate else {}), cfg.name, f"{field}.args")
    if not isinstance(made, optax.GradientTransformation):
        raise InputError(f"{field}.name: {cfg.name} gives {type(made).__name__} and no optax transformation")
    return optax.chain(made, optax.scale(-1.0)) if takes_rate else made


def clip_by_norm(grads: FlatParams, norm: jax.Array, limit: float) -> FlatParams:
    """Scales all gradients by `min(1, limit / (norm + 1e-6))`, `norm` being their global norm (torch's rule)."""
    scale = jnp.minimum(1.0, limit / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, grads)


class BertAdamState(NamedTuple):
    """Moments of `scale_by_bert_adam`."""

    mu: FlatParams
    nu: FlatParams


def scale_by_bert_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction, `m / (sqrt(v) + eps)` (BERT's optimiser; CLIP4Clip's BertAdam)."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        return BertAdamState(zeros(), zeros())

    def update(grads, state, params=None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), BertAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def clip_each(limit: float) -> optax.GradientTransformation:
    """Clips every parameter's gradient to norm `limit` on its own (BertAdam's inner clip)."""

    def update(grads, state, params=None):
        del params
        return jax.tree.map(lambda g: g * jnp.minimum(1.0, limit / (jnp.linalg.norm(g) + 1e-6)), grads), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _direction(cfg: ConfigDict, name: str) -> optax.GradientTransformation:
    decayed = lambda params: {k: re.search(cfg.no_decay, k) is None for k in params}  # noqa: E731
    decay = optax.add_decayed_weights(cfg.weight_decay, mask=decayed) if cfg.weight_decay else optax.identity()
    head = [clip_each(cfg.clip_leaf_norm)] if cfg.clip_leaf_norm else []
    momentum = optax.trace(cfg.momentum, cfg.nesterov) if cfg.momentum else optax.identity()
    if "." in cfg.name:
        return _named_direction(cfg, f"config.optim.{name}")
    match cfg.name:
        case "adamw":  # decoupled decay: behind the moments
            parts = [optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps), decay]
        case "bert_adam":
            parts = [scale_by_bert_adam(cfg.b1, cfg.b2, cfg.eps), decay]
        case "adam":  # coupled decay: in front of them
            parts = [decay, optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)]
        case "sgd":
            parts = [decay, momentum]
        case "lars":  # vectors and scalars are neither decayed nor scaled
            large = lambda params: {k: v.ndim > 1 for k, v in params.items()}  # noqa: E731
            both = lambda params: {k: decayed(params)[k] and v.ndim > 1 for k, v in params.items()}  # noqa: E731
            parts = [
                optax.add_decayed_weights(cfg.weight_decay, mask=both),
                optax.masked(optax.scale_by_trust_ratio(trust_coefficient=cfg.trust), large),
                momentum,
            ]
        case _:
            raise InputError(
                f"config.optim.{name}.name: {cfg.name!r} is none of adamw, bert_adam, adam, sgd, lars, nor dotted"
            )
    return optax.chain(*head, *parts)


def _multiplier(cfg: ConfigDict) -> Callable[[str], float]:
    groups = tuple((str(p), float(m)) for p, m in cfg.groups)
    return lambda path: next((m for pattern, m in groups if re.search(pattern, path)), 1.0)
