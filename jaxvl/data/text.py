"""Tokenizers. Each packs a text as `[start] ids [end] 0 0 ...`. For CLIP's text tower the end id is the highest of the
vocabulary, so that it is found by argmax."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.files import read_json, write_text

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s]")


class Tokenizer(Protocol):
    """Text to ids. `vocab_size` ids in all, `start` and `end` among them; 0 is padding."""

    vocab_size: int
    start: int
    end: int

    def ids(self, text: str) -> list[int]:
        """Ids without start and end."""

    def unknown(self, text: str) -> list[str]:
        """The pieces of `text` that the vocabulary lacks."""


def pack(tokenizer: Tokenizer, text: str, length: int) -> np.ndarray:
    """CLIP4Clip packing: `[start] + ids` cut to `length - 1`, end appended, zeros to `length`: int32 `[length]`."""
    row = np.zeros(length, np.int32)
    kept = [*[tokenizer.start, *tokenizer.ids(text)][: length - 1], tokenizer.end]
    row[: len(kept)] = kept
    return row


def is_cut(tokenizer: Tokenizer, text: str, length: int) -> bool:
    """Whether `text` loses its end when it is packed to `length`."""
    return len(tokenizer.ids(text)) + 2 > length


def cut_note(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]], length: int, what: str) -> str | None:
    """`captions: 12 of 9,000 are longer than 32 tokens and are cut (train 10, test 2)`; None where none is. texts: by
    the part of the data that they are of, '' for the only one. The tokens count those at the start and the end."""
    cut = {part: sum(is_cut(tokenizer, t, length) for t in found) for part, found in texts.items()}
    if not (total := sum(cut.values())):
        return None
    parts = ", ".join(f"{part} {count:,}" for part, count in cut.items() if count and part)
    line = f"{what}: {total:,} of {sum(map(len, texts.values())):,} are longer than {length} tokens and are cut"
    return f"{line} ({parts})" if parts else line


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Lower-cased words of a small closed vocabulary, for models trained from scratch.

    words: id 0 is padding, 1 an unknown word, 2... the words in this order. The size is fixed by the config, not
    by the words found, so that a model's shape does not depend on its data. `start` and `end` are the two highest.
    """

    words: tuple[str, ...]
    vocab_size: int

    def __post_init__(self):
        if len(self.words) + 4 > self.vocab_size:
            raise InputError(
                f"config.model.vocab_size: {self.vocab_size} is too small for {len(self.words)} words "
                f"and 4 special ids; set it to {len(self.words) + 4} or more"
            )
        object.__setattr__(self, "_index", {w: i + 2 for i, w in enumerate(self.words)})

    @property
    def start(self) -> int:
        """Id before every text."""
        return self.vocab_size - 2

    @property
    def end(self) -> int:
        """Id behind every text."""
        return self.vocab_size - 1

    def ids(self, text: str) -> list[int]:
        """Ids without start and end; words outside the vocabulary get id 1."""
        return [self._index.get(w, 1) for w in WORD.findall(text.lower())]

    def unknown(self, text: str) -> list[str]:
        """Words of `text` that were never seen in training."""
        return [w for w in WORD.findall(text.lower()) if w not in self._index]

    @classmethod
    def build(cls, captions: Iterable[str], vocab_size: int) -> WordTokenizer:
        """The vocabulary of a training set, most frequent first (ties: alphabetical)."""
        counts = Counter(w for c in captions for w in WORD.findall(c.lower()))
        return cls(tuple(sorted(counts, key=lambda w: (-counts[w], w))), vocab_size)

    def save(self, path: Path) -> None:
        """Writes the words as JSON."""
        write_text(path, json.dumps({"words": self.words, "vocab_size": self.vocab_size}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> WordTokenizer:
        """Reads what `save` wrote."""
        mend = "restore it; deleted it is built again, and the weights no longer fit where the captions have changed"
        content = read_json(path, dict, mend)
        words, size = content.get("words"), content.get("vocab_size")
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words) or type(size) is not int:
            raise InputError(f"{path}: holds no words and vocab_size; {mend}")
        if len(set(words)) < len(words):
            raise InputError(f"{path}: a word occurs twice; {mend}")
        return cls(tuple(words), size)


def unknown_words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """All unknown pieces of several texts, once each, in order."""
    return list(dict.fromkeys(w for t in texts for w in tokenizer.unknown(t)))
