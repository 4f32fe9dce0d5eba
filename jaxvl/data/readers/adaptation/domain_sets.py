"""Image sets of several domains with one list of classes, as published: Office-31, Office-Home, Office-Caltech10,
ImageCLEF-DA, VisDA-2017, DomainNet, PACS; and any folder of domains.

`read_domain(name, root, domain, part)` gives an `ImageReading`. Most sets train and test on the same images (the
transductive protocol); only those with lists for training and test tell `part` 'train' from 'test'.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_folder import ImageReading, class_folders, read_image_folder
from jaxvl.data.readers.classification.image_list import names_of_labels, parse_list, read_image_list
from jaxvl.data.readers.common import near

PARTS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class DomainSet:
    """A published set. domains: their names as users write them. classes: how many there are. images: of each domain in
    the published copy, for reports. folders: other names of a domain's folder, beside its own. read: `(root, domain,
    part, classes) -> ImageReading`."""

    domains: tuple[str, ...]
    classes: int
    images: Mapping[str, int]
    read: Callable[[DomainSet, str, str, str, Sequence[str] | None], ImageReading]
    folders: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def folder(self, root: str, domain: str) -> str:
        """The domain's folder, under whichever of its names it is there."""
        names = (domain, *self.folders.get(domain, ()))
        return next((p for n in names if os.path.isdir(p := os.path.join(root, n))), os.path.join(root, domain))


def read_domain(
    name: str, root: str | os.PathLike, domain: str, part: str = "train", classes: Sequence[str] | None = None
) -> ImageReading:
    """The images of one domain of the set `name` (a key of `SETS`) below `root`.

    part: 'train' or 'test', where the set has lists for them. classes: the class folders to use, in order of their
    labels; by default all, sorted. Raises InputError: an unknown domain, whatever is wrong with folder or list.
    """
    known, top = SETS[name], os.fspath(root)
    if part not in PARTS:
        raise ValueError(f"part {part!r} is none of {PARTS}")
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder ({name}){near(top)}")
    if known.domains and domain not in known.domains:
        close = difflib.get_close_matches(domain, known.domains, 1, 0.4)
        hint = f"; did you mean {close[0]}?" if close else f"; {name} has {', '.join(known.domains)}"
        raise InputError(f"domain {domain!r} is not of {name}{hint}")
    reading = known.read(known, top, domain, part, classes)
    if classes is None and known.classes and len(reading.classes) != known.classes:
        raise InputError(
            f"{top}: {domain} has {len(reading.classes)} classes, {name} has {known.classes}: "
            f"{', '.join(reading.classes[:3])}, ...; remove what does not belong there, or name them in "
            "config.data.classes"
        )
    return dataclasses.replace(reading, name=domain)


def _from_folders(known: DomainSet, root: str, domain: str, part: str, classes) -> ImageReading:
    del part
    return read_image_folder(known.folder(root, domain), classes=classes, inner=("images",))


def _image_clef(known: DomainSet, root: str, domain: str, part: str, classes) -> ImageReading:
    """Lists `list/{c,i,p}List.txt`, paths below the root."""
    del known, part
    return read_image_list(os.path.join(root, "list", f"{domain}List.txt"), root, classes=classes)


def _visda(known: DomainSet, root: str, domain: str, part: str, classes) -> ImageReading:
    """Class folders, or `image_list.txt` beside them; the labels of both must be the same."""
    del part
    folder = known.folder(root, domain)
    listed = os.path.join(folder, "image_list.txt")
    if not os.path.isfile(listed):
        return read_image_folder(folder, classes=classes)
    reading = read_image_list(listed, folder, classes=classes)
    found = tuple(class_folders(folder))
    if classes is None and reading.classes != found:
        wrong = next((k for k, (a, b) in enumerate(zip(reading.classes, found)) if a != b), len(found))
        a, b = (names[wrong] if wrong < len(names) else "nothing" for names in (reading.classes, found))
        raise InputError(f"{listed}: label {wrong} is {a!r}, but the sorted folders have {b!r} there")
    return reading


def _domain_net(known: DomainSet, root: str, domain: str, part: str, classes) -> ImageReading:
    """Lists `<domain>_{train,test}.txt` (of the cleaned version), paths below the root. Test lists lack no class, but
    their class names are taken from the train list, so that both number them alike."""
    del known
    train = os.path.join(root, f"{domain}_train.txt")
    names = names_of_labels(parse_list(train)) if classes is None else classes
    return read_image_list(os.path.join(root, f"{domain}_{part}.txt"), root, classes=names)


def _pacs(known: DomainSet, root: str, domain: str, part: str, classes) -> ImageReading:
    """Class folders; or the published splits `<domain>_{train,test}_kfold.txt`, whose labels count from 1."""
    listed = os.path.join(root, f"{domain}_{part}_kfold.txt")
    if not os.path.isfile(listed):
        return read_image_folder(known.folder(root, domain), classes=classes)
    names = classes if classes is not None else tuple(class_folders(known.folder(root, domain)))
    return read_image_list(listed, root, classes=names, one_based=True)


SETS: dict[str, DomainSet] = {
    "office31": DomainSet(
        ("amazon", "dslr", "webcam"), 31, {"amazon": 2817, "dslr": 498, "webcam": 795}, _from_folders
    ),
    "office_home": DomainSet(
        ("Art", "Clipart", "Product", "Real_World"),
        65,
        {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real_World": 4357},
        _from_folders,
        {"Real_World": ("Real World", "RealWorld")},
    ),
    "office_caltech10": DomainSet(
        ("amazon", "caltech", "dslr", "webcam"),
        10,
        {"amazon": 958, "caltech": 1123, "dslr": 157, "webcam": 295},
        _from_folders,
        {"caltech": ("Caltech", "caltech10")},
    ),
    "image_clef": DomainSet(("c", "i", "p"), 12, {"c": 600, "i": 600, "p": 600}, _image_clef),
    "visda2017": DomainSet(("train", "validation"), 12, {"train": 152_397, "validation": 55_388}, _visda),
    "domainnet": DomainSet(
        ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
        345,
        {"clipart": 33_525, "infograph": 36_023, "painting": 50_416, "quickdraw": 120_750, "real": 120_906,
         "sketch": 48_212},
        _domain_net,
    ),
    "pacs": DomainSet(
        ("art_painting", "cartoon", "photo", "sketch"),
        7,
        {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
        _pacs,
    ),
    "folders": DomainSet((), 0, {}, _from_folders),
}  # fmt: skip
"""By the name that configs take. 'folders' is `ROOT/<domain>[/images]/<class>/<picture>` with any names."""
