"""Class folders and image lists, with what is usually broken in them."""

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_folder import read_image_folder, read_unlabelled, require_same_classes
from jaxvl.data.readers.classification.image_list import parse_list, read_image_list


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path, format="PNG")


@pytest.fixture
def folder(tmp_path):
    for name in ("back pack/b.jpg", "back pack/a.PNG", "apple/x.JPEG", "apple/deep/y.webp"):
        picture(tmp_path / "art" / name)
    for name in ("apple/._x.jpg", "apple/notes.txt", ".cache/z.jpg"):
        (tmp_path / "art" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "art" / name).write_bytes(b"junk")
    (tmp_path / "art" / "apple" / "zero.jpg").touch()
    (tmp_path / "art" / "apple" / "deep" / "up").symlink_to(tmp_path / "art" / "apple")  # has no end
    return tmp_path


def test_folder_labels_are_ranks_of_sorted_names_and_hidden_files_are_left_out(folder):
    got = read_image_folder(folder / "art", name="Art")
    assert got.classes == ("apple", "back pack")
    assert [(i.image_id, i.label) for i in got.images] == [
        ("apple/x.JPEG", 0), ("apple/deep/y.webp", 0), ("back pack/a.PNG", 1), ("back pack/b.jpg", 1),
    ]  # fmt: skip
    assert got.line() == "Art: 4 images of 2 classes; 1 skipped, file of 0 bytes (apple/zero.jpg)"


def test_folder_takes_the_images_level_where_there_is_one(folder):
    (folder / "amazon").mkdir()
    (folder / "art").rename(folder / "amazon" / "images")
    assert len(read_image_folder(folder / "amazon", inner=("images",)).images) == 4
    with pytest.raises(InputError, match=r"lacks the class folders bike; it has apple, back pack"):
        read_image_folder(folder / "amazon", inner=("images",), classes=["apple", "bike"])
    assert read_image_folder(folder / "amazon", inner=("images",), classes=["back pack"]).images[0].label == 0


def test_wrong_folders_are_named(folder):
    with pytest.raises(InputError, match=r"arts: no such folder of images; there is art beside it"):
        read_image_folder(folder / "arts")
    with pytest.raises(InputError, match=r"holds no class folders; pictures lie in it directly \(a.PNG, b.jpg\)"):
        read_image_folder(folder / "art" / "back pack")
    (folder / "empty" / "apple").mkdir(parents=True)
    with pytest.raises(InputError, match=r"1 class folders \(apple\) hold no pictures"):
        read_image_folder(folder / "empty")
    with pytest.raises(InputError, match="holds no pictures"):
        read_unlabelled(folder / "empty")
    assert [i.label for i in read_unlabelled(folder / "art" / "back pack")] == [-1, -1]


def test_domains_must_share_their_classes(folder):
    picture(folder / "real" / "apple" / "1.png")
    picture(folder / "real" / "Back pack" / "1.png")
    readings = {d: read_image_folder(folder / d) for d in ("art", "real")}
    with pytest.raises(
        InputError, match=r"art \(2\) and real \(2\) differ: only art has back pack; only real has Back"
    ):
        require_same_classes(readings)
    assert require_same_classes({"art": readings["art"], "again": readings["art"]}) == ("apple", "back pack")
    turned = read_image_folder(folder / "art", classes=["back pack", "apple"])
    with pytest.raises(InputError, match=r"in another order: label 0 is 'apple' and 'back pack'"):
        require_same_classes({"art": readings["art"], "turned": turned})


def test_list_splits_at_the_last_blank_and_reports_what_is_missing(folder):
    file = folder / "art_list.txt"
    file.write_text(
        "art/apple/x.JPEG 0\r\nart/back pack/b.jpg\t1\n\n./art/back pack/gone.jpg 1\nart/apple/zero.jpg 0\n"
    )
    got = read_image_list(file, folder, name="art")
    assert [(i.image_id, i.label) for i in got.images] == [("art/apple/x.JPEG", 0), ("art/back pack/b.jpg", 1)]
    assert got.classes == ("apple", "back pack")
    assert got.missing == ("art/back pack/gone.jpg",)
    assert got.skipped == (("art/apple/zero.jpg", "file of 0 bytes"),)
    with pytest.raises(InputError, match="1 of its 4 files are not under"):
        read_image_list(file, folder, strict=True)


def test_one_based_lists(folder):
    file = folder / "kfold.txt"
    file.write_text("art/apple/x.JPEG 1\nart/back pack/b.jpg 2\n")
    assert [i.label for i in read_image_list(file, folder, classes=["a", "b"], one_based=True).images] == [0, 1]
    with pytest.raises(InputError, match=r"line 2: label 2, but there are 2 classes; lists that count from 1 need"):
        read_image_list(file, folder, classes=["a", "b"])
    file.write_text("art/apple/x.JPEG 0\n")
    with pytest.raises(InputError, match="line 1: label 0, but labels count from 1"):
        read_image_list(file, folder, one_based=True)


@pytest.mark.parametrize("line", ["art/apple/x.JPEG", "art/apple/x.JPEG one", "7"])
def test_lines_without_a_label(folder, line):
    file = folder / "list.txt"
    file.write_text(f"art/apple/x.JPEG 0\n{line}\n")
    with pytest.raises(InputError, match=r"line 2: .* is not `path label`"):
        parse_list(file)


def test_names_of_labels_only_where_folders_tell_them(folder):
    file = folder / "list.txt"
    file.write_text("art/apple/x.JPEG 0\nart/back pack/b.jpg 0\n")
    assert read_image_list(file, folder).classes == ("0",)
    file.write_text("art/apple/x.JPEG 2\n")
    assert read_image_list(file, folder).classes == ("0", "1", "2")


COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def test_class_folders_match_in_any_unicode_form(tmp_path):
    for domain, name in (("art", COMPOSED), ("mac", APART)):
        for folder in (name, "car", "desk"):
            picture(tmp_path / domain / folder / "a.png")
    readings = {domain: read_image_folder(tmp_path / domain) for domain in ("art", "mac")}
    # Taken apart it would come behind "car": the same labels only where composed names are sorted.
    assert require_same_classes(readings) == (COMPOSED, "car", "desk") == tuple(sorted((COMPOSED, "car", "desk")))
    assert [i.label for i in readings["mac"].images] == [0, 1, 2]
    assert readings["mac"].images[0].path == str(tmp_path / "mac" / APART / "a.png")
    assert read_image_folder(tmp_path / "mac", classes=["desk", APART]).images[1].label == 1
    (tmp_path / "list.txt").write_text(f"{APART}/a.png 0\ncar/a.png 1\n", encoding="utf-8")
    assert read_image_list(tmp_path / "list.txt", tmp_path / "art").classes == (COMPOSED, "car")


def test_two_class_folders_of_one_name_are_named(tmp_path):
    for name in (COMPOSED, APART):
        picture(tmp_path / name / "a.png")
    with pytest.raises(InputError, match=r"two class folders are called 'café' .*cafe\\u0301.*caf\\xe9.* move the pic"):
        read_image_folder(tmp_path)


def test_links_to_nothing_are_counted_and_those_in_a_circle_are_no_classes(folder):
    (folder / "art" / "apple" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "art" / "circle").symlink_to(folder / "art" / "circle")
    got = read_image_folder(folder / "art")
    assert got.classes == ("apple", "back pack")
    assert ("apple/gone.jpg", "a link to nothing") in got.skipped


def test_a_second_label_of_a_listed_file_is_counted(folder):
    file = folder / "list.txt"
    file.write_text("art/apple/x.JPEG 0\nart/back pack/b.jpg 1\nart/apple/x.JPEG 0\nart/apple/x.JPEG 1\n")
    got = read_image_list(file, folder)
    assert [i.label for i in got.images] == [0, 1, 0]
    assert got.skipped == (("art/apple/x.JPEG", "listed again with another label"),)
