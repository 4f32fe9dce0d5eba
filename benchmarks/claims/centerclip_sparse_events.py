"""CenterCLIP's central claim in small: centers keep rare events that sampling and pooling lose.

A video has T = 12 frames of 3×3 cells. The background is one pattern, constant over time; each of the S = 3 segments
shows one of 12 item patterns in one cell of one frame only. The caption is the unordered set of the three items (220
sets, the test split has each once), so a model must find three tokens among 108. After the first of two blocks each
segment's 36 patch tokens are cut to 12 by the reducer under test; only the reducer differs between arms.

Claims checked after 300 steps, text to video over the 220 captions: k-medoids++ at least 95 R@1 with every seed;
`sparse_sampling` with the same number of tokens and `pooling` at least 30 points lower on the mean over seeds (the
class token, which sees its frame in block 1, carries part of an event past any reduction, and how much depends on the
seed); no reduction not better in the same number of steps.

The model has eight heads of four channels. With two heads of sixteen, one constant query each, softmax attention of
the second block starves items: those that both heads happen to attend to least at the start get no gradient, their
attention falls to 0 while the others' rises to 1, and all starved items of a run share one embedding, although the
reduction keeps every event. More steps, another rate, initialisation or world do not cure it; more queries do. The
arm `kmedoids++, 2 heads` shows it on the reported seeds, `--heads 2 8` on development seeds, where it was found.

    python -m benchmarks.claims.centerclip_sparse_events
    python -m benchmarks.claims.centerclip_sparse_events --heads 2 8
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from jaxvl.core import config as configs
from jaxvl.core.method import Aux, Data, Evaluator, Examples, Method, Objective
from jaxvl.methods.centerclip.losses import mean_pool_similarity, pool_segments, retrieval_loss
from jaxvl.methods.centerclip.reduce import ReduceConfig, reduction_plan, schedule, video_hooks
from jaxvl.metrics.retrieval import embedding_metrics
from jaxvl.nn.clip import CLIPConfig, VisionTower
from jaxvl.ops.clustering import kmedoids
from jaxvl.ops.masking import l2_normalize
from jaxvl.ops.token_reduction import gather_tokens, sparse_indices

FRAMES, SEGMENTS, GRID, PATCH, ITEMS, CENTERS = 12, 3, 3, 4, 12, 12
CELLS, PER_SEGMENT, VALUES = GRID * GRID, FRAMES // SEGMENTS, PATCH * PATCH * 3
CAPTIONS = tuple(itertools.combinations(range(ITEMS), SEGMENTS))
ARMS = ("kmedoids++", "sparse_sampling", "pooling", "none")
TWO_HEADS = "kmedoids++, 2 heads"
DEVELOPMENT = tuple(range(100, 106))  # seeds on which the number of heads was chosen, among others


@dataclasses.dataclass(frozen=True)
class SparseEventsConfig:
    """The experiment: `arm` is one of ARMS, `seed` that of the world (item patterns and test videos)."""

    arm: str = "kmedoids++"
    seed: int = 0
    batch_size: int = 64
    steps: int = 300
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    width: int = 32
    heads: int = 8
    cluster_iters: int | None = None


class World(NamedTuple):
    """The fixed item patterns `[12, 48]`, N(0, 1)."""

    items: np.ndarray


def make_world(seed: int) -> World:
    return World(np.random.default_rng((seed, 7)).normal(size=(ITEMS, VALUES)).astype(np.float32))


def make_video(world: World, caption: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One video: frames `[T, 12, 12, 3]` float32 and its event tokens `[S]`, `frame·9 + cell` inside each segment."""
    patches = np.broadcast_to(rng.normal(0, 0.7, (CELLS, VALUES)), (FRAMES, CELLS, VALUES)).copy()
    patches += rng.normal(0, 0.1, patches.shape)
    events = rng.integers(0, PER_SEGMENT * CELLS, SEGMENTS)
    for segment, (item, token) in enumerate(zip(rng.permutation(caption), events)):
        frame, cell = divmod(int(token), CELLS)
        patches[segment * PER_SEGMENT + frame, cell] = world.items[item] + rng.normal(0, 0.1, VALUES)
    grid = patches.reshape(FRAMES, GRID, GRID, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(FRAMES, GRID * PATCH, GRID * PATCH, 3).astype(np.float32), events


def batch(world: World, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Videos of `size` different captions: `video [size, T, 12, 12, 3]`, `caption [size, 3]`."""
    chosen = [CAPTIONS[i] for i in rng.choice(len(CAPTIONS), size, replace=False)]
    return {
        "video": np.stack([make_video(world, c, rng)[0] for c in chosen]),
        "caption": np.asarray(chosen, np.int32),
    }


def events_kept(world: World, videos: int, rng: np.random.Generator, k: int = CENTERS) -> dict[str, float]:
    """Training-free: share of event tokens left by k-medoids++ and by sparse sampling on raw patches."""
    made = [make_video(world, CAPTIONS[rng.integers(len(CAPTIONS))], rng) for _ in range(videos)]
    video, events = np.stack([v for v, _ in made]), np.stack([e for _, e in made])
    patches = video.reshape(videos, FRAMES, GRID, PATCH, GRID, PATCH, 3).transpose(0, 1, 2, 4, 3, 5, 6)
    tokens = jnp.asarray(patches.reshape(videos, SEGMENTS, PER_SEGMENT * CELLS, VALUES))
    number = jnp.broadcast_to(jnp.arange(PER_SEGMENT * CELLS)[:, None], (*tokens.shape[:-1], 1))
    chosen = {"kmedoids++": kmedoids(tokens, k).medoids, "sparse_sampling": sparse_indices(tokens.shape[2], k)}
    kept = {}
    for name, index in chosen.items():
        index = jnp.broadcast_to(index, (videos, SEGMENTS, k))
        kept[name] = float((gather_tokens(number, index)[..., 0] == events[..., None]).any(-1).mean())
    return kept


class SparseEventsModel(nn.Module):
    """CLIP's image tower with two blocks, and a bag of item embeddings with a small MLP as the text side."""

    config: SparseEventsConfig

    def setup(self):
        cfg = self.config
        clip = CLIPConfig(
            image_size=GRID * PATCH,
            patch_size=PATCH,
            vision_width=cfg.width,
            vision_layers=2,
            vision_heads=cfg.heads,
            embed_dim=cfg.width,
        )
        self.visual = VisionTower(clip)
        self.item_embedding = nn.Embed(ITEMS, cfg.width)
        self.hidden = nn.Dense(2 * cfg.width)
        self.out = nn.Dense(cfg.width)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(10.0)), ())
        centers = CELLS if cfg.arm == "pooling" else CENTERS
        lists = schedule(
            "none" if cfg.arm == "none" else f"B1-{SEGMENTS},{centers}", layers=2, frames=FRAMES, patches=CELLS
        )
        self.plan = reduction_plan(*lists, frames=FRAMES, patches=CELLS, layers=2)
        self.reduce = ReduceConfig(algorithm=cfg.arm, cluster_iters=cfg.cluster_iters)

    def __call__(self, video: jax.Array, caption: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """video `[B, T, 12, 12, 3]`, caption `[B, 3]` -> `segments [B, S, E]`, `text [B, E]`, `logit_scale`."""
        hooks = video_hooks(self.reduce, self.plan, FRAMES, train, {})
        features = self.visual(video.reshape(-1, *video.shape[2:]), **hooks).features
        bag = self.item_embedding(caption).sum(1)
        text = bag + self.out(nn.gelu(self.hidden(bag)))
        return {
            "segments": features.reshape(video.shape[0], -1, features.shape[-1]),
            "text": text,
            "logit_scale": self.logit_scale,
        }


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluator):
    """Evaluator: single-caption retrieval over the whole split."""

    streams: tuple[str, ...] = ("test",)

    def init(self) -> Any:
        return []

    def update(self, acc: Any, stream: str, outputs, examples) -> Any:
        return [*acc, (np.asarray(outputs["text"]), np.asarray(outputs["video"]))]

    def compute(self, acc: Any) -> dict[str, float]:
        text, video = (np.concatenate(part) for part in zip(*acc))
        return embedding_metrics(text, video)


def build(config: SparseEventsConfig) -> Method:
    """The method of one arm, for the house's loop."""
    model = SparseEventsModel(config)

    def loss(params, mutables, batch, rng, step):
        fields = batch["train"]
        out = model.apply({"params": params}, fields["video"], fields["caption"], True, rngs={"reduce": rng})
        valid = jnp.ones(out["segments"].shape[:2], bool)
        value = retrieval_loss(out["text"], out["segments"], valid, out["logit_scale"])
        sim = mean_pool_similarity(out["text"], out["segments"], valid, out["logit_scale"])
        accuracy = (sim.argmax(1) == jnp.arange(sim.shape[0])).mean()
        return value, Aux(scalars={"accuracy": accuracy})

    def predict(variables, batch):
        (fields,) = batch.values()
        out = model.apply(variables, fields["video"], fields["caption"])
        video = pool_segments(out["segments"], jnp.ones(out["segments"].shape[:2], bool))
        return {"text": l2_normalize(out["text"]), "video": video}

    def init(rng, batch):
        fields = batch["train"]
        return model.init({"params": rng, "reduce": rng}, fields["video"], fields["caption"])

    size = config.batch_size
    fields = {
        "video": jax.ShapeDtypeStruct((size, FRAMES, GRID * PATCH, GRID * PATCH, 3), np.float32),
        "caption": jax.ShapeDtypeStruct((size, SEGMENTS), np.int32),
    }
    return Method(
        name="centerclip_sparse_events",
        batch_spec={"train": fields},
        init=init,
        objectives={"retrieval": Objective(loss)},
        predict=predict,
        evaluators={"retrieval": Retrieval()},
    )


@dataclasses.dataclass(frozen=True)
class MakeVideo:
    """Picklable `(caption, rng) -> fields`."""

    seed: int

    def __call__(self, caption: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        video, _ = make_video(make_world(self.seed), caption, rng)
        return {"video": video, "caption": np.asarray(caption, np.int32), "_caption": caption_name(caption)}


def caption_name(caption: tuple[int, ...]) -> str:
    """'3+5+11'."""
    return "+".join(map(str, caption))


def data(config: SparseEventsConfig) -> Data:
    """Training and test videos of all 220 captions; the test videos are those of the evaluation generator."""
    examples = Examples(CAPTIONS, MakeVideo(config.seed), caption_name, config.batch_size)
    return Data(
        train={"train": examples},
        splits={"test": {"test": examples}},
        reports=(f"sparse events: {len(CAPTIONS)} captions, videos are drawn while reading",),
    )


def run_config(config: SparseEventsConfig) -> configs.ConfigDict:
    """The house's config of one run."""
    c = configs.base()
    c.method = "centerclip_sparse_events"
    c.seed = config.seed
    c.train.update(
        {"steps": config.steps, "log_every": 50, "checkpoint_every": config.steps, "clip_norm": config.clip_norm}
    )
    c.optim.main = configs.optimizer(
        lr=config.learning_rate, warmup=config.warmup, weight_decay=config.weight_decay, no_decay=r"$^"
    )
    c.model.update(dataclasses.asdict(config))
    return c


def run_arm(config: SparseEventsConfig, workdir: str | Path) -> dict[str, float]:
    """Trains one arm with the house's loop and gives its test metrics."""
    from jaxvl.verbs.train import train

    result = train(run_config(config), workdir, data=data(config), method=build(config), pictures=False)
    return result.metrics


def verdicts(recall: Mapping[str, Sequence[float]]) -> dict[str, bool]:
    """The claims, from text-to-video R@1 by arm and seed (percent)."""
    mean = {arm: float(np.mean(values)) for arm, values in recall.items()}
    centers = mean["kmedoids++"]
    return {
        "k-medoids++ at least 95 with every seed": min(recall["kmedoids++"]) >= 95,
        "sparse sampling at least 30 points lower on the mean": mean["sparse_sampling"] <= centers - 30,
        "pooling at least 30 points lower on the mean": mean["pooling"] <= centers - 30,
        "no reduction is not better in as many steps": mean["none"] <= centers,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs arms × seeds, prints and writes the table; exit code 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=SparseEventsConfig.steps)
    parser.add_argument("--heads", type=int, nargs="+", help="k-medoids++ alone with so many heads, development seeds")
    args = parser.parse_args(argv)
    if args.heads:
        return compare_heads(args.heads, args.steps)
    arms = {arm: SparseEventsConfig(arm=arm, steps=args.steps) for arm in ARMS}
    arms[TWO_HEADS] = dataclasses.replace(arms["kmedoids++"], heads=2)
    recall = recalls(arms, args.seeds)
    claims = verdicts(recall)
    kept = events_kept(make_world(0), 256, np.random.default_rng(0))
    rows = [
        [arm, results.mean_sd(values), ", ".join(f"{v:.1f}" for v in values), _kept(kept.get(arm))]
        for arm, values in recall.items()
    ]
    note = (
        f"Text to video among 220 captions (chance 0.5), {args.steps} updates, seeds {args.seeds} (world and weights), "
        f"{SparseEventsConfig.heads} heads where the arm does not say otherwise. "
        + " ".join(f"{'Holds' if ok else 'FAILS'}: {claim}." for claim, ok in claims.items())
    )
    columns = ["arm", "R@1, mean ± sd", "R@1 by seed", "event tokens kept on raw patches"]
    raw = {"t2v_R@1": recall, "events_kept": kept, "claims": claims}
    results.save("centerclip_sparse_events", "CenterCLIP on sparse events", columns, rows, note, raw)
    return 0 if all(claims.values()) else 1


def recalls(arms: Mapping[str, SparseEventsConfig], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Text-to-video R@1 (percent) of every arm, one number a seed."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: [run_arm(dataclasses.replace(c, seed=s), Path(folder) / f"{i}-{s}")["t2v/R@1"] for s in seeds]
            for i, (name, c) in enumerate(arms.items())
        }


def compare_heads(heads: Sequence[int], steps: int) -> int:
    """k-medoids++ with each number of heads on the development seeds."""
    recall = recalls({str(h): SparseEventsConfig(heads=h, steps=steps) for h in heads}, DEVELOPMENT)
    rows = [
        [h, f"{sum(v >= 95 for v in values)} of {len(values)}", f"{min(values):.1f}", results.mean_sd(values)]
        for h, values in recall.items()
    ]
    results.save(
        "centerclip_sparse_events_heads",
        "Sparse events: heads of attention",
        ["heads", "seeds with R@1 of at least 95", "lowest R@1", "R@1, mean ± sd"],
        rows,
        f"k-medoids++, text to video among 220 captions, {steps} updates, width 32 in all, development seeds "
        f"{DEVELOPMENT[0]} to {DEVELOPMENT[-1]} (world and weights), none of which is in the table of the claim.",
        {"t2v_R@1": recall},
    )
    return 0


def _kept(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    raise SystemExit(main())
