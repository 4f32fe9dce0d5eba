"""AFE-CNN's (reconstruction) training step and inference at the size of NTU RGB+D, jaxvl against plain PyTorch, on CPU.

    python -m benchmarks.speed.afe_cnn [--rounds 5] [--threads 2] [--batch 64]
    python -m benchmarks.speed.afe_cnn --cpu-seconds

Needs PyTorch, which jaxvl itself does not. Width 64, 64 frames of 25 joints, 60 classes, one clip in five with a
second body. A training step has dropout, smoothed cross-entropy and Adam with coupled decay. Both sides run in one
process in turns, on the same weights and inputs, in float32; logits, and all gradients of a small network, are compared
before anything is timed. jaxvl's shapes are static, so it computes the absent second bodies, too; PyTorch's
side leaves them out of its batch. `single` is the same with one body a clip on both sides. --cpu-seconds counts what
all threads work, which other processes hardly change; PyTorch then has one thread, as its idle threads spin.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import results
from benchmarks.speed import torch_afe_cnn
from benchmarks.speed.centerclip import Contest, measure
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.data.skeletons import HUMANOID16
from jaxvl.interop import keys
from jaxvl.methods.afe_cnn import method, published, recipe
from jaxvl.methods.afe_cnn.losses import classification_loss
from jaxvl.methods.afe_cnn.model import AFECNN, AFEConfig, cost

SMALL = AFEConfig(HUMANOID16.parents, HUMANOID16.columns, frames=16, classes=10, width=8, dropout=0.0)


def check_gradients() -> None:
    """The gradient of every parameter of a small network in training mode, both sides. At the size of NTU RGB+D it can
    only be compared roughly: there a rounding error moves some of a million units over the kink of their ReLU."""
    net, draws = AFECNN(SMALL), np.random.default_rng(0)
    present = np.ones((6, 2), bool)
    present[2:, 1] = False
    x = draws.normal(size=(6, 2, 16, 16, 3)).cumsum(2).astype(np.float32) / 8
    x, label = np.where(present[:, :, None, None, None], x, 0), draws.integers(0, 10, 6)
    host = jax.device_get(jax.jit(net.init)(jax.random.key(0), x, present))
    host["params"]["kje"]["fc2"]["kernel"] = draws.normal(size=(32, 16)).astype(np.float32) / 8  # they start at zero
    host["params"]["kfe"]["conv2"]["kernel"] = draws.normal(size=(5, 16, 1)).astype(np.float32) / 8

    def loss(p):
        out, _ = net.apply({**host, "params": p}, x, present, train=True, mutable=["batch_stats"])
        return classification_loss(out["logits"], label)[0]

    gradient = keys.to_flat({"params": jax.jit(jax.grad(loss))(host["params"])})
    weights = published.config_of_params(keys.to_flat(host))
    model = torch_afe_cnn.AFECNN(SMALL)
    arrays, _ = published.to_published(host, weights)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
    model.train()
    logits = model(torch.from_numpy(x), torch.from_numpy(present))
    F.cross_entropy(logits, torch.from_numpy(label), label_smoothing=0.1).backward()
    theirs = published.from_published({k: p.grad.numpy() for k, p in model.named_parameters()}, weights)[0]
    for path, value in keys.to_flat(theirs).items():
        scale = max(np.abs(value).max(), 1e-2)
        np.testing.assert_allclose(gradient[path], value, atol=1e-3 * scale, err_msg=path)


def contests(batch: int, bodies: int) -> list[Contest]:
    """Inference and one training step; raises AssertionError where the two sides differ."""
    c = configs.with_length(recipe.ntu("xsub", 60), 1000)
    c = configs.from_json(configs.to_json(c))
    configs.apply(c, (f"data.batch_size={batch}", f"data.bodies={bodies}", "mesh.data=1"))
    compiled, cfg = session.compile_method(c), method.model_config(c)
    state, draws = compiled.fresh_state(), np.random.default_rng(0)
    present = np.ones((batch, bodies), bool)
    present[np.arange(batch) % 5 > 0, 1:] = False
    x = draws.normal(size=(batch, bodies, 64, 25, 3)).cumsum(2).astype(np.float32) / 8
    x = np.where(present[:, :, None, None, None], x, 0)
    b = {"x": x, "present": present, "label": draws.integers(0, 60, batch).astype(np.int32)}
    host = jax.device_get(state.variables())
    host["params"]["kje"]["fc2"]["kernel"] = draws.normal(size=(32, 25)).astype(np.float32) / 8  # they start at zero
    variables = jax.device_put(host)
    model = torch_afe_cnn.AFECNN(cfg)
    weights = published.config_of_params(keys.to_flat(host))
    named = {k: torch.from_numpy(np.array(v)) for k, v in published.to_published(host, weights)[0].items()}
    model.load_state_dict(named)
    model = model.to(memory_format=torch.channels_last)
    tx, tp, ty = (torch.from_numpy(np.array(b[k])) for k in ("x", "present", "label"))
    ty, placed = ty.long(), {"clips": sharding.put_batch(b, compiled.mesh)}

    def infer():
        return jax.block_until_ready(compiled.predict(variables, placed)["logits"])

    @torch.no_grad()
    def their_inference():
        model.eval()
        return model(tx, tp)

    np.testing.assert_allclose(infer(), their_inference().numpy(), atol=2e-4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
    update, kept = compiled.updates["recognise"], [state]

    def step():
        kept[0], scalars = update(kept[0], placed)
        return jax.block_until_ready(scalars["loss"])

    def their_step():
        model.train()
        optimizer.zero_grad(set_to_none=True)
        value = F.cross_entropy(model(tx, tp), ty, label_smoothing=0.1)
        value.backward()
        optimizer.step()
        return value.item()

    what = f"{batch} clips, {'single' if bodies == 1 else 'two bodies'}"
    return [
        Contest(f"inference, {what}", infer, {"torch": their_inference}),
        Contest(f"training step, {what}", step, {"torch": their_step}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cpu-seconds", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1 if args.cpu_seconds else args.threads)
    check_gradients()
    games = [game for bodies in (2, 1) for game in contests(args.batch, bodies)]
    columns, quiet = measure(games, args.rounds, args.cpu_seconds)
    columns.append("clips a CPU second" if args.cpu_seconds else "clips a second")
    rows = [[*game.row(), f"{args.batch / min(game.seconds['jaxvl']):.0f}"] for game in games]
    config = method.model_config(recipe.ntu("xsub", 60))
    note = (
        f"Below 1 jaxvl is faster; the last column is jaxvl's. float32, {args.rounds} interleaved rounds, PyTorch "
        f"{torch.__version__}. The network has {cost(config).parameters:,} parameters and "
        f"{cost(config).macs / 1e6:.1f} million multiply-adds a body. {quiet}"
    )
    name = "speed_afe_cnn_cpu_seconds" if args.cpu_seconds else "speed_afe_cnn"
    title = "CPU seconds of AFE-CNN and of PyTorch" if args.cpu_seconds else "Speed of AFE-CNN against PyTorch"
    results.save(name, title, columns, rows, note, {g.name: g.seconds for g in games} | {"torch": torch.__version__})


if __name__ == "__main__":
    main()
