"""CenterCLIP's verbs for Python: features of texts and videos, and how well they fit."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.model import Model, cosine, in_batches, is_vectors, listed, unit
from jaxvl.core.session import Loaded
from jaxvl.data import inputs
from jaxvl.data import text as texts
from jaxvl.data.frames import FrameSource
from jaxvl.data.threads import map_ahead
from jaxvl.data.video import Clip, load_clip, open_source
from jaxvl.methods.centerclip.data import build_tokenizer
from jaxvl.methods.centerclip.method import model_config
from jaxvl.search import index as indexing

PREPROCESSING = 1  # raised whenever the pixels that the model gets from a file change


class CenterCLIP(Model):
    """A trained CenterCLIP with the verbs `encode_text`, `encode_video`, `similarity`. loaded: `session.load`'s."""

    name = "CenterCLIP"

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.workdir, self.say = loaded, loaded.workdir, say
        self.source = f"{loaded.workdir}, step {loaded.step}"

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return model_config(self.loaded.config).clip.embed_dim

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Of the run: CLIP's, or the words of its training captions."""
        return build_tokenizer(self.loaded.config, self.loaded.workdir, [])

    def check_separate(self, what: str) -> None:
        """Raises InputError where texts and videos have no vectors of their own, or frames no natural order."""
        config = self.loaded.config
        if config.model.head == "tightTransf":
            raise InputError(
                f"--workdir {self.loaded.workdir}: its head tightTransf compares each text with each video in the "
                f"network, so there is nothing to {what} by itself; `jaxvl evaluate` ranks with it"
            )
        if (order := config.data.frame_order) != "forward":
            raise InputError(
                f"--workdir {self.loaded.workdir}: takes frames in order {order!r}; {what} needs 'forward'"
            )

    def encode_text(self, texts_: Sequence[str]) -> np.ndarray:
        """Unit vectors `[n, E]` of texts; names the words that the vocabulary lacks, counts those that are
        cut."""
        self.check_separate("encode")
        queries = listed(texts_, "texts")
        if unknown := texts.unknown_words(self.tokenizer, queries):
            self.say(f"words the model has never seen, read as unknown: {', '.join(unknown)}")
        if line := texts.cut_note(self.tokenizer, {"": queries}, self.loaded.config.data.max_words, "texts"):
            self.say(line)
        return embed_texts(self.loaded, self.tokenizer, queries)

    def encode_video(self, videos: Sequence[Any]) -> np.ndarray:
        """Unit vectors `[n, E]` of videos: paths, or uint8 frames `[T, H, W, 3]` at `config.data.fps`. Raises
        BadMedia."""
        return np.stack([v.video for v in self.encode_segments(videos)])

    def encode_segments(self, videos: Sequence[Any]) -> list[indexing.Vectors]:
        """For each video its vector and those of its segments with their seconds. Raises BadMedia."""
        self.check_separate("encode")
        fps = self.loaded.config.data.fps or None
        given = listed(videos, "videos")
        sources = [Path(s) if isinstance(s, str) else s for s in (inputs.video(v, i, fps) for i, v in enumerate(given))]
        found: dict[int, indexing.Vectors] = {}
        for source, vectors in embed_videos(self.loaded, sources):
            if isinstance(vectors, BadMedia):
                raise vectors
            found[id(source)] = vectors
        return [found[id(source)] for source in sources]

    def embed(
        self, videos: Sequence[Path | FrameSource]
    ) -> Iterator[tuple[Path | FrameSource, indexing.Vectors | BadMedia]]:
        """Each video with its vectors, or with the error where it cannot be decoded."""
        return embed_videos(self.loaded, videos)

    def provenance(self) -> dict[str, Any]:
        """What embeddings depend on beside the file."""
        return provenance(self.loaded)

    def warm_up(self) -> None:
        """Compiles what answers a text."""
        embed_texts(self.loaded, self.tokenizer, [""])

    def similarity(self, texts_: Any, videos: Any) -> np.ndarray:
        """Cosines `[n, m]` of n texts and m videos; either may also be vectors `[., E]` that were encoded before."""
        a = unit(texts_) if is_vectors(texts_) else self.encode_text(texts_)
        b = unit(videos) if is_vectors(videos) else self.encode_video(videos)
        return cosine(a, b)


def embed_videos(
    loaded: Loaded, videos: Sequence[Path | FrameSource]
) -> Iterator[tuple[Path | FrameSource, indexing.Vectors | BadMedia]]:
    """Each video with its embeddings, or with the error where it cannot be decoded.

    The next clips are decoded while the device works; two batches are held at most.
    """
    size, segments = _rows_a_call(loaded), model_config(loaded.config).segments
    threads = max(1, loaded.config.pipeline.threads)
    clips = map_ahead(lambda v: _clip(loaded, v), videos, threads, ahead=max(size, threads))
    good: list[tuple[Path | FrameSource, Clip, float]] = []
    for number, (video, got) in enumerate(zip(videos, clips), 1):
        if isinstance(got, BadMedia):
            yield video, got
        else:
            good.append((video, *got))
        if len(good) < size and (number < len(videos) or not good):
            continue
        rows = [good[i % len(good)][1] for i in range(size)]  # full batches: one shape is compiled
        batch = {"frames": np.stack([c.frames for c in rows]), "mask": np.stack([c.mask for c in rows])}
        out = {k: np.asarray(v) for k, v in loaded.predict(loaded.variables, {"video": batch}).items()}
        for i, (done, clip, duration) in enumerate(good):
            spans = indexing.segment_spans(clip.times, clip.mask, duration, segments)
            whole, parts = (out[name][i].astype(np.float32) for name in ("video", "segments"))
            yield done, indexing.Vectors(whole, parts, out["segment_mask"][i], spans)
        good = []


def _rows_a_call(loaded: Loaded) -> int:
    """Videos a call of `predict`: always the same number, so that embeddings do not depend on what else is embedded.

    On CPUs one a device, where a larger batch is no faster and a single new video would cost that of a whole one.
    """
    return _shards(loaded) if jax.default_backend() == "cpu" else loaded.config.data.eval_batch_size


def _shards(loaded: Loaded) -> int:
    return loaded.mesh.shape["data"] * loaded.mesh.shape["fsdp"]


def _clip(loaded: Loaded, video: Path | FrameSource) -> tuple[Clip, float] | BadMedia:
    """The frames that the model sees of a video, as in evaluation, and the seconds that it lasts."""
    d = loaded.config.data
    size = model_config(loaded.config).clip.image_size
    try:
        source = open_source(video, d.fps or None)
        clip = load_clip(source, num_frames=d.frames, image_size=size, sampling=d.eval_sampling, fps=d.fps or None)
    except BadMedia as error:
        return error
    return clip, source.duration


def embed_texts(loaded: Loaded, tokenizer: Any, queries: Sequence[str]) -> np.ndarray:
    """Unit embeddings `[n, E]` of free text, as many rows a call as there are texts (and `eval_batch_size` at most)."""
    d, shards = loaded.config.data, _shards(loaded)
    size = min(d.eval_batch_size, -(-len(queries) // shards) * shards)
    ids = np.stack([texts.pack(tokenizer, q, d.max_words) for q in queries])
    return in_batches(lambda batch: loaded.predict(loaded.variables, {"text": batch}), {"ids": ids}, size)["text"]


def provenance(loaded: Loaded) -> dict[str, Any]:
    """What embeddings depend on beside the file: an index of another one is not used."""
    config = loaded.config
    model = json.dumps([config.model.to_dict(), config.precision.to_dict()], sort_keys=True, default=str)
    return {
        "weights": indexing.weights_digest(loaded.variables),
        "model": hashlib.sha256(model.encode()).hexdigest()[:16],
        "frames": config.data.frames,
        "fps": float(config.data.fps),
        "sampling": config.data.eval_sampling,
        "image_size": model_config(config).clip.image_size,
        "preprocessing": PREPROCESSING,
    }
