"""Which sequences are trained on and which are tested: the rules of NTU RGB+D, NTU RGB+D 120 and UTKinect-Action3D."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import read_text, walk_folders

SPLITS = ("train", "test")
NTU60_SUBJECTS = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
"""Performers of the training split of NTU RGB+D."""
NTU120_SUBJECTS = (
    *NTU60_SUBJECTS,
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94),
    *(95, 97, 98, 100, 103),
)
"""Performers of the training split of NTU RGB+D 120. Those of NTU RGB+D are numbered up to 40: it is its rule, too."""
Columns = Mapping[str, np.ndarray]
NTU_PROTOCOLS: dict[str, Callable[[Columns], np.ndarray]] = {
    "xsub": lambda c: np.isin(c["subject"], NTU120_SUBJECTS),
    "xview": lambda c: np.isin(c["camera"], (2, 3)),
    "xset": lambda c: c["setup"] % 2 == 0,
}
"""Protocol -> which rows of `subject`, `camera`, `setup` are trained on; the others are tested."""
UTKINECT_PROTOCOLS = ("loso", "xsub_odd")
MISSING_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}")
MISSING_FILE = re.compile(r".*missing.*\.txt", re.IGNORECASE)


def ntu_training(protocol: str, columns: Columns) -> np.ndarray:
    """Which rows are trained on, bool. Raises InputError for another protocol."""
    if protocol not in NTU_PROTOCOLS:
        raise InputError(f"config.data.protocol: {protocol!r} is none of {', '.join(NTU_PROTOCOLS)}")
    return NTU_PROTOCOLS[protocol](columns)


def utkinect_training(protocol: str, fold: int, subject: np.ndarray, take: np.ndarray) -> np.ndarray:
    """Which rows are trained on, bool. 'loso': all recordings but number `fold` (from 0, ordered by subject and take);
    'xsub_odd': odd subjects. Raises InputError for another protocol or fold."""
    if protocol == "xsub_odd":
        return subject % 2 == 1
    if protocol != "loso":
        raise InputError(f"config.data.protocol: {protocol!r} is none of {', '.join(UTKINECT_PROTOCOLS)}")
    recordings = sorted(set(zip(subject.tolist(), take.tolist(), strict=True)))
    if not 0 <= fold < len(recordings):
        raise InputError(f"config.data.fold: {fold}, but there are {len(recordings)} recordings, numbered from 0")
    return (subject != recordings[fold][0]) | (take != recordings[fold][1])


def read_missing(path: str | os.PathLike) -> set[str]:
    """The names of a list of samples with missing skeletons, whatever prose stands above them. Raises InputError where
    there is none."""
    lines = (line.strip() for line in read_text(path, "the list of missing skeletons").split("\n"))
    names = {line for line in lines if MISSING_NAME.fullmatch(line)}
    if not names:
        raise InputError(f"{os.fspath(path)}: holds no name of a sample, as S001C002P005R002A008, on a line of its own")
    return names


def find_missing_lists(root: str | os.PathLike) -> list[str]:
    """The text files under `root` that are called so, as published; in order."""
    return [
        os.path.join(here, name) for here, _, files in walk_folders(root) for name in files if MISSING_FILE.match(name)
    ]
