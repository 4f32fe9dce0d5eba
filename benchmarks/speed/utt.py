"""UTT's training steps and per-frame inference, jaxvl against plain PyTorch, on this machine's CPU.

    python -m benchmarks.speed.utt [--rounds 5] [--threads 2] [--dim 256] [--crop 256] [--side 320 576]
    python -m benchmarks.speed.utt --cpu-seconds

Needs PyTorch, which jaxvl itself does not. ResNet-18, C 256, six iterations, Deformable DETR of 3 + 3 layers with 100
queries. One object: 2 samples of 3 crops. All objects: a pair of pictures with 20 objects. A step has the whole loss
(assignments, noise, both passes over a pair) and AdamW; without dropout. Both sides run in one process in turns, on the
same weights and inputs, in float32; losses and all gradients of a small network, and what is found in a frame, are
compared before anything is timed. --cpu-seconds counts what all threads work, which other processes hardly change;
PyTorch then has one thread, as its idle threads spin.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from benchmarks import results
from benchmarks.speed import torch_utt as theirs
from benchmarks.speed.centerclip import Contest, measure
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.interop import keys
from jaxvl.methods.utt import method, published, recipe
from jaxvl.methods.utt.model import normalized


def config_of(crop: int, side: tuple[int, int], objects: int, **model: Any) -> ConfigDict:
    """The method with the published detector, without dropout; batches of 2 samples and of a pair."""
    c = configs.with_length(recipe.released(), 1000)
    c.precision.compute = "float32"
    c.init.required = False
    c.train.clip_norm = 0.0
    c.model.update({"dropout": 0.0, **model})
    c.data.update({"crop_size": crop, "mot_size": side, "max_objects": objects})
    c.data.update({"sot_batch_size": 2, "mot_batch_size": 1})
    c.eval.mot.update({"short": min(side), "longest": max(side), "max_tracks": objects, "max_detections": objects})
    c = configs.from_json(configs.to_json(c))
    return configs.apply(c, ("mesh.data=1",))


def batches(c: ConfigDict, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """A batch of both streams: noise, with boxes somewhere, the first crop of a sample half in the padding."""
    rng, spec = np.random.default_rng(seed), method.batch_spec(c)
    one = {k: np.zeros(s.shape, s.dtype) for k, s in spec["sot"].items()}
    size, frames = c.data.crop_size, c.data.frames
    one["images"] = rng.integers(0, 256, one["images"].shape).astype(np.uint8)
    one["pad"][0, 0, : size // 2] = True
    low = rng.uniform(0.3, 0.4, (2, frames, 2)) * size
    one["boxes"] = np.concatenate([low, low + rng.uniform(0.2, 0.4, low.shape) * size], -1).astype(np.float32)
    one["ref"] = np.array([0, frames - 1], np.int32)
    every = {k: np.zeros(s.shape, s.dtype) for k, s in spec["mot"].items()}
    (height, width), n = c.data.mot_size, c.data.max_objects
    for frame in ("template", "search"):
        low = rng.uniform(0, 0.7, (1, n, 2)) * (width, height)
        boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, low.shape) * (width, height)], -1)
        every[f"{frame}_image"] = rng.integers(0, 256, every[f"{frame}_image"].shape).astype(np.uint8)
        every[f"{frame}_boxes"], every[f"{frame}_valid"] = boxes.astype(np.float32), np.ones((1, n), bool)
        every[f"{frame}_track_id"] = rng.permutation(n).astype(np.int32)[None]
        every[f"{frame}_size"] = np.array([[height, width]], np.float32)
    return {"sot": one, "mot": every}


def tensors(b: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """The arguments of `torch_utt.sot_loss` and `mot_loss`; normalised once, as jaxvl does in every step."""
    t = lambda x: torch.from_numpy(np.array(x))  # noqa: E731
    image = lambda x: t(np.moveaxis(np.asarray(normalized(x)), -1, -3))  # noqa: E731
    one, every = b["sot"], b["mot"]
    out: dict[str, Any] = {"sot": (image(one["images"]), t(one["pad"]), t(one["boxes"]), t(one["ref"]).long())}
    for frame in ("template", "search"):
        ids = every[f"{frame}_track_id"].tolist()
        out[frame] = {"image": image(every[f"{frame}_image"]), "pad": t(every[f"{frame}_pad"]), "ids": ids}
        out[frame]["boxes"] = list(t(every[f"{frame}_boxes"]))
    return out


def torch_loss(task: str, model: theirs.UTT, t: dict[str, Any], c: ConfigDict) -> torch.Tensor:
    """The loss of a task."""
    if task == "sot":
        return theirs.sot_loss(model, *t["sot"])
    return theirs.mot_loss(model, t["template"], t["search"], c.model.class_offset, c.model.noise_min_iou)


def shaken(host: dict[str, Any]) -> dict[str, Any]:
    """Weights in training mode's reach: those that start at zero get values."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.02 * rng.normal(size=x.shape).astype(np.float32), host)


def calm(host: dict[str, Any]) -> dict[str, Any]:
    """Weights whose target transformer moves boxes by some pixels, as a trained one does. Those of fresh weights fly
    off by frames at each iteration, and with them what rounding makes of a pixel."""
    flat = keys.to_flat(host)
    return keys.to_variables({k: 0.05 * v if re.search(r"track/box\d+/out/", k) else v for k, v in flat.items()})


def check_losses(seed: int = 1) -> dict[str, float]:
    """Losses of both tasks of a small network in training mode, and the gradient of every parameter. Returns the
    largest difference of each gradient, over its largest entry. (With seed 0 one unit of the trunk lies on the kink of
    its ReLU, where rounding decides: 3 % of a gradient of the trunk, below 2e-4 behind it.)
    """
    small = {"depth": 18, "width": 16, "dim": 32, "ff_dim": 24, "iterations": 2, "pool": 3, "decoder_layers": 1}
    small |= {"encoder_layers": 1, "detector_layers": 2, "queries": 12, "classes": 3}
    c = config_of(96, (96, 160), 5, **small, noise_min_iou=1.0)  # no draw is good enough: the true box
    built = method.build(c)
    b, variables = batches(c, seed), jax.jit(built.init)(jax.random.key(0), None)
    params, stats = shaken(jax.device_get(variables["params"])), jax.device_get(variables["batch_stats"])
    weights = published.config_of_params(keys.to_flat({"params": params, "batch_stats": stats}))
    arrays, report = published.to_published({"params": params, "batch_stats": stats}, weights)
    report.check()
    given, worst = tensors(b), {}
    placed = jax.tree.map(jnp.asarray, b)
    for task in ("sot", "mot"):

        def loss(p, task=task):
            value = built.objectives[task].value(p, {"batch_stats": stats}, placed, jax.random.key(1), jnp.int32(0))
            return value[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        model = theirs.from_arrays(method.model_config(c), arrays).train()
        other = torch_loss(task, model, given, c)
        other.backward()
        np.testing.assert_allclose(float(value), other.item(), rtol=2e-4)
        named = {k: np.zeros(v.shape, np.float32) for k, v in arrays.items()}
        for k, p in model.named_parameters(remove_duplicate=False):
            if p.grad is not None:
                named[k] = p.grad.numpy()
        back = keys.to_flat({"params": published.from_published(named, weights)[0]["params"]})
        flat = keys.to_flat({"params": jax.device_get(gradient)})
        norm = max(np.abs(v).max() for v in back.values())
        for path, wanted in back.items():
            scale = max(np.abs(wanted).max(), 1e-3 * norm)
            apart = np.abs(flat[path] - wanted).max() / scale
            worst[f"{task} {path}"] = float(apart)
            assert apart < 1e-3, (task, path, apart)
    return worst


def contests(args: argparse.Namespace) -> list[Contest]:
    """A training step and a frame of each task; raises AssertionError where the two sides find other boxes."""
    c = config_of(
        args.crop, tuple(args.side), 20, depth=18, dim=args.dim, encoder_layers=3, detector_layers=3, queries=100,
        decoder_layers=3,
    )  # fmt: skip
    compiled = session.compile_method(c)
    state, b = compiled.fresh_state(), batches(c)
    host = calm(jax.device_get(state.variables()))
    weights = published.config_of_params(keys.to_flat(host))
    model = theirs.from_arrays(method.model_config(c), published.to_published(host, weights)[0])
    given = tensors(b)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.98), weight_decay=0.01)
    kept, games = [state], []

    def game(task: str, name: str) -> Contest:
        placed = sharding.put_batch({task: b[task]}, compiled.mesh)

        def step():
            kept[0], scalars = compiled.updates[task](kept[0], placed)
            return jax.block_until_ready(scalars["loss"])

        def their_step():
            model.train()
            optimizer.zero_grad(set_to_none=True)
            value = torch_loss(task, model, given, c)
            value.backward()
            optimizer.step()
            return value.item()

        return Contest(f"training step, {name}", step, {"torch": their_step})

    variables = jax.device_put(host)
    games += frames(c, compiled, variables, model, b, given)
    games.append(game("sot", f"one object, 2 x 3 crops of {args.crop}²"))
    games.append(game("mot", f"all objects, a pair of {args.side[0]}x{args.side[1]}"))
    return games


def frames(c, compiled, variables, model, b, given) -> list[Contest]:
    """A frame of one object and of all."""
    images, pad, boxes, _ = given["sot"]
    rng = np.random.default_rng(2)
    vector = rng.normal(size=(1, c.model.dim)).astype(np.float32)
    crop = {"crop": b["sot"]["images"][0, :1], "pad": b["sot"]["pad"][0, :1], "box": b["sot"]["boxes"][0, :1]}
    one = sharding.put_batch({"sot": {**crop, "vector": vector}}, compiled.mesh)
    n = c.data.max_objects
    every = b["mot"]
    fields = {"image": every["search_image"], "pad": every["search_pad"], "size": every["search_size"]}
    fields |= {"boxes": every["template_boxes"], "valid": every["template_valid"]}
    fields["vectors"] = rng.normal(size=(1, n, c.model.dim)).astype(np.float32)
    many = sharding.put_batch({"mot": fields}, compiled.mesh)

    def follow():
        return jax.block_until_ready(compiled.predict(variables, one)["box"])

    def find():
        return jax.block_until_ready(compiled.predict(variables, many)["tracks"])

    @torch.no_grad()
    def their_follow():
        model.eval()
        cells = model.tracking_proj[1](model.trunk(images[0, :1], 3)[1])
        model.vectors(cells, boxes[0, :1, None])  # as jaxvl, which describes what is there in every frame
        return model.sot(cells, pad[0, :1], torch.from_numpy(vector)[:, None])[-1][:, 0]

    @torch.no_grad()
    def their_find():
        model.eval()
        taps = model.trunk(given["search"]["image"], 4)
        cells = model.tracking_proj[1](taps[1])
        logits, found = model.detect(taps, given["search"]["pad"])
        best = logits[-1].sigmoid().amax(-1).topk(n)[1]
        found = theirs.corners(found[-1].gather(1, best[..., None].expand(-1, -1, 4)))
        height, width = c.data.mot_size
        model.vectors(cells, found * torch.tensor([width, height] * 2))
        return model.track(cells, torch.from_numpy(fields["vectors"]), torch.from_numpy(fields["boxes"]))[-1]

    np.testing.assert_allclose(follow(), their_follow().numpy(), atol=0.05)
    np.testing.assert_allclose(find(), their_find().numpy(), atol=0.05)
    return [
        Contest(f"a frame, one object, {c.data.crop_size}²", follow, {"torch": their_follow}),
        Contest(f"a frame, {n} objects, {c.data.mot_size[0]}x{c.data.mot_size[1]}", find, {"torch": their_find}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--side", type=int, nargs=2, default=[320, 576], metavar=("H", "W"))
    parser.add_argument("--cpu-seconds", action="store_true")
    parser.add_argument("--check", action="store_true", help="compare losses and gradients, time nothing")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1 if args.cpu_seconds else args.threads)
    worst = check_losses()
    path = max(worst, key=worst.get)
    print(f"{len(worst)} gradients agree; the worst is {worst[path]:.1e} of its largest entry off ({path})")
    if args.check:
        return
    games = contests(args)
    columns, quiet = measure(games, args.rounds, args.cpu_seconds)
    rows = [game.row() for game in games]
    note = (
        f"Below 1 jaxvl is faster. float32, no dropout, {args.rounds} interleaved rounds, PyTorch {torch.__version__} "
        f"(`grid_sample` for its samples, scipy for its assignments). ResNet-18, C {args.dim}, six iterations, "
        f"Deformable DETR of 3 + 3 layers with 100 queries. {quiet}"
    )
    name = "speed_utt_cpu_seconds" if args.cpu_seconds else "speed_utt"
    title = "CPU seconds of UTT and of PyTorch" if args.cpu_seconds else "Speed of UTT against PyTorch"
    results.save(name, title, columns, rows, note, {g.name: g.seconds for g in games} | {"torch": torch.__version__})


if __name__ == "__main__":
    main()
