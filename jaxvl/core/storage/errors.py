"""What a bucket's libraries raise, as the errors of a disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """What gcsfs and the libraries below it raise, as OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        theirs = type(error).__module__.split(".")[0] in ("gcsfs", "aiohttp", "google", "requests", "fsspec")
        if not theirs and not str(error).startswith("Bad Request"):
            raise
        raise OSError(0, reason(error)) from error


def reason(error: Exception) -> str:
    """Why, in one line."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return " ".join(text.split())[:200]
