"""PoseGU (reconstruction) wired to the contract.

One stream `poses` of real pairs, and a mutable `pool` of generated poses with their weights. Two objectives on the same
parameters: `lift` takes its generated rows from the pool, `redraw` first draws the pool anew; `pick` puts `redraw` on
the first update and, by the recipe, behind every pass over the pool. A condition inside of one update would make the
guard of the step, which chooses between the old and the new state, copy the whole pool in every update. Without a
generator there is `lift` alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxvl.core import precision, sharding
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Method, Objective
from jaxvl.data.readers.poses.motions import SCREEN
from jaxvl.data.skeletons import H36M16
from jaxvl.methods.posegu import crm, generator, pool, recipe
from jaxvl.methods.posegu.evaluator import PoseErrors
from jaxvl.methods.posegu.losses import pose_losses
from jaxvl.methods.posegu.model import LifterConfig, lifter, mirrored
from jaxvl.methods.posegu.recipe import Seeds
from jaxvl.ops import kinematics

STREAM = "poses"
STANDING = (
    *((0, 0, 0), (-1, 0, 0), (0, 0, -1), (0, 0, -1), (1, 0, 0), (0, 0, -1), (0, 0, -1), (0, 0, 1), (0, 0, 1)),
    *((0, 0, 1), (1, 0, 0), (0, 0, -1), (0, 0, -1), (-1, 0, 0), (0, 0, -1), (0, 0, -1)),
)
"""Directions of the bones of somebody who stands upright with arms down and looks along -y: z up, left is +x."""


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe.base`."""
    m = config.model
    cfg = lifter_config(config)
    model = lifter(cfg)
    rows, generated = recipe.real_rows(config), recipe.generated_rows(config)
    if generated and config.data.reader == "mocap" and m.gen.cameras == "dataset":
        raise InputError("config.model.gen.cameras: 'dataset', but motion capture has no cameras; set it to 'random'")
    settings = generator.settings_of(config)
    columns = recipe.pool_columns(config) if generated else 0
    weighting = {"mode": m.crm.mode, "alpha": m.crm.alpha, "clip_m": m.crm.clip_m}

    def init(rng, batch):
        x = batch[STREAM]["x2d"][:1]
        variables = dict(model.init(rng, x, train=False))
        if generated:
            variables["seeds"] = somebody(config.data.seed_capacity)._asdict()
            variables["pool"] = pool.empty(generated, columns)._asdict()
        return variables

    def network(params, mutables, x2d, rng):
        variables = {"params": params, "batch_stats": mutables["batch_stats"]}
        return model.apply(variables, x2d, train=True, rngs={"dropout": rng}, mutable=["batch_stats"])

    def supervised(params, mutables, batch, rng, step):
        del step
        real = batch[STREAM]
        predicted, changed = network(params, mutables, real["x2d"], rng)
        losses = pose_losses(predicted, real["x3d"], m.loss)
        return losses.mean(), Aux(changed, {})

    def unbiased(params, mutables, batch, rng, step, redraw):
        real, seeds = batch[STREAM], Seeds(**mutables["seeds"])
        drop, fresh, take, look = jax.random.split(rng, 4)
        changed = {}
        if redraw:
            found = pool.drawn(fresh, seeds, settings, generated, columns, **weighting)
            changed["pool"] = found._asdict()
        else:
            found = pool.Pool(**mutables["pool"])
        got = pool.column(found, step % columns) if m.gen.redraw else pool.sample(found, take)
        pose, seed, weight = got
        x2d, x3d, seen = generator.views(look, pose, seed, seeds, settings)
        there, weight = seen & (weight >= 0), jnp.maximum(weight, 0.0)
        join = lambda a, b: sharding.over_batch(pool.interleaved(a, b))  # noqa: E731
        predicted, statistics = network(params, mutables, join(real["x2d"], x2d), drop)
        losses = pose_losses(predicted, join(real["x3d"], x3d), m.loss)
        ones = jnp.ones(rows)
        w, counted = join(ones, weight), join(ones > 0, there)
        value, mean, penalty = crm.risk(losses, w, m.crm.lambda_var, counted)
        is_real = join(ones, jnp.zeros(generated))
        scalars = {
            "real": (losses * is_real).sum() / rows,
            "generated": jnp.where(counted, losses * (1 - is_real), 0).sum() / jnp.maximum(there.sum(), 1),
            "weighted": mean,
            "penalty": penalty,
            "dropped": 1 - there.mean(),
            "ess": found.ess,
            "pool_valid": found.found,
        }
        return value, Aux({**changed, **statistics}, scalars)

    def predict(variables, batch):
        ((stream, fields),) = batch.items()
        net = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
        lift = lambda x: model.apply(net, x, train=False)  # noqa: E731
        x = fields["x2d"]
        x3d = lift(x)
        if stream in m.flip:
            x3d = (x3d + mirrored(lift(mirrored(x)))) / 2
        return {"x3d": x3d - x3d[:, :1]}

    def turned(redraw):
        loss = lambda params, mutables, batch, rng, step: unbiased(params, mutables, batch, rng, step, redraw)  # noqa: E731
        return Objective(loss=loss, streams=(STREAM,))

    seen = jax.ShapeDtypeStruct((config.data.eval_batch_size, len(H36M16), 2), jnp.float32)
    every = columns if m.gen.redraw else 0
    objectives = (
        {"lift": turned(False), "redraw": turned(True)}
        if generated
        else {"lift": Objective(supervised, streams=(STREAM,))}
    )
    return Method(
        name="posegu",
        batch_spec={STREAM: batch_spec(config)},
        init=init,
        objectives=objectives,
        pick=(lambda step: "redraw" if step == 0 or (every and step % every == 0) else "lift") if generated else None,
        predict=predict,
        predict_spec=[{data_set: {"x2d": seen}} for data_set in dict.fromkeys(config.data.test)],
        evaluators={"poses": PoseErrors(config.data.averaging, config.data.pck_joints)},
        partition_rules=[(pool.RULE, P(sharding.BATCH_AXES))] if generated else (),
    )


def lifter_config(config: ConfigDict) -> LifterConfig:
    """The network of `config.model`."""
    m = config.model
    return LifterConfig(m.lifter, m.width, m.stages, m.dropout, m.start, precision.compute_dtype(config.precision).name)


def batch_spec(config: ConfigDict) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Fields of the stream, as listed in `recipe`."""
    b, joints = recipe.real_rows(config), len(H36M16)
    return {
        "x2d": jax.ShapeDtypeStruct((b, joints, 2), jnp.float32),
        "x3d": jax.ShapeDtypeStruct((b, joints, 3), jnp.float32),
    }


def somebody(capacity: int) -> Seeds:
    """Seeds to begin with, of which data leaves what it does not know: one person who stands at the origin, and for
    every subject cameras four metres away that look at them."""
    lengths = np.array([0.0, *generator.TEMPLATES[0][list(generator.LENGTHS)]])
    bones = np.array(STANDING, np.float64) * lengths[:, None]
    pose = kinematics.joints(bones, H36M16.parents) + np.array([0, 0, 1])
    shape = (len(recipe.SUBJECTS), recipe.CAMERAS)
    around = np.arange(recipe.CAMERAS) * np.pi / 2
    zero = np.zeros_like(around)
    # from the axes of a camera (x right, y down, z forward) to a world with z up, then about the vertical
    down = kinematics.axis_angle_quaternion(np.array([-np.pi / 2, 0, 0]))
    turn = kinematics.axis_angle_quaternion(np.stack([zero, zero, around], -1))
    q = kinematics.compose(turn, np.broadcast_to(down, turn.shape))
    t = np.stack([4 * np.sin(around), -4 * np.cos(around), zero + 1], -1)
    each = lambda x: jnp.asarray(np.broadcast_to(x, (*shape, *np.shape(x)[np.ndim(x) - 1 :])), jnp.float32)  # noqa: E731
    return Seeds(
        world=jnp.broadcast_to(jnp.asarray(pose, jnp.float32), (capacity, *pose.shape)),
        count=jnp.ones((), jnp.int32),
        subject=jnp.zeros(capacity, jnp.int32),
        cameras_q=each(q),
        cameras_t=each(t),
        cameras_k=each(SCREEN),
        aspect=jnp.ones(shape),
    )
