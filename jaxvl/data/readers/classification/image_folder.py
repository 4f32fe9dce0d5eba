"""Labelled pictures in class folders, `ROOT/<class>/**/*.jpg`, the layout of ImageNet and of most domain sets.

The index of a class is its rank in the sorted list of folder names, as torchvision's `ImageFolder` has it. Two
domains share labels only where they share this list: `require_same_classes` says which folders differ.
"""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Mapping, Sequence

from jaxvl.core.errors import InputError
from jaxvl.data.images import IMAGE_ENDINGS
from jaxvl.data.readers.common import first_few, near, walk_folders

HIDDEN = ("Thumbs.db", "desktop.ini")


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """One picture file. label: class index, -1 where unknown. image_id: path below the data set's root."""

    path: str
    label: int
    image_id: str


@dataclasses.dataclass(frozen=True)
class ImageReading:
    """A set of pictures that was read.

    classes: name of each label. missing: listed files that are not there. skipped: `(name, reason)` of what is there
    but was left out.
    """

    name: str
    images: list[LabelledImage]
    classes: tuple[str, ...]
    missing: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        """The report in one line, with the first few names."""
        parts = [f"{self.name}: {len(self.images):,} images of {len(self.classes):,} classes"]
        if self.missing:
            parts.append(f"{len(self.missing):,} listed files are not there ({first_few(self.missing)})")
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            by_reason.setdefault(reason, []).append(name)
        parts += [f"{len(names):,} skipped, {reason} ({first_few(names)})" for reason, names in by_reason.items()]
        return "; ".join(parts)


def read_image_folder(
    root: str | os.PathLike, *, name: str = "", classes: Sequence[str] | None = None, inner: Sequence[str] = ("",)
) -> ImageReading:
    """The pictures below the class folders of `root`, class by class, each in the order of its file names.

    name: what reports call the set (default: the folder's name). classes: the class folders to use, in order of their
        labels; by default all, sorted. inner: folders that may stand between `root` and the classes, the first that
        exists is taken (Office-31 has `images` in some copies).
    Files of 0 bytes, links to nothing and class folders without a picture are skipped with a reason; files that are no
    pictures are ignored. Raises InputError: no such folder, no class folders (pictures lying in `root` itself are named
    as the reason), a missing class, two class folders whose names differ in Unicode form alone, no picture.
    """
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of images{near(top)}")
    top = next((os.path.join(top, i) for i in inner if i and os.path.isdir(os.path.join(top, i))), top)
    found = class_folders(top)
    if not found:
        loose = [n for n in sorted(os.listdir(top)) if is_image(n)]
        why = f"; pictures lie in it directly ({first_few(loose)})" if loose else ""
        raise InputError(f"{top}: holds no class folders{why}; the layout is FOLDER/<class>/<picture>")
    composed = None if classes is None else [unicodedata.normalize("NFC", c) for c in classes]
    if composed is not None and (lost := [c for c in composed if c not in found]):
        raise InputError(f"{top}: lacks the class folders {first_few(lost)}; it has {first_few(found)}")
    wanted = tuple(found if composed is None else composed)
    images, skipped = [], []
    for label, folder in enumerate(wanted):
        files = image_files(os.path.join(top, found[folder]))
        if not files:
            skipped.append((folder, "class folder without a picture"))
        for path in files:
            image_id = os.path.relpath(path, top)
            if not os.path.exists(path):
                skipped.append((image_id, "a link to nothing"))
            elif os.path.getsize(path) == 0:
                skipped.append((image_id, "file of 0 bytes"))
            else:
                images.append(LabelledImage(path, label, image_id))
    if not images:
        raise InputError(f"{top}: its {len(wanted)} class folders ({first_few(wanted)}) hold no pictures")
    return ImageReading(name or os.path.basename(os.path.normpath(top)), images, wanted, (), tuple(skipped))


def read_unlabelled(root: str | os.PathLike) -> list[LabelledImage]:
    """Every picture below `root`, label -1, by path. Raises InputError where there is no folder or no picture."""
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of images{near(top)}")
    images = [LabelledImage(path, -1, os.path.relpath(path, top)) for path in image_files(top)]
    if not images:
        raise InputError(f"{top}: holds no pictures ({', '.join(IMAGE_ENDINGS)}), also not in its folders")
    return images


def class_folders(root: str | os.PathLike) -> dict[str, str]:
    """Names of the folders in `root`, sorted, hidden ones left out: composed (NFC) -> as on disk.

    So a copy from a disk that takes accents apart has the same classes. Raises InputError where two folders differ in
    nothing but that.
    """
    with os.scandir(root) as entries:
        named = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    names = sorted(e.name for e in named if os.path.isdir(e.path))  # of links in a circle `is_dir` raises
    found: dict[str, str] = {}
    for name in names:
        composed = unicodedata.normalize("NFC", name)
        if composed in found:
            raise InputError(
                f"{os.fspath(root)}: two class folders are called {composed!r} ({found[composed]!a} and "
                f"{name!a}): they differ in Unicode form alone; move the pictures of one into the other"
            )
        found[composed] = name
    return dict(sorted(found.items()))


def image_files(folder: str | os.PathLike) -> list[str]:
    """Paths of the pictures below `folder`, sorted; hidden files (`._x.jpg` of macOS archives) are left out."""
    found = []
    for here, folders, files in walk_folders(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        found += [os.path.join(here, name) for name in files if is_image(name)]
    return found


def is_image(name: str) -> bool:
    """Whether a file of this name counts as a picture."""
    return not name.startswith(".") and name not in HIDDEN and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def require_same_classes(readings: Mapping[str, ImageReading]) -> tuple[str, ...]:
    """The class list that all `readings` (by domain) share. Raises InputError with the folders that differ."""
    first, *rest = readings
    want = readings[first].classes
    for other in rest:
        got = readings[other].classes
        if got == want:
            continue
        only_first = [c for c in want if c not in got]
        only_other = [c for c in got if c not in want]
        if only_first or only_other:
            parts = [f"only {d} has {first_few(c)}" for d, c in ((first, only_first), (other, only_other)) if c]
            raise InputError(
                f"classes of {first} ({len(want)}) and {other} ({len(got)}) differ: {'; '.join(parts)}; rename or "
                "remove those folders, or name the shared ones in config.data.classes"
            )
        k = next(i for i, (a, b) in enumerate(zip(want, got)) if a != b)
        raise InputError(
            f"classes of {first} and {other} are in another order: label {k} is {want[k]!r} and {got[k]!r}"
        )
    return want
