"""Golden files: the resolved config and the parameter tree of everything under configs/, as committed.

    python -m tests.golden_update        writes tests/golden/METHOD.CONFIG.json anew and prints what changed

A change of a default, a renamed module or another initial shape shows up as a line of a diff, never by surprise:
old checkpoints and published numbers hang on both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core import state as states

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"


def config_files() -> list[Path]:
    """Every config of the project, sorted."""
    return sorted(p for p in (ROOT / "configs").glob("*/*.py") if not p.name.startswith("_"))


def name_of(file: Path) -> str:
    """`METHOD.CONFIG`."""
    return f"{file.parent.name}.{file.stem}"


def path_of(name: str) -> Path:
    """Where the golden file of a config lies."""
    return GOLDEN / f"{name}.json"


def describe(file: Path) -> dict:
    """`{config, parameters, other}`; leaves as `float32 [3, 4]`. Nothing is computed, so full scale costs nothing."""
    config = configs.load(file)
    state = states.abstract_state(session.build_method(config), config)
    leaf = lambda x: f"{x.dtype} {list(x.shape)}"  # noqa: E731
    tree = lambda t: {k: leaf(v) for k, v in sorted(states.flatten(t).items())}  # noqa: E731
    return {
        "config": json.loads(configs.to_json(config)),
        "count": sum(x.size for x in jax.tree.leaves(state.params)),
        "parameters": tree(state.params),
        "other": tree(state.mutables),
    }


def differences(old: dict, new: dict) -> list[str]:
    """`path: old -> new` of every leaf that differs."""
    left, right = _flat(old), _flat(new)
    return [
        f"{k}: {left.get(k, 'absent')} -> {right.get(k, 'absent')}"
        for k in sorted(left.keys() | right.keys())
        if left.get(k) != right.get(k)
    ]


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, value in tree.items():
        rows |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": json.dumps(value)}
    return rows


def main() -> int:
    """Writes all golden files, removes those whose config is gone, prints every difference."""
    GOLDEN.mkdir(exist_ok=True)
    files = {name_of(f): f for f in config_files()}
    for path in sorted(GOLDEN.glob("*.json")):
        if path.stem not in files:
            path.unlink()
            print(f"{path.stem}: removed, its config is gone")
    for name, file in files.items():
        path, new = path_of(name), describe(file)
        if not path.is_file():
            print(f"{name}: new, {new['count']:,} parameters")
        else:
            for row in differences(json.loads(path.read_text()), new):
                print(f"{name}: {row}")
        path.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
