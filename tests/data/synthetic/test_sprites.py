from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic.sprites import shapes
from jaxvl.data.synthetic.sprites.captions import VERBS, noun_phrase, sentence, with_article
from jaxvl.data.synthetic.sprites.motions import MOTIONS, ORDER_FREE_MOTIONS, plan_path, state_at
from jaxvl.data.synthetic.sprites.render import render_clip, sprite_state
from jaxvl.data.synthetic.sprites.world import SPLITS, WorldConfig, combinations, heldout_pairs, plan_clip

CONFIG = WorldConfig(num_train=400, num_val=40, num_test=300, captions_per_video=4)
TWINS = WorldConfig(num_train=120, num_val=10, num_test=40, events_per_clip=(2, 2), twins=0.5, distractors=(0, 2))
NEEDLE = WorldConfig(num_train=0, num_val=0, num_test=24, seconds=(4, 6), needle=True, distractors=(0, 3))


def plans(config: WorldConfig, split: str) -> list:
    return [plan_clip(config, split, i) for i in range(config.count(split))]


def within(inner, outer, slack: float) -> bool:
    x0, y0, x1, y1 = outer
    return inner[0] >= x0 - slack and inner[1] >= y0 - slack and inner[2] <= x1 + slack and inner[3] <= y1 + slack


# ------------------------------------------------------------------------------------------ shapes, motions


@pytest.mark.parametrize("noun", shapes.NOUNS)
def test_a_shape_stays_in_the_unit_disc_and_nearly_fills_it(noun):
    radius = np.linalg.norm(np.concatenate(shapes.rings(noun)), axis=1)
    assert radius.max() <= 1.0 + 1e-9
    assert radius.max() > 0.85


def test_there_are_enough_words():
    assert len(shapes.NOUNS) >= 12
    assert len(shapes.COLOURS) == 8
    assert set(VERBS) == set(MOTIONS) >= set(ORDER_FREE_MOTIONS)
    assert all(len(forms) >= 2 and len({f for form in forms for f in form}) >= 4 for forms in VERBS.values())


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_stays_inside_the_picture_and_does_what_its_name_says(motion):
    size = 0.4
    for seed in range(20):
        path = plan_path(motion, size, np.random.default_rng(seed))
        states = [state_at(path, u) for u in np.linspace(0, 1, 61)]
        xy = np.array([(s.x, s.y) for s in states])
        where = slice(30, 31) if "enter" in motion or "leave" in motion else slice(None)
        inside = xy if where == slice(None) else xy[-1:] if "enter" in motion else xy[:1]
        assert inside.min() >= size / 2
        assert inside.max() <= 1 - size / 2
        dx, dy = xy[-1] - xy[0]
        expected = {
            "left": dx < -0.3, "right": dx > 0.3, "up": dy < -0.3, "down": dy > 0.3,
            "circle": np.allclose(xy[0], xy[-1]) and np.ptp(xy, axis=0).min() > 0.3,
            "zigzag": abs(dx) > 0.3 and np.ptp(xy[:, 1]) > 0.2,
            "bounce": np.ptp(xy[:, 1]) > 0.25 and np.ptp(xy[:, 0]) == 0,
            "shake": np.ptp(xy[:, 0]) > 0.15 and np.ptp(xy[:, 1]) == 0,
            "spin": abs(states[-1].angle) == pytest.approx(2 * np.pi),
            "blink": {s.opacity for s in states} == {0.0, 1.0},
            "grow": states[-1].scale == 1 and states[0].scale < 0.5,
            "shrink": states[0].scale == 1 and states[-1].scale < 0.5,
            "fade_in": (states[0].opacity, states[-1].opacity) == (0, 1),
            "fade_out": (states[0].opacity, states[-1].opacity) == (1, 0),
            "enter_left": xy[0, 0] < -size / 2, "enter_right": xy[0, 0] > 1 + size / 2,
            "leave_left": xy[-1, 0] < -size / 2, "leave_right": xy[-1, 0] > 1 + size / 2,
        }  # fmt: skip
        assert expected[motion], (motion, seed)


# ------------------------------------------------------------------------------------------------ captions


def test_captions_by_hand():
    assert noun_phrase("star", "orange", "plain", "small", False) == "an orange star"
    assert noun_phrase("star", "orange", "dotted", "large", True) == "a large orange dotted star"
    assert noun_phrase("arrow", "red", "plain", "medium", True) == "a red arrow"
    two = (["a red star", "a blue ring"], ["spin", "grow"], [0, 1])
    assert sentence(*two, 0, "on a grey background") == (
        "a red star spins around, then a blue ring gets bigger on a grey background"
    )
    assert sentence(*two, 1, "") == "there is a red star spinning around and then a blue ring getting bigger"
    assert sentence(*two, 3, "on a grey background") == (
        "on a grey background there is a red star that spins around, then a blue ring that gets bigger"
    )


@pytest.mark.parametrize("config", [CONFIG, TWINS], ids=["plain", "twins"])
def test_articles_agree_with_the_next_word(config):
    for split in SPLITS:
        for clip in plans(config, split):
            for caption in clip.captions:
                for article, word in re.findall(r"\b(an?) (\w+)", caption):
                    assert article == ("an" if word[0] in "aeiou" else "a"), caption
    assert with_article("umbrella") == "an umbrella"


@pytest.mark.parametrize("config", [CONFIG, TWINS], ids=["plain", "twins"])
def test_test_captions_are_unique_and_their_words_and_combinations_split_well(config):
    captions = {s: [set(c.captions) for c in plans(config, s)] for s in SPLITS}
    for split in ("val", "test"):
        every = [text for texts in captions[split] for text in texts]
        assert len(set(every)) == len(every), "two clips share a caption"
    words = {s: set(re.findall(r"\w+", " ".join(t for texts in captions[s] for t in texts))) for s in SPLITS}
    assert words["test"] <= words["train"]
    # the combination of an unseen clip was never trained on, and its template is the test's own
    deal = combinations(config)
    assert not set(deal["test"]) & (set(deal["train"]) | set(deal["val"]))
    assert all(t.startswith(("on a", "there is")) and " that " in t for texts in captions["test"] for t in texts)
    assert not any(t.startswith("on a") for texts in captions["train"] for t in texts)


def test_every_caption_names_the_truth():
    for clip in plans(CONFIG, "train")[:60]:
        sprite, event = clip.sprites[0], clip.events[0]
        for caption in clip.captions:
            texture = "" if sprite.texture == "plain" else f" {sprite.texture}"
            assert f" {sprite.colour}{texture} {sprite.noun} " in caption
            assert any(form in caption for forms in VERBS[event.verb] for form in forms)
            if "background" in caption:
                assert f"{clip.background.tone} background" in caption
    assert len(set(clip.captions)) == CONFIG.captions_per_video


def test_heldout_pairs_appear_in_test_only_and_leave_every_word_in_training():
    held = heldout_pairs(CONFIG)
    pairs = {
        s: {(clip.sprites[e.sprite].noun, e.verb) for clip in plans(CONFIG, s) for e in clip.events} for s in SPLITS
    }
    assert 20 <= len(held) <= 30  # a tenth of 16 nouns x 18 motions
    assert not held & (pairs["train"] | pairs["val"])
    assert len(held & pairs["test"]) > 0.5 * len(held)
    trained = combinations(CONFIG)["train"]
    assert {c[0] for c in trained} == set(CONFIG.nouns)
    assert {c[3] for c in trained} == set(CONFIG.motions)
    flags = [clip.heldout for clip in plans(CONFIG, "test")]
    assert flags == [(c.sprites[0].noun, c.events[0].verb) in held for c in plans(CONFIG, "test")]
    assert 0.05 < np.mean(flags) < 0.5


def test_a_round_noun_never_spins():
    assert not {("circle", "spin"), ("ring", "spin")} & {(c[0], c[3]) for d in combinations(CONFIG).values() for c in d}


# ------------------------------------------------------------------------------------- determinism, structure


def test_one_clip_is_the_same_alone_in_another_process_and_in_a_larger_world():
    clip = plan_clip(CONFIG, "test", 17)
    assert plan_clip(dataclasses.replace(CONFIG, num_test=18, num_train=5), "test", 17) == clip
    assert plan_clip(dataclasses.replace(CONFIG, seed=1), "test", 17) != clip
    code = (
        "import sys, zlib\n"
        "from jaxvl.data.synthetic.sprites.world import *\n"
        "from jaxvl.data.synthetic.sprites.render import *\n"
        "c = WorldConfig(num_train=400, num_val=40, num_test=300, captions_per_video=4)\n"
        "r = render_clip(plan_clip(c, 'test', 17))\n"
        "assert 'jax' not in sys.modules\n"
        "print(zlib.crc32(r.frames.tobytes()))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(there) == zlib.crc32(render_clip(clip).frames.tobytes())


def test_config_from_json_lists_is_the_same_config():
    words = {"nouns": ["star", "ring"], "motions": ["left", "grow", "up"], "seconds": [2, 2]}
    tuples = {"nouns": ("star", "ring"), "motions": ("left", "grow", "up"), "seconds": (2.0, 2.0)}
    assert WorldConfig(num_test=4, num_val=2, **words) == WorldConfig(num_test=4, num_val=2, **tuples)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nouns", ("star", "banana")), ("num_test", 10**6), ("image_size", 65), ("seconds", (3, 2)),
        ("events_per_clip", (0, 1)), ("distractors", (0, 7)), ("twins", 0.5), ("heldout_pairs", 0.9), ("crf", 99),
        ("captions_per_video", 0), ("motions", ("left", "left")), ("gop", 0), ("brightness", -1),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(InputError, match=r"WorldConfig\."):
        WorldConfig(**{field: value})


def test_wrong_needle_wrong_split_and_wrong_index_are_named():
    with pytest.raises(InputError, match="camera_pan"):
        WorldConfig(needle=True, camera_pan=2)
    with pytest.raises(InputError, match="split"):
        CONFIG.count("training")
    with pytest.raises(InputError, match="300 clips"):
        plan_clip(CONFIG, "test", 300)


def test_events_follow_each_other_and_lie_in_the_clip():
    more = {"events_per_clip": (1, 3), "seconds": (2, 5), "distractors": (0, 6)}
    config = WorldConfig(num_train=30, num_val=0, num_test=0, **more)
    seen = set()
    for clip in plans(config, "train"):
        times = [t for e in clip.events for t in (e.start, e.end)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= clip.seconds
        assert 2 <= clip.seconds <= 5
        assert sorted(s.depth for s in clip.sprites) == list(range(len(clip.sprites)))
        assert sum(s.event is not None for s in clip.sprites) == len(clip.events)
        distractors = {s.noun for s in clip.sprites if s.event is None}
        assert not distractors & {s.noun for s in clip.sprites if s.event is not None}
        seen |= {(len(clip.events), len(distractors))}
    assert {s[0] for s in seen} == {1, 2, 3}
    assert {s[1] for s in seen} >= {0, 1, 5, 6}


def test_needle_is_in_one_segment_and_the_rest_is_one_still_picture():
    segments = set()
    for clip in plans(NEEDLE, "test")[:12]:
        frames = render_clip(clip).frames
        n, s = clip.num_frames, NEEDLE.needle_segments
        segment_of = np.arange(n) * s // n
        outside = frames[segment_of != clip.segment]
        assert (outside == outside[0]).all()
        assert (frames[segment_of == clip.segment] != outside[0]).any()
        event = clip.events[0]
        assert clip.segment * n / s <= event.start * clip.fps < event.end * clip.fps < (clip.segment + 1) * n / s
        segments.add(clip.segment)
    assert len(segments) > 1


def test_twins_hold_the_same_frames_in_the_opposite_order():
    pairs = [(a, b) for a, b in zip(plans(TWINS, "test")[::2], plans(TWINS, "test")[1::2]) if a.twin is not None]
    assert 3 <= len(pairs) <= 17  # about half of twenty
    for a, b in pairs[:6]:
        assert (a.twin, b.twin) == (b.index, a.index)
        assert [e.verb for e in a.events] == [e.verb for e in b.events][::-1]
        assert [s.noun for s in a.sprites[:2]] == [s.noun for s in b.sprites[:2]][::-1]
        assert a.captions[0] != b.captions[0]
        assert sorted(re.findall(r"\w+", a.captions[0])) == sorted(re.findall(r"\w+", b.captions[0]))
        fa, fb, half = render_clip(a).frames, render_clip(b).frames, a.num_frames // 2
        assert a.num_frames == b.num_frames == 2 * half
        np.testing.assert_array_equal(fa[:half], fb[half:])
        np.testing.assert_array_equal(fa[half:], fb[:half])
        assert (fa[:half] != fa[half:]).any()


def test_boxes_match_the_pixels_that_a_sprite_changes():
    config = WorldConfig(num_train=25, num_val=0, num_test=0, distractors=(1, 3), camera_pan=4.0, image_size=96)
    checked = hidden = outside = 0
    for clip in plans(config, "train"):
        both = render_clip(clip)
        assert both.frames.dtype == np.uint8
        assert both.frames.shape == (clip.num_frames, 96, 96, 3)
        without = render_clip(clip, without={0}).frames
        track = both.tracks[0]
        assert track.id == 0
        for f in range(0, clip.num_frames, 5):
            changed = np.abs(both.frames[f].astype(int) - without[f]).max(-1) > 8
            full, visible = track.box_full[f], track.box_visible[f]
            assert sprite_state(clip, clip.sprites[0], f) is not None
            hidden += track.opacity[f] == 0
            if visible is None:
                assert changed.sum() == 0
                continue
            x0, y0, x1, y1 = visible
            assert 0 <= x0 < x1 <= 96
            assert 0 <= y0 < y1 <= 96
            assert within(visible, full, 2)
            assert 0 <= track.visible_fraction[f] <= 1
            outside += full[0] < -2 or full[2] > 98
            if full[0] < -2 or full[2] > 98:
                assert track.visible_fraction[f] < 0.999
            if changed.sum() < 20 or track.opacity[f] < 0.5:
                continue
            y, x = np.nonzero(changed)
            found = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert within(found, visible, 0)  # nothing changes outside
            assert np.abs(np.array(found) - visible).max() <= 3
            checked += 1
    assert checked > 40
    assert hidden
    assert outside


def test_a_sprite_behind_another_shows_less():
    clip = plan_clip(WorldConfig(num_train=1, num_val=0, num_test=0, distractors=(1, 1)), "train", 0)
    path = plan_path("still", 0.5, np.random.default_rng(0))
    behind, front = (dataclasses.replace(s, path=path, size=0.5, noun="square", event=None) for s in clip.sprites)
    two = dataclasses.replace(behind, depth=0), dataclasses.replace(front, depth=1)
    clip = dataclasses.replace(clip, sprites=two)
    low, high = render_clip(clip).tracks
    assert low.visible_fraction[0] < 0.05
    assert high.visible_fraction[0] == 1.0
    assert low.box_full == high.box_full
    moved = dataclasses.replace(path, start=(path.start[0] + 0.25, path.start[1]))
    half = dataclasses.replace(clip.sprites[1], path=moved)
    low = render_clip(dataclasses.replace(clip, sprites=(clip.sprites[0], half))).tracks[0]
    assert 0.15 < low.visible_fraction[0] < 0.8
