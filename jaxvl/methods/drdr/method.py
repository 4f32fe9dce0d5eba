"""DRDR wired to the contract: one objective over a labelled and an unlabelled stream, anchors as state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxvl.core import precision, sharding
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Method, Objective
from jaxvl.core.stiefel import orthogonality_error
from jaxvl.methods.drdr import losses, structure
from jaxvl.methods.drdr import task as tasks
from jaxvl.methods.drdr.evaluator import DomainAccuracy
from jaxvl.methods.drdr.model import DRDR, POOLS, DRDRConfig
from jaxvl.methods.drdr.structure import Structure
from jaxvl.ops import optimal_transport as transport

CHOICES = {
    "trunk": ("resnet", "conv", "none"),
    "pool": POOLS,
    "absent_class": ("zero", "keep"),
    "consensus": ("paper", "code"),
    "ot.mode": ("ott", "annealed"),
    "ot.anchor_weights": ("uniform", "pseudo"),
}
PAIRWISE = ("translation", "distance", "angular")
"""The terms that compare two structures; the others are of one domain alone."""


def model_config(config: ConfigDict) -> DRDRConfig:
    """The network of `config.model`. Raises InputError for values that are none of the choices."""
    m = config.model
    for name, known in CHOICES.items():
        value = m.ot[name[3:]] if name.startswith("ot.") else m[name]
        if value not in known:
            raise InputError(f"config.model.{name}: {value!r} is none of {', '.join(known)}")
    if len(m.mean) != len(m.std):
        raise InputError(f"config.model.mean: has {len(m.mean)} channels, config.model.std {len(m.std)}")
    return DRDRConfig(
        classes=m.classes,
        trunk=m.trunk,
        depth=m.depth,
        width=m.width,
        channels=tuple(m.channels),
        pool=m.pool,
        features=m.bottleneck_dim,
        stiefel=m.stiefel,
        mean=tuple(m.mean),
        std=tuple(m.std),
        dtype=precision.compute_dtype(config.precision).name,
        remat=precision.blocks_again(config),
    )


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe.base`."""
    cfg, m = model_config(config), config.model
    model, task = DRDR(cfg), tasks.parse(config.data.task, config.data.external)
    weight, k, d = m.weights, m.classes, m.bottleneck_dim
    adapts = any(weight[name] for name in weight if name != "classification")
    domains = task.sources if task.setting == "loo" else ("source", "target")

    def init(rng, batch):
        variables = model.init(rng, batch["source"]["images"][:1], train=True)
        zeros = {"centre": jnp.zeros((len(domains), d)), "local": jnp.zeros((len(domains), k, d))}
        return {**variables, "radial": zeros}

    def encode(params, stats, images, runs=()):
        """Features of one pass in training mode, and the statistics behind it. runs: see `DRDRConfig`."""
        net, variables = DRDR(dataclasses.replace(cfg, runs=runs)), {"params": params, "batch_stats": stats}
        z, changed = net.apply(variables, images, train=True, method=DRDR.encode, mutable=["batch_stats"])
        return z, changed.get("batch_stats", stats)

    def of_params(params, method, z):
        return model.apply({"params": params}, z, method=method)

    def anchored(mutables, i, z, labels) -> Structure:
        old = Structure(mutables["radial"]["centre"][i], mutables["radial"]["local"][i])
        return structure.momentum(old, z, labels, m.theta, m.absent_class)

    def pairwise(a: Structure, b: Structure) -> dict[str, jax.Array]:
        terms = {
            "translation": losses.translation,
            "distance": losses.distance,
            "angular": functools.partial(losses.angular, mask=m.spoke_mask),
        }
        return {name: terms[name](a, b) for name in PAIRWISE if weight[name]}

    def transports(zs, labels, structures) -> list[tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
        """The transport term of each domain, and what is logged of it: solved together, since each is a loop of many
        small turns."""
        if not weight.transport:
            return [({}, {})] * len(zs)
        anchors = [jax.lax.stop_gradient(s.local) for s in structures]
        with precision.loss_term("transport"):
            each = sharding.on_every_device(tuple(jnp.stack(x) for x in (zs, anchors, labels)))
            values, facts = jax.vmap(functools.partial(faithfulness, m=m))(*each)
        return [({"transport": values[i]}, {k: v[i] for k, v in facts.items()}) for i in range(len(zs))]

    def agreement(params, z, now: Structure) -> dict[str, jax.Array]:
        """The consensus term of one domain."""
        if not weight.consensus:
            return {}
        with precision.loss_term("consensus"):
            q = losses.assignment(z, now.local)
            inner = jax.lax.stop_gradient(z) if m.consensus == "code" else z
            logits = of_params(params, DRDR.classify, inner - jax.lax.stop_gradient(now.centre))
            return {"consensus": losses.consensus(q, logits, m.consensus)}

    def total(step, classification, terms):
        """Section 4.7; `step` counts updates from 0, the paper's from 1."""
        it = step + 1
        q = losses.ramp(it, config.train.steps)
        on = it >= m.burn_in * config.train.steps
        loss = weight.classification * classification
        for name, term in terms.items():
            loss += q * weight[name] * (term if name == "translation" else jnp.where(on, term, 0.0))
        return loss, {"classification": classification, **terms, "ramp": q}

    def finish(params, stats, structures, scalars) -> Aux:
        radial = {
            "centre": jnp.stack([jax.lax.stop_gradient(s.centre) for s in structures]),
            "local": jnp.stack([jax.lax.stop_gradient(s.local) for s in structures]),
        }
        if len(structures) > 1:
            scalars |= structure.facts(structures[0], structures[1], m.spoke_mask)
        if cfg.stiefel:
            scalars["orthogonality_error"] = orthogonality_error(params["stiefel"]["kernel"])
        mutables = {"radial": radial, **({"batch_stats": stats} if stats else {})}
        return Aux(mutables, {name: jax.lax.stop_gradient(v) for name, v in scalars.items()})

    def adapt(params, mutables, batch, rng, step):
        del rng
        source, target = batch["source"], batch["target"]
        zs, stats = encode(params, mutables.get("batch_stats", {}), source["images"])
        zt, stats = encode(params, stats, target["images"])  # a second pass: each side has its own batch statistics
        zt = of_params(params, DRDR.turn, zt)
        logits, guessed = (of_params(params, DRDR.classify, z) for z in (zs, zt))
        pseudo = jnp.argmax(guessed, 1)
        s, t = anchored(mutables, 0, zs, source["label"]), anchored(mutables, 1, zt, pseudo)
        terms = pairwise(s, t)
        facts: dict[str, jax.Array] = {}
        moved = transports((zs, zt), (source["label"], pseudo), (s, t))
        for side, z, now, (own, seen) in zip(("source", "target"), (zs, zt), (s, t), moved):
            own = own | agreement(params, z, now)
            terms |= {name: terms.get(name, 0.0) + value for name, value in own.items()}
            facts |= {f"{name}/{side}": value for name, value in (own | seen).items()}
        loss, scalars = total(step, losses.classification(m.gamma * logits, source["label"]), terms)
        facts["source_accuracy"] = (jnp.argmax(logits, 1) == source["label"]).mean()
        return loss, finish(params, stats, (s, t), scalars | facts)

    def generalise(params, mutables, batch, rng, step):
        """Leave-one-out: every training domain is labelled and has a structure; all but the first are turned.

        All domains pass the trunk at once, each with its own batch statistics: their rows are uneven, so that a pass of
        each would exchange rows between devices in every layer. Features are few, and each device gets all of them.
        """
        del rng
        rows = tasks.rows_of(len(domains), config.data.batch_size)
        z, stats = encode(params, mutables.get("batch_stats", {}), batch["source"]["images"], rows)
        z, labels = sharding.on_every_device((z, batch["source"]["label"]))
        structures, logits, begin = [], [], 0
        for i, n in enumerate(rows):
            own = z[begin : begin + n]
            own = of_params(params, DRDR.turn, own) if i else own
            structures.append(anchored(mutables, i, own, labels[begin : begin + n]))
            logits.append(of_params(params, DRDR.classify, own))
            begin += n
        pairs = [pairwise(a, b) for i, a in enumerate(structures) for b in structures[i + 1 :]]
        terms = {name: jnp.stack([p[name] for p in pairs]).mean() for name in pairs[0]}
        logits = jnp.concatenate(logits)
        loss, scalars = total(step, losses.classification(m.gamma * logits, labels), terms)
        scalars["source_accuracy"] = (jnp.argmax(logits, 1) == labels).mean()
        return loss, finish(params, stats, structures, scalars)

    def classify(params, mutables, batch, rng, step):
        """Source only: what every adaptation is compared with. The target is not read."""
        del rng, step
        z, stats = encode(params, mutables.get("batch_stats", {}), batch["source"]["images"])
        logits = of_params(params, DRDR.classify, z)
        loss = losses.classification(m.gamma * logits, batch["source"]["label"])
        accuracy = (jnp.argmax(logits, 1) == batch["source"]["label"]).mean()
        return loss, Aux({"batch_stats": stats} if stats else {}, {"source_accuracy": accuracy})

    def predict(variables, batch):
        out = {}
        for fields in batch.values():
            z = model.apply(variables, fields["images"], method=DRDR.encode)
            turned = model.apply(variables, z, method=DRDR.turn)
            out |= {"features": z, "turned": turned}
            out |= {"source_logits": model.apply(variables, z, method=DRDR.classify)}
            out |= {"target_logits": model.apply(variables, turned, method=DRDR.classify)}
        return out

    untrained = (("fc/",) if m.freeze_classifier else ()) + (() if adapts else ("stiefel/",))
    objective = {
        "loss": adapt if task.targets else generalise,
        "streams": ("source", "target") if task.targets else ("source",),
    }
    if not adapts:
        objective = {"loss": classify, "streams": ("source",)}
    return Method(
        name="drdr",
        batch_spec=batch_spec(config, objective["streams"]),
        init=init,
        objectives={"adapt": Objective(**objective, trains=lambda path: not path.startswith(untrained))},
        predict=predict,
        predict_spec=predict_spec(config, task.tested),
        evaluators={"accuracy": DomainAccuracy(task, k)},
    )


def predict_spec(config: ConfigDict, domains: tuple[str, ...]) -> list[dict[str, dict[str, jax.ShapeDtypeStruct]]]:
    """What the evaluation gives to `predict`: each tested domain by itself, all of one shape."""
    images = batch_spec(config, ("source",))["source"]["images"]
    fields = {"images": jax.ShapeDtypeStruct((config.data.eval_batch_size, *images.shape[1:]), images.dtype)}
    return [{domain: fields} for domain in domains[:1]]


def faithfulness(
    points: jax.Array, anchors: jax.Array, labels: jax.Array, m: Mapping[str, Any]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Section 4.5: the Sinkhorn divergence between a domain's features `[B, D]` and its anchors `[K, D]`, and what is
    logged of it."""
    if m.ot.mode == "annealed":
        found = transport.annealed_divergence(points, anchors, blur=m.ot.blur, scaling=m.ot.scaling)
        return found.value, {"transport_change": found.error}
    found = transport.sinkhorn_divergence(
        points,
        anchors,
        b=losses.anchor_weights(labels, len(anchors), m.ot.anchor_weights),
        epsilon_share=m.ot.epsilon_share,
        threshold=m.ot.threshold,
        max_iterations=m.ot.max_iterations,
    )
    facts = {"transport_converged": found.converged, "transport_iterations": found.iterations}
    return found.value, {name: value.astype(jnp.float32) for name, value in facts.items()}


def batch_spec(config: ConfigDict, streams: tuple[str, ...]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Fields of the training streams: the target's has no labels."""
    b, m = config.data.batch_size, config.model
    if m.trunk == "none":
        images = jax.ShapeDtypeStruct((b, config.data.feature_dim), jnp.float32)
    else:
        size = config.data.image_size
        images = jax.ShapeDtypeStruct((b, size, size, len(m.mean)), jnp.uint8)
    label = jax.ShapeDtypeStruct((b,), jnp.int32)
    spec = {"source": {"images": images, "label": label}, "target": {"images": images}}
    return {name: spec[name] for name in streams}
