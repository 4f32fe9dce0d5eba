from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from jaxvl.viz import images
from jaxvl.viz.retrieval import Hit, retrieval_sheet
from jaxvl.viz.tokens import KEPT, kept_mask, kept_tokens


def solid(colour, side=16) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def count(image: Image.Image, colour) -> int:
    return int((np.asarray(image) == colour).all(-1).sum())


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_data_uri_holds_the_picture(kind):
    picture = solid((200, 30, 60))
    head, data = images.data_uri(picture, kind).split(",")
    assert head == f"data:image/{kind};base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    assert np.abs(back - picture).max() <= (0 if kind == "png" else 4)


def test_wrong_pictures_are_refused():
    with pytest.raises(ValueError, match=r"float64 \[4, 4, 3\]"):
        images.as_image(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"\[4, 4, 4\]"):
        images.as_image(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="gif"):
        images.to_bytes(solid((0, 0, 0)), "gif")
    with pytest.raises(ValueError, match="at least one"):
        images.grid([], 3)


def test_text_is_cut_and_wrapped_to_the_width():
    long = "a large red striped star moves in a circle " * 5
    assert images.fit("short", 13, 200) == "short"
    for text in (images.fit(long, 13, 200), *images.wrap(long, 13, 200, 3)):
        assert images.text_size(text, 13)[0] <= 200
    assert images.fit(long, 13, 200).endswith("...")
    lines = images.wrap(long, 13, 200, 3)
    assert len(lines) == 3
    assert lines[2].endswith("...")
    assert images.wrap("one two", 13, 500, 3) == ["one two"]
    assert images.fit("line\nbreak", 13, 200) == "line break"


def test_label_is_below_and_frame_is_around():
    red = (250, 0, 0)
    labelled = images.label(solid(red, 40), "hello", 12)
    assert (labelled.width, labelled.height > 50) == (40, True)
    assert count(labelled, red) == 40 * 40
    below = np.asarray(labelled)[40:]
    assert (below < 128).any()
    framed = images.frame(solid(red, 10), (0, 255, 0), 2)
    assert framed.size == (14, 14)
    assert count(framed, (0, 255, 0)) == 14 * 14 - 100


def test_grid_places_row_by_row():
    tiles = [solid((k, 0, 0), 8) for k in (10, 20, 30, 40, 50)]
    sheet = np.asarray(images.grid(tiles, 3, gap=2))
    assert sheet.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    assert [int(sheet[6, x, 0]) for x in (6, 16, 26)] == [10, 20, 30]
    assert [int(sheet[16, x, 0]) for x in (6, 16, 26)] == [40, 50, 255]


def test_film_strip_takes_the_middle_of_each_part():
    frames = np.stack([solid((k * 20, 0, 0), 8) for k in range(12)])
    strip = np.asarray(images.film_strip(frames, 3, 16, gap=2))
    assert strip.shape == (16, 3 * 16 + 4, 3)
    assert [int(strip[8, x, 0]) // 20 for x in (4, 22, 40)] == [2, 6, 10]


# ---------------------------------------------------------------------------------------------- retrieval


def test_retrieval_sheet_frames_the_right_clip_in_green():
    clips = [np.stack([solid((0, 0, 100 + 20 * k))] * 4) for k in range(5)]
    wrong = [Hit(c, 0.5 - 0.1 * k, False, f"video{k}") for k, c in enumerate(clips)]
    right = [*wrong[:2], Hit(clips[2], 0.3, True, "video2"), *wrong[3:]]
    none = retrieval_sheet(["a red star"], [wrong])
    one = retrieval_sheet(["a red star"], [right])
    two = retrieval_sheet(["a red star", "b"], [right, right], ranks=[2, 2])
    assert count(none, images.GREEN) == 0
    # border of 3 around a strip of three 64-pixel frames and two gaps of 2, and the green text below
    border = (3 * 64 + 4 + 6) * (64 + 6) - (3 * 64 + 4) * 64
    assert border <= count(one, images.GREEN) < border + 400
    assert count(two, images.GREEN) == 2 * count(one, images.GREEN)
    assert (one.width, one.height) == (none.width, none.height)
    green = np.nonzero((np.asarray(one) == images.GREEN).all(-1))[1]
    third = one.width / 5
    assert 2 * third < green.min() < green.max() < 3 * third  # the third column
    for k in range(5):
        assert count(one, (0, 0, 100 + 20 * k)) == 3 * 64 * 64


def test_a_rank_is_written_and_wrong_lengths_are_refused():
    hits = [Hit(np.stack([solid((0, 0, 90))]), 0.5, False)]
    without, first = retrieval_sheet(["q"], [hits], None), retrieval_sheet(["q"], [hits], [0])
    assert count(without, images.GREEN) == 0
    assert count(first, images.GREEN) > 0
    for queries, results, ranks in (
        (["q"], [hits, hits], None),
        (["q"], [[]], None),
        (["q"], [hits], [1, 2]),
        ([], [], None),
    ):
        with pytest.raises(ValueError, match=r"length|without hits"):
            retrieval_sheet(queries, results, ranks)


# ------------------------------------------------------------------------------------------------- tokens


def test_kept_mask_by_hand():
    # 4 frames, 2 segments, 2x2 patches: token 5 of a segment is frame 1, y 0, x 1; -1 is padding
    kept = kept_mask(np.array([[0, 5], [3, -1]]), frames=4, grid=2, segments=2)
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [1, 0, 1], [2, 1, 1]]


def test_kept_tokens_darkens_the_discarded_patches_only():
    frames = np.full((4, 16, 16, 3), 200, np.uint8)
    image = kept_tokens(frames, np.array([[0, 5], [3, 6]]), grid=2, segments=2, side=32)
    bright, dark = (200,) * 3, (56,) * 3
    assert count(image, dark) == 12 * 16 * 16  # 16 patches less 4 kept
    assert count(image, bright) == 4 * 14 * 14  # the kept ones inside their outline
    assert count(image, KEPT) == 4 * (16 * 16 - 14 * 14)


def test_neighbouring_kept_patches_share_one_outline():
    frames = np.full((1, 16, 16, 3), 200, np.uint8)
    image = kept_tokens(frames, np.array([[0, 1]]), grid=2, segments=1, side=32)
    assert count(image, KEPT) == 32 * 16 - 30 * 14
    every = kept_tokens(frames, np.array([[0, 1, 2, 3]]), grid=2, segments=1, side=32)
    assert count(every, (56,) * 3) == 0


def test_tokens_that_do_not_fit_are_refused():
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="do not fit"):
        kept_tokens(frames, np.zeros((3, 2), int), 2, 3)
    with pytest.raises(ValueError, match="token 8 in a segment of 8"):
        kept_tokens(frames, np.array([[8], [0]]), 2, 2)
    with pytest.raises(ValueError, match="uint8"):
        kept_tokens(frames.astype(float), np.zeros((2, 1), int), 2, 2)
