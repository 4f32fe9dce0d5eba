"""A workdir on a disk: a folder, also of a network file system or a bucket that is mounted."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxvl.core.files import cannot_write, write_bytes

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file of a checkpoint: its size, and what computes its checksum."""

    size: int
    checksum: Callable[[], int]


class Disk:
    """A workdir that is a folder of this machine, or of a disk that is mounted here."""

    has_locks = True
    """Whether files can be locked and grow here."""
    sums = ""
    """Beside the name of a list of checksums: which kind they are. Of files: CRC-32."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.title = self.folder.absolute().name
        self.guard: Callable[[], None] = lambda: None
        """Raises InputError where this run may not write there any more."""

    def __str__(self) -> str:
        return str(self.folder)

    def fetch(self) -> None:
        """Nothing to bring: it is here."""

    def publish(self) -> None:
        """Nothing to take back. Of a bucket: raises InputError where it cannot be written."""

    @contextlib.contextmanager
    def kept_up(self, say: Say) -> Iterator[None]:
        """While it lasts, what is written is published by and by."""
        del say
        yield

    def shown(self, text: str) -> str:
        """`text` with the names that a user knows."""
        return text

    def saying(self, say: Say) -> Say:
        """`say`, which then speaks of places as `shown` does."""
        return lambda line: say(self.shown(line))

    @contextlib.contextmanager
    def printing(self) -> Iterator[None]:
        """While it lasts, what is printed speaks of places as `shown` does."""
        yield

    def where(self, name: str) -> Path | str:
        """A folder's place for Orbax, and for people."""
        return self.folder.absolute() / name

    def children(self, name: str) -> list[str]:
        """Names of what lies in a folder; none where there is no such folder."""
        return sorted(p.name for p in (self.folder / name).glob("*"))

    def exists(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""
        return (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """A file's content. Raises OSError."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file in one go. Raises InputError where it cannot be written."""
        write_bytes(self.folder / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file that is not there; False where it is. Raises InputError where it cannot be written."""
        try:
            with (self.folder / name).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        except OSError as error:
            raise cannot_write(self.folder / name, error) from None
        return True

    def remove(self, name: str) -> None:
        """Takes a file or a folder away. Raises OSError."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def move(self, source: str, target: str) -> None:
        """Moves a file or a folder; what `target` was goes. Nothing happens where there is no `source`."""
        if not self.exists(source):
            return
        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
        if (self.folder / target).is_dir():
            shutil.rmtree(self.folder / target, ignore_errors=True)
        (self.folder / source).rename(self.folder / target)

    def stored(self, name: str) -> dict[str, Stored]:
        """Every file below a folder, by its path from there. Raises OSError."""
        root = self.folder / name
        files = sorted(p for p in root.rglob("*") if p.is_file())
        return {str(p.relative_to(root)): Stored(p.stat().st_size, lambda p=p: crc(p)) for p in files}

    def close(self) -> None:
        """Nothing to clear away."""


def crc(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as f:
        while block := f.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
