"""Readers' records to CenterCLIP's batches: sampled frames and packed captions."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Data, Examples
from jaxvl.data import text
from jaxvl.data.readers.common import Reading, VideoText
from jaxvl.data.readers.msrvtt import read_msrvtt
from jaxvl.data.readers.msvd import read_msvd
from jaxvl.data.video import load_clip

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class MakeClip:
    """`VideoText -> {frames uint8 [T, R, R, 3], mask bool [T]}`, with the caption's ids int32 `[L]` if asked for."""

    num_frames: int
    image_size: int
    sampling: str
    fps: float | None
    tokenizer: Any = None
    max_words: int = 0

    def __call__(self, record: VideoText, rng: np.random.Generator) -> dict[str, Any]:
        """Decodes one clip; raises BadMedia."""
        clip = load_clip(
            record.path,
            num_frames=self.num_frames,
            image_size=self.image_size,
            sampling=self.sampling,
            rng=rng,
            fps=self.fps,
            start_s=record.start_s,
            end_s=record.end_s,
        )
        out = {"frames": clip.frames, "mask": clip.mask, "_video_id": record.video_id}
        if self.tokenizer is None:
            return out | {"_times": clip.times}
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


def build_data(config: ConfigDict, workdir: Path, say) -> Data:
    """Reads the data set that `config.data` names (rendering the sprite world first where it asks for one)."""
    d = config.data
    root = Path(d.root) if d.root else Path(workdir) / "data"
    if d.world:
        render_world(d, root, say)
    readings = {split: read(d, root, split) for split in SPLITS}
    tokenizer = build_tokenizer(config, Path(workdir), [p.caption for p in readings["train"].pairs])
    pairs = readings["train"].pairs
    if not pairs:
        raise InputError(f"{root}: no training pair is left; {readings['train'].report.line()}")
    if d.shuffle_pairs:
        pairs = shuffled_pairs(pairs, config.seed)
    clip = {"num_frames": d.frames, "image_size": config.model.image_size, "fps": d.fps or None}
    train = Examples(
        pairs, MakeClip(**clip, sampling=d.sampling, tokenizer=tokenizer, max_words=d.max_words), pair_id, d.batch_size
    )
    make_text, make_video = MakeText(tokenizer, d.max_words), MakeClip(**clip, sampling="uniform")
    splits = {
        split: {
            "video": Examples(videos_of(readings[split].pairs), make_video, video_id, d.eval_batch_size),
            "text": Examples(readings[split].pairs, make_text, pair_id, d.eval_batch_size),
        }
        for split in SPLITS
        if readings[split].pairs
    }
    return Data({"train": train}, splits, [readings[s].report.line() for s in SPLITS])


def read(d: ConfigDict, root: Path, split: str) -> Reading:
    """One split by the reader that `config.data.reader` names."""
    if d.reader == "msrvtt":
        return read_msrvtt(root, split, train_csv=d.train_csv, videos=d.videos, strict=d.strict)
    if d.reader == "msvd":
        return read_msvd(root, split, videos=d.videos, strict=d.strict)
    raise InputError(f"config.data.reader: {d.reader!r} is none of msrvtt, msvd")


def videos_of(pairs: Sequence[VideoText]) -> list[VideoText]:
    """One record a video, in order of first appearance."""
    return list({p.video_id: p for p in reversed(pairs)}.values())[::-1]


def shuffled_pairs(pairs: Sequence[VideoText], seed: int) -> list[VideoText]:
    """The control: captions dealt out to other videos, so that nothing can be learned but the marginals."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [dataclasses.replace(p, caption=pairs[j].caption) for p, j in zip(pairs, order, strict=True)]


def build_tokenizer(config: ConfigDict, workdir: Path, captions: Sequence[str]):
    """The tokenizer of `config.data.tokenizer`; a word vocabulary is built once and kept in the workdir."""
    if config.data.tokenizer == "words":
        path = workdir / "vocabulary.json"
        if path.is_file():
            return text.WordTokenizer.load(path)
        tokenizer = text.WordTokenizer.build(captions, config.model.vocab_size)
        workdir.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
        return tokenizer
    raise InputError(f"config.data.tokenizer: {config.data.tokenizer!r} is not known; use words")


def render_world(d: ConfigDict, root: Path, say) -> None:
    """Renders the sprite world into `root` in the layout of the reader, unless it stands there already."""
    from jaxvl.data.synthetic.layouts import ensure_world
    from jaxvl.data.synthetic.sprites import WorldConfig

    try:
        world = WorldConfig(**d.world.to_dict())
    except TypeError as error:
        raise InputError(f"config.data.world: {error}") from None
    done = -1

    def progress(n: int, total: int) -> None:
        nonlocal done
        if n * 10 // total != done:
            done = n * 10 // total
            say(f"rendering the sprite world: {n} of {total} clips")

    ensure_world(world, root, d.reader, progress=progress)
