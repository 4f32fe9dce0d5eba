"""MSVD (Chen and Dolan 2011) in the layout that text-video retrieval uses: lists of ids, one pickle, avi files.

ROOT/
  train_list.txt  val_list.txt  test_list.txt      one id a line (1,200 / 100 / 670)
  raw-captions.pkl                                 dict id -> captions, each a list of words
  videos/**/ID.avi                                 or any other video ending
"""

from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Mapping
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.core.pickles import Bounded, check_opcodes
from jaxvl.data.readers import common

SPLITS = ("train", "val", "test")
DATASET = "MSVD"


def read_msvd(
    root: str | os.PathLike,
    split: str,
    *,
    lists: str = "{split}_list.txt",
    captions: str = "raw-captions.pkl",
    videos: str = "videos",
    strict: bool = False,
    check_media: bool = True,
) -> common.Reading:
    """All (video, caption) pairs of one split, also in val and test: about 41 captions a video.

    Evaluation is therefore multi-caption: group the pairs by `video_id`. File names are relative to `root`
    or absolute; `strict` and `check_media` as in `common.make_reading`.
    Raises InputError naming the file: missing, broken, a pickle that is more than plain containers.
    """
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}: choose one of {', '.join(SPLITS)}")
    root = os.fspath(root)
    list_path = os.path.join(root, lists.format(split=split))
    ids = common.read_ids(list_path, f"the {split} list of {DATASET}")
    pickle_path = os.path.join(root, captions)
    texts = _captions_by_id(load_plain_pickle(pickle_path, f"the captions of {DATASET}"), pickle_path, ids)
    if not any(texts.values()):
        raise InputError(f"{pickle_path}: has no caption for any id of {list_path} ({common.first_few(ids)})")
    return common.make_reading(
        DATASET,
        split,
        texts,
        os.path.join(root, videos),
        strict=strict,
        check_media=check_media,
        skipped=[(name, "repeated in the list") for name in common.repeated(ids)],
    )


def load_plain_pickle(path: str | os.PathLike, what: str) -> Any:
    """Reads a pickle of plain containers, texts and numbers, also one written by Python 2.

    A pickle can run any code; this one refuses every class and function but the built-in containers.
    Raises InputError naming the file, and the refused name.
    """
    name = common.require_file(path, what)
    try:
        with open(name, "rb") as raw:
            file = Bounded(raw, os.path.getsize(name))
            check_opcodes(file)
            return _PlainUnpickler(file, encoding="utf-8").load()
    except _RefusedName as error:
        raise InputError(f"{name}: refused to load {error}: {what} must be a pickle of plain containers") from error
    except (pickle.UnpicklingError, UnicodeDecodeError, *_BROKEN_PICKLE) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name}: not a readable pickle ({reason}); fetch {what} again") from error


# What the unpickler raises on bytes that are not a pickle, or only the start of one.
_BROKEN_PICKLE = (EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError)
_PLAIN = {
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, list, dict, tuple)},
    **{("__builtin__", kind.__name__): kind for kind in (set, frozenset, list, dict, tuple)},
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _RefusedName(Exception):
    """A class or function that a pickle asks for and does not get."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        raise _RefusedName(f"{module}.{name}")


def _captions_by_id(data: Any, path: str, ids: list[str]) -> dict[str, list[str]]:
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: needs a dict from video id to captions, it holds a {type(data).__name__}")
    return {name: [_sentence(c, path, name) for c in _listed(data.get(name, ()), path, name)] for name in ids}


def _listed(captions: Any, path: str, video_id: str) -> list | tuple:
    if isinstance(captions, list | tuple):
        return captions
    raise InputError(f"{path}: the captions of {video_id!r} must be a list, they are a {type(captions).__name__}")


def _sentence(caption: Any, path: str, video_id: str) -> str:
    """A caption is a list of words in the published file; a plain text is taken as it is."""
    if isinstance(caption, str):
        return caption
    if isinstance(caption, list | tuple) and all(isinstance(word, str) for word in caption):
        return " ".join(caption)
    raise InputError(f"{path}: a caption of {video_id!r} is neither a text nor a list of words")
