"""Ctrl-C outside of the train loop: exit code 130, always, from the first moment of the command.

A KeyboardInterrupt raised wherever Python happens to be is not enough: inside a callback or a destructor it is
swallowed, inside a library's C++ it crashes, and while a program compiles it waits for minutes. So a verb that has
nothing to save ends at once. One that has (a search index, a folder of its own to clear away) gets the exception, and a
few seconds. In the loop of training its own handler rules, which saves first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

GRACE_S = 5.0
"""What a verb gets to save what it has."""

_leaving = threading.Lock()


class Interrupts:
    """SIGINT, taken over until `give_back`. A thread hears of it, too, while the main one is inside of a library."""

    def __init__(self):
        self._saves = False
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._old = signal.signal(signal.SIGINT, self._on)
        threading.Thread(target=self._watch, name="interrupt", daemon=True).start()

    def save_first(self) -> None:
        """From here on KeyboardInterrupt is raised; what it does not end in `GRACE_S` seconds ends then."""
        self._saves = True

    def give_back(self) -> None:
        """As it was before."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, self._old)

    def _on(self, *_) -> None:
        if self._saves:
            raise KeyboardInterrupt
        leave()

    def _watch(self) -> None:
        while True:
            if os.read(self._read, 1) != bytes([signal.SIGINT]) or signal.getsignal(signal.SIGINT) != self._on:
                continue  # another signal, or the loop of training has the word
            time.sleep(GRACE_S if self._saves else 0)
            leave()


def leave() -> None:
    """Ends this process with 130 and its worker processes with it, without what Python does at the end: threads of
    libraries that are still at work would crash in it."""
    if not _leaving.acquire(blocking=False):
        time.sleep(GRACE_S)  # the other thread does it
    workers = sys.modules.get("multiprocessing.process")
    for child in list(getattr(workers, "_children", ())):
        child.kill()
    try:
        os.write(2, b"interrupted\n")
        if (processes := sys.modules.get("jaxvl.core.processes")) is not None:
            processes.fail("interrupted", 130)  # the others of the run, if there are any
    finally:
        os._exit(130)
