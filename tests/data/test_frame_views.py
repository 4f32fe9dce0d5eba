"""Which frames of a video are seen, and how."""

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import images
from jaxvl.data.frame_views import load_view
from jaxvl.data.frames import FrameFolder
from jaxvl.data.sampling import interval_middles
from jaxvl.data.video import open_source
from tests.data import media_files as mf


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ((32, 100), [1, 4, 7, 10]),
        ((32, 1000), [15, 46, 77, 108]),
        ((32, 300), [4, 13, 22, 32, 41, 50, 60, 69]),
        ((8, 50), [2, 8, 14, 21, 27, 33, 39, 46]),
        ((32, 900, 10, 20), [9, 9, 9, 10, 10, 10, 11]),
        ((4, 2), [0, 1, 1, 1]),
        ((4, 1), [0, 0, 0, 0]),
        ((4, 100, 0, 2), [0, 0, 0, 1]),
        ((4, 100, 99.5, 100), [98, 98, 98, 99]),
    ],
)
def test_known_frame_numbers(arguments, first):
    picks = interval_middles(*arguments)
    assert len(picks) == arguments[0]
    assert picks[: len(first)].tolist() == first


def test_views_of_a_video_show_the_sampled_frames(tmp_path):
    path = mf.write_video(tmp_path / "v.mp4", 50, fps=10, width=96, height=64)
    view = load_view(path, num_frames=8, size=32, grid=4)
    assert mf.counters(view.whole) == [2, 8, 14, 21, 27, 33, 39, 46]
    np.testing.assert_allclose(view.times, np.array([2, 8, 14, 21, 27, 33, 39, 46]) / 10)
    assert view.duration == pytest.approx(5.0)
    source = open_source(path)
    for k, index in ((0, 2), (5, 33)):  # against the frame at its own size and Pillow
        picture = Image.fromarray(source.read([index], None, crop=False)[0])
        assert picture.size == (96, 64)
        np.testing.assert_array_equal(view.whole[k], images.square(picture, 32))
        np.testing.assert_array_equal(view.tiled[k], np.asarray(picture.resize((128, 128), Image.Resampling.BICUBIC)))


def test_a_part_of_a_video(tmp_path):
    path = mf.write_video(tmp_path / "v.mp4", 50, fps=10)
    view = load_view(path, num_frames=4, size=32, grid=1, start_s=1.0, end_s=3.0)
    assert mf.counters(view.whole) == [12, 17, 22, 27]
    past = load_view(path, num_frames=4, size=32, grid=1, start_s=4.0, end_s=99.0)
    assert mf.counters(past.whole) == interval_middles(4, 50, 40, 50).tolist()
    with pytest.raises(BadMedia, match=r"the video ends at 5\.00 s"):
        load_view(path, num_frames=4, size=32, grid=1, start_s=5.5, end_s=6.0)


def test_folders_of_frames_give_the_same(tmp_path):
    for i in range(6):
        Image.fromarray(mf.counter_frame(i, 96, 64)).save(tmp_path / f"{i}.png")
    view = load_view(tmp_path, num_frames=3, size=32, grid=2)
    assert mf.counters(view.whole) == interval_middles(3, 6).tolist()
    assert not view.timed
    with pytest.raises(InputError, match="needs the rate"):
        load_view(FrameFolder(tmp_path), num_frames=3, size=32, grid=2, start_s=0.0, end_s=2.0)
    with pytest.raises(InputError, match="the range 2 to 1 s is inverted"):
        load_view(tmp_path, num_frames=3, size=32, grid=2, fps=2.0, start_s=2.0, end_s=1.0)
