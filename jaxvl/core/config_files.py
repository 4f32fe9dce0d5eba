"""Where config files lie, and which one a name means. Imports nothing heavy, so that listings answer at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from jaxvl.core.errors import InputError


def folder() -> Path:
    """Where the project's configs lie: in the installed package, else beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def files(method: str = "") -> list[Path]:
    """The project's config files (of one method), sorted."""
    return sorted(p for p in folder().glob(f"{method or '*'}/*.py") if not p.name.startswith("_"))


def find(name: str | Path) -> tuple[Path, str]:
    """`(file, ARG)` of what `--config` takes: `FILE.py`, `METHOD/FILE` or either with `:ARG` behind it.

    A path on disk wins; then the project's own configs, so that `centerclip/quickstart` is found from anywhere. The
    ending may be left out, and `configs/` may stand in front. Raises InputError with the nearest names.
    """
    text = str(name)
    head, _, argument = text.rpartition(":")
    for look in (_on_disk, _packaged):
        if file := look(text):
            return file, ""
        if file := look(head):
            return file, argument
    asked = head if head and "/" not in argument else text
    raise InputError(f"--config {asked}: no such file{_nearest_file(Path(asked))}")


def _on_disk(text: str) -> Path | None:
    path = Path(text).expanduser()
    tries = (path, path.with_name(path.name + ".py")) if path.name else ()
    return next((p for p in tries if p.is_file()), None)


def _packaged(text: str) -> Path | None:
    name = text.replace("\\", "/").removeprefix("./").removeprefix("configs/").removesuffix(".py")
    return {f"{p.parent.name}/{p.stem}": p for p in files()}.get(name)


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean A or B?`, the names of `known` nearest to `name`; empty where none is near."""
    close = difflib.get_close_matches(name, known, 2, 0.4)
    if not close:
        # 'learning_rate' is near to nothing, but its last part may still be
        close = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]][:2]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _nearest_file(path: Path) -> str:
    known = [f"{p.parent.name}/{p.stem}" for p in files()]
    near = [str(p) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
    short = str(path).removeprefix("configs/").removesuffix(".py")
    hint = nearest(str(path), near) or nearest(short, known)
    return hint or "; `jaxvl configs` lists the project's own"
