"""Labelled pictures from text lists, one `relative/path label` a line (ImageCLEF-DA, VisDA, DomainNet, PACS).

The label is what stands behind the *last* blank: paths may contain blanks.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_folder import ImageReading, LabelledImage
from jaxvl.data.readers.common import NamesOnDisk, first_few, read_text

MAX_LABEL = 2**20
"""Above it a number is no class, and the names of all classes below it would take gigabytes."""


def read_image_list(
    list_file: str | os.PathLike,
    root: str | os.PathLike,
    *,
    name: str = "",
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    strict: bool = False,
) -> ImageReading:
    """The pictures that `list_file` names, in its order, their paths taken below `root`.

    classes: name of each label; by default the folder of each label's pictures where every label has one of its own,
        else the numbers. one_based: labels count from 1 (PACS). strict: a missing file is an error.
    Names may differ in Unicode form from those on disk. Files that are not there are reported, files of 0 bytes
    skipped, and so are further labels of a file that has one. Raises InputError: a line without a label, a label out of
    range (with the line's number), an empty list, no picture at all.
    """
    file, top = os.fspath(list_file), os.fspath(root)
    rows = parse_list(file, one_based)
    names = tuple(classes) if classes is not None else names_of_labels(rows)
    if (high := max(rows, key=lambda r: r[1]))[1] >= len(names):
        shown = high[1] + one_based
        more = "" if one_based else "; lists that count from 1 need one_based"
        raise InputError(f"{file}: line {high[2]}: label {shown}, but there are {len(names)} classes{more}")
    images, missing, skipped = [], [], []
    on_disk, first = NamesOnDisk(), {relative: label for relative, label, _ in reversed(rows)}
    for relative, label, _ in rows:
        path = on_disk.find(os.path.join(top, relative))
        if label != first[relative]:
            skipped.append((relative, "listed again with another label"))
        elif path is None or not os.path.isfile(path):
            missing.append(relative)
        elif os.path.getsize(path) == 0:
            skipped.append((relative, "file of 0 bytes"))
        else:
            images.append(LabelledImage(path, label, relative))
    if missing and (strict or not images):
        raise InputError(
            f"{file}: {len(missing)} of its {len(rows)} files are not under {top} ({first_few(missing)}); "
            "is this the right folder?"
        )
    if not images:
        raise InputError(f"{file}: all {len(rows)} files are empty (0 bytes); copy them again")
    return ImageReading(name or os.path.basename(file), images, names, tuple(missing), tuple(skipped))


def parse_list(file: str | os.PathLike, one_based: bool = False) -> list[tuple[str, int, int]]:
    """`(path, label from 0, number of the line)` of each line that is not blank. InputError as above."""
    rows = []
    for number, line in enumerate(read_text(file, "a list of images with labels").split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        path, blank, label = line.replace("\t", " ").rpartition(" ")
        if not blank or not re.fullmatch(r"-?[0-9]{1,18}", label):
            raise InputError(f"{os.fspath(file)}: line {number}: {line[:200]!r} is not `path label`")
        index = int(label) - one_based
        if index < 0:
            wants = "from 1" if one_based else "from 0"
            raise InputError(f"{os.fspath(file)}: line {number}: label {label}, but labels count {wants}")
        if index >= MAX_LABEL:
            raise InputError(
                f"{os.fspath(file)}: line {number}: label {label} is no class number (below {MAX_LABEL:,})"
            )
        rows.append((path.strip().replace("\\", "/").removeprefix("./"), index, number))
    if not rows:
        raise InputError(f"{os.fspath(file)}: the list is empty")
    return rows


def names_of_labels(rows: Sequence[tuple[str, int, int]]) -> tuple[str, ...]:
    """Folder names as class names where each label up to the highest has exactly one folder, else the numbers."""
    folders: dict[int, set[str]] = {}
    for path, label, _ in rows:
        folder = os.path.basename(os.path.dirname(path))
        folders.setdefault(label, set()).add(unicodedata.normalize("NFC", folder))  # as `class_folders` has them
    count = max(folders) + 1
    own = [next(iter(folders[k])) for k in range(count) if len(folders.get(k, ())) == 1]
    if len(own) == count == len(set(own)) and all(own):
        return tuple(own)
    return tuple(str(k) for k in range(count))
