"""Golden files: the resolved config and the parameter tree of everything under configs/, as committed.

    python -m tests.golden_update        writes them anew and prints what changed

`tests/golden/METHOD.CONFIG.json` is the resolved config, `METHOD.CONFIG.NAME.json` one for each name of the file's
EXPERIMENTS. Many experiments share one model, so the parameter tree is a file of its own, `trees/METHOD.HASH.json`.
A change of a default, a renamed module or another initial shape shows up as a line of a diff, never by surprise:
old checkpoints and published numbers hang on both.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import numpy as np

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core import state as states

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
TREES = GOLDEN / "trees"


class Experiment(NamedTuple):
    """A config of the project. name: a key of the file's EXPERIMENTS, '' for `get_config()` of a file without."""

    file: Path
    name: str

    @property
    def golden(self) -> str:
        """`METHOD.CONFIG` or `METHOD.CONFIG.NAME`."""
        return ".".join(filter(None, (self.file.parent.name, self.file.stem, self.name)))

    def load(self):
        """The resolved config."""
        return configs.load(f"{self.file}:{self.name}" if self.name else self.file)


def config_files() -> list[Path]:
    """Every config file of the project, sorted."""
    return sorted(p for p in (ROOT / "configs").glob("*/*.py") if not p.name.startswith("_"))


def experiments() -> list[Experiment]:
    """Every config of the project."""
    return [Experiment(f, name) for f in config_files() for name in getattr(load_file(f), "EXPERIMENTS", None) or [""]]


def distinct_files() -> list[Path]:
    """One file for each key that the files' default configs have."""
    return sorted({key_of(configs.load(f)): f for f in reversed(config_files())}.values())


def load_file(file: Path):
    """A config file as a module."""
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def path_of(name: str) -> Path:
    """Where the golden file of an experiment lies."""
    return GOLDEN / f"{name}.json"


def describe(experiment: Experiment) -> dict:
    """`{config, count, parameters, other}`; leaves as `float32 [3, 4]`. Nothing is computed, at any scale."""
    config = experiment.load()
    return {"config": json.loads(configs.to_json(config)), **tree_of(config)}


def key_of(config) -> str:
    """What tells the updates of two config files apart: model, precision and the shapes of their batches."""
    spec = session.build_method(configs.with_length(config, configs.NOMINAL_EPOCH)).batch_spec
    shapes = {s: {k: [list(v.shape), str(v.dtype)] for k, v in f.items()} for s, f in spec.items()}
    parts = json.loads(configs.to_json(config))
    return json.dumps([config.method, parts["model"], parts["precision"], shapes])


def tree_of(config) -> dict:
    """`{count, parameters, other}`."""
    variables = initial(configs.with_length(config, configs.NOMINAL_EPOCH))
    params = variables.pop("params")
    leaf = lambda x: f"{x.dtype} {list(x.shape)}"  # noqa: E731
    tree = lambda t: {k: leaf(v) for k, v in sorted(states.flatten(t).items())}  # noqa: E731
    return {
        "count": sum(x.size for x in jax.tree.leaves(params)),
        "parameters": tree(params),
        "other": tree(variables),
    }


def initial(config) -> dict:
    """The collections that the method initialises, as shapes. Its optimisers are built, and each is tried on one
    parameter of every cell: what they keep of all of them is traced where an update is."""
    method = session.build_method(config)
    with mock.patch.object(nn.Module, "init", _init):
        key = lambda: jax.random.fold_in(jax.random.key(config.seed), 0)  # noqa: E731
        variables = dict(jax.eval_shape(lambda: method.init(key(), states.dummy_batch(method))))
    cells, flat = states.build_cells(method, variables["params"], config), states.flatten(variables["params"])
    for cell, paths in cells.members.items():
        jax.eval_shape(cells.optimizer(cell).direction.init, {paths[0]: flat[paths[0]]})
    return variables


def abstract_state(config, method=None) -> states.TrainState:
    """`states.abstract_state`. Everything is run for this config alone but the insides of its Linen modules: a module
    that equals one of an earlier config, called with the same shapes, is not traced again."""
    with mock.patch.object(nn.Module, "init", _init):
        return states.abstract_state(method or session.build_method(config), config)


_linen_init = nn.Module.init


def _init(module, *args, **kwargs):
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = [x for x in leaves if isinstance(x, jax.Array | np.ndarray)]
    rest = tuple(None if isinstance(x, jax.Array | np.ndarray) else x for x in leaves)
    return _init_once(module, tree, rest, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _init_once(module, tree, rest, arrays):
    """Jitted for jit's cache of traces, whose key is the module (by its fields) and the shapes of what it is given."""
    arrays = iter(arrays)
    args, kwargs = jax.tree.unflatten(tree, [next(arrays) if x is None else x for x in rest])
    return _linen_init(module, *args, **kwargs)


def tree_name(description: dict) -> str:
    """`METHOD.HASH`, the hash being that of names, shapes and dtypes."""
    text = json.dumps([description["parameters"], description["other"]], sort_keys=True)
    return f"{description['config']['method']}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def committed(name: str) -> dict:
    """What `describe` gave when the golden files were written."""
    golden = json.loads(path_of(name).read_text())
    return {"config": golden["config"], **json.loads((TREES / f"{golden['tree']}.json").read_text())}


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
    """Writes all golden files, removes those that nothing stands for any more, prints every difference."""
    TREES.mkdir(parents=True, exist_ok=True)
    found = {e.golden: describe(e) for e in experiments()}
    for name, new in found.items():
        if not path_of(name).is_file():
            print(f"{name}: new, {new['count']:,} parameters")
            continue
        for row in differences(committed(name), new):
            print(f"{name}: {row}")
    for name, new in found.items():
        tree = tree_name(new)
        write(path_of(name), {"config": new["config"], "tree": tree})
        write(TREES / f"{tree}.json", {k: v for k, v in new.items() if k != "config"})
    for path in left_over(found):
        path.unlink()
        print(f"{path.relative_to(GOLDEN)}: removed, its config is gone")
    return 0


def left_over(names) -> list[Path]:
    """Golden files that belong to none of `names`, and trees that belong to no golden file."""
    goldens = sorted(GOLDEN.glob("*.json"))
    used = {json.loads(p.read_text())["tree"] for p in goldens if p.stem in names}
    return [p for p in goldens if p.stem not in names] + [p for p in sorted(TREES.glob("*.json")) if p.stem not in used]


def write(path: Path, value: dict) -> None:
    """JSON with sorted keys, one leaf a line."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
