"""Readers' records to CenterCLIP's batches: sampled frames and packed captions."""

from __future__ import annotations

import dataclasses
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Data, Examples
from jaxvl.data import text
from jaxvl.data.clip_bpe import CLIPTokenizer
from jaxvl.data.readers.common import Reading, VideoText, write_ids
from jaxvl.data.readers.retrieval.activitynet_captions import read_activitynet_captions
from jaxvl.data.readers.retrieval.clip_records import read_pairs, write_pairs
from jaxvl.data.readers.retrieval.didemo import read_didemo
from jaxvl.data.readers.retrieval.lsmdc import read_lsmdc
from jaxvl.data.readers.retrieval.msrvtt import read_msrvtt
from jaxvl.data.readers.retrieval.msvd import read_msvd
from jaxvl.data.records import INDEX_FILE, ClipRecords
from jaxvl.data.sampling import FIXED, ORDERS, SAMPLERS, frame_order
from jaxvl.data.video import load_clip, open_source
from jaxvl.methods.centerclip.method import model_config

SPLITS = ("train", "val", "test")
FOLDERS = {
    "msvd": read_msvd,
    "lsmdc": read_lsmdc,
    "activitynet": read_activitynet_captions,
    "didemo": read_didemo,
}
"""Readers that need nothing but the folder of the data set and the name of its folder of media."""
READERS = ("msrvtt", *FOLDERS, "records")


@dataclasses.dataclass(frozen=True)
class MakeClip:
    """`VideoText -> {frames uint8 [T, R, R, 3], mask bool [T]}`, with the caption's ids int32 `[L]` if asked for.

    frames_fps: the rate of folders of frames and of arrays. order: of the frames in a clip. records: where the clips
    are, if not in the files that the pairs name.
    """

    num_frames: int
    image_size: int
    sampling: str
    fps: float | None
    frames_fps: float | None
    order: str = "forward"
    tokenizer: Any = None
    max_words: int = 0
    records: ClipRecords | None = None

    def __call__(self, record: VideoText, rng: np.random.Generator) -> dict[str, Any]:
        """Decodes one clip; raises BadMedia."""
        clip = load_clip(
            open_source(record.path, self.frames_fps) if self.records is None else self.records.by_id(record.video_id),
            num_frames=self.num_frames,
            image_size=self.image_size,
            sampling=self.sampling,
            rng=rng,
            fps=self.fps,
            start_s=record.start_s,
            end_s=record.end_s,
        )
        rows = slice(None) if self.order == "forward" else frame_order(self.order, clip.mask, rng)
        out = {"frames": clip.frames[rows], "mask": clip.mask, "_video_id": record.video_id}
        if self.tokenizer is None:
            return out | {"_times": clip.times[rows]}
        index = np.int32(zlib.crc32(record.video_id.encode()) & 0x7FFFFFFF)  # tells the videos of a batch apart
        return out | {"ids": text.pack(self.tokenizer, record.caption, self.max_words), "video_index": index}


@dataclasses.dataclass(frozen=True)
class MakeText:
    """`VideoText -> {ids int32 [L]}`."""

    tokenizer: Any
    max_words: int

    def __call__(self, record: VideoText, rng: np.random.Generator) -> dict[str, Any]:
        """Packs one caption."""
        del rng
        return {
            "ids": text.pack(self.tokenizer, record.caption, self.max_words),
            "_video_id": record.video_id,
            "_caption": record.caption,
        }


def pair_id(record: VideoText) -> str:
    """What logs call a (video, caption) pair."""
    return f"{record.video_id}#{record.caption_index}"


def video_id(record: VideoText) -> str:
    """What logs call a video."""
    return record.video_id


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d = config.data
    return [] if d.root or d.world else [f"data.root: the folder of your data in the layout of {d.reader!r}"]


def build_data(config: ConfigDict, workdir: Path, say) -> Data:
    """Reads the data set that `config.data` names (rendering the sprite world first where it asks for one)."""
    d = config.data
    if d.reader not in READERS:
        raise InputError(f"config.data.reader: {d.reader!r} is none of {', '.join(READERS)}")
    for field, known in (("sampling", SAMPLERS), ("eval_sampling", FIXED), ("frame_order", ORDERS)):
        if d[field] not in known:
            raise InputError(f"config.data.{field}: {d[field]!r} is none of {', '.join(known)}")
    if d.reader == "records":
        if not d.root:
            raise InputError("config.data.root: is empty; name the folder that jaxvl prepare --out wrote")
        root = Path(d.root)
    else:
        root = Path(d.root) if d.root else Path(workdir) / "data"
        if d.world:
            render_world(d, root, say)
    readings, clips, notes = read_all(config, root)
    pairs = readings["train"].pairs
    if not pairs:
        raise InputError(f"{root}: no training pair is left; {readings['train'].report.line()}")
    tokenizer = build_tokenizer(config, Path(workdir), [p.caption for p in pairs])
    if d.shuffle_pairs:
        pairs = shuffled_pairs(pairs, config.seed)
    clip = {"num_frames": d.frames, "image_size": model_config(config).clip.image_size, "fps": d.fps or None}
    clip |= {"frames_fps": frames_fps(d), "order": d.frame_order}
    make_pair = MakeClip(
        **clip, sampling=d.sampling, tokenizer=tokenizer, max_words=d.max_words, records=clips.get("train")
    )
    make_text = MakeText(tokenizer, d.max_words)
    splits = {
        split: {
            "video": Examples(
                videos_of(reading.pairs),
                MakeClip(**clip, sampling=d.eval_sampling, records=clips.get(split)),
                video_id,
                d.eval_batch_size,
            ),
            "text": Examples(reading.pairs, make_text, pair_id, d.eval_batch_size),
        }
        for split, reading in readings.items()
        if reading.pairs
    }
    for split, reading in readings.items():
        if line := _keep_ids(workdir, split, reading.ids):
            say(line)
    captions = {split: [p.caption for p in reading.pairs] for split, reading in readings.items()}
    if line := text.cut_note(tokenizer, captions, d.max_words, "captions"):
        notes.append(f"{line}; config.data.max_words keeps more, up to the positions of the text tower")
    reports = [*dict.fromkeys(reading.report.line() for reading in readings.values()), *notes]
    return Data({"train": Examples(pairs, make_pair, pair_id, d.batch_size)}, splits, reports)


def _keep_ids(workdir: Path, split: str, ids: Sequence[str]) -> str | None:
    """As `write_ids`; a workdir that cannot be written costs only this list."""
    path = Path(workdir) / "ids" / f"{split}.txt"
    try:
        return write_ids(workdir, split, ids)
    except OSError as error:
        return f"{path}: not kept ({error.strerror or error})"
    except UnicodeDecodeError:
        raise InputError(f"{path}: damaged, not UTF-8 text; delete it, it is written again") from None


def read_all(config: ConfigDict, root: Path) -> tuple[dict[str, Reading], dict[str, ClipRecords], list[str]]:
    """Every split by the reader that `config.data.reader` names; of 'records' also the open shards.

    Training's split must be there, and those that the config evaluates on. Another one that cannot be read is left
    out, and the last list says why.
    """
    d = config.data
    needed = {"train", config.eval.split, *([config.train.eval_split] if config.train.eval_every else [])}
    readings: dict[str, Reading] = {}
    clips: dict[str, ClipRecords] = {}
    notes: list[str] = []
    for split in SPLITS:
        if d.reader == "records" and split != "train" and not (root / split).exists():
            continue
        try:
            if d.reader == "msrvtt":
                found = read_msrvtt(root, split, train_csv=d.train_csv, videos=d.videos, strict=d.strict)
            elif d.reader in FOLDERS:
                found = FOLDERS[d.reader](root, split, videos=d.videos, strict=d.strict)
            else:
                asked = {"image_size": model_config(config).clip.image_size, "fps": d.fps or None}
                found, clips[split] = read_pairs(root, split, **asked, num_frames=d.frames)
        except InputError as error:
            if split in needed:
                raise
            notes.append(f"split {split} is left out: {error}")
        else:
            readings[split] = found
    return readings, clips, notes


def write_records(config: ConfigDict, data: Data, out: Path, splits: Sequence[str], say) -> None:
    """Writes `OUT/SPLIT` for each of `splits` (all, if empty): one record a video, as `config.data.records` says.

    Videos that cannot be decoded are left out and named (`config.pipeline.on_error` 'raise' stops instead), and
    too many of them (`config.pipeline.max_bad_fraction`) are an error. Raises InputError.
    """
    r, d = config.data.records, config.data
    if d.reader == "records":
        raise InputError("config.data.reader: 'records' are what prepare writes; name the reader of the original data")
    wanted = list(splits) or list(data.splits)
    for split in wanted:
        if (out / split / INDEX_FILE).exists():
            raise InputError(f"--out {out / split}: holds a data set already; choose another folder or remove it")
    for split in wanted:
        pairs = data.splits[split]["text"].source  # as they were read, whatever training does with them
        written = write_pairs(
            out / split,
            pairs,
            split,
            short_side=r.short_side or model_config(config).clip.image_size,
            quality=r.quality,
            fps=r.fps or None,
            frames_fps=frames_fps(d),
            max_frames=r.max_frames or None,
            num_shards=r.shards,
            num_threads=max(1, config.pipeline.threads),
            on_error=config.pipeline.on_error,
            provenance={"dataset": d.reader, "root": str(d.root)},
        )
        written.report(split, "videos with their captions", out / split, config.pipeline.max_bad_fraction, say)
    say(f"train from it with --config.data.reader=records --config.data.root={out}")


def media_files(config: ConfigDict, splits: Sequence[str], say) -> tuple[Path, list[str]]:
    """The folder of the media and every medium of `splits` (all, if empty), once, for `jaxvl prepare --shrink`.

    Raises InputError for records, which are no video files, and for a split that the data lacks.
    """
    d = config.data
    if d.reader == "records":
        raise InputError("config.data.reader: 'records' are no videos; name the reader of the original data")
    if not d.root:
        raise InputError("config.data.root: is empty; name the folder of the data set")
    with tempfile.TemporaryDirectory() as scratch:
        data = build_data(config, Path(scratch), say)
    for line in data.reports:
        say(line)
    for split in splits:
        if split not in data.splits:
            raise InputError(f"--split {split}: the data has {', '.join(data.splits) or 'none'}")
    pairs = [pair for split in splits or data.splits for pair in data.splits[split]["video"].source]
    return Path(d.root) / d.videos, list(dict.fromkeys(pair.path for pair in pairs))


def frames_fps(d: ConfigDict) -> float | None:
    """Frames a second of folders and arrays of frames, which do not say it: `config.data.frames_fps`, else `.fps`."""
    return d.frames_fps or d.fps or None


def videos_of(pairs: Sequence[VideoText]) -> list[VideoText]:
    """One record a video, in order of first appearance."""
    first: dict[str, VideoText] = {}
    for pair in pairs:
        first.setdefault(pair.video_id, pair)
    return list(first.values())


def shuffled_pairs(pairs: Sequence[VideoText], seed: int) -> list[VideoText]:
    """The control: captions dealt out to other videos, so that nothing can be learned but the marginals."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [dataclasses.replace(p, caption=pairs[j].caption) for p, j in zip(pairs, order, strict=True)]


def build_tokenizer(config: ConfigDict, workdir: Path, captions: Sequence[str]):
    """The tokenizer of `config.data.tokenizer`; a word vocabulary is built once and kept in the workdir."""
    size = model_config(config).clip.vocab_size
    if config.data.tokenizer == "clip":
        tokenizer = CLIPTokenizer()
        if tokenizer.vocab_size != size:
            raise InputError(f"config.model.vocab_size: {size}, but the clip tokenizer has {tokenizer.vocab_size} ids")
        return tokenizer
    if config.data.tokenizer == "words":
        path = workdir / "vocabulary.json"
        if path.is_file():
            found = text.WordTokenizer.load(path)
            if found.vocab_size != size:
                raise InputError(f"{path}: is for {found.vocab_size} ids, but config.model.vocab_size is {size}")
            return found
        tokenizer = text.WordTokenizer.build(captions, size)
        workdir.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
        return tokenizer
    raise InputError(f"config.data.tokenizer: {config.data.tokenizer!r} is none of clip, words")


def render_world(d: ConfigDict, root: Path, say) -> None:
    """Renders the sprite world into `root` in the layout of the reader, unless it stands there already."""
    from jaxvl.data.synthetic.layouts import LAYOUTS, ensure_world
    from jaxvl.data.synthetic.on_disk import told
    from jaxvl.data.synthetic.sprites.world import WorldConfig

    if d.reader not in LAYOUTS:
        raise InputError(
            f"config.data.reader: the sprite world of this config has no {d.reader!r} layout, only "
            f"{', '.join(LAYOUTS)}; take a config without config.data.world for data of your own"
        )
    try:
        world = WorldConfig(**d.world.to_dict())
    except TypeError as error:
        raise InputError(f"config.data.world: {error}") from None
    ensure_world(world, root, d.reader, progress=told(say, "the sprite world", "clips"))
