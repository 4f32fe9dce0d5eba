"""Plans of the question world: a long video is cut in equal slots, and in some of them a shape appears and moves.

Every question is about one to four of these events, so the evidence is `1 / slots` of the video for each. Answers are
balanced template by template: they are dealt from shuffled decks, and the video is made so that they are right. So the
question alone tells nothing but which answers can be given.

    template   question                                               answers (share of the commonest)
    query      what colour is the star?                               the colours (1 / 8)
    choose     is the star red or blue?                               the two colours (1 / 2)
    compare    do the star and the ring have the same colour?         yes, no (1 / 2)
    first      which appears first, the star or the ring?             the two nouns (1 / 2)
    after      what appears right after the star?                     the nouns (about 1 / 15)
    count      how many shapes are striped?                           1 to 4 (1 / 4)
    hop        what colour is the shape right after the star?         the colours (1 / 8)
    where      where is the star?                                     five places (1 / 5)

With `named_by` 'colour' every event has a colour of its own and is called by it ("where is the red shape?", "which
appears first, the red shape or the blue shape?"); that suits features that see colours and no shapes. Then there are
where, first and after, whose answers are colours instead of nouns.

Held-out (noun, colour) pairs occur in test only; questions whose evidence shows one are marked `novel`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic.sprites.deal import keyed_rng
from jaxvl.data.synthetic.sprites.motions import plan_path
from jaxvl.data.synthetic.sprites.shapes import COLOURS, NOUNS, ROUND, SIZES, TONES
from jaxvl.data.synthetic.sprites.world import BACKGROUNDS, Background, Clip, Event, Sprite

SPLITS = ("train", "val", "test")
TEMPLATES = ("query", "choose", "compare", "first", "after", "count", "hop", "where")
BY_COLOUR = ("where", "first", "after")
"""Templates of events that are named by their colours."""
ALWAYS_SEEN = ("left", "right", "up", "down", "circle", "zigzag", "bounce", "shake", "spin", "grow", "shrink")
"""Motions during which the whole shape is in the picture."""
IN_PLACE = ("shake", "spin", "grow", "shrink")
"""Motions of a shape that stays where it is, as `where` needs."""
PLACES = {
    **{"top left": (0.27, 0.27), "top right": (0.73, 0.27), "centre": (0.5, 0.5)},
    **{"bottom left": (0.27, 0.73), "bottom right": (0.73, 0.73)},
}
"""Answers of `where`, with the middle of the shape as shares of the picture's side."""
COUNTS = ("1", "2", "3", "4")
COUNTED = ("striped", "dotted")


@dataclasses.dataclass(frozen=True)
class QuestionWorldConfig:
    """Everything a question world depends on; plain values.

    seed: of the world. num_train, num_val, num_test: videos. image_size: side in pixels, even. fps, seconds: of each
        video. slots: equal parts of it; an event takes one. events: (fewest, most) of them, each with a noun of its
    own. templates: one question of each of these a video. options: of multiple choice, in the layouts that have it.
    named_by: 'noun' or 'colour', what tells events apart. every_event: ask `where` about each event, not about one.
    nouns, colours, sizes, motions, backgrounds, tones: the words in use. heldout_pairs: share of the (noun, colour)
        pairs that occur in test only. brightness: largest relative change. crf, gop: of H.264.
    Raises InputError on values that fit nothing.
    """

    seed: int = 0
    num_train: int = 400
    num_val: int = 0
    num_test: int = 100
    image_size: int = 128
    fps: int = 2
    seconds: float = 60.0
    slots: int = 8
    events: tuple[int, int] = (6, 6)
    templates: tuple[str, ...] = TEMPLATES[:6]
    named_by: str = "noun"
    every_event: bool = False
    options: int = 5
    nouns: tuple[str, ...] = NOUNS
    colours: tuple[str, ...] = tuple(COLOURS)
    sizes: tuple[str, ...] = ("small", "medium")
    motions: tuple[str, ...] = ALWAYS_SEEN
    backgrounds: tuple[str, ...] = ("flat", "gradient")
    tones: tuple[str, ...] = tuple(TONES)
    heldout_pairs: float = 0.1
    brightness: float = 0.1
    crf: int = 23
    gop: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):  # lists come from JSON and from configs
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        _check(self)

    def count(self, split: str) -> int:
        """Videos of a split."""
        return getattr(self, f"num_{split}")

    @property
    def num_frames(self) -> int:
        """Of each video."""
        return round(self.seconds * self.fps)


def _check(c: QuestionWorldConfig) -> None:
    def need(ok: bool, field: str, mend: str) -> None:
        if not ok:
            raise InputError(f"QuestionWorldConfig.{field} = {getattr(c, field)!r}: {mend}")

    known = {"nouns": NOUNS, "colours": COLOURS, "sizes": SIZES, "motions": ALWAYS_SEEN, "tones": TONES}
    for name, words in {**known, "backgrounds": BACKGROUNDS, "templates": TEMPLATES}.items():
        given = getattr(c, name)
        fits = given and len(set(given)) == len(given) and all(w in words for w in given)
        need(bool(fits), name, f"use distinct words of {', '.join(words)}")
    for name in ("num_train", "num_val", "num_test"):
        need(getattr(c, name) >= 0, name, "must be 0 or more")
    need(c.image_size >= 32 and c.image_size % 2 == 0, "image_size", "must be even (yuv420p video) and at least 32")
    need(c.fps >= 1, "fps", "must be at least 1")
    need(c.num_frames >= 2 * c.slots, "slots", f"needs two frames each, a video has {c.num_frames}")
    low, high = c.events if len(c.events) == 2 else (0, 0)
    need(4 <= low <= high <= c.slots, "events", f"must be (fewest, most) within 4..{c.slots}, the number of slots")
    need(high < len(c.nouns), "events", f"need as many nouns and one more; there are {len(c.nouns)}")
    need(len(c.colours) >= 3, "colours", "must be at least 3")
    need(c.named_by in ("noun", "colour"), "named_by", "must be 'noun' or 'colour'")
    if c.named_by == "colour":
        need(
            all(t in BY_COLOUR for t in c.templates), "templates", f"use {', '.join(BY_COLOUR)} with named_by 'colour'"
        )
        need(high < len(c.colours), "events", f"need as many colours and one more; there are {len(c.colours)}")
    need(2 <= c.options <= min(len(c.colours), 5), "options", "must be within 2..5, and at most the number of colours")
    need(0 <= c.heldout_pairs <= 0.3, "heldout_pairs", "must be within 0..0.3")
    need(0 <= c.brightness <= 0.5, "brightness", "must be within 0..0.5")


@dataclasses.dataclass(frozen=True)
class WorldQuestion:
    """question, answer: texts. support: the events that the answer is seen in, by number in time. options: for multiple
    choice, the answer among them; empty for a template with fewer answers. novel: shows a held-out pair."""

    template: str
    question: str
    answer: str
    support: tuple[int, ...]
    options: tuple[str, ...]
    novel: bool


@dataclasses.dataclass(frozen=True)
class LongVideo:
    """A planned video. clip: what is drawn; its event k is sprite k, in the order of time. slots: of each event."""

    clip: Clip
    slots: tuple[int, ...]
    questions: tuple[WorldQuestion, ...]


@functools.lru_cache(maxsize=8)
def heldout_pairs(config: QuestionWorldConfig) -> frozenset[tuple[str, str]]:
    """The (noun, colour) pairs that occur in test only. At least half the nouns of each colour stay in training."""
    pairs = list(itertools.product(config.nouns, config.colours))
    want = round(config.heldout_pairs * len(pairs))
    held: set[tuple[str, str]] = set()
    for k in keyed_rng(config.seed, "heldout").permutation(len(pairs)):
        noun, colour = pairs[int(k)]
        of_colour, of_noun = (sum(p[i] == w for p in held) for i, w in ((1, colour), (0, noun)))
        if len(held) < want and 2 * (of_colour + 1) <= len(config.nouns) and 2 * (of_noun + 1) <= len(config.colours):
            held.add((noun, colour))
    return frozenset(held)


def plan_video(config: QuestionWorldConfig, split: str, index: int) -> LongVideo:
    """The plan of video `index` of a split, a function of (config, split, index)."""
    if split not in SPLITS or not 0 <= index < config.count(split):
        raise InputError(f"{split} video {index} does not exist: the split has {config.count(split)}")
    rng = keyed_rng(config.seed, split, "video", index)
    number = int(rng.integers(config.events[0], config.events[1] + 1))
    slots = tuple(sorted(int(s) for s in rng.choice(config.slots, number, replace=False)))
    deck = _Deck(config, split, index)
    roles = [int(k) for k in rng.permutation(number)]
    query, choose, left, right = roles[0], roles[1], roles[2], roles[3]

    colours = [str(rng.choice(config.colours)) for _ in range(number)]
    colours[query], colours[choose] = deck("query", config.colours), deck("choose", config.colours)
    same = deck("compare", ("yes", "no"))
    others = [c for c in config.colours if c != colours[left]]
    colours[right] = colours[left] if same == "yes" else str(rng.choice(others))
    if config.named_by == "colour":
        colours = [config.colours[int(k)] for k in rng.permutation(len(config.colours))[:number]]
    nouns = _nouns(config, split, colours, query, rng)
    counted = str(rng.choice(COUNTED))
    count = int(deck("count", COUNTS))
    textures = [str(rng.choice([t for t in ("plain", *COUNTED) if t != counted])) for _ in range(number)]
    for k in rng.choice(number, count, replace=False):
        textures[int(k)] = counted

    held = heldout_pairs(config)
    shown = lambda *events: any((nouns[e], colours[e]) in held for e in events)  # noqa: E731
    one = int(rng.integers(number - 1))  # has one behind it
    pair = sorted(int(k) for k in rng.choice(number, 2, replace=False))
    named = pair if deck("first", ("yes", "no")) == "yes" else pair[::-1]
    wrong = str(rng.choice([c for c in config.colours if c != colours[choose]]))
    two = [colours[choose], wrong] if deck("choose_order", ("yes", "no")) == "yes" else [wrong, colours[choose]]
    form = int(rng.integers(2))
    hop = int(rng.integers(number - 1))
    places = [str(rng.choice(list(PLACES))) for _ in range(number)]
    places[query] = deck("where", tuple(PLACES))
    by_colour = config.named_by == "colour"
    names = [f"{c} shape" for c in colours] if by_colour else nouns
    told = colours if by_colour else nouns  # what an event is called in an answer
    every = tuple(k for k in range(number) if textures[k] == counted)

    def ask(template: str) -> WorldQuestion:
        kind: tuple[str, ...] = config.colours if by_colour else config.nouns
        if template == "query":
            said = ("what colour is the {}?", "which colour does the {} have?")[form].format(nouns[query])
            answer, support, kind = colours[query], (query,), config.colours
        elif template == "choose":
            said = f"is the {nouns[choose]} {two[0]} or {two[1]}?"
            answer, support, kind = colours[choose], (choose,), config.colours
        elif template == "compare":
            said = f"do the {nouns[left]} and the {nouns[right]} have the same colour?"
            answer, support, kind = same, tuple(sorted((left, right))), ()
        elif template == "first":
            said = f"which appears first, the {names[named[0]]} or the {names[named[1]]}?"
            answer, support = told[pair[0]], tuple(pair)
        elif template == "after":
            said = f"what appears right after the {names[one]}?"
            answer, support = told[one + 1], (one, one + 1)
        elif template == "where":
            said, answer, support, kind = f"where is the {names[query]}?", places[query], (query,), tuple(PLACES)
        elif template == "count":
            said, answer, support, kind = f"how many shapes are {counted}?", str(count), every, COUNTS
        else:
            said = f"what colour is the shape right after the {nouns[hop]}?"
            answer, support, kind = colours[hop + 1], (hop, hop + 1), config.colours
        place = deck(f"{template}_place", tuple("01234"[: config.options]))
        options = _options(answer, kind, config.options, place, rng)
        return WorldQuestion(template, said, answer, support, options, shown(*support))

    def ask_where(event: int) -> WorldQuestion:
        place = str(rng.integers(config.options))
        options = _options(places[event], tuple(PLACES), config.options, place, rng)
        said = f"where is the {names[event]}?"
        return WorldQuestion("where", said, places[event], (event,), options, shown(event))

    questions = tuple(ask(template) for template in config.templates)
    if config.every_event and "where" in config.templates:
        questions += tuple(ask_where(event) for event in range(number) if event != query)
    fixed = places if "where" in config.templates else None
    clip = _clip(config, split, index, nouns, colours, textures, slots, fixed, rng)
    return LongVideo(clip, slots, questions)


def every_answer(config: QuestionWorldConfig) -> tuple[str, ...]:
    """The answers that there can be, sorted."""
    found: set[str] = set()
    for template in config.templates:
        if template in ("query", "choose", "hop"):
            found.update(config.colours)
        elif template in ("first", "after"):
            found.update(config.colours if config.named_by == "colour" else config.nouns)
        else:
            found.update({"compare": ("yes", "no"), "count": COUNTS, "where": tuple(PLACES)}[template])
    return tuple(sorted(found))


class _Deck:
    """Answers dealt in turn to the videos of a split: in every run of as many videos as answers each comes once."""

    def __init__(self, config: QuestionWorldConfig, split: str, index: int):
        self.seed, self.split, self.index = config.seed, split, index

    def __call__(self, name: str, answers: tuple[str, ...]) -> str:
        turn, place = divmod(self.index, len(answers))
        order = keyed_rng(self.seed, self.split, "deck", name, turn).permutation(len(answers))
        return answers[int(order[place])]


def _nouns(
    config: QuestionWorldConfig, split: str, colours: list[str], query: int, rng: np.random.Generator
) -> list[str]:
    """A different noun for each event; held-out pairs only in test, there in half of the `query` questions."""
    held = heldout_pairs(config)
    nouns: list[str] = [""] * len(colours)
    order = [query, *(k for k in range(len(colours)) if k != query)]
    for k in order:
        free = [n for n in config.nouns if n not in nouns]
        if split != "test":
            free = [n for n in free if (n, colours[k]) not in held]
        elif k == query and rng.random() < 0.5:
            free = [n for n in free if (n, colours[k]) in held] or free
        if not free:
            raise InputError("QuestionWorldConfig.heldout_pairs: leaves too few nouns a colour; use a smaller share")
        nouns[k] = str(rng.choice(free))
    return nouns


def _options(answer: str, kind: tuple[str, ...], count: int, place: str, rng: np.random.Generator) -> tuple[str, ...]:
    others = [word for word in kind if word != answer]
    if len(others) < count - 1:
        return ()
    chosen = [others[int(k)] for k in rng.permutation(len(others))[: count - 1]]
    chosen.insert(int(place), answer)
    return tuple(chosen)


def _clip(config, split, index, nouns, colours, textures, slots, places, rng) -> Clip:
    frames = config.num_frames
    sprites, events = [], []
    for k, slot in enumerate(slots):
        first, last = slot * frames // config.slots, (slot + 1) * frames // config.slots
        size = str(rng.choice(config.sizes))
        motions = config.motions if places is None else IN_PLACE
        motion = str(rng.choice([m for m in motions if not (m == "spin" and nouns[k] in ROUND)]))
        path = plan_path(motion, SIZES[size], rng)
        if places is not None:
            at = tuple(float(v) for v in np.array(PLACES[places[k]]) + rng.uniform(-0.02, 0.02, 2))
            path = dataclasses.replace(path, start=at, end=at)
        look = (nouns[k], colours[k], textures[k], size, SIZES[size])
        sprites.append(Sprite(k, *look, depth=0, path=path, on_stage=(first, last), event=k))
        events.append(Event(motion, k, round(first / config.fps, 4), round((last - 1) / config.fps, 4)))
    background = Background(
        kind=str(rng.choice(config.backgrounds)),
        tone=str(rng.choice(config.tones)),
        brightness=float(1 + rng.uniform(-config.brightness, config.brightness)),
        pan=(0.0, 0.0),
        seed=int(rng.integers(2**31)),
    )
    return Clip(
        split, index, config.image_size, config.fps, frames, background, tuple(sprites), tuple(events), (), None, None,
        any((n, c) in heldout_pairs(config) for n, c in zip(nouns, colours)),
    )  # fmt: skip


def evidence_segments(spans: list[list[float]], duration: float, segments: int) -> list[int]:
    """The equal parts of a video that the spans `[start_s, end_s)` touch, ascending."""
    found = set()
    for start, end in spans:
        first = math.floor(start / duration * segments + 1e-6)
        last = math.ceil(end / duration * segments - 1e-6)
        found.update(range(max(0, first), min(segments, max(last, first + 1))))
    return sorted(found)
