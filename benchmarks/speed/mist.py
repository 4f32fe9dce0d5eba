"""MIST's training step and inference, jaxvl against plain PyTorch, on this machine's CPU.

    python -m benchmarks.speed.mist [--rounds 5] [--threads 2] [--batch 8] [--answers 32]
    python -m benchmarks.speed.mist --cpu-seconds

Needs PyTorch, which jaxvl itself does not. Paper size: two BERT-base, two ISTA layers, 32 frames of 16 patches,
questions of 30 tokens; the vocabulary is cut to --answers entries of 6 tokens. A training step has dropout, selector
noise, clipping and Adam. Both sides run in one process in turns on the same weights and inputs, in float32; logits,
the loss without dropout and gradients are compared before anything is timed. --cpu-seconds counts the work of all
threads, which other processes hardly change; PyTorch then has one thread, as its idle threads spin.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import results
from benchmarks.speed import torch_mist
from benchmarks.speed.centerclip import Contest, measure
from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.interop import keys
from jaxvl.methods.mist import method, published, recipe
from jaxvl.methods.mist.losses import answer_loss
from jaxvl.methods.mist.model import MIST

COMPARED = {
    "fusion/kernel": "vqproj.1.weight",
    "ista_0/segment_select/key/kernel": "ISTA.0.seg_selector.linear_K.weight",
    "encode_vid/pos1/kernel": "encode_vid.bbox_conv.0.weight",
    "answer_bert/layer_3/ffn_in/kernel": "amodel.bert.bert.encoder.layer.3.intermediate.dense.weight",
}


def contests(batch: int, vocabulary: int) -> list[Contest]:
    """Inference and one training step; raises AssertionError where the two sides differ."""
    c = recipe.base().lock()
    configs.apply(c, (f"data.batch_size={batch}", f"model.num_answers={vocabulary}", "data.answer_words=6",
                      "mesh.data=1", "optim.main.name=adam", "optim.main.lr=3e-5", "train.clip_norm=12.0",
                      "data.feature_dtype=float32"))  # fmt: skip
    compiled, cfg = session.compile_method(c), method.model_config(c)
    state = compiled.fresh_state()
    draws = np.random.default_rng(0)
    question = draws.integers(1000, 30000, (batch, 30)).astype(np.int32)
    for row, n in zip(question, draws.integers(8, 31, batch)):
        row[n:] = 0
    answers = draws.integers(1000, 30000, (vocabulary, 6)).astype(np.int32)
    answers[::2, 4:] = 0
    b = {
        "frames": draws.normal(size=(batch, 32, 512)).astype(np.float32),
        "patches": draws.normal(size=(batch, 32, 16, 512)).astype(np.float32),
        "question": question,
        "question_vec": draws.normal(size=(batch, 512)).astype(np.float32),
        "label": draws.integers(0, vocabulary, batch).astype(np.int32),
        "example": np.arange(batch, dtype=np.int32),
    }
    where = compiled.shardings.mutables["answers"]["ids"]
    state = state.replace(mutables={**state.mutables, "answers": {"ids": jax.device_put(answers, where)}})
    host = jax.device_get(state.variables())
    model = torch_mist.MIST(cfg, 30)
    weights = published.config_of_params(keys.to_flat(host))
    named = {
        k.removeprefix("module."): torch.from_numpy(np.array(v))
        for k, v in published.to_published(host, weights)[0].items()
    }
    lost, extra = model.load_state_dict(named, strict=False)
    assert not lost, lost
    assert all(
        any(part in k for part in ("pooler", "position", "ttrans", "token_type_embedding.", "crossmodal"))
        for k in extra
    )
    there = [torch.from_numpy(np.array(b[k])) for k in ("frames", "patches", "question", "question_vec")]
    there, ids = [*there, torch.from_numpy(answers)], torch.from_numpy(b["label"]).long()
    placed = {"qa": sharding.put_batch(b, compiled.mesh)}
    variables = state.variables()

    def infer():
        return jax.block_until_ready(compiled.predict(variables, placed)["logits"])

    @torch.no_grad()
    def their_inference():
        model.eval()
        return model(*there)

    np.testing.assert_allclose(infer(), their_inference().numpy(), atol=2e-4)
    net, held = MIST(cfg), {k: v for k, v in variables.items() if k not in ("params", "answers")}
    loss = lambda p: answer_loss(net.apply({"params": p, **held}, b, answers)["logits"], b["label"])[0]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    model.eval()
    their_loss = F.cross_entropy(model(*there), ids)
    their_loss.backward()
    np.testing.assert_allclose(value, their_loss.item(), rtol=1e-5)
    gradient = keys.to_flat({"params": gradient})
    for path, name in COMPARED.items():
        theirs = model.get_parameter(name).grad.numpy()
        theirs = theirs.reshape(theirs.shape[:2]).T
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(gradient[path], theirs, atol=2e-3 * scale, err_msg=path)
    optimizer = torch.optim.Adam(model.parameters(), 3e-5)
    update, kept = compiled.updates["answer"], [state]

    def step():
        kept[0], scalars = update(kept[0], placed)
        return jax.block_until_ready(scalars["loss"])

    def their_step():
        model.train()
        optimizer.zero_grad(set_to_none=True)
        value = F.cross_entropy(model(*there), ids)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
        optimizer.step()
        return value.item()

    variables = jax.tree.map(jnp.copy, variables)  # the state is donated
    what = f"batch {batch}, {vocabulary} answers"
    return [
        Contest(f"inference, {what}", infer, {"torch": their_inference}),
        Contest(f"training step, {what}", step, {"torch": their_step}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; XLA takes the cores of the process")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--cpu-seconds", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1 if args.cpu_seconds else args.threads)
    games = contests(args.batch, args.answers)
    columns, quiet = measure(games, args.rounds, args.cpu_seconds)
    note = f"Below 1 jaxvl is faster. float32, {args.rounds} interleaved rounds, PyTorch {torch.__version__}. {quiet}"
    name = "speed_mist_cpu_seconds" if args.cpu_seconds else "speed_mist"
    title = "CPU seconds of MIST and of PyTorch" if args.cpu_seconds else "Speed of MIST against PyTorch"
    raw = {g.name: g.seconds for g in games} | {"torch": torch.__version__}
    results.save(name, title, columns, [g.row() for g in games], note, raw)


if __name__ == "__main__":
    main()
