"""What a bucket's libraries raise, as the errors of a disk."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator

from jaxvl.core.errors import Unavailable

AGAIN = {"408", "429", "500", "502", "503", "504"}
"""Status codes of a service that would have answered at another time."""
OF_TENSORSTORE = re.compile(r"retry attempts failed|UNAVAILABLE|DEADLINE_EXCEEDED")
PATIENCE_S = 300.0
"""So long what a run needs of a service is asked for again, beside the tries of its libraries (half a minute of gcsfs,
a quarter of an hour of TensorStore)."""
PAUSE_S = 5.0


class Away(OSError):
    """A service does not answer, or says that it would at another time."""


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """What gcsfs and the libraries below it raise, as OSError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TimeoutError | ConnectionError):
            raise
        if _is_of_another_time(error):
            raise Away(0, reason(error)) from error
        if isinstance(error, OSError):
            raise
        theirs = type(error).__module__.split(".")[0] in ("gcsfs", "aiohttp", "google", "requests", "fsspec")
        if not theirs and not str(error).startswith("Bad Request"):
            raise
        raise OSError(0, reason(error)) from error


def _is_of_another_time(error: BaseException) -> bool:
    """Of what gcsfs and the libraries below it raise. A name that is wrong and a right that is missing stay so."""
    if isinstance(error, Away | TimeoutError | ConnectionError):
        return True
    library = type(error).__module__.split(".")[0]
    if library == "gcsfs":
        return str(getattr(error, "code", "")) in AGAIN or type(error).__name__ == "ChecksumError"
    if library == "google":  # the server of tokens does not answer: said by another error, now and then
        below = error.__cause__ or error.__context__
        return type(error).__name__ == "TransportError" or (below is not None and _is_of_another_time(below))
    names = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(names & {"aiohttp.ClientError", "requests.ConnectionError", "requests.Timeout"})


def is_away(error: BaseException) -> bool:
    """Whether a service does not answer. TensorStore tells so in words."""
    return isinstance(error, Away | TimeoutError | ConnectionError) or bool(OF_TENSORSTORE.search(str(error)))


@contextlib.contextmanager
def reached(where: object, done: str = "read") -> Iterator[None]:
    """A service that does not answer, as Unavailable; other errors of its libraries as OSError."""
    try:
        with as_os_errors():
            yield
    except (OSError, ValueError) as error:
        if not is_away(error):
            raise
        raise Unavailable(
            f"{where}: cannot be {done} ({reason(error)}); the service does not answer, and the same command goes on "
            "when it does"
        ) from None


def patiently(function: Callable[[], None], say: Callable[[str], None]) -> None:
    """Calls `function`, and again for PATIENCE_S where it raises Unavailable, which is told once."""
    begun, told = time.monotonic(), False
    while True:
        try:
            return function()
        except Unavailable as error:
            if time.monotonic() - begun > PATIENCE_S:
                raise
            if not told:
                say(f"{error}; tried again for {PATIENCE_S:.0f} s")
            told = True
        time.sleep(min(PAUSE_S, PATIENCE_S / 10))


def reason(error: Exception) -> str:
    """Why, in one line."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return " ".join(text.split())[:200]
