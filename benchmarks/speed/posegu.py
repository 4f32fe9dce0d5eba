"""PoseGU's (reconstruction) training steps and its generator, jaxvl against plain PyTorch, on CPU.

    python -m benchmarks.speed.posegu [--rounds 5] [--threads 2]
    python -m benchmarks.speed.posegu --cpu-seconds

Needs PyTorch, which jaxvl itself does not. Published sizes, float32: the baseline's step on 1,024 real pairs (mlp of
width 1,024; semgcn of width 128), and PoseGU's on 512 real pairs and 512 poses of a pool, with fresh views and the
variance-penalised risk; Adam and clipping by the global norm in all. The generator makes 20,000 valid poses of eight
seeds with densities and one view each. Both sides run in one process in turns. Gradients of the baselines are compared
before anything is timed, and what the generators draw in the mean. --cpu-seconds counts what all threads work; PyTorch
then has one thread, as its idle threads spin.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from benchmarks import results
from benchmarks.speed import torch_posegu
from benchmarks.speed.centerclip import Contest, measure
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.data.readers.poses import motions
from jaxvl.interop import keys
from jaxvl.methods.posegu import generator, method, published, recipe
from jaxvl.methods.posegu.generator import Settings
from jaxvl.methods.posegu.losses import pose_losses
from jaxvl.ops import kinematics

POSES = 20_000


def seeds():
    """Eight frames of walking."""
    world = motions.read_seeds("walk", 5).world
    return method.somebody(len(world))._replace(world=jnp.asarray(world), count=jnp.asarray(len(world), jnp.int32))


def pairs(rows: int) -> dict[str, np.ndarray]:
    """Real pairs: seeds before cameras around them."""
    draws, world = np.random.default_rng(0), np.asarray(seeds().world)
    found = [motions.see(world[i % len(world)], draws) for i in range(rows)]
    return {name: np.stack(part) for name, part in zip(("x2d", "x3d"), zip(*found, strict=True), strict=True)}


def their_model(compiled: session.Compiled, variables: dict) -> torch.nn.Module:
    """PyTorch's lifter with the same weights."""
    weights = published.config_of_params(keys.to_flat({k: variables[k] for k in ("params", "batch_stats")}))
    model = torch_posegu.LIFTERS[weights.lifter](method.lifter_config(compiled.config))
    arrays, _ = published.to_published(variables, weights)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
    return model.train()


def check_gradients(lifter: str) -> None:
    """All gradients of the baseline without dropout, both sides."""
    config = whole(recipe.baseline(lifter), "model.dropout=0.0", "data.batch_size=64")
    compiled, batch = session.compile_method(config), pairs(64)
    variables = jax.device_get(compiled.fresh_state().variables())
    net = method.lifter(method.lifter_config(config))

    def loss(p):
        out, _ = net.apply({**variables, "params": p}, batch["x2d"], train=True, mutable=["batch_stats"])
        return pose_losses(out, batch["x3d"]).mean()

    ours = keys.to_flat({"params": jax.jit(jax.grad(loss))(variables["params"])})
    model = their_model(compiled, variables)
    x2d, x3d = (torch.from_numpy(batch[k]) for k in ("x2d", "x3d"))
    torch.nn.functional.mse_loss(model(x2d), x3d - x3d[:, :1]).backward()
    weights = published.config_of_params(keys.to_flat(variables))
    theirs = published.from_published({k: p.grad.numpy() for k, p in model.named_parameters()}, weights)[0]
    for path, value in keys.to_flat(theirs).items():
        scale = max(np.abs(value).max(), 2e-2)  # biases in front of a norm have none but rounding
        np.testing.assert_allclose(ours[path], value, atol=2e-3 * scale, err_msg=path)


def whole(config: ConfigDict, *overrides: str) -> ConfigDict:
    """A copy with a length and one device."""
    config = configs.from_json(configs.to_json(configs.with_length(config, 1000)))
    return configs.apply(config, ("mesh.data=1", *overrides))


def training(config: ConfigDict, what: str) -> Contest:
    """One update of the baseline or of PoseGU."""
    compiled = session.compile_method(config)
    state, batch = compiled.fresh_state(), pairs(recipe.real_rows(config))
    if recipe.generated_rows(config):
        state = state.replace(mutables={**state.mutables, "seeds": seeds()._asdict()})
    placed, rows = {"poses": sharding.put_batch(batch, compiled.mesh)}, recipe.generated_rows(config)
    model = their_model(compiled, jax.device_get(state.variables()))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x2d, x3d = (torch.from_numpy(batch[k]) for k in ("x2d", "x3d"))
    kept = [state]
    if rows:
        kept[0], _ = compiled.updates["redraw"](state, placed)
        pose = torch.from_numpy(np.array(kept[0].mutables["pool"]["pose"]))
        weight = torch.from_numpy(np.array(kept[0].mutables["pool"]["weight"]))

    def step():
        kept[0], scalars = compiled.updates["lift"](kept[0], placed)
        return jax.block_until_ready(scalars["loss"])

    def their_step():
        optimizer.zero_grad(set_to_none=True)
        if rows:
            made2d, made3d = torch_posegu.see(pose[:, 3])
            target, ones = torch.cat([x3d, made3d]), torch.ones(len(x2d))
            losses = ((model(torch.cat([x2d, made2d])) - (target - target[:, :1])) ** 2).mean((1, 2))
            value = torch_posegu.risk(losses, torch.cat([ones, weight[:, 3]]))
        else:
            value = torch.nn.functional.mse_loss(model(x2d), x3d - x3d[:, :1])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.item()

    return Contest(what, step, {"torch": their_step})


def generating() -> Contest:
    """`POSES` valid poses; raises AssertionError where the two generators draw otherwise in the mean."""
    settings, people = Settings(cameras="random", views=1), seeds()
    draw = jax.jit(generator.generate, static_argnums=(2, 3))
    turn = [0]
    world = np.asarray(people.world)
    bones = torch.from_numpy(np.array(kinematics.bones(world, generator.PARENTS)))

    def ours():
        turn[0] += 1
        return jax.block_until_ready(draw(jax.random.key(turn[0]), people, settings, POSES))

    theirs = lambda: torch_posegu.generate(bones, POSES)  # noqa: E731
    one, other = ours(), theirs()
    assert bool(one.valid.all())
    for a, b in zip((one.pose, one.x2d, one.x3d, one.log_p, one.log_q), other, strict=True):
        a, b = np.asarray(a), b.numpy()
        np.testing.assert_allclose(a.mean(0), b.mean(0), atol=0.05 * max(a.std(), 1))
        np.testing.assert_allclose(a.std(0), b.std(0), rtol=0.1, atol=0.02)
    return Contest(f"generator, {POSES:,} valid poses", ours, {"torch": theirs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    parser.add_argument("--cpu-seconds", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1 if args.cpu_seconds else args.threads)
    for lifter in torch_posegu.LIFTERS:
        check_gradients(lifter)
    small = ("model.gen.pool_size=20000", "data.seed_capacity=8", "model.gen.cameras=random")
    games = [
        training(whole(recipe.baseline("mlp")), "training step, mlp, 1,024 real pairs"),
        training(whole(recipe.baseline("semgcn")), "training step, semgcn, 1,024 real pairs"),
        training(whole(recipe.generated("mlp"), *small), "training step, mlp, 512 real pairs and 512 generated"),
        generating(),
    ]
    columns, quiet = measure(games, args.rounds, args.cpu_seconds)
    columns.append("poses a CPU second" if args.cpu_seconds else "poses a second")
    counts = [1024, 1024, 1024, POSES]
    rate = lambda game, count: f"{count / min(game.seconds['jaxvl']):,.0f}"  # noqa: E731
    rows = [[*game.row(), rate(game, count)] for game, count in zip(games, counts, strict=True)]
    note = (
        f"Below 1 jaxvl is faster; the last column is jaxvl's. float32, {args.rounds} interleaved rounds, PyTorch "
        f"{torch.__version__}. {quiet}"
    )
    name = "speed_posegu_cpu_seconds" if args.cpu_seconds else "speed_posegu"
    title = "CPU seconds of PoseGU and of PyTorch" if args.cpu_seconds else "Speed of PoseGU against PyTorch"
    results.save(name, title, columns, rows, note, {g.name: g.seconds for g in games} | {"torch": torch.__version__})


if __name__ == "__main__":
    main()
