"""What MoCo v2, MoCo v3, SimCLR and supervised training compute for the widths that take part (section 4).

Each framework is a function `(nets, config, params, mutables, batch, rng, indices) -> (terms, mutables, scalars)`:
`terms` are the weighted losses of the widths `indices`, to be summed; `indices` is `(0,)` during the slow start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxvl.core import sharding
from jaxvl.core.precision import loss_term
from jaxvl.methods.slimclr import losses
from jaxvl.methods.slimclr.model import Encoder, ModelConfig, Predictor

Tree = Any


class Nets(NamedTuple):
    """The modules of a method.

    train: `(variables, images, index) -> ((features, outputs), {batch_stats})` of the encoder in training, traced once
    a width however often it is called (two views, and the key encoder).
    """

    config: ModelConfig
    encoder: Encoder
    predictor: Predictor
    train: Callable

    @classmethod
    def of(cls, config: ModelConfig) -> Nets:
        """The modules of a config."""
        encoder = Encoder(config)

        def train(variables, images, index):
            return encoder.apply(variables, images, True, index, mutable=["batch_stats"])

        return cls(config, encoder, Predictor(config), jax.jit(train, static_argnums=2))


class Terms(NamedTuple):
    """Weighted loss of each width, the collections after the step, and numbers to log."""

    losses: list[jax.Array]
    mutables: dict[str, Tree]
    scalars: dict[str, jax.Array]


def encode(nets: Nets, params: Tree, stats: Tree, images: jax.Array, index: int) -> tuple[jax.Array, Tree]:
    """`(outputs [B, dim], batch statistics after)` of the online encoder in training."""
    variables = {"params": params["encoder"], "batch_stats": stats["encoder"]}
    (_, z), moved = nets.train(variables, images, index)
    return z, {**stats, "encoder": moved["batch_stats"]}


def predict_head(nets: Nets, params: Tree, stats: Tree, z: jax.Array, index: int) -> tuple[jax.Array, Tree]:
    """`(predictions [B, dim], batch statistics after)` of MoCo v3's predictor in training."""
    variables = {"params": params["predictor"], "batch_stats": stats["predictor"]}
    q, moved = nets.predictor.apply(variables, z, True, index, mutable=["batch_stats"])
    return q, {**stats, "predictor": moved["batch_stats"]}


def keys_of(nets: Nets, mutables: Mapping[str, Tree], images: jax.Array) -> tuple[jax.Array, Tree]:
    """`(unit keys [B, dim], key_stats after)`: full width of the momentum encoder, in training mode, no gradient."""
    variables = {"params": mutables["key"], "batch_stats": mutables["key_stats"]}
    variables = jax.lax.stop_gradient(variables)
    (_, k), moved = nets.train(variables, images, 0)
    return jax.lax.stop_gradient(losses.normalize(k)), moved["batch_stats"]


def spread(z: jax.Array) -> jax.Array:
    """√D times the mean standard deviation of unit outputs over the batch: about 1, 0 when all rows are alike."""
    return z.std(0).mean() * z.shape[-1] ** 0.5


def weigh(config: ConfigDict, widths: Sequence[float], indices: Sequence[int], contrast, distill) -> list[jax.Array]:
    """Equation 6: `λ_1 L_1`, then `λ_i [(1 − α) L_i + α D_i]`; `L_1` as it is where no other width takes part."""
    m = config.model
    if len(indices) == 1:
        return [contrast[0]]
    weights = losses.width_weights(widths, m.reweight)
    alpha = 0.0 if m.distill == "none" else m.distill_weight
    terms = [weights[indices[0]] * contrast[0]]
    for i, c, d in zip(indices[1:], contrast[1:], distill, strict=True):
        terms.append(weights[i] * ((1 - alpha) * c + (alpha * d if d is not None else 0.0)))
    return terms


def scale_logits(config: ConfigDict, cosines: jax.Array) -> jax.Array:
    """What the distillation sees: cosines as they are (the released code), or divided by the temperature."""
    return cosines / config.model.temperature if config.model.distill_logits == "scaled" else cosines


@loss_term("distill")
def teach(config: ConfigDict, teacher, student, labels: jax.Array) -> jax.Array | None:
    """`D_i` of one student. teacher, student: `(unit outputs, cosines)`; None where nothing is distilled."""
    kind = config.model.distill
    if kind == "none":
        return None
    t, s = teacher[0], student[0]
    if kind not in losses.ON_FEATURES:
        t, s = scale_logits(config, teacher[1]), scale_logits(config, student[1])
    return losses.distillation(kind, t, s, labels, config.model.distill_temperature, config.model.teacher_temperature)


def moco_v2(nets: Nets, config: ConfigDict, params, mutables, batch, rng, indices) -> Terms:
    """Section 4.1: queries of every width against one key and one queue, both of the full momentum encoder."""
    m, names = config.model, nets.config.names
    queue = jax.lax.stop_gradient(mutables["queue"]["keys"])
    views = batch["train"]["view_b"]
    if nets.config.bn_groups > 1:  # keys must not share batch statistics with their own queries
        order = jax.random.permutation(rng, len(views))
        mixed = sharding.over_batch(views[order])  # left alone, a gather and the encoder behind it are on every device
        shuffled, key_stats = keys_of(nets, mutables, mixed)
        k = jnp.zeros_like(shuffled).at[order].set(shuffled)
    else:
        k, key_stats = keys_of(nets, mutables, views)
    stats, q, scalars = mutables["batch_stats"], [], {}
    for i in indices:
        z, stats = encode(nets, params, stats, batch["train"]["view_a"], i)
        q.append(losses.normalize(z))
        scalars[f"std_{names[i]}"] = spread(q[-1])
    positive = jnp.zeros(len(k), jnp.int32)

    @loss_term("contrast")
    def contrast_of(q_i):
        s = losses.moco_logits(q_i, k, queue)
        return losses.info_nce(s, m.temperature), (s.argmax(1) == 0).mean()

    @loss_term("distill")
    def distill_of(q_i, teachers):
        student = (q_i, losses.moco_logits(q_i, k, queue))
        both = [(t, losses.moco_logits(t, k, queue)) for t in teachers]
        return sum(teach(config, t, student, positive) for t in both) / len(both)

    contrast, distill = [], []
    for n, (i, q_i) in enumerate(zip(indices, q)):
        # the logits are the largest arrays of the step: made again for the backward pass, width by width
        c, hit = jax.checkpoint(contrast_of)(q_i)
        contrast.append(c)
        scalars |= {f"contrast_{names[i]}": c, f"hit_{names[i]}": hit}
        if n:
            teachers = [jax.lax.stop_gradient(t) for t in (q[:n] if m.full_distill else q[:1])]
            distill.append(jax.checkpoint(distill_of)(q_i, teachers) if m.distill != "none" else None)
            if distill[-1] is not None:
                scalars[f"distill_{names[i]}"] = distill[-1]
    after = {"batch_stats": stats, "key_stats": key_stats, "queue": enqueue(mutables["queue"], k)}
    return Terms(weigh(config, nets.config.widths, indices, contrast, distill), after, scalars)


def enqueue(queue: Mapping[str, jax.Array], k: jax.Array) -> dict[str, jax.Array]:
    """The queue with the keys `[B, D]` in the rows from the pointer on, and the pointer behind them."""
    rows = jax.lax.dynamic_update_slice(queue["keys"], k, (queue["pointer"], jnp.int32(0)))
    return {"keys": rows, "pointer": (queue["pointer"] + len(k)) % len(rows)}


def moco_v3(nets: Nets, config: ConfigDict, params, mutables, batch, rng, indices) -> Terms:
    """Section 4.2: symmetric, keys of the global batch, two forward passes a width (statistics of each view)."""
    del rng
    m, names, b = config.model, nets.config.names, batch["train"]
    key_stats, keys = mutables["key_stats"], []
    for view in ("view_a", "view_b"):
        k, key_stats = keys_of(nets, {**mutables, "key_stats": key_stats}, b[view])
        keys.append(k)
    stats, scalars, labels = mutables["batch_stats"], {}, jnp.arange(len(keys[0]))
    contrast, distill, teachers = [], [], []
    for n, i in enumerate(indices):
        pairs = []
        for view, k in zip(("view_a", "view_b"), reversed(keys)):
            z, stats = encode(nets, params, stats, b[view], i)
            q, stats = predict_head(nets, params, stats, z, i)
            q = losses.normalize(q)
            with loss_term("contrast"):
                pairs.append((q, q @ k.T))
        with loss_term("contrast"):
            c = sum(losses.batch_contrast(s, m.temperature) for _, s in pairs)
        contrast.append(c)
        scalars |= {f"std_{names[i]}": spread(pairs[0][0]), f"contrast_{names[i]}": c}
        scalars[f"hit_{names[i]}"] = (pairs[0][1].argmax(1) == labels).mean()
        if n == 0:
            teachers = pairs
        else:
            parts = [teach(config, t, s, labels) for t, s in zip(teachers, pairs)]
            distill.append(None if parts[0] is None else sum(parts))
            if parts[0] is not None:
                scalars[f"distill_{names[i]}"] = distill[-1]
    after = {"batch_stats": stats, "key_stats": key_stats}
    return Terms(weigh(config, nets.config.widths, indices, contrast, distill), after, scalars)


def simclr(nets: Nets, config: ConfigDict, params, mutables, batch, rng, indices) -> Terms:
    """Section 4.3: both views of the global batch against each other, the diagonal removed."""
    del rng
    m, names, b = config.model, nets.config.names, batch["train"]
    stats, scalars = mutables["batch_stats"], {}
    contrast, distill, teacher = [], [], None
    for n, i in enumerate(indices):
        views = []
        for view in ("view_a", "view_b"):
            z, stats = encode(nets, params, stats, b[view], i)
            views.append(losses.normalize(z))
        z = jnp.concatenate(views)
        labels = losses.simclr_labels(len(z))
        with loss_term("contrast"):
            s = losses.without_diagonal(z @ z.T)
            c = losses.cross_entropy(s / m.temperature, labels)
        contrast.append(c)
        scalars |= {f"std_{names[i]}": spread(z), f"contrast_{names[i]}": c}
        scalars[f"hit_{names[i]}"] = (s.argmax(1) == labels).mean()
        if n == 0:
            teacher = (z, s)
        else:
            distill.append(teach(config, teacher, (z, s), labels))
            if distill[-1] is not None:
                scalars[f"distill_{names[i]}"] = distill[-1]
    after = {"batch_stats": stats}
    return Terms(weigh(config, nets.config.widths, indices, contrast, distill), after, scalars)


def supervised(nets: Nets, config: ConfigDict, params, mutables, batch, rng, indices) -> Terms:
    """Section 4.4: `Σ_i CE`; with `inplace_distill` the narrower widths learn from the full one instead of the labels,
    with `inplace_mixed` from both by halves."""
    del rng
    stats, names, b, terms, scalars = mutables["batch_stats"], nets.config.names, batch["train"], [], {}
    teacher = None
    for i in indices:
        logits, stats = encode(nets, params, stats, b["image"], i)
        term, teacher = label_term(config, logits, b["label"], teacher)
        terms.append(term)
        scalars |= {f"loss_{names[i]}": term, f"top1_{names[i]}": (logits.argmax(1) == b["label"]).mean()}
    return Terms(terms, {"batch_stats": stats}, scalars)


@loss_term("classification")
def label_term(config: ConfigDict, logits, labels, teacher) -> tuple[jax.Array, jax.Array]:
    """`(loss of one width, the full width's logits)`; `teacher` None marks the full width itself."""
    hard = losses.cross_entropy(logits, labels)
    kind = config.model.inplace
    if teacher is None or kind == "none":
        return hard, logits if teacher is None else teacher
    soft = losses.soft_cross_entropy(teacher, logits)
    return {"distill": soft, "mixed": 0.5 * (soft + hard)}[kind], teacher


def probe(nets: Nets, config: ConfigDict, params, mutables, batch, rng, indices) -> Terms:
    """Section 4.4: the classifiers of all widths at once on the frozen trunk, which runs on its running statistics."""
    del rng
    variables = {"params": params["encoder"], "batch_stats": mutables["batch_stats"]["encoder"]}
    names, b, terms, scalars, teacher = nets.config.names, batch["train"], [], {}, None
    for i in indices:
        _, logits = nets.encoder.apply(variables, b["image"], False, i)
        term, teacher = label_term(config, logits, b["label"], teacher)
        terms.append(term)
        scalars |= {f"loss_{names[i]}": term, f"top1_{names[i]}": (logits.argmax(1) == b["label"]).mean()}
    return Terms(terms, {}, scalars)


Framework = Callable[..., Terms]
FRAMEWORKS: dict[str, Framework] = {
    "mocov2": moco_v2,
    "mocov3": moco_v3,
    "simclr": simclr,
    "supervised": supervised,
    "probe": probe,
}
WITH_KEYS = ("mocov2", "mocov3")
WITH_LABELS = ("supervised", "probe")
