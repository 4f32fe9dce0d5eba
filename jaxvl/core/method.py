"""The contract between a method and the house: what a method is, and nothing about how it is run.

A method is Linen modules plus the pure functions below. The loop, the mesh, checkpoints, logging,
accumulation, clipping, parameter averages and precision are the house's and never appear here.

Shapes: every array in a batch has the global batch size `B` as its leading axis. A *batch* is always
nested by stream, `{stream: {field: array}}`, also when there is one stream only, so that an objective
over two streams (source and target of domain adaptation) needs no other signature.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
PyTree = Any
Fields = Mapping[str, jax.ShapeDtypeStruct]
Batch = Mapping[str, Mapping[str, Array]]
Variables = Mapping[str, PyTree]


class Aux(NamedTuple):
    """What a loss returns beside its value.

    mutables: collection name -> tree, the non-parameter collections after this step (batch statistics,
        queues, anchors). A collection that is left out keeps its value.
    scalars: name -> scalar array, logged as `train/NAME`.
    """

    mutables: Mapping[str, PyTree] = {}
    scalars: Mapping[str, Array] = {}


LossFn = Callable[[PyTree, Mapping[str, PyTree], Batch, jax.Array, Array], tuple[Array, Aux]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One loss with the parameters that it trains and the streams that feed it.

    loss: `(params, mutables, batch, rng, step) -> (loss, Aux)`; pure. `step` is a traced int32, counted
        from 0, so schedules inside a loss never recompile.
    trains: a regex searched in the parameter path (`visual/resblocks_0/attn/query/kernel`) or a predicate
        on it. Parameters outside are not differentiated, not updated and hold no moments.
    streams: names of the streams whose batches the loss reads.
    optimizer: name of the entry of `config.optim` that updates this objective's parameters.
    per_example: True where the loss is a mean over examples and mutables are untouched, so that
        accumulating micro-batches equals the large batch.
    encode, head: a loss over all pairs of the batch (contrastive, Sinkhorn) is accumulated exactly when
        it is given in two parts instead of `loss`: `encode(params, mutables, batch, rng, step) -> z`,
        a tree of `[B, ...]` arrays, example by example, and
        `head(params, z, batch, rng, step) -> (loss, Aux)` over the whole batch.
    """

    loss: LossFn | None = None
    trains: str | Callable[[str], bool] = ".*"
    streams: tuple[str, ...] = ("train",)
    optimizer: str = "main"
    per_example: bool = False
    encode: Callable[..., PyTree] | None = None
    head: Callable[..., tuple[Array, Aux]] | None = None

    def __post_init__(self):
        if (self.loss is None) == (self.encode is None) or (self.encode is None) != (self.head is None):
            raise ValueError("an Objective takes either `loss`, or `encode` together with `head`")

    def trains_path(self, path: str) -> bool:
        """Whether the parameter at `path` is trained by this objective."""
        return self.trains(path) if callable(self.trains) else re.search(self.trains, path) is not None

    def value(self, params, mutables, batch, rng, step) -> tuple[Array, Aux]:
        """The loss on the whole batch, whichever way it was given."""
        if self.loss is not None:
            return self.loss(params, mutables, batch, rng, step)
        return self.head(params, self.encode(params, mutables, batch, rng, step), batch, rng, step)


Ask = Callable[[Iterable[Batch]], Iterator[Mapping[str, np.ndarray]]]
"""`Method.predict` with the variables of this evaluation, on batches of host arrays: the outputs of each, in order.
Later batches are on their way while one is looked at. Let all have one size, or each size is compiled."""


class Evaluator:
    """A streaming metric on the host, in numpy. `streams` are read one after the other, in full; empty stands for
    every stream of the split, whatever it is called (domains, cameras)."""

    streams: tuple[str, ...] = ()

    def init(self) -> Any:
        """An empty accumulator."""
        raise NotImplementedError

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """Adds one batch. `outputs`: what `Method.predict` gave for it; `examples`: the host-side fields
        of the batch, the ones that start with `_`. Padding and skipped media are removed before the call."""
        raise NotImplementedError

    def refine(self, acc: Any, ask: Ask) -> Any:
        """A second pass of `predict` over what was collected (re-ranking by a cross-encoder), before `compute`. What it
        asks for belongs into `Method.predict_spec`, so that it is compiled before the first step."""
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """The metrics, by name."""
        raise NotImplementedError

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """Arrays worth keeping beside the metrics (embeddings, ids), saved to `WORKDIR/eval/SPLIT.npz`."""
        return {}


class Follower(Evaluator):
    """An evaluation in which a frame's result decides what the next frame asks: trackers, recurrent models.

    Its streams are `Sequences`. The house follows as many of them at a time as a batch has rows, one frame of each a
    call of `Method.predict`, and gives the row of a sequence that ended to the next one (`core/following.py`). What a
    sequence carries from frame to frame is the `state` here, on the host of the process that has the row; so memory is
    bounded by the rows and not by the frames. All of this is pure Python and numpy.
    """

    def fields(self, stream: str, shape: Any) -> Mapping[str, jax.ShapeDtypeStruct]:
        """What `ask` gives for sequences of a shape (`Sequences.shape_of`), without the batch axis."""
        raise NotImplementedError

    def begin(self, stream: str, frame: Mapping[str, Any]) -> Any:
        """The state in front of the first frame."""
        raise NotImplementedError

    def ask(self, state: Any, frame: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """This sequence's row of the batch that `predict` gets."""
        raise NotImplementedError

    def answer(self, state: Any, frame: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> Any:
        """The state behind the frame; `outputs` is this sequence's row of what `predict` gave."""
        raise NotImplementedError

    def end(self, state: Any) -> Any:
        """What is kept of a sequence: small, since all processes get it, and picklable."""
        raise NotImplementedError

    def init(self) -> dict[tuple[str, str], Any]:
        """No sequence yet: `{(stream, id): what end gave}`."""
        return {}


@dataclasses.dataclass(frozen=True)
class Method:
    """Everything the house needs to train, evaluate, compile and use a method.

    batch_spec: stream -> field -> shape and dtype with the global batch size; the pipeline is checked
        against it once, `init`, ahead-of-time compilation and the tests are built from it.
    init: `(rng, batch) -> variables`, all collections; `params` is one of them.
    pick: `step -> objective name`, on the host, deterministic: alternation, stages and adversarial turns.
        Each objective compiles once.
    after_update: pure `TrainState -> TrainState` inside the compiled step: momentum encoders, clamps.
    predict: `(variables, batch) -> outputs`, pure; compiled once for each set of streams it is called with.
    predict_spec: the batches `{stream: fields}` that evaluations of this config give to `predict`, each shape once, as
        far as the config tells without data. `jaxvl aot` compiles them.
    evaluators: name -> Evaluator.
    partition_rules: `(regex, PartitionSpec)` hints for the tensor axis; FSDP is derived for the rest.
    """

    name: str
    batch_spec: Mapping[str, Fields]
    init: Callable[[jax.Array, Batch], Variables]
    objectives: Mapping[str, Objective]
    predict: Callable[[Variables, Batch], Mapping[str, Array]]
    pick: Callable[[int], str] | None = None
    after_update: Callable[[Any], Any] = lambda state: state
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    partition_rules: Sequence[tuple[str, jax.sharding.PartitionSpec]] = ()
    predict_spec: Sequence[Mapping[str, Fields]] = ()

    def objective_at(self, step: int) -> str:
        """Name of the objective that update number `step` (from 0) takes."""
        if self.pick is not None:
            return self.pick(step)
        if len(self.objectives) != 1:
            raise ValueError(f"method {self.name}: several objectives need a `pick`")
        return next(iter(self.objectives))


@dataclasses.dataclass(frozen=True)
class Examples:
    """A stream of examples before batching: records and the pure function that turns one into arrays.

    source: records by index, picklable (`len`, `[]`).
    make: `(record, rng) -> {field: array}` without the batch axis. `rng` is a `numpy.random.Generator`
        seeded by (seed, epoch, index) in training and by (seed, index) in evaluation. May raise BadMedia.
        Fields whose name starts with `_` stay on the host (ids, captions, file names).
    id_of: `record -> str`, what logs and errors call this example.
    batch_size: global batch size.
    blocks: `(records, rows)` of consecutive parts of `source`, where every training batch shall hold `rows` rows of
        each, in this order; each part is shuffled and repeated on its own. Empty: one part, shuffled as a whole.
    """

    source: Sequence[Any]
    make: Callable[[Any, np.random.Generator], dict[str, Any]]
    id_of: Callable[[Any], str]
    batch_size: int
    blocks: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Sequences:
    """A stream of a split whose records are sequences, read frame by frame for a `Follower`.

    source: records by index, one a sequence.
    frames: `record -> iterator of frames`, `{field: value}` of the host each, in their order; opened when the
        sequence's turn comes, closed behind it, one frame at a time in memory. May raise BadMedia.
    length_of: `record -> int`, how many frames `frames` gives.
    shape_of: `record -> hashable`; only sequences of one shape share a batch, and each shape compiles once.
    id_of: `record -> str`, unique.
    batch_size: how many sequences are followed at a time, in all processes together.
    """

    source: Sequence[Any]
    frames: Callable[[Any], Iterator[Mapping[str, Any]]]
    length_of: Callable[[Any], int]
    shape_of: Callable[[Any], Any]
    id_of: Callable[[Any], str]
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Data:
    """A method's data: training streams and, per split, the streams its evaluators read.

    reports: one line a data set that was read (found, missing, skipped), printed and saved with the run.
    constants: `COLLECTION/path` -> array, what the model reads and no example holds (the ids of an answer vocabulary).
        `Method.init` makes each with its shape and any values; a run begins with these, and its checkpoints keep them.
    """

    train: Mapping[str, Examples]
    splits: Mapping[str, Mapping[str, Examples | Sequences]] = dataclasses.field(default_factory=dict)
    reports: Sequence[str] = ()
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def epoch(self) -> int:
        """Updates of one pass over the first training stream (over its longest part, where it has `blocks`); examples
        that fill no batch are left out. At least 1."""
        examples = next(iter(self.train.values()))
        parts = examples.blocks or ((len(examples.source), examples.batch_size),)
        return max(1, *(records // rows for records, rows in parts if rows))


StreamOpener = Callable[[int], Iterator[Mapping[str, Any]]]
"""`start -> iterator of host batches`, `start` in batches already consumed."""
