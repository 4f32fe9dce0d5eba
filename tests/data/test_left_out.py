"""Videos that begin without a key frame: counted in every thread and process that reads them, said once."""

import itertools
import types

import pytest

from jaxvl.data import left_out
from jaxvl.data.pipeline import eval_batches, train_batches
from jaxvl.data.shrink import shrink_videos
from jaxvl.data.video import load_clip
from tests.data import media_files as mf

LINE = "1 of the videos that were read begin without a key frame: what stands before it (5 packets) cannot be shown"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`a.ts` is whole, `late.ts` lacks its first three packets, so that five show nothing."""
    folder = tmp_path_factory.mktemp("videos")
    whole = mf.write_video(folder / "a.ts", 16, gop=8, bframes=0)
    mf.copy_packets(whole, folder / "late.ts", lambda k, packet: k >= 3)
    return folder


def make(record, rng):
    return {"video": load_clip(record, num_frames=2, image_size=32, sampling="uniform").frames}


def examples(folder):
    return types.SimpleNamespace(
        source=[str(folder / "a.ts"), str(folder / "late.ts")], make=make, id_of=lambda r: r, batch_size=2
    )


def test_batches_count_each_file_once(folder):
    found = left_out.LeftOut()
    stream = found.watch(train_batches(examples(folder), seed=0, num_threads=2))
    batches = list(itertools.islice(stream, 3))
    stream.close()
    batches += found.watch(eval_batches(examples(folder), num_threads=2))
    assert found.files == {str(folder / "late.ts"): 5}
    assert all(left_out.FIELD not in batch for batch in batches)
    said = []
    found.tell(said.append)
    assert len(said) == 1
    assert said[0].startswith(LINE)
    assert str(folder / "late.ts") in said[0]


def test_nothing_is_said_of_whole_videos(folder):
    said = []
    with left_out.told(said.append):
        make(str(folder / "a.ts"), None)
    assert said == []


def test_a_file_read_twice_is_said_once(folder):
    said = []
    with left_out.told(said.append):
        make(str(folder / "late.ts"), None)
        make(str(folder / "late.ts"), None)
    assert len(said) == 1
    assert said[0].startswith(LINE)


def test_small_videos_made_of_them_say_so(folder, tmp_path):
    said = []
    paths = [str(folder / name) for name in ("a.ts", "late.ts")]
    shrink_videos(folder, paths, tmp_path / "small", short_side=32, fps=25.0, processes=1, say=said.append)
    assert [line for line in said if line.startswith(LINE)]
