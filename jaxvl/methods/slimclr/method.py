"""SlimCLR wired to the contract: the full network alone first, then all widths, on one optimiser state.

Objectives `full` (slow start: everything but what only narrower widths have) and `all`; `pick` switches between them.
Queue, key encoder and its statistics are mutables; the key encoder follows in `after_update`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxvl.core import precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Method, Objective
from jaxvl.core.state import flatten
from jaxvl.methods.slimclr import analysis, losses
from jaxvl.methods.slimclr.evaluators import Accuracy, Frozen
from jaxvl.methods.slimclr.frameworks import FRAMEWORKS, WITH_KEYS, WITH_LABELS, Nets
from jaxvl.methods.slimclr.model import ModelConfig

INPLACE = ("none", "distill", "mixed")


def model_config(config: ConfigDict) -> ModelConfig:
    """The networks of `config.model`, of the size of one width alone where `config.model.alone` names one."""
    m = config.model
    if m.framework not in FRAMEWORKS:
        raise InputError(f"config.model.framework: {m.framework!r} is none of {', '.join(FRAMEWORKS)}")
    fields = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in m.to_dict().items()
        if name in ModelConfig.__dataclass_fields__
    }
    dtype = precision.compute_dtype(config.precision).name
    made = ModelConfig(**fields, dtype=dtype, remat=precision.blocks_again(config))
    if not m.alone:
        return made
    if m.alone not in made.widths:
        raise InputError(f"config.model.alone: {m.alone} is none of the widths {made.widths}")
    return made.alone(made.widths.index(m.alone))


def check(config: ConfigDict) -> None:
    """Raises InputError for values that do not fit each other."""
    m, b = config.model, config.data.batch_size
    if m.framework == "mocov2" and m.queue % b:
        raise InputError(f"config.model.queue: {m.queue} is no multiple of config.data.batch_size {b}")
    if m.bn_groups < 1 or b % m.bn_groups:
        raise InputError(f"config.model.bn_groups: {m.bn_groups} does not divide config.data.batch_size {b}")
    known = {"distill": losses.DISTILLATIONS, "distill_logits": ("cosine", "scaled"), "inplace": INPLACE}
    for name, values in known.items():
        if m[name] not in values:
            raise InputError(f"config.model.{name}: {m[name]!r} is none of {', '.join(values)}")
    if m.distill in losses.ON_FEATURES and m.framework == "simclr":
        raise InputError("config.model.distill: SimCLR's distillation is on logits only (ce, mse, dkd, atkd)")
    if m.full_distill and m.framework != "mocov2":
        raise InputError("config.model.full_distill: only MoCo v2 has it")
    losses.width_weights(m.widths, m.reweight)
    losses.ema_momentum(m.momentum, m.momentum_schedule, jnp.float32(0))


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe.base`."""
    check(config)
    m, cfg = config.model, model_config(config)
    nets = Nets.of(cfg)
    framework = FRAMEWORKS[m.framework]

    def init(rng, batch):
        view = next(v for k, v in batch["train"].items() if k != "label")[:1]
        keys = jax.random.split(rng, 3)
        made = nets.encoder.init(keys[0], view)
        params, stats = {"encoder": made["params"]}, {"encoder": made["batch_stats"]}
        out = {"params": params, "batch_stats": stats}
        if m.framework == "mocov3":
            predictor = nets.predictor.init_all(keys[1], 1)
            params["predictor"], stats["predictor"] = predictor["params"], predictor["batch_stats"]
        if m.framework in WITH_KEYS:
            out |= {"key": jax.tree.map(jnp.copy, made["params"])}
            out |= {"key_stats": jax.tree.map(jnp.copy, made["batch_stats"])}
        if m.framework == "mocov2":
            rows = losses.normalize(jax.random.normal(keys[2], (m.queue, cfg.dim)))
            out["queue"] = {"keys": rows, "pointer": jnp.zeros((), jnp.int32)}
        return out

    def objective(indices: Sequence[int], analyse: bool) -> Callable:
        def loss(params, mutables, batch, rng, step):
            del step
            found = framework(nets, config, params, mutables, batch, rng, indices)
            scalars = dict(found.scalars)
            if analyse:

                def each(encoder):
                    own = {**jax.lax.stop_gradient(params), "encoder": encoder}
                    return jnp.stack(framework(nets, config, own, mutables, batch, rng, indices).losses)

                _, pull = jax.vjp(each, jax.lax.stop_gradient(params["encoder"]))
                rows = jnp.eye(len(indices))
                gradients = [flatten(pull(row)[0]) for row in rows]
                scalars |= analysis.measure(cfg, gradients, indices)
            return sum(found.losses), Aux(found.mutables, scalars)

        return loss

    everyone = tuple(range(len(cfg.widths)))
    slow = m.slow_start if len(everyone) > 1 and m.framework not in WITH_LABELS else 0.0
    start = slow * config.train.steps
    head_only = m.framework == "probe"
    trains = {"all": (lambda path: path.startswith("encoder/head/")) if head_only else (lambda path: True)}
    members = {"all": everyone}
    if start > 0:
        members["full"], trains["full"] = (0,), not_of_narrow_widths
    if head_only or m.framework == "supervised":
        every = 0
    else:
        every = m.analyse_every
    objectives = {n: Objective(objective(i, False), trains[n]) for n, i in members.items()}
    if every:
        objectives |= {f"{n}_analysed": Objective(objective(i, True), trains[n]) for n, i in members.items()}

    def pick(step: int) -> str:
        name = "full" if step < start else "all"
        return f"{name}_analysed" if every and (step + 1) % every == 0 else name

    def after_update(state):
        if m.framework not in WITH_KEYS:
            return state
        # the momentum of the next step: published code averages in front of the keys, with the parameters before
        keep = losses.ema_momentum(m.momentum, m.momentum_schedule, state.step / config.train.steps)
        follow = lambda k, p: keep * k + (1 - keep) * p  # noqa: E731
        key = jax.tree.map(follow, state.mutables["key"], state.params["encoder"])
        return state.replace(mutables={**state.mutables, "key": key})

    def predict(variables, batch):
        (fields,) = batch.values()
        own = {"params": variables["params"]["encoder"], "batch_stats": variables["batch_stats"]["encoder"]}
        out = {}
        for i, name in enumerate(cfg.names):
            features, outputs = nets.encoder.apply(own, fields["image"], False, i)
            if m.framework in WITH_LABELS:
                out[f"logits_{name}"] = outputs
            else:
                out[f"features_{name}"] = features if config.eval.features == "trunk" else losses.normalize(outputs)
        if m.framework not in WITH_LABELS and "pixels" in config.eval.monitors:
            x = fields["image"].astype(jnp.float32) / 255 - jnp.asarray(cfg.mean, jnp.float32)
            out["features_pixels"] = x.reshape(len(x), -1)
        return out

    evaluate = Accuracy(cfg.names) if m.framework in WITH_LABELS else Frozen.of(config, cfg.names)
    return Method(
        name="slimclr",
        batch_spec={"train": batch_spec(config)},
        init=init,
        objectives=objectives,
        pick=pick if len(objectives) > 1 else None,
        after_update=after_update,
        predict=predict,
        predict_spec=[{"query": {"image": picture(config, config.data.eval_batch_size)}}],
        evaluators={"accuracy" if m.framework in WITH_LABELS else "frozen": evaluate},
    )


def not_of_narrow_widths(path: str) -> bool:
    """Whether the full width uses the parameter at `path`: all but the norms and layers of narrower widths, which must
    neither decay nor move during the slow start (their gradient is absent in the published run, not zero)."""
    named = re.search(r"_w(\d{3})(/|$)", path)
    return named is None or named.group(1) == "100"


def batch_spec(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Fields of the training stream: two views, or a picture with its label."""
    b = config.data.batch_size
    if config.model.framework in WITH_LABELS:
        return {"image": picture(config, b), "label": jax.ShapeDtypeStruct((b,), jnp.int32)}
    return {"view_a": picture(config, b), "view_b": picture(config, b)}


def picture(config: ConfigDict, rows: int) -> jax.ShapeDtypeStruct:
    """A batch of pictures."""
    r = config.data.image_size
    return jax.ShapeDtypeStruct((rows, r, r, 3), jnp.uint8)
