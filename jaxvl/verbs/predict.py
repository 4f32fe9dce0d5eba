"""`jaxvl predict`: a trained model on the user's own files. The task itself belongs to the method (`files.py`)."""

from __future__ import annotations

import argparse
import sys

from jaxvl.arguments import Parser
from jaxvl.core import memory, registry, session, storage
from jaxvl.core.errors import InputError
from jaxvl.core.files import printable
from jaxvl.data import left_out


def predict(args: argparse.Namespace) -> int:
    """Parses the method's own flags from `args.rest`, loads the model and runs its task; returns the exit code."""
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    with storage.opened(args.workdir, say, asked=False) as place, place.printing():
        return _predict(place, args, say)


def _predict(place: storage.Disk, args: argparse.Namespace, say: session.Say) -> int:
    name = session.read_config(place, overrides=args.overrides).method
    files = registry.optional(name, "files")
    if not hasattr(files, "run"):
        raise InputError(f"--workdir {args.workdir}: method {name} has no `jaxvl predict` (files.run in its folder)")
    parser = Parser(prog=f"jaxvl predict --workdir {args.workdir}", description=files.__doc__)
    files.add_arguments(parser)
    own = parser.parse_args(args.rest)
    loaded = session.load(place, args.checkpoint, args.best, say, args.overrides)
    with memory.told("predicting", loaded.config), left_out.told(say):
        return files.run(loaded, own, as_json=args.json)
