"""Committed results: `docs/results/NAME.json` with what it came from, and `NAME.md` as a table for readers."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvl.core.session import environment

FOLDER = Path(__file__).parent.parent / "docs" / "results"


def save(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str, raw: Any) -> None:
    """Writes both files; the command that made them is taken from this process, without where its folders lay."""
    env = environment()
    command = "python -m " + (sys.modules["__main__"].__spec__.name if sys.modules["__main__"].__spec__ else "?")
    command = command.removesuffix(".__main__")  # of a package
    command = " ".join([command, *(os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv[1:])])
    kept = {k: env[k] for k in ("time", "python", "cpus", "packages")}
    kept |= {"devices": len(env["devices"]), "load": [round(x, 2) for x in os.getloadavg()]}
    FOLDER.mkdir(parents=True, exist_ok=True)
    body = {"title": title, "command": command, "columns": list(columns), "rows": [list(r) for r in rows], "note": note}
    text = json.dumps(body | {"raw": raw, "environment": kept}, indent=1, default=float)
    (FOLDER / f"{name}.json").write_text(text + "\n")
    lines = [f"# {title}", "", f"Made by `{command}` (jax {kept['packages']['jax']}, {kept['cpus']} CPU cores).", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(v) for v in row) + " |" for row in rows]
    (FOLDER / f"{name}.md").write_text("\n".join([*lines, "", note, ""]))
    print("\n".join(lines[4:]))
    print(note)


def mean_sd(values: Sequence[float], digits: int = 1) -> str:
    """`mean ± sample standard deviation`."""
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
