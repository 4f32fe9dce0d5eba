"""The `jaxvl` command: verbs, flags and exit codes. No logic, and nothing heavy imported before a verb needs it.

Exit codes: 0 done (also a managed preemption), 2 the input is wrong (one line), 130 Ctrl-C, 1 a bug (traceback).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jaxvl.core.errors import BadMedia, InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    overrides = [w.removeprefix("--config.") for w in words if w.startswith("--config.")]
    words = [w for w in words if not w.startswith("--config.")]
    parser = _parser()
    args, rest = parser.parse_known_args(words)
    if not getattr(args, "verb", None):
        parser.print_help()
        return 0
    if rest and args.verb != "predict":
        return _fail(f"{rest[0]}: no such flag of `jaxvl {args.verb}`; see jaxvl {args.verb} --help")
    args.overrides, args.rest = overrides, rest
    try:
        return args.run(args)
    except (InputError, BadMedia) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _fail(line: str) -> int:
    print(f"jaxvl: {' '.join(line.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxvl",
        description="Ten published vision and vision-language methods on one sharded JAX training loop.",
        epilog="Any field of the config is set by --config.a.b=value. Exit codes: 0 done, 2 wrong input, 1 a bug.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, run, text: str) -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        p.set_defaults(run=run)
        return p

    verb("methods", _methods, "list the methods: paper, task, configs, status")

    p = verb("train", _train, "train a config in a workdir; resumes by itself")
    p.add_argument("--config", required=True, metavar="FILE", help="a Python file with get_config()")
    p.add_argument("--workdir", required=True, metavar="DIR", help="everything the run leaves goes here")
    p.add_argument("--resume", action="store_true", help="go on in a workdir of another config")
    p.add_argument("--fresh", action="store_true", help="set aside what is in the workdir and start over")
    _distributed(p)

    p = verb("evaluate", _evaluate, "metrics of a trained workdir on a split")
    _workdir(p)
    p.add_argument("--split", metavar="NAME", help="default: config.eval.split")
    p.add_argument("--json", action="store_true", help="print JSON instead of the table")
    _distributed(p)

    p = verb("predict", _predict, "run a trained model on your own files (see `jaxvl predict --workdir DIR --help`)")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    _workdir(p)

    p = verb("prepare", _prepare, "check a data set and write it as ArrayRecord shards")
    p.add_argument("--config", required=True, metavar="FILE")
    p.add_argument("--out", metavar="DIR", help="where the shards go; without it the data is only checked")
    p.add_argument("--split", metavar="NAME", action="append", help="only these splits")

    p = verb("report", _report, "write WORKDIR/report.html again")
    p.add_argument("--workdir", required=True, metavar="DIR")

    p = verb("doctor", _doctor, "devices, versions, decoders, disk: what is wrong and how to mend it")
    p.add_argument("--workdir", metavar="DIR", help="also check that this folder can be written")
    return parser


def _workdir(p: argparse.ArgumentParser) -> None:
    p.add_argument("--workdir", required=True, metavar="DIR", help="folder of a trained run")
    p.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")
    p.add_argument("--best", action="store_true", help="the best checkpoint by config.checkpoint.best_metric")


def _distributed(p: argparse.ArgumentParser) -> None:
    p.add_argument("--distributed", action="store_true", help="one process a host (TPU pods, Slurm); found by JAX")
    p.add_argument(
        "--coordinator", metavar="HOST:PORT", help="with --processes and --process, where JAX cannot find out"
    )
    p.add_argument("--processes", type=int, metavar="N")
    p.add_argument("--process", type=int, metavar="I")


def _start(args: argparse.Namespace) -> None:
    """Quiets the libraries and joins the other hosts."""
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    if getattr(args, "distributed", False) or getattr(args, "coordinator", None):
        import jax

        jax.distributed.initialize(args.coordinator, args.processes, args.process)


def _methods(args: argparse.Namespace) -> int:
    from pathlib import Path

    from jaxvl.core import registry

    for name in registry.names():
        card = registry.info(name)
        configs = sorted(p.stem for p in Path("configs", name).glob("*.py"))
        print(f"{name}  {card.title} ({card.status})")
        print(f"    paper    {card.paper}")
        print(f"    task     {card.task}")
        print(f"    configs  {', '.join(configs) or 'none under ./configs'}")
    return 0


def _train(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl import train
    from jaxvl.core import config
    from jaxvl.report import show_results

    cfg = config.load(args.config, args.overrides)
    result = train.train(cfg, args.workdir, resume=args.resume, fresh=args.fresh)
    if result.stopped:
        return 130 if result.stopped == "SIGINT" else 0
    show_results(args.workdir)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    _start(args)
    import json

    from jaxvl.evaluate import evaluate
    from jaxvl.report import show_results

    say = (lambda line: print(line, file=sys.stderr)) if args.json else print
    metrics = evaluate(args.workdir, args.split, args.checkpoint, args.best, say)
    if args.json:
        print(json.dumps(metrics))
    else:
        show_results(args.workdir, args.split)
    return 0


def _predict(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.predict import predict

    return predict(args)


def _prepare(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.core import config
    from jaxvl.prepare import prepare

    prepare(config.load(args.config, args.overrides), args.out, args.split)
    return 0


def _report(args: argparse.Namespace) -> int:
    from jaxvl import report

    print(report.write(args.workdir))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.doctor import doctor

    return doctor(args.workdir)


if __name__ == "__main__":
    sys.exit(main())
