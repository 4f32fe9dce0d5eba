"""Published sets of domains: their layouts, traps, and what a wrong copy is told."""

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data.readers.adaptation.domain_sets import SETS, read_domain


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path, format="PNG")


def classes_of(name):
    return [f"class{k:03d}" for k in range(SETS[name].classes)]


def ids(reading):
    return [(i.image_id, i.label) for i in reading.images]


@pytest.mark.parametrize("inner", ["", "images"])
def test_office31_with_and_without_its_inner_folder(tmp_path, inner):
    for k in classes_of("office31"):
        picture(tmp_path / "amazon" / inner / k / "frame_0001.jpg")
    got = read_domain("office31", tmp_path, "amazon")
    assert len(got.images) == len(got.classes) == 31
    assert ids(got)[30] == ("class030/frame_0001.jpg", 30)
    assert got.name == "amazon"


def test_a_set_with_other_classes_than_it_has_is_refused(tmp_path):
    for k in [*classes_of("office_caltech10"), "back_pack (copy)"]:
        picture(tmp_path / "caltech10" / k / "a.jpg")
    with pytest.raises(InputError, match=r"caltech has 11 classes, office_caltech10 has 10: back_pack \(copy\), class"):
        read_domain("office_caltech10", tmp_path, "caltech")
    ten = tuple(classes_of("office_caltech10"))
    assert read_domain("office_caltech10", tmp_path, "caltech", classes=ten).classes == ten


def test_office_home_s_blank_is_an_alias(tmp_path):
    for k in classes_of("office_home"):
        picture(tmp_path / "Real World" / k / "00001.jpg")
    assert len(read_domain("office_home", tmp_path, "Real_World").images) == 65
    with pytest.raises(InputError, match=r"Art: no such folder of images"):
        read_domain("office_home", tmp_path, "Art")
    with pytest.raises(InputError, match=r"domain 'RealWorld' is not of office_home; did you mean Real_World\?"):
        read_domain("office_home", tmp_path, "RealWorld")


def test_image_clef_s_lists(tmp_path):
    rows = [f"c/{k:02d}/img {k}.jpg {k}" for k in range(12)]
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "cList.txt").write_text("\r\n".join(rows) + "\r\n")
    for k in range(11):
        picture(tmp_path / "c" / f"{k:02d}" / f"img {k}.jpg")
    got = read_domain("image_clef", tmp_path, "c")
    assert ids(got)[3] == ("c/03/img 3.jpg", 3)  # the label stands behind the last blank
    assert got.missing == ("c/11/img 11.jpg",)
    assert "1 listed files are not there (c/11/img 11.jpg)" in got.line()


def test_visda_s_list_must_agree_with_its_folders(tmp_path):
    names = classes_of("visda2017")
    for k in names:
        picture(tmp_path / "train" / k / "1.png")
    assert [i.label for i in read_domain("visda2017", tmp_path, "train").images] == list(range(12))
    good = [f"{k}/1.png {n}" for n, k in enumerate(names)]
    (tmp_path / "train" / "image_list.txt").write_text("\n".join(good))
    assert [i.label for i in read_domain("visda2017", tmp_path, "train").images] == list(range(12))
    wrong = [f"{k}/1.png {(n + 1) % 12}" for n, k in enumerate(names)]
    (tmp_path / "train" / "image_list.txt").write_text("\n".join(wrong))
    with pytest.raises(
        InputError, match=r"image_list.txt: label 0 is 'class011', but the sorted folders have 'class000'"
    ):
        read_domain("visda2017", tmp_path, "train")


def test_domainnet_s_test_list_is_numbered_like_its_train_list(tmp_path):
    names = classes_of("domainnet")
    rows = [f"real/{k}/real_{n}.jpg {n}" for n, k in enumerate(names)]
    (tmp_path / "real_train.txt").write_text("\n".join(rows))
    (tmp_path / "real_test.txt").write_text("real/class344/real_9.jpg 344\nreal/class000/real_8.jpg 0\n")
    for n in (0, 344):
        picture(tmp_path / "real" / names[n] / f"real_{n}.jpg")
    picture(tmp_path / "real" / "class344" / "real_9.jpg")
    train, test = (read_domain("domainnet", tmp_path, "real", part) for part in ("train", "test"))
    assert len(train.images) == 2
    assert ids(test) == [("real/class344/real_9.jpg", 344)]  # the other file is not there
    assert test.classes == train.classes == tuple(names)


def test_pacs_lists_count_from_one(tmp_path):
    names = classes_of("pacs")
    for k in names:
        picture(tmp_path / "photo" / k / "p.jpg")
    assert len(read_domain("pacs", tmp_path, "photo", "train").images) == 7
    (tmp_path / "photo_train_kfold.txt").write_text("photo/class000/p.jpg 1\nphoto/class006/p.jpg 7\n")
    assert ids(read_domain("pacs", tmp_path, "photo", "train")) == [
        ("photo/class000/p.jpg", 0), ("photo/class006/p.jpg", 6),
    ]  # fmt: skip
    assert len(read_domain("pacs", tmp_path, "photo", "test").images) == 7  # it has no list
    (tmp_path / "photo_train_kfold.txt").write_text("photo/class000/p.jpg 0\n")
    with pytest.raises(InputError, match=r"line 1: label 0, but labels count from 1"):
        read_domain("pacs", tmp_path, "photo", "train")


def test_any_folder_of_domains_and_a_root_that_is_not_there(tmp_path):
    picture(tmp_path / "mine" / "cat" / "a.jpg")
    assert read_domain("folders", tmp_path, "mine").classes == ("cat",)
    with pytest.raises(InputError, match=r"no such folder \(folders\)"):
        read_domain("folders", tmp_path / "gone", "mine")


def test_counts_of_the_published_copies_are_of_known_domains():
    for known in SETS.values():
        assert set(known.images) == set(known.domains)
        assert set(known.folders) <= set(known.domains)
