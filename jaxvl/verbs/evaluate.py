"""`jaxvl evaluate`: the metrics of a trained workdir on one split."""

from __future__ import annotations

from pathlib import Path

from jaxvl.core import session
from jaxvl.core.evaluation import evaluate as run_evaluators
from jaxvl.verbs.train import eval_streams, save_evaluation


def evaluate(
    workdir: str | Path,
    split: str | None = None,
    checkpoint: int | None = None,
    best: bool = False,
    say: session.Say = print,
) -> dict[str, float]:
    """Evaluates the newest (best, or named) checkpoint on `split` (default `config.eval.split`), writes
    `WORKDIR/eval/SPLIT.json` and returns the metrics."""
    loaded = session.load(workdir, checkpoint, best, say)
    data = session.build_data(loaded.config, workdir, say)
    session.check_constants(loaded.variables, data, workdir)
    split = split or loaded.config.eval.split
    streams = eval_streams(loaded.config, data, split, Path(workdir))
    metrics, arrays = run_evaluators(loaded.method, loaded.predict, loaded.variables, streams, loaded.mesh, split)
    save_evaluation(Path(workdir), split, loaded.step, metrics, arrays)
    return metrics
