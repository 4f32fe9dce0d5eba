"""BERT's tokenizer as its authors describe it, in plain Python and slow: an independent reference for tests."""

from __future__ import annotations

import unicodedata

IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def words(text: str) -> list[str]:
    """Control characters out, ideographs apart, lower case, accents off, punctuation apart."""
    spaced = []
    for c in text:
        kind = unicodedata.category(c)
        if c in " \t\n\r" or kind == "Zs":
            spaced.append(" ")
        elif kind.startswith("C") or c in "\0\ufffd":
            continue
        elif any(a <= ord(c) <= b for a, b in IDEOGRAPHS):
            spaced.append(f" {c} ")
        else:
            spaced.append(c)
    out = []
    for word in "".join(spaced).split():
        bare = [c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"]
        apart = (f" {c} " if is_punctuation(c) else c for c in bare)
        out += "".join(apart).split(" ")
    return [w for w in out if w]


def is_punctuation(c: str) -> bool:
    """All signs of ASCII, and what Unicode calls punctuation."""
    ascii_sign = any(a <= ord(c) <= b for a, b in ((33, 47), (58, 64), (91, 96), (123, 126)))
    return ascii_sign or unicodedata.category(c).startswith("P")


def pieces(word: str, vocabulary) -> list[str]:
    """The longest piece first, from the left; a word that does not work out is unknown as a whole."""
    if len(word) > 100:
        return ["[UNK]"]
    out, start = [], 0
    while start < len(word):
        end = len(word)
        while end > start and ("##" if start else "") + word[start:end] not in vocabulary:
            end -= 1
        if end == start:
            return ["[UNK]"]
        out.append(("##" if start else "") + word[start:end])
        start = end
    return out


def ids(text: str, vocabulary) -> list[int]:
    """Text without special tokens -> ids."""
    return [vocabulary[p] for w in words(text) for p in pieces(w, vocabulary)]
