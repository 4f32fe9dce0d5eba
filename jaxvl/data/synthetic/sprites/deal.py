"""Deals the combinations of words to the splits of a sprite world.

A *combination* is (noun, colour, texture, motion). All of them are shuffled once by the world's seed, so the
deal depends on the seed and the vocabulary only, not on how many clips a split has.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from jaxvl.data.synthetic.sprites.shapes import ROUND

Combination = tuple[str, str, str, str]  # noun, colour, texture, motion

TEST_SHARE, VAL_SHARE = 0.25, 0.1  # of the combinations that are not held out


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The fields of a WorldConfig that the deal of combinations depends on."""

    seed: int
    nouns: tuple[str, ...]
    colours: tuple[str, ...]
    textures: tuple[str, ...]
    motions: tuple[str, ...]
    heldout_pairs: float


def _visible(noun: str, motion: str) -> bool:
    return not (noun in ROUND and motion == "spin")


@functools.lru_cache(maxsize=16)
def heldout_pairs(words: Vocabulary) -> frozenset[tuple[str, str]]:
    """The (noun, motion) pairs that occur in test only: `round(share * pairs)` of them, fewer where a noun
    or a motion would otherwise be left without any pair in training."""
    pairs = [p for p in itertools.product(words.nouns, words.motions) if _visible(*p)]
    want = round(words.heldout_pairs * len(pairs))
    nouns_left = {n: sum(p[0] == n for p in pairs) for n in words.nouns}
    motions_left = {m: sum(p[1] == m for p in pairs) for m in words.motions}
    held = set()
    for k in keyed_rng(words.seed, "heldout").permutation(len(pairs)):
        noun, motion = pairs[int(k)]
        if len(held) < want and nouns_left[noun] > 1 and motions_left[motion] > 1:
            held.add((noun, motion))
            nouns_left[noun] -= 1
            motions_left[motion] -= 1
    return frozenset(held)


@functools.lru_cache(maxsize=16)
def combinations(words: Vocabulary) -> dict[str, tuple[Combination, ...]]:
    """Split -> its combinations, in the order in which items use them. The three lists share none: test has
    all held-out ones and a quarter of the rest, val a tenth of the rest, train what is left."""
    held = heldout_pairs(words)
    every = list(itertools.product(words.nouns, words.colours, words.textures, words.motions))
    every = [c for c in every if _visible(c[0], c[3])]
    every = [every[int(k)] for k in keyed_rng(words.seed, "combinations").permutation(len(every))]
    free = [c for c in every if (c[0], c[3]) not in held]
    test, val = round(TEST_SHARE * len(free)), round(VAL_SHARE * len(free))
    in_test = set(free[:test])
    return {
        "test": tuple(c for c in every if (c[0], c[3]) in held or c in in_test),
        "val": tuple(free[test : test + val]),
        "train": tuple(free[test + val :]),
    }


def keyed_rng(seed: int, *key: str | int) -> np.random.Generator:
    """A generator that depends on the seed and the key only."""
    words = [seed & 0xFFFFFFFF]
    for part in key:
        words += [part] if isinstance(part, int) else list(part.encode())
        words.append(0x1000)  # a border, so that ("ab", "c") is not ("a", "bc")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
