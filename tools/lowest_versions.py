"""Runs the tests on the lowest versions that setup.py admits, and writes what was found to docs/results.

    python -m tools.lowest_versions [--python python3.11] [--only tests/core] [--keep DIR]

Makes a virtual environment with every direct dependency at the lowest version that setup.py admits (`uv`, installed
beside pip, resolves `--resolution lowest-direct`) and the tests' own tools at their newest, and runs the suite as the
README does. A lower bound that the suite does not pass on is a wrong promise: raise it in setup.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import setuptools

from benchmarks import results

ROOT = Path(__file__).parent.parent


def requirements() -> tuple[list[str], list[str]]:
    """`install_requires` and the extra `test` of setup.py."""
    seen: dict = {}
    with mock.patch.object(setuptools, "setup", lambda **fields: seen.update(fields)):
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return seen["install_requires"], seen["extras_require"]["test"]


def main() -> int:
    """0 where the suite passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", nargs="*", default=[], help="of the tests; then nothing is written")
    parser.add_argument("--keep", help="where the environment is made, and kept")
    args = parser.parse_args()
    run, test = requirements()
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(args.keep or scratch) / "venv"
        if not venv.exists():
            subprocess.run([args.python, "-m", "venv", venv], check=True)
        python = venv / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        install = [venv / "bin" / "uv", "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, "--resolution", "lowest-direct", *run], check=True)
        frozen = subprocess.run(
            [venv / "bin" / "uv", "pip", "freeze", "--python", python], capture_output=True, text=True, check=True
        )
        have = dict(line.split("==") for line in frozen.stdout.splitlines() if "==" in line)
        names = [re.match(r"[\w-]+", r).group().lower().replace("_", "-") for r in run]
        rows = [[name, have[name]] for name in names]
        (Path(scratch) / "kept.txt").write_text("".join(f"{name}=={number}\n" for name, number in rows))
        subprocess.run([*install, "--constraint", Path(scratch) / "kept.txt", *test], check=True)
        subprocess.run([*install, "--no-deps", ROOT], check=True)
        words = ["-m", "pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", *args.only]
        done = subprocess.run([python, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    print(done.stdout[-3000:], done.stderr[-2000:])
    summary = next((line for line in reversed(done.stdout.splitlines()) if "passed" in line or "failed" in line), "?")
    if not args.only:
        good = done.returncode == 0
        results.save(
            "lowest_versions",
            "The lowest versions of the dependencies" + ("" if good else ", on which the tests FAIL"),
            ["package", "lowest"],
            rows,
            f"The whole suite on these, Python {version}: {summary.strip('= ')}.",
            {"python": version, "versions": dict(rows), "passed": good},
        )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
