"""From examples to host batches: order, randomness, resumption, worker processes, bad files (grain).

The order of training examples is a pure function of (seed, number of records): global batch `b` holds the
global positions `[b*B, (b+1)*B)`, and a process reads `rows` of each, whichever it is told to. So one
integer, the number of global batches consumed, resumes a stream exactly, on any number of processes,
workers or threads. Position `i` belongs to epoch `i // N`; each epoch is shuffled anew. With `blocks`, every
batch has fixed rows for each part of the source, and each part its own order and epochs.

A batch is `{field: array [len(rows), ...]}`. Fields whose name starts with `_` are lists, one item a row. The
pipeline adds `_id` and, in training, `_replaced`; in evaluation, `_valid` and `_bad`, one flag a row; where videos lack
their beginning `_left_out` (`jaxvl.data.left_out`).

`examples` is a `jaxvl.core.method.Examples` or anything with its first four attributes. grain, which imports
jax, is imported when a stream is opened; nothing else here needs it.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import left_out
from jaxvl.data.bad_media import check_policy, log_bad

MAX_TRIES = 16  # records tried in place of a bad one before the run stops
RESERVED = ("_id", "_replaced", "_valid", "_bad", left_out.FIELD)
_TRAIN, _EVAL, _REPLACE = range(3)  # keep the random streams of the three uses apart

Row = dict[str, Any]
BadLog = str | os.PathLike | None


class ExamplesLike(Protocol):
    """The attributes of `jaxvl.core.method.Examples` that the pipeline reads."""

    source: Sequence[Any]
    make: Callable[[Any, np.random.Generator], Row]
    id_of: Callable[[Any], str]
    batch_size: int


def train_batches(
    examples: ExamplesLike,
    *,
    seed: int,
    start: int = 0,
    rows: Sequence[int] | None = None,
    num_workers: int = 0,
    num_threads: int = 1,
    prefetch: int = 2,
    on_error: str = "skip",
    bad_log: BadLog = None,
) -> Iterator[dict[str, Any]]:
    """An endless stream of shuffled batches.

    start: global batches already consumed. rows: which of the `batch_size` rows of each batch, ascending (default: all;
    with several processes `jaxvl.core.sharding.rows_of_process`). num_workers: processes (spawned: the program needs a
    `__main__` guard), 0 decodes in `num_threads` threads of this process. prefetch: batches held ready, per worker.
    on_error: 'skip' replaces an example of bad media by another record, chosen by a seeded draw, logs it
    to `bad_log` and marks its row 1 in `_replaced` (int32); 'raise' stops.
    Each example's generator is a function of (seed, epoch, record).
    Raises InputError: no records, rows of unequal shape, bad media.
    """
    rows = _check(examples, rows, on_error)
    import grain

    make_row = _TrainRow(_Maker(examples, on_error, bad_log), seed)
    order = lambda first, end, key: (  # noqa: E731
        grain.MapDataset.range(first, end).seed(_seed32(seed, *key)).shuffle().repeat()
    )
    blocks = _blocks(examples)
    parts = len(getattr(examples, "blocks", ())) > 0
    orders = [order(b.first, b.end, (j,) if parts else ()) for j, b in enumerate(blocks)]
    make_place = _BlockRow(make_row, rows, examples.batch_size, blocks, orders)
    batches = (
        grain.MapDataset.range(len(rows))
        .repeat()
        .map_with_index(make_place)
        .batch(len(rows), drop_remainder=True, batch_fn=_collate_train)[start:]
    )
    return _iterate(batches, num_workers, num_threads, prefetch)


def eval_batches(
    examples: ExamplesLike,
    *,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    num_workers: int = 0,
    num_threads: int = 1,
    prefetch: int = 2,
    on_error: str = "skip",
    bad_log: BadLog = None,
) -> Iterator[dict[str, Any]]:
    """One pass in the order of the source, the same number of batches in every process.

    The last batch is filled up with copies. `_valid` (bool `[rows]`) is False for those and for rows of bad
    media, which are never replaced by other examples: they hold a copy of a good row, are marked in `_bad`
    (bool `[rows]`) and logged. Each example's generator is a function of (seed, record). Other arguments and errors as
    in `train_batches`.
    """
    rows = _check(examples, rows, on_error)
    import grain

    batches = -(-len(examples.source) // examples.batch_size)
    make_row = _EvalRow(_Maker(examples, on_error, bad_log), seed, rows, examples.batch_size)
    batches = (
        grain.MapDataset.range(batches * len(rows))
        .map(make_row.at)
        .batch(len(rows), drop_remainder=True, batch_fn=_EvalBatch(make_row))
    )
    return _iterate(batches, num_workers, num_threads, prefetch)


def example_fields(examples: ExamplesLike, *, seed: int = 0, on_error: str = "skip") -> dict[str, tuple[Any, Any]]:
    """`{field: (shape, dtype)}` of one example as evaluation makes it, but the host's own. Reads a file or a few."""
    rows = _check(examples, [0], on_error)
    made = _EvalRow(_Maker(examples, on_error, None), seed, rows, examples.batch_size).any_good()
    arrays = {name: np.asarray(value) for name, value in made.fields.items() if not name.startswith("_")}
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _check(examples: ExamplesLike, rows: Sequence[int] | None, on_error: str) -> list[int]:
    """The rows of each batch that are read."""
    check_policy(on_error)
    if len(examples.source) == 0:
        raise InputError("the data set has no examples: nothing to read")
    rows = list(range(examples.batch_size)) if rows is None else [int(r) for r in rows]
    if not rows or rows != sorted(set(rows)) or rows[0] < 0 or rows[-1] >= examples.batch_size:
        raise ValueError(f"rows {rows} of a batch of {examples.batch_size}")
    return rows


class _Block(NamedTuple):
    """Records `[first, end)` of the source, of which a batch holds the rows `[row, row + rows)`."""

    first: int
    end: int
    row: int
    rows: int


def _blocks(examples: ExamplesLike) -> list[_Block]:
    """The parts of `examples.blocks`, by default one; raises ValueError where they are not the whole source and the
    whole batch."""
    sizes = getattr(examples, "blocks", ()) or ((len(examples.source), examples.batch_size),)
    found, first, row = [], 0, 0
    for records, rows in sizes:
        if records < 1 or rows < 1:
            raise InputError("a part of the data set has no examples, or no row in the batch")
        found.append(_Block(first, first + records, row, rows))
        first, row = first + records, row + rows
    if (first, row) != (len(examples.source), examples.batch_size):
        total = f"{len(examples.source)} records and a batch of {examples.batch_size}"
        raise ValueError(f"blocks of {first} records and {row} rows for {total}")
    return found


def _iterate(batches, num_workers: int, num_threads: int, prefetch: int) -> Iterator[dict[str, Any]]:
    import grain

    buffered = num_threads > 0 and prefetch > 0 and num_workers == 0
    options = grain.ReadOptions(
        num_threads=num_threads if buffered else 0, prefetch_buffer_size=max(prefetch, num_threads) if buffered else 0
    )
    dataset = batches.to_iter_dataset(options)
    if num_workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads its own flags, outside of an absl program too
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=max(1, prefetch))
        )
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()  # ends threads and worker processes


@dataclasses.dataclass(frozen=True)
class _Made:
    """One row. fields: None where its media is bad (evaluation) or it is padding. left_out: packets by file."""

    fields: Row | None
    example_id: str
    replaced: bool = False
    bad: bool = False
    left_out: Row = dataclasses.field(default_factory=dict)


class _Maker:
    """Calls `make` on a record, with the example's id in whatever goes wrong. Picklable if the examples are."""

    def __init__(self, examples: ExamplesLike, on_error: str, bad_log: BadLog):
        self.source, self.make, self.id_of = examples.source, examples.make, examples.id_of
        self.on_error, self.bad_log = on_error, bad_log
        self.logged: set[str] = set()  # one line a file and process, not one an epoch

    def __call__(self, index: int, rng: np.random.Generator) -> _Made:
        """The made row. Raises BadMedia (policy skip), InputError, or what `make` raises, with a note."""
        name = f"record {index}"
        try:
            record = self.source[index]
            name = str(self.id_of(record))
            with left_out.of_thread() as cut:
                fields = self.make(record, rng)
        except BadMedia as bad:
            if self.on_error == "raise":
                mend = "mend or remove the file, or set config.pipeline.on_error = 'skip'"
                raise InputError(f"example {name}: {bad}; {mend}") from bad
            if bad.path not in self.logged:
                self.logged.add(bad.path)
                log_bad(self.bad_log, name, bad)
            raise _NamedBad(bad, name) from bad
        except InputError as error:
            raise InputError(f"example {name}: {error}") from error
        except Exception as error:
            error.add_note(f"while making example {name}")
            if not _survives_pickling(error):
                raise RuntimeError(f"{type(error).__name__}: {error} (while making example {name})") from error
            raise
        if clash := [field for field in RESERVED if field in fields]:
            raise ValueError(f"example {name}: the field {clash[0]} is the pipeline's own")
        return _Made(fields, name, left_out=cut)


class _NamedBad(Exception):
    """BadMedia with the id of its example; never leaves this module."""

    def __init__(self, bad: BadMedia, example_id: str):
        super().__init__(str(bad))
        self.bad, self.example_id = bad, example_id


class _TrainRow:
    """Makes training rows, replacing bad media."""

    def __init__(self, maker: _Maker, seed: int):
        self.maker, self.seed = maker, seed

    def row(self, index: int, epoch: int, low: int, total: int) -> _Made:
        """Record `index` in its `epoch`, or in its place another one of the `total` from `low` on."""
        first = index
        for attempt in range(MAX_TRIES + 1):
            try:
                made = self.maker(index, _generator(self.seed, _TRAIN, epoch, index, attempt))
                return dataclasses.replace(made, replaced=attempt > 0)
            except _NamedBad as error:
                last = error
            if total == 1:
                break
            # Any record but the bad one itself.
            step = _generator(self.seed, _REPLACE, epoch, first, attempt).integers(1, total)
            index = low + (first - low + int(step)) % total
        raise InputError(
            f"example {last.example_id}: {last.bad}; and no other record in {attempt} tries could be decoded: "
            "is the media folder intact?"
        )


class _BlockRow:
    """`(place in the rows that are read, number of the row) -> _Made`, each from the block that it belongs to."""

    def __init__(
        self,
        make_row: _TrainRow,
        rows: Sequence[int],
        batch_size: int,
        blocks: Sequence[_Block],
        orders: Sequence[Any],
    ):
        self.make_row, self.rows, self.batch_size = make_row, rows, batch_size
        self.blocks, self.orders = blocks, orders

    def __call__(self, place: int, number: int) -> _Made:
        batch, row = int(place) // len(self.rows), self.rows[int(number)]
        j = next(j for j, b in enumerate(self.blocks) if row < b.row + b.rows)
        block = self.blocks[j]
        position = batch * block.rows + row - block.row
        size = block.end - block.first
        return self.make_row.row(int(self.orders[j][position]), position // size, block.first, size)


class _EvalRow:
    """`global position -> _Made`, empty for padding and for bad media."""

    def __init__(self, maker: _Maker, seed: int, rows: Sequence[int], batch_size: int):
        self.maker, self.seed, self.rows, self.batch_size = maker, seed, rows, batch_size

    def at(self, place: int) -> _Made:
        """The row at a place in the rows that are read."""
        batch, number = divmod(int(place), len(self.rows))
        return self(batch * self.batch_size + self.rows[number])

    def __call__(self, position: int) -> _Made:
        if position >= len(self.maker.source):
            return _Made(None, "")
        try:
            return self.maker(int(position), _generator(self.seed, _EVAL, int(position)))
        except _NamedBad as error:
            return _Made(None, error.example_id, bad=True)

    def any_good(self) -> _Made:
        """Some good row, for a batch that has none: the last record, else a seeded draw."""
        total = len(self.maker.source)
        draws = _generator(self.seed, _REPLACE, 0, 0, 0).integers(0, total, MAX_TRIES)
        for index in [total - 1, *draws]:
            made = self(int(index))
            if made.fields is not None:
                return made
        raise InputError(f"none of {MAX_TRIES + 1} records tried can be decoded: is the media folder intact?")


class _EvalBatch:
    """Rows to a batch; the gaps are filled with the batch's last good row and marked in `_valid`."""

    def __init__(self, row: _EvalRow):
        self.row = row

    def __call__(self, rows: Sequence[_Made]) -> dict[str, Any]:
        good = [made for made in rows if made.fields is not None]
        filler = good[-1] if good else self.row.any_good()
        batch = _collate([made if made.fields is not None else filler for made in rows])
        batch["_id"] = [made.example_id or filler.example_id for made in rows]
        batch["_valid"] = np.array([made.fields is not None for made in rows], bool)
        batch["_bad"] = np.array([made.bad for made in rows], bool)
        return batch


def _collate_train(rows: Sequence[_Made]) -> dict[str, Any]:
    batch = _collate(rows)
    batch["_id"] = [made.example_id for made in rows]
    batch["_replaced"] = np.array([made.replaced for made in rows], np.int32)
    return batch


def _collate(rows: Sequence[_Made]) -> dict[str, Any]:
    """Stacks field by field. Raises InputError where two rows differ in fields, shapes or dtypes."""
    first = rows[0]
    batch: dict[str, Any] = {}
    for made in rows:
        if made.fields.keys() != first.fields.keys():
            odd = sorted(made.fields.keys() ^ first.fields.keys())
            raise InputError(f"examples {first.example_id} and {made.example_id}: only one has the field {odd[0]!r}")
    for name in first.fields:
        column = [made.fields[name] for made in rows]
        if name.startswith("_"):
            batch[name] = column
            continue
        arrays = [np.asarray(value) for value in column]
        for made, array in zip(rows, arrays):
            if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
                kinds = [f"{a.dtype} {list(a.shape)}" for a in (arrays[0], array)]
                raise InputError(
                    f"examples {first.example_id} and {made.example_id} cannot share a batch: field {name!r} is "
                    f"{kinds[0]} and {kinds[1]}; pad or resize it to one shape"
                )
        batch[name] = np.stack(arrays)
    if any(made.left_out for made in rows):
        batch[left_out.FIELD] = [made.left_out for made in rows]
    return batch


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=tuple(int(k) for k in key)))


def _seed32(seed: int, *key: int) -> int:
    """grain takes 32 bits; mixing keeps large seeds apart."""
    return int(np.random.SeedSequence(int(seed), spawn_key=key).generate_state(1)[0])


def _survives_pickling(error: Exception) -> bool:
    """An error that cannot be pickled never leaves a worker process, and the run would hang."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError, ValueError, LookupError, ImportError, RecursionError):
        return False
    return True
