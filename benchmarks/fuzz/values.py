"""Values that no field of a config may hold, one after the other, in the smallest config of each method."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fuzz.outcome import Case, Reached, command
from jaxvl.core import config as configs

METHODS = ("centerclip", "slimclr", "drdr", "mist", "afe_cnn", "utt")
WORDS = {  # texts that are names of something
    *("schedule", "name", "best_mode", "compute", "matmul", "remat", "on_error", "ties", "activation", "algorithm"),
    *("aggregation", "metric", "graph", "head", "linear_patch", "reader", "sampling", "eval_sampling", "frame_order"),
    *("tokenizer", "preset", "features", "framework", "trunk", "distill", "distill_logits", "momentum_schedule"),
    *("inplace", "augment", "absent_class", "consensus", "mode", "anchor_weights", "task"),
    *("input", "query", "selector", "eval_noise", "eval_select", "visual", "segment_norm", "readout", "answer_pool"),
    *("answer_encoder", "clip", "dtype", "feature_dtype", "region_selector", "skeleton", "gates", "protocol"),
    *("track_gaps", "interaction", "mot_levels", "mot_target_levels", "mot_target_at", "mot_target_grad", "detector"),
    *("offset_norm", "giou_fallback", "sot_test", "mot_test", "mot_part", "coords", "tracker", "detections"),
}
PATHS = ("data.features",)
"""Fields whose last part is the name of a choice elsewhere."""
NEGATIVE = ("logit_scale_range",)
"""Fields that negative numbers are right for."""
SETS, TEXTS = ("sot_train", "mot_train"), ("sot_train", "mot_train", "missing")
"""Fields of several names, and of several texts."""


def cases(root: Path) -> list[Case]:
    """A case for every field and kind of wrong value."""
    found = []
    for method in METHODS:
        base = importlib.import_module(f"jaxvl.methods.{method}.recipe").base()
        file = root / f"{method}.py"
        file.write_text(f"from jaxvl.methods.{method} import recipe\nget_config = recipe.base\n", encoding="utf-8")
        for name, value in configs.dotted(base):
            for wrong in _wrong(name, value):
                words = ["train", "--config", file, "--workdir", root / "values", f"--config.{name}={wrong}"]
                found.append(Case(f"{method} {name}={wrong}", lambda w=words: _stubbed(w)))
        if method == "centerclip":
            continue
    house = {f"{n}={w}" for n, v in configs.dotted(configs.base()) for w in _wrong(n, v)}
    seen: set[str] = set()
    kept = []
    for case in found:  # fields of the house once
        own = case.name.split(" ", 1)[1]
        if own not in house or own not in seen:
            kept.append(case)
        seen.add(own)
    return kept


def _wrong(name: str, value) -> Iterator[str]:
    leaf = name.rsplit(".", 1)[-1]
    if isinstance(value, bool):
        yield "maybe"
    elif isinstance(value, int):
        yield from ("-8", "1.5", str(2**70))
    elif isinstance(value, float):
        yield from ("-1.0", "float('nan')", "1e400", "abc")
    elif isinstance(value, tuple) and leaf not in TEXTS:
        yield from ("(float,)", "((1,2),(3,4),5)") + (() if leaf in NEGATIVE else ("(-1.5,-1.5,-1.5)",))
    elif isinstance(value, tuple):
        yield from ("(1,2)", "((1,2),(3,4),5)", "('a\\0b',)") + (("('no such name',)",) if leaf in SETS else ())
    elif isinstance(value, str) and leaf in WORDS and name not in PATHS:
        yield "no such name"
    elif isinstance(value, str) and leaf in ("no_decay", "stiefel"):
        yield from ("(", "*")


def _stubbed(words: list) -> tuple[str, str]:
    """The command up to where data is read: a value that gets there was accepted."""
    from jaxvl.core import session

    def reached(*_, **__):
        raise Reached

    old, session.build_data = session.build_data, reached
    try:
        return command(words)
    finally:
        session.build_data = old
        with contextlib.suppress(OSError):
            for file in ("config.json", "env.json"):
                (Path(words[4]) / file).unlink(missing_ok=True)


def short(name: str) -> str:
    """The field of a case's name."""
    return re.sub(r"=.*", "", name)
