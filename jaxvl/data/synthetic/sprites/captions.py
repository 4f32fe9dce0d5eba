"""The caption grammar of the sprite world.

    noun phrase   a [small|large] colour [striped|dotted] noun          medium and plain are not said
    clause        noun phrase + one of the verb's surface forms
    sentence      one of three templates in training; test uses a fourth one made of the same words

Every caption names colour, texture, noun and motion of every event in its order; size and background are
said in about half of the training captions and in every test caption.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "left": (("moves to the left", "moving to the left"), ("slides left", "sliding left")),
    "right": (("moves to the right", "moving to the right"), ("slides right", "sliding right")),
    "up": (("moves up", "moving up"), ("rises to the top", "rising to the top")),
    "down": (("moves down", "moving down"), ("sinks to the bottom", "sinking to the bottom")),
    "circle": (("moves in a circle", "moving in a circle"), ("travels around in a loop", "traveling around in a loop")),
    "zigzag": (("zigzags across", "zigzagging across"), ("moves in a zigzag", "moving in a zigzag")),
    "bounce": (("bounces up and down", "bouncing up and down"), ("hops on the floor", "hopping on the floor")),
    "shake": (("shakes from side to side", "shaking from side to side"), ("wiggles quickly", "wiggling quickly")),
    "spin": (("spins around", "spinning around"), ("rotates in place", "rotating in place")),
    "blink": (("blinks on and off", "blinking on and off"), ("flashes", "flashing")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    "fade_in": (("fades in", "fading in"), ("slowly appears", "slowly appearing")),
    "fade_out": (("fades out", "fading out"), ("slowly disappears", "slowly disappearing")),
    "enter_left": (
        ("enters from the left", "entering from the left"),
        ("comes in from the left", "coming in from the left"),
    ),
    "enter_right": (
        ("enters from the right", "entering from the right"),
        ("comes in from the right", "coming in from the right"),
    ),
    "leave_left": (("leaves to the left", "leaving to the left"), ("goes out on the left", "going out on the left")),
    "leave_right": (
        ("leaves to the right", "leaving to the right"),
        ("goes out on the right", "going out on the right"),
    ),
}
"""Motion -> its surface forms, each as (finite, gerund)."""

BACKGROUND_WORDS = {"flat": "", "gradient": "shaded", "texture": "checkered", "noise": "speckled"}
"""Background kind -> the word said before its tone; a flat background has none."""

TRAIN_TEMPLATES = 3
TEST_TEMPLATE = 3  # the index of the fourth template


def with_article(phrase: str) -> str:
    """`red star` -> `a red star`, `orange star` -> `an orange star`. By the first letter: no word of this
    grammar begins with a silent h or a spoken `yu`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def noun_phrase(noun: str, colour: str, texture: str, size: str, with_size: bool) -> str:
    """`a large red striped star`; medium sizes and plain textures are left unsaid."""
    words = [size if with_size and size != "medium" else "", colour, "" if texture == "plain" else texture, noun]
    return with_article(" ".join(w for w in words if w))


def background_phrase(kind: str, tone: str) -> str:
    """`on a checkered black background`."""
    return "on " + with_article(" ".join(w for w in (BACKGROUND_WORDS[kind], tone, "background") if w))


def sentence(subjects: Sequence[str], motions: Sequence[str], forms: Sequence[int], template: int, place: str) -> str:
    """One caption.

    subjects: noun phrase of each event, in time order. motions: their verbs. forms: which surface form of
    each verb (taken modulo the number of forms). template: 0..2 in training, 3 in test only. place: the
    background phrase, or "" to leave it out.
    """
    chosen = [VERBS[m][f % len(VERBS[m])] for m, f in zip(motions, forms)]
    finite = [f"{s} {v[0]}" for s, v in zip(subjects, chosen)]
    gerund = [f"{s} {v[1]}" for s, v in zip(subjects, chosen)]
    if template == 0:  # a star spins, then a ring grows on a black background
        text = ", then ".join(finite) + (f" {place}" if place else "")
    elif template == 1:  # there is a star spinning and then a ring growing
        text = "there is " + " and then ".join(gerund) + (f" {place}" if place else "")
    elif template == 2:  # the video shows a star that spins, then a ring that grows
        text = "the video shows " + ", then ".join(f"{s} that {v[0]}" for s, v in zip(subjects, chosen))
        text += f" {place}" if place else ""
    elif template == TEST_TEMPLATE:  # on a black background there is a star that spins, then a ring that grows
        text = (f"{place} " if place else "") + "there is " + ", then ".join(
            f"{s} that {v[0]}" for s, v in zip(subjects, chosen)
        )  # fmt: skip
    else:
        raise ValueError(f"template {template}")
    return text


def write_captions(
    looks: Sequence[tuple[str, str, str, str]],
    motions: Sequence[str],
    order: Sequence[int],
    background: tuple[str, str],
    count: int,
    test: bool,
    rng: np.random.Generator,
) -> list[str]:
    """`count` captions of one clip.

    looks: (noun, colour, texture, size) of each event's sprite; motions: their verbs; order: which of them
    comes first, second, ... in time. background: (kind, tone). The random choices belong to the events, not
    to their places: with the same generator and the opposite order one gets the twin's captions.
    test: True gives the fourth template, its first caption with size and background said. Captions of one
    clip differ as long as the grammar has enough variants (about 24 in training, 8 in test); past that they
    repeat, as those of MSR-VTT do. Clips whose (noun, colour, texture, motion) lists differ share none.
    """
    forms = list(itertools.product(range(2), repeat=len(motions)))
    details = [(True, True), (True, False), (False, True), (False, False)]  # (size, background) said
    templates = [TEST_TEMPLATE] if test else list(range(TRAIN_TEMPLATES))
    variants = list(itertools.product(templates, forms, details))
    variants = [variants[int(k)] for k in rng.permutation(len(variants))]
    if test:  # the fullest ones first; sorting is stable, so the rest stays shuffled
        variants.sort(key=lambda v: v[2] != (True, True))
    texts = []
    for template, form, (with_size, with_place) in variants:
        subjects = [noun_phrase(*looks[k], with_size) for k in order]
        verbs, said = [motions[k] for k in order], [form[k] for k in order]
        text = sentence(subjects, verbs, said, template, background_phrase(*background) if with_place else "")
        if text not in texts:
            texts.append(text)
    return [texts[k % len(texts)] for k in range(count)]
