"""Collects the tests twice, seconds apart and with another hash seed, and fails where the two lists differ.

Test processes that run side by side collect on their own; an id that hangs on the clock or on a hash stops them all.
`python tools/same_tests.py`, from the root of the checkout.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import time

COMMAND = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts="]
SECONDS = 2.0  # between the two, so that a time stamp of whole seconds differs


def collect(hash_seed: int) -> list[str]:
    """The ids of all tests, as pytest prints them."""
    done = subprocess.run(
        COMMAND, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]


def main() -> int:
    """0 where both lists are the same, 1 with the lines that differ."""
    first = collect(1)
    time.sleep(SECONDS)
    second = collect(2)
    changed = [line for line in difflib.unified_diff(first, second, lineterm="", n=0) if line[:1] in "+-"]
    print(f"{len(first)} tests collected twice, {len(changed)} lines differ")
    print("\n".join(changed))
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
