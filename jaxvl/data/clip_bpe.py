"""CLIP's tokenizer: byte-level byte-pair encoding of lower-cased text (openai/CLIP `simple_tokenizer.py`, MIT).

Ids: 0-255 the byte symbols, 256-511 the same at the end of a word, 512-49405 the merges in order, 49406 start,
49407 end.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import itertools
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import regex

from jaxvl.core.errors import InputError

VARIABLE = "JAXVL_CLIP_BPE"
VENDORED = Path(__file__).parent.parent / "assets" / "bpe_simple_vocab_16e6_cut.txt.gz"
PUBLISHED_NAME = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"
PIECE = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # case ignored


def byte_symbols() -> dict[int, str]:
    """Byte -> printable character, in id order: 188 printable bytes stand for themselves, the other 68 get the code
    points from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def clean(text: str) -> str:
    """Mojibake mended, HTML entities resolved (twice), runs of white space made one blank, stripped, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def find_vocabulary() -> Path:
    """The vocabulary file: `$JAXVL_CLIP_BPE`, the file that comes with jaxvl, else that of an installed `open_clip`
    or `clip` package (which is not imported). Raises InputError when there is none."""
    if path := os.environ.get(VARIABLE):
        if not Path(path).is_file():
            raise InputError(f"{VARIABLE}={path}: no such file; name a copy of {PUBLISHED_NAME}, or unset it")
        return Path(path)
    if VENDORED.is_file():
        return VENDORED
    for package in ("open_clip", "clip"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / PUBLISHED_NAME).is_file():
                return Path(folder) / PUBLISHED_NAME
    raise InputError(
        f"{VENDORED}: is missing and no open_clip package is installed; install jaxvl again "
        f"or set {VARIABLE} to a copy of {PUBLISHED_NAME}"
    )


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The 48,894 merges of a vocabulary file, which may be the published one or cut behind them."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CLIP vocabulary ({error}); give {PUBLISHED_NAME}") from None
    merges = [tuple(line.split()) for line in lines]
    if len(merges) < MERGES or any(len(m) != 2 for m in merges):
        raise InputError(f"{path}: has no {MERGES} merges, two symbols a line; give {PUBLISHED_NAME}")
    return merges


class CLIPTokenizer:
    """Text to CLIP's ids and back; satisfies `jaxvl.data.text.Tokenizer`.

    vocab_size 49408; `start` and `end` are its two highest ids, so `text.pack` gives CLIP4Clip's packing and
    `tokenize` CLIP's. Args: `path` of the vocabulary, found by `find_vocabulary` when None.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = find_vocabulary() if path is None else Path(path)
        merges = read_merges(self.path)
        self._bytes = byte_symbols()
        symbols = list(self._bytes.values())
        symbols = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), START, END]
        self._symbols = symbols
        self._index = {s: i for i, s in enumerate(symbols)}
        self._rank = {m: i for i, m in enumerate(merges)}
        self._values = {s: b for b, s in self._bytes.items()}
        self._pieces = regex.compile(PIECE, regex.IGNORECASE)
        self.vocab_size = len(symbols)
        self.start, self.end = self._index[START], self._index[END]
        self._cache = {START: (self.start,), END: (self.end,)}

    def __reduce__(self):
        return CLIPTokenizer, (self.path,)  # worker processes read the file again: cheaper than its tables

    def ids(self, text: str) -> list[int]:
        """Ids without start and end."""
        out: list[int] = []
        for piece in self._pieces.findall(clean(text)):
            if piece not in self._cache:
                self._cache[piece] = tuple(self._index[s] for s in self._merged(piece))
            out.extend(self._cache[piece])
        return out

    def unknown(self, text: str) -> list[str]:
        """Always empty: every byte has an id."""
        del text
        return []

    def decode(self, ids: Iterable[int]) -> str:
        """Text of all ids as published: lower case, a blank behind each word or sign, start and end by their names
        (`<|startoftext|>a photo <|endoftext|>`; the zeros of padding are `!`). Raises InputError for other ids."""
        symbols = []
        for i in ids:
            if not 0 <= int(i) < self.vocab_size:
                raise InputError(f"ids: {int(i)} is outside the vocabulary of {self.vocab_size}")
            symbols.append(self._symbols[int(i)])
        text = bytes(self._values[c] for c in "".join(symbols)).decode("utf-8", errors="replace")
        return text.replace("</w>", " ")

    def tokenize(self, texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> np.ndarray:
        """CLIP packing `[start] + ids + [end]`, zeros behind: int32 `[n, context_length]`.

        Too long a text raises InputError, or with `truncate` is cut, its last id being the end.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        out = np.zeros((len(texts), context_length), np.int32)
        for row, text in zip(out, texts):
            ids = [self.start, *self.ids(text), self.end]
            if len(ids) > context_length:
                if not truncate:
                    raise InputError(
                        f"text {text[:40]!r}...: {len(ids)} tokens do not fit context_length {context_length}; "
                        "shorten it or truncate"
                    )
                ids = [*ids[: context_length - 1], self.end]
            row[: len(ids)] = ids
        return out

    def _merged(self, piece: str) -> list[str]:
        """Symbols of one piece: the adjacent pair of lowest rank is merged everywhere, until none has a rank."""
        symbols = [self._bytes[b] for b in piece.encode("utf-8")]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            best = min(itertools.pairwise(symbols), key=lambda pair: self._rank.get(pair, MERGES))
            if best not in self._rank:
                break
            merged, i = [], 0
            while i < len(symbols):
                if tuple(symbols[i : i + 2]) == best:
                    merged.append("".join(best))
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            symbols = merged
        return symbols
