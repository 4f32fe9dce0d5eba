"""Readers of published data sets, in folders by task. Their names before there were folders go on as names."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys

_FOLDERS = {
    "adaptation": ("domain_sets", "emoji"),
    "classification": (
        *("cifar", "digits", "idx", "image_arrays", "image_folder", "image_list", "image_records", "imagenet"),
        "tfds_images",
    ),
    "retrieval": ("activitynet_captions", "clip_records", "didemo", "lsmdc", "msrvtt", "msvd"),
}


class _FormerNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`jaxvl.data.readers.msrvtt` is `jaxvl.data.readers.retrieval.msrvtt`, the very same module."""

    names = {f"{__name__}.{n}": f"{__name__}.{folder}.{n}" for folder, names in _FOLDERS.items() for n in names}

    def find_spec(self, fullname, path=None, target=None):
        """The spec of a former name, None for all others."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in self.names else None

    def create_module(self, spec):
        """The module under its name of today."""
        return importlib.import_module(self.names[spec.name])

    def exec_module(self, module):
        """It has run already."""


sys.meta_path.append(_FormerNames())
