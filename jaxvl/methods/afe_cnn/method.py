"""AFE-CNN (reconstruction) wired to the contract: one objective, smoothed cross-entropy, on one stream `clips`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxvl.core import precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Method, Objective
from jaxvl.data.skeletons import SKELETONS
from jaxvl.methods.afe_cnn.enhance import GATES
from jaxvl.methods.afe_cnn.evaluator import ActionAccuracy
from jaxvl.methods.afe_cnn.losses import classification_loss
from jaxvl.methods.afe_cnn.model import AFECNN, AFEConfig

STREAM = "clips"
SAME = (
    *("classes", "width", "kje", "bve", "kfe", "te", "te_span", "gates", "gate_range", "kje_hidden", "kfe_hidden"),
    *("kfe_size", "dropout", "bn_momentum", "bn_epsilon"),
)
"""Fields of `config.model` that the network has under the same names."""


def model_config(config: ConfigDict) -> AFEConfig:
    """The network of `config.model`. Raises InputError for values that none can have."""
    m = config.model
    for field, known in (("skeleton", tuple(SKELETONS)), ("gates", GATES)):
        if m[field] not in known:
            raise InputError(f"config.model.{field}: {m[field]!r} is none of {', '.join(known)}")
    if m.kfe_size % 2 == 0:
        raise InputError(f"config.model.kfe_size: {m.kfe_size} frames have no middle one; needs an odd number")
    skeleton = SKELETONS[m.skeleton]
    return AFEConfig(
        parents=skeleton.parents,
        columns=skeleton.columns,
        frames=config.data.frames,
        dtype=precision.compute_dtype(config.precision).name,
        **{name: m[name] for name in SAME},
    )


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe.base`."""
    cfg = model_config(config)
    model, smoothing = AFECNN(cfg), config.model.label_smoothing
    spec = batch_spec(config)

    def init(rng, batch):
        clips = batch[STREAM]
        one = {name: clips[name][:1] for name in ("x", "present")}
        return model.init(rng, one["x"], one["present"])

    def loss(params, mutables, batch, rng, step):
        del step
        clips, variables = batch[STREAM], {"params": params, **mutables}
        out, changed = model.apply(
            variables, clips["x"], clips["present"], train=True, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        value, accuracy = classification_loss(out["logits"], clips["label"], smoothing)
        there = clips["present"]
        spread = lambda gates: jnp.where(there, gates.std(-1), 0.0).sum() / there.sum()  # noqa: E731
        scalars = {"accuracy": accuracy, "bodies": there.sum(1).mean()}
        if cfg.kje:
            scalars["joint_gates_sd"] = spread(out["joint_gates"])
        if cfg.kfe:
            scalars["frame_gates_sd"] = spread(out["frame_gates"])
        return value, Aux(changed, scalars)

    def predict(variables, batch):
        clips = batch[STREAM]
        return model.apply(variables, clips["x"], clips["present"])

    return Method(
        name="afe_cnn",
        batch_spec={STREAM: spec},
        init=init,
        objectives={"recognise": Objective(loss=loss, streams=(STREAM,))},
        predict=predict,
        predict_spec=predict_spec(config),
        evaluators={"actions": ActionAccuracy(cfg.classes, tuple(tuple(p) for p in config.data.pairs))},
    )


def batch_spec(config: ConfigDict) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Fields of the stream, as listed in `recipe`."""
    b, m, t = config.data.batch_size, config.data.bodies, config.data.frames
    j = len(SKELETONS[config.model.skeleton])
    return {
        "x": jax.ShapeDtypeStruct((b, m, t, j, 3), jnp.float32),
        "present": jax.ShapeDtypeStruct((b, m), jnp.bool_),
        "label": jax.ShapeDtypeStruct((b,), jnp.int32),
    }


def predict_spec(config: ConfigDict) -> list[dict[str, Mapping[str, jax.ShapeDtypeStruct]]]:
    """What the evaluation gives to `predict`: clips without their labels."""
    spec = batch_spec(config)
    b = config.data.eval_batch_size
    return [{STREAM: {k: jax.ShapeDtypeStruct((b, *spec[k].shape[1:]), spec[k].dtype) for k in ("x", "present")}}]


def pictures_of(config: ConfigDict) -> Callable[[Mapping, jax.Array], dict[str, jax.Array]]:
    """For reports, to be jitted: `(variables, x [N, T, J, 3]) -> picture [N, T, J, C], joint_gates, frame_gates` of
    single bodies, as the trained network sees them."""
    model = AFECNN(model_config(config))

    def run(variables, x):
        return model.apply(variables, x, jnp.ones(len(x), bool), method=AFECNN.picture)

    return run
