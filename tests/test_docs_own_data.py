"""Every mistake in `docs/howto/own_data.md` is made here, and gives the line that the page says."""

import collections
import json
import pickle
import re
from pathlib import Path

import pytest

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.data.readers.retrieval.msrvtt import read_msrvtt
from jaxvl.data.readers.retrieval.msvd import read_msvd
from jaxvl.methods.centerclip.data import build_data

REPOSITORY = Path(__file__).parent.parent
PAGE = (REPOSITORY / "docs" / "howto" / "own_data.md").read_text()
TABLE = dict(re.findall(r"^\| ([^|`]+|[^|]*`strict`) \| `(.+)` \|$", PAGE, re.M))
IDS = ("video0", "video1", "video2")


def quickstart(*overrides):
    return configs.load(REPOSITORY / "configs" / "centerclip" / "quickstart.py", overrides)


@pytest.fixture
def root(tmp_path):
    """The page's MSR-VTT layout with three videos (no reader opens them)."""
    root = tmp_path / "ROOT"
    (root / "videos").mkdir(parents=True)
    annotations = {
        "videos": [{"video_id": i, "split": "train"} for i in IDS],
        "sentences": [{"video_id": i, "caption": f"a caption of {i}"} for i in IDS],
    }
    (root / "MSRVTT_data.json").write_text(json.dumps(annotations))
    (root / "MSRVTT_train.9k.csv").write_text("\n".join(["video_id", *IDS, ""]))
    (root / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\nret0,msr2,video2,a caption\n")
    for name in IDS:
        (root / "videos" / f"{name}.mp4").write_bytes(b"x")
    return root


def wrong_folder(root):
    read_msrvtt(root / "nowhere", "train")


def the_other_train_list(root):
    (root / "MSRVTT_train.9k.csv").rename(root / "MSRVTT_train.7k.csv")
    read_msrvtt(root, "train")


def media_in_another_folder(root):
    (root / "videos").rename(root / "video")
    read_msrvtt(root, "train")


def archive_not_unpacked(root):
    for path in (root / "videos").iterdir():
        path.unlink()
    (root / "videos" / "all.zip").write_bytes(b"x")
    read_msrvtt(root, "train")


def download_cut_short(root):
    path = root / "MSRVTT_data.json"
    path.write_text(path.read_text()[:40])
    read_msrvtt(root, "train")


def another_json_of_that_name(root):
    (root / "MSRVTT_data.json").write_text("[]")
    read_msrvtt(root, "train")


def csv_without_its_header(root):
    (root / "MSRVTT_train.9k.csv").write_text("\n".join([*IDS, ""]))
    read_msrvtt(root, "train")


def two_formats_of_one_video(root):
    (root / "videos" / "video0.webm").write_bytes(b"x")
    read_msrvtt(root, "train")


def empty_file_with_strict(root):
    (root / "videos" / "video2.mp4").write_bytes(b"")
    read_msrvtt(root, "train", strict=True)


def a_pickle_with_classes_in_it(root):
    (root / "train_list.txt").write_text("video0\n")
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(collections.Counter("a")))
    read_msvd(root, "train")


def reader_misspelt(root):
    cfg = quickstart("data.reader=msrvt", f"data.root={root}")
    cfg.unlock()
    cfg.data.world = {}
    build_data(cfg, root.parent, print)


def field_misspelt(root):
    quickstart("data.batchsize=3")


def a_word_for_a_number(root):
    quickstart("train.steps=many")


def batch_does_not_fit_the_mesh(root):
    session.compile_method(quickstart("data.batch_size=30"))  # the tests have eight devices


MISTAKES = {
    "wrong folder": wrong_folder,
    "the other train list": the_other_train_list,
    "media in another folder": media_in_another_folder,
    "archive not unpacked": archive_not_unpacked,
    "download cut short": download_cut_short,
    "another json of that name": another_json_of_that_name,
    "csv without its header": csv_without_its_header,
    "two formats of one video": two_formats_of_one_video,
    "empty file, with `strict`": empty_file_with_strict,
    "a pickle with classes in it": a_pickle_with_classes_in_it,
    "reader misspelt": reader_misspelt,
    "field misspelt": field_misspelt,
    "a word for a number": a_word_for_a_number,
    "batch does not fit the mesh": batch_does_not_fit_the_mesh,
}


def test_every_line_of_the_table_is_tried():
    assert TABLE.keys() == MISTAKES.keys()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_gives_the_line_of_the_page(mistake, root):
    with pytest.raises(InputError) as error:
        MISTAKES[mistake](root)
    line = " ".join(str(error.value).split())
    line = line.replace(str(root / "nowhere"), "ROOT").replace(str(root), "ROOT")
    assert line == TABLE[mistake]


def test_report_line_of_the_page(root):
    (root / "videos" / "video1.mp4").unlink()
    (root / "videos" / "video2.mp4").write_bytes(b"")
    assert read_msrvtt(root, "train").report.line() in " ".join(PAGE.split())
