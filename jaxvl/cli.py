"""The `jaxvl` command: verbs, flags and exit codes. No logic, and nothing heavy imported before a verb needs it.

Exit codes: 0 done (also a managed preemption; JAXVL_SIGTERM_CODE names another one for it), 2 the input is wrong (one
line), 130 Ctrl-C, 1 a bug (traceback).
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__" or os.path.basename(sys.argv[0]) == "jaxvl":  # from here on until `main` takes it over
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import contextlib
import errno
import io
import threading
from collections.abc import Sequence

from jaxvl.arguments import Parser, pattern, place, positive, whole, word, workdir
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import mend, printable
from jaxvl.interrupts import Interrupts, leave

TAKE_CONFIG = ("train", "prepare", "aot")
TAKE_PATHS = ("evaluate", "predict")
"""The paths of a trained workdir's config may be set anew."""
SAVE_FIRST = ("predict", "prepare", "convert")
"""Verbs that have something to save or to clear away when they are interrupted."""
OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code. Without `argv` as the command: Ctrl-C then ends this process."""
    if argv is not None:
        return _run(list(argv))
    taken = Interrupts() if threading.current_thread() is threading.main_thread() else None
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what the locale has no bytes for
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(sys.argv[1:], taken)
    finally:
        if taken is not None:
            taken.give_back()


def _run(words: list[str], taken: Interrupts | None = None) -> int:
    overrides = [w.removeprefix("--config.") for w in words if w.startswith("--config.")]
    words = [w for w in words if not w.startswith("--config.")]
    parser = _parser()
    try:
        args, rest = parser.parse_known_args(words)
        if not getattr(args, "verb", None):
            if args.version:
                return _version()
            if rest:
                return _fail(f"{rest[0]}: no such flag of `jaxvl`; see jaxvl --help")
            parser.print_help()
            return 0
        if rest and args.verb != "predict":
            return _fail(f"{rest[0]}: no such flag of `jaxvl {args.verb}`; see jaxvl {args.verb} --help")
        if overrides and args.verb not in TAKE_CONFIG + TAKE_PATHS:
            return _fail(f"--config.{overrides[0]}: `jaxvl {args.verb}` takes no fields of a config")
        if taken is not None and args.verb in SAVE_FIRST:
            taken.save_first()
        args.overrides, args.rest = overrides, rest
        code = args.run(args)
        sys.stdout.flush()  # a broken pipe shows here, not when Python ends
        return code
    except (InputError, BadMedia) as error:
        return _fail(str(error), error.code)
    except BrokenPipeError:  # whoever read the output, as in `| head`, has seen enough
        _no_more_output()
        return 0
    except OSError as error:
        if error.filename is None and error.errno not in OF_THE_MACHINE:
            raise
        return _fail(_of_the_machine(error))
    except KeyboardInterrupt:
        if taken is not None:
            leave()
        print("interrupted", file=sys.stderr)
        _tell_the_others("interrupted", 130)
        return 130


def _fail(line: str, code: int = 2) -> int:
    with contextlib.suppress(OSError):  # nobody can be told
        print(f"jaxvl: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)
    _tell_the_others(line, code)
    return code


def _tell_the_others(line: str, code: int) -> None:
    """Ends all processes of a run that has several."""
    if (processes := sys.modules.get("jaxvl.core.processes")) is not None:
        processes.fail(line, code)


def _of_the_machine(error: OSError) -> str:
    """The line for a disk that is full or read-only, a file that is not there, a right that is missing."""
    try:
        sys.stdout.flush()
    except OSError:
        _no_more_output()
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' -> '.join(names)}: " if names else ""
    return f"{where}{error.strerror or error}; {mend(error) or 'mend it'} and give the same command again"


def _no_more_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at the end


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="jaxvl",
        description="Ten published vision and vision-language methods on one sharded JAX training loop.",
        epilog="Any field of the config is set by --config.a.b=value. Exit codes: 0 done, 2 wrong input, 1 a bug.",
    )
    parser.add_argument("--version", action="store_true", help="print the version of jaxvl and of what it stands on")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, run, text: str, **kwargs) -> Parser:
        p = verbs.add_parser(name, help=text, description=text, **kwargs)
        p.set_defaults(run=run)
        return p

    verb("methods", _methods, "list the methods: paper, task, configs, status")

    p = verb("configs", _configs, "list the configs: rows of each file, and what it needs")
    p.add_argument("method", nargs="?", default="", metavar="METHOD", help="only the configs of this method")

    p = verb("train", _train, "train a config in a workdir; resumes by itself")
    p.add_argument(
        "--config",
        required=True,
        type=place,
        metavar="NAME",
        help="METHOD/FILE[:ROW] (see `jaxvl configs`) or a file",
    )
    p.add_argument("--workdir", type=workdir, metavar="DIR", help="everything the run leaves goes here")
    p.add_argument("--dry-run", action="store_true", help="print config, sizes and what is missing; train nothing")
    p.add_argument("--resume", action="store_true", help="go on in a workdir of another config")
    p.add_argument("--fresh", action="store_true", help="set aside what is in the workdir and start over")
    p.add_argument("--folds", action="store_true", help="train every fold of the config's protocol, and pool them")
    _distributed(p)

    p = verb("evaluate", _evaluate, "metrics of a trained workdir on a split")
    _workdir(p)
    p.add_argument("--split", type=word, metavar="NAME", help="default: config.eval.split")
    p.add_argument("--json", action="store_true", help="print JSON instead of the table")
    p.add_argument("--out", type=place, metavar="DIR", help="where SPLIT.json and SPLIT.npz go; default: WORKDIR/eval")
    _distributed(p)

    text = "run a trained model on your own files; `jaxvl predict --workdir DIR --help` shows what its method takes"
    p = verb("predict", _predict, text, add_help=False)  # the flags depend on the method, so it helps by itself
    p.set_defaults(print_help=p.print_help)
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    _workdir(p, required=False)

    p = verb("classify", _classify, "zero-shot classes of a folder of pictures, by CLIP's weights")
    p.add_argument(
        "--weights", required=True, type=place, metavar="DIR", help="a folder that `jaxvl convert` wrote of a CLIP"
    )
    p.add_argument("--images", required=True, type=place, metavar="DIR", help="folder of pictures, with its subfolders")
    p.add_argument("--classes", required=True, nargs="+", metavar="NAME", help="what the pictures may show")
    p.add_argument(
        "--template", action="append", metavar="TEXT", help="with {} for the name; may be given several times"
    )
    p.add_argument("--top", type=whole(1), default=3, metavar="K", help="classes a picture")
    p.add_argument("--json", action="store_true", help="print JSON instead of the table")

    p = verb("prepare", _prepare, "check a data set; write it as ArrayRecord shards, or its videos small")
    p.add_argument("--config", required=True, type=place, metavar="NAME")
    p.add_argument("--out", type=place, metavar="DIR", help="where the shards go; without it the data is only checked")
    p.add_argument("--split", type=word, metavar="NAME", action="append", help="only these splits")
    p.add_argument(
        "--shrink", type=place, metavar="DIR", help="encode every video anew into DIR, small and without sound"
    )
    p.add_argument("--short-side", type=whole(1), metavar="PIXELS", help="of --shrink; default: 224")
    p.add_argument("--fps", type=positive, metavar="RATE", help="of --shrink, frames a second; default: 3")
    p.add_argument(
        "--extract", type=place, metavar="DIR", help="compute the features that the method trains on into DIR, once"
    )
    p.add_argument(
        "--processes", type=whole(1), metavar="N", help="of --shrink, default: one a core; or that share --extract"
    )
    p.add_argument(
        "--process", type=whole(0), metavar="I", help="of --extract: which of the --processes this is, from 0"
    )

    p = verb("convert", _convert, "published weights to a folder that configs can start from, and back")
    p.add_argument("file", type=place, metavar="FILE", help="a PyTorch or safetensors file; with --reverse a folder")
    p.add_argument(
        "--from", dest="family", type=word, required=True, metavar="LAYOUT", help="openai_clip, hf_clip, ..."
    )
    p.add_argument("--to", required=True, type=place, metavar="DIR", help="where the weights folder goes")
    p.add_argument("--image-size", type=whole(1), metavar="N", help="interpolate the image positions to this size")
    p.add_argument("--interpolation", metavar="RULE", help="of the positions: hf (default) or openclip")
    p.add_argument(
        "--set", type=word, action="append", default=[], metavar="FIELD=VALUE", help="what the file does not tell"
    )
    p.add_argument(
        "--allow", nargs="+", action="extend", default=[], type=pattern, metavar="REGEX",
        help="keys that may be missing or left over",
    )  # fmt: skip
    p.add_argument("--prefix", default="", metavar="TEXT", help="take this off the keys that begin with it (module.)")
    p.add_argument(
        "--drop", nargs="+", action="extend", default=[], type=pattern, metavar="REGEX",
        help="keys to leave out (fc.*)",
    )  # fmt: skip
    p.add_argument("--inside", type=word, metavar="KEY", help="where in a checkpoint the state dict lies")
    p.add_argument(
        "--pass-over", nargs="+", action="extend", default=[], type=word, metavar="CLASS",
        help="objects beside the weights to leave out (my_project.Settings)",
    )  # fmt: skip
    p.add_argument("--reverse", action="store_true", help="weights folder or workdir to the published layout")

    text = "compile a config for a TPU slice that is not here: does it fit, what does it cost"
    p = verb("aot", _aot, text)
    p.add_argument(
        "--config", required=True, type=place, metavar="NAME", help="METHOD/FILE[:ROW] (see `jaxvl configs`) or a file"
    )
    p.add_argument(
        "--topology", required=True, type=word, metavar="CHIP:SIDES",
        help="v5e:4x4, v5p:2x2x2, ...; cpu:8 for simulated CPU devices, without the TPU compiler (jaxvl[aot])",
    )  # fmt: skip
    p.add_argument("--mesh", type=word, metavar="AXIS=N,...", help="data=-1,fsdp=4; short for --config.mesh.AXIS=N")
    p.add_argument(
        "--objective", type=word, action="append", default=[], metavar="NAME",
        help="only this one, or predict; may be given several times; default: all",
    )  # fmt: skip
    p.add_argument(
        "--also", type=word, default="next", metavar="CHIP:SIDES",
        help="a second size, to see what grows; none; default: the slice with four times the chips",
    )  # fmt: skip
    p.add_argument("--code", action="store_true", help="generate machine code, too: its size, in minutes")
    p.add_argument(
        "--effort", choices=("O0", "O1", "O2", "O3"), metavar="LEVEL",
        help="of the compiler, O0 to O3: O1 takes less time than O2 and says far more memory; default: as a run",
    )  # fmt: skip
    p.add_argument("--hbm", type=positive, metavar="GIB", help="memory of a device, in place of the chip's")
    p.add_argument(
        "--trials", type=whole(0), default=8, metavar="N",
        help="changes that are compiled at most where something does not fit; default: 8",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="print all figures as one JSON object instead of text")

    p = verb("report", _report, "write WORKDIR/report.html again")
    p.add_argument("--workdir", required=True, type=workdir, metavar="DIR")
    p.add_argument("--out", type=place, metavar="HTML", help="where the page goes; default: WORKDIR/report.html")

    p = verb("doctor", _doctor, "devices, versions, decoders, disk: what is wrong and how to mend it")
    p.add_argument("--workdir", type=workdir, metavar="DIR", help="also check that this folder can be written")
    return parser


def _workdir(p: Parser, required: bool = True) -> None:
    p.add_argument("--workdir", required=required, type=workdir, metavar="DIR", help="folder of a trained run")
    p.add_argument("--checkpoint", type=whole(0), metavar="STEP", help="default: the newest")
    p.add_argument("--best", action="store_true", help="the best checkpoint by config.checkpoint.best_metric")


def _distributed(p: Parser) -> None:
    p.add_argument("--distributed", action="store_true", help="one process a host (TPU pods, Slurm); found by JAX")
    p.add_argument(
        "--coordinator", metavar="HOST:PORT", help="with --processes and --process, where JAX cannot find out"
    )
    p.add_argument("--processes", type=whole(1), metavar="N")
    p.add_argument("--process", type=whole(0), metavar="I")


def _start(args: argparse.Namespace) -> None:
    """Quiets the libraries and joins the other hosts."""
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    if hasattr(args, "coordinator"):
        from jaxvl.core import processes

        processes.connect(args.coordinator, args.processes, args.process, find=args.distributed)


def _methods(args: argparse.Namespace) -> int:
    from jaxvl.verbs import catalog

    print("\n".join(catalog.lines_of_methods()))
    return 0


def _configs(args: argparse.Namespace) -> int:
    from jaxvl.verbs import catalog

    print("\n".join(catalog.lines_of_configs(args.method)))
    return 0


def _version() -> int:
    from jaxvl.core.versions import versions

    print("  ".join(f"{name} {number}" for name, number in versions().items()))
    return 0


def _train(args: argparse.Namespace) -> int:
    if args.resume and args.fresh:
        raise InputError("--resume and --fresh: give one of them; the one goes on, the other starts over")
    _start(args)
    from jaxvl import api
    from jaxvl.core import config, processes
    from jaxvl.verbs.report import show_results

    codes = {"SIGINT": 130, "SIGTERM": _code_of_sigterm()}
    cfg = config.load(args.config, args.overrides)
    if args.dry_run:
        from jaxvl.verbs import plan

        print("\n".join(plan.lines(cfg)))
        return 0
    if args.workdir is None:
        raise InputError("--workdir is required; see jaxvl train --help")
    if args.folds:
        from jaxvl.verbs import folds
        from jaxvl.viz import terminal

        found = folds.train_folds(cfg, args.workdir, resume=args.resume, fresh=args.fresh)
        if found.stopped:
            return codes[found.stopped]
        if processes.index() == 0:
            title, columns, rows, _ = folds.table(found)
            terminal.table(rows, columns, title=title)
        return 0
    result = api.train(cfg, args.workdir, resume=args.resume, fresh=args.fresh)
    if result.stopped:
        return codes[result.stopped]
    if processes.index() == 0:
        show_results(args.workdir)
    return 0


def _code_of_sigterm() -> int:
    """The exit code of a training that a SIGTERM ended: 0, or what a supervisor asks for."""
    code = os.environ.get("JAXVL_SIGTERM_CODE", "0")
    if not code.isdecimal() or int(code) > 255:
        raise InputError(f"JAXVL_SIGTERM_CODE: {code!r} is no exit code; set it to 0 to 255, or not at all")
    return int(code)


def _evaluate(args: argparse.Namespace) -> int:
    _one_checkpoint(args)
    _start(args)
    import json

    from jaxvl.core import processes
    from jaxvl.verbs.evaluate import evaluate_fully
    from jaxvl.verbs.report import show_results

    main = processes.index() == 0
    say = (lambda line: print(printable(line), file=sys.stderr if args.json else None)) if main else lambda line: None
    result = evaluate_fully(args.workdir, args.split, args.checkpoint, args.best, say, args.overrides, args.out)
    if not main:
        return 0
    print(f"evaluated step {result['step']} on split {result['split']!r}", file=sys.stderr)
    if args.json:
        print(json.dumps(result["metrics"]))
    else:
        show_results(args.workdir, [result])
    return 0


def _one_checkpoint(args: argparse.Namespace) -> None:
    if args.best and args.checkpoint is not None:
        raise InputError("--best and --checkpoint: give one of them")


def _predict(args: argparse.Namespace) -> int:
    if args.workdir is None:
        if {"-h", "--help"} & set(args.rest):
            args.print_help()
            return 0
        raise InputError("--workdir is required; see jaxvl predict --help")
    _one_checkpoint(args)
    _start(args)
    from jaxvl.verbs.predict import predict

    return predict(args)


def _classify(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.verbs import classify

    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    found = classify.classify(args.weights, args.images, args.classes, args.template or classify.TEMPLATES, say)
    print("\n".join(classify.lines(found, args.top, args.json)))
    return 0


def _prepare(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.core import config
    from jaxvl.verbs.prepare import extract, prepare, shrink

    cfg = config.load(args.config, args.overrides)
    given = [f"--{name}" for name in ("shrink", "extract", "out") if getattr(args, name)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: give one of them; one can follow on the other")
    size = {"short_side": args.short_side, "fps": args.fps}
    size = {name: value for name, value in size.items() if value is not None}
    if size and not args.shrink:
        flags = ", ".join("--" + name.replace("_", "-") for name in size)
        raise InputError(f"{flags}: of --shrink, which is not given; shards follow config.data.records")
    if args.process is not None and not args.extract:
        raise InputError("--process: of --extract, which is not given")
    if args.processes is not None and not args.shrink and not args.extract:
        raise InputError("--processes: of --shrink or --extract, which are not given")
    if args.shrink:
        shrink(
            cfg, args.shrink, args.split, **size, **({} if args.processes is None else {"processes": args.processes})
        )
    elif args.extract:
        extract(cfg, args.extract, args.split, process=args.process, processes=args.processes)
    else:
        prepare(cfg, args.out, args.split)
    return 0


def _convert(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.verbs import convert

    if args.reverse:
        given = [args.image_size, args.interpolation, args.set, args.prefix, args.drop, args.inside, args.pass_over]
        if any(given):
            flags = "--image-size, --interpolation, --set, --prefix, --drop, --inside or --pass-over"
            raise InputError(f"--reverse: takes no {flags}; leave them out")
        convert.reverse(args.family, args.file, args.to, allow=args.allow)
        return 0
    convert.convert(
        args.family,
        args.file,
        args.to,
        image_size=args.image_size,
        interpolation=args.interpolation or "hf",
        given=convert.parse_fields(args.set, convert.find_layout(args.family).family),
        allow=args.allow,
        prefix=args.prefix,
        drop=args.drop,
        inside=args.inside or "",
        pass_over=args.pass_over,
    )
    return 0


def _aot(args: argparse.Namespace) -> int:
    mesh = [part.strip() for part in args.mesh.split(",")] if args.mesh else []
    if not all("=" in part for part in mesh):
        raise InputError(f"--mesh {args.mesh}: needs sizes of axes, as in data=-1,fsdp=4")
    _start(args)
    import json

    import jax

    jax.config.update("jax_platforms", "cpu")  # a TPU or GPU of this machine is left to those who compute on it
    from jaxvl.core import config
    from jaxvl.verbs import aot
    from jaxvl.viz import costs

    say = lambda line: print(printable(line), file=sys.stderr, flush=True)  # noqa: E731
    found = aot.aot(
        config.load(args.config, [*(f"mesh.{part}" for part in mesh), *args.overrides]),
        args.topology,
        objectives=args.objective,
        also=args.also,
        code=args.code,
        effort=args.effort,
        hbm=args.hbm,
        trials=args.trials,
        say=say,
    )
    print(json.dumps(found) if args.json else "\n".join(map(printable, costs.lines(found))))
    return 0


def _report(args: argparse.Namespace) -> int:
    from jaxvl.verbs import report

    print(report.write(args.workdir, args.out))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    _start(args)
    from jaxvl.verbs.doctor import doctor

    return doctor(args.workdir)


if __name__ == "__main__":
    sys.exit(main())
