"""`jaxvl doctor`: what this machine has, what is wrong, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

LOW_DISK = 5 * 2**30


def doctor(workdir: str | Path | None = None) -> int:
    """Prints one line a check; returns 0 if nothing is wrong, else 2."""
    checks = [_python(), *_packages(), *_devices(), _decoder(), *_place(workdir or ".")]
    for good, line in checks:
        print(f"{'ok  ' if good else 'MEND'}  {line}")
    return 0 if all(good for good, _ in checks) else 2


Check = tuple[bool, str]


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return good, f"Python {sys.version.split()[0]}" + ("" if good else ": jaxvl needs 3.11 or newer")


def _packages() -> list[Check]:
    from packaging.requirements import Requirement

    rows = []
    try:
        needed = [Requirement(r) for r in requires("jaxvl") or []]
    except PackageNotFoundError:
        return [(False, "jaxvl is not installed (run from the source tree): pip install .")]
    for need in needed:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            rows.append((False, f"{need.name}: absent; pip install '{need}'"))
            continue
        good = need.specifier.contains(have, prereleases=True)
        rows.append((good, f"{need.name} {have}" + ("" if good else f": needs {need.specifier}; pip install '{need}'")))
    return rows


def _devices() -> list[Check]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        return [(False, f"JAX finds no device: {str(error).splitlines()[0]}; check JAX_PLATFORMS and the driver")]
    kind = devices[0].platform
    rows = [(True, f"{len(devices)} {kind} device(s): {devices[0].device_kind}, {os.cpu_count()} CPU cores")]
    if kind == "cpu" and shutil.which("nvidia-smi"):
        rows.append((False, "an NVIDIA driver is here but JAX runs on the CPU: pip install 'jaxvl[cuda12]'"))
    memory = devices[0].memory_stats()
    if memory and "bytes_limit" in memory:
        size = f"{memory['bytes_limit'] / 2**30:.1f} GiB"
        rows.append((True, f"device memory {size} (XLA_PYTHON_CLIENT_MEM_FRACTION sets the share)"))
    return rows


def _decoder() -> Check:
    import av

    wanted = ("h264", "hevc", "vp9", "mpeg4")
    absent = [c for c in wanted if c not in av.codecs_available]
    if absent:
        return (
            False,
            f"PyAV {av.__version__} lacks {', '.join(absent)}: reinstall the wheel, pip install --force-reinstall av",
        )
    return True, f"PyAV {av.__version__} decodes {', '.join(wanted)}"


def _place(workdir: str | Path) -> list[Check]:
    """The workdir: space for checkpoints, and whether it can be written."""
    from jaxvl.core import storage
    from jaxvl.core.errors import InputError

    if (url := storage.address(workdir)) is None:
        return [_disk(workdir), _writable(workdir)]
    try:
        place = storage.Bucket(url)
        try:
            place.write(".jaxvl-doctor", b"")
            place.remove(".jaxvl-doctor")
            return [_disk(place.folder), (True, f"{url} can be written; files lie in {place.folder} meanwhile")]
        finally:
            place.close()
    except (InputError, OSError) as error:
        return [(False, str(error))]


def _disk(where: str | Path) -> Check:
    path = Path(where)
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    good = free > LOW_DISK
    return good, f"{free / 2**30:.1f} GiB free at {path}" + (
        "" if good else ": checkpoints may not fit; free some space"
    )


def _writable(where: str | Path) -> Check:
    path = Path(where)
    while not path.exists():
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):
            return True, f"{path} can be written"
    except OSError as error:
        return False, f"{path} cannot be written ({error.strerror}): choose another --workdir"
