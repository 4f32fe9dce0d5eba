"""Runs of three methods that are hit by seeded faults again and again, each time given again; such runs on other
devices and processes from start to start; and the memory of a long run.

    python -m benchmarks.chaos [--faults 60] [--seed 0] [--only faults elastic memory]

`--only` makes some parts anew, and leaves the others as they are in docs/results/chaos.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.chaos.faults import FAULTS, Fault, moment, mounted
from benchmarks.chaos.runs import EVERY, MEDIA, METHODS, Layout, Run, largest_difference

LAYOUTS = (
    Layout(8),
    Layout(4),
    Layout(1),
    Layout(8, mesh=("mesh.data=2", "mesh.fsdp=4")),
    Layout(4, 2),
    Layout(8, mesh=("mesh.data=1", "mesh.fsdp=8")),
    Layout(2, 2),
    Layout(8),
)
TENSOR = {"centerclip": Layout(8, mesh=("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"))}
"""From start to start of the second kind of run, and what comes in between for a method that has rules for `tensor`."""
ELASTIC_METHODS = ("centerclip", "drdr")  # UTT compiles for minutes where nothing is kept
ELASTIC = 1e-5
"""Bar of the largest relative difference of a loss, on other devices than those of the undisturbed run."""
PIECE = 6  # updates between two changes of the devices
LONG, SEEN = 12_000, 48  # updates of the long run; looks at its memory
SLOPE = 2.0
"""MiB that memory may grow by in 1,000 updates of the second half of the long run, by a line of least squares. In the
first half the heaps of the process's threads still fill; what is freed there stays theirs."""


def whole(method: str, folder: Path, steps: int, layout: Layout, data: Path | None) -> dict[int, float]:
    """Losses of a run that nothing happens to, by step."""
    kept = folder / f"whole-{method}-{steps}-{layout.devices}.json"
    if not kept.is_file():
        run = Run(method, folder / kept.stem, steps, data)
        shutil.rmtree(run.workdir, ignore_errors=True)
        run.start(layout, pace=0)
        codes = run.ended(1200)
        assert codes == [0], (codes, run.said()[0][-2000:])
        kept.write_text(json.dumps(run.losses()))
    return dict(json.loads(kept.read_text()))


def disturbed(method: str, faults: Sequence[Fault], draw: random.Random, folder: Path, data: Path | None) -> list[dict]:
    """One run on one device, hit once a start. A row for each fault."""
    steps = sum(fault.steps + EVERY + 10 for fault in faults)  # a start makes some more before it is hit
    losses = whole(method, folder.parent, steps, Layout(), data)
    rows, expected = [], {0}
    with contextlib.closing(Run(method, folder / method, steps, data)) as run:
        for fault in faults:
            run.start(Layout())
            if fault.steps == 0:
                time.sleep(draw.uniform(0.1, 3))
            elif not run.wait_for(moment(fault, draw, max(expected))):
                rows.append({"fault": fault.name, "wrong": "ended before it was hit"})
                continue
            codes = fault.hit(run, draw)
            wrong = judge(run, fault, codes, expected, losses)
            fault.after(run, draw)
            expected = run.last_good()
            rows.append({"fault": fault.name, "codes": codes, "next": max(expected), "wrong": wrong})
            print(method, rows[-1], flush=True)
        run.start(Layout(), pace=0)
        codes, seen = run.ended(1200), dict(run.losses())
        wrong = "" if codes == [0] and seen == losses else f"exit codes {codes}, {len(seen)} of {len(losses)} steps"
        rows.append({"fault": "the end of the run", "codes": codes, "wrong": wrong})
    return rows


def judge(run: Run, fault: Fault, codes: list[int | None], expected: set[int], losses: dict[int, float]) -> str:
    """What is wrong after a fault, or nothing."""
    found = []
    if not set(codes) <= set(fault.codes):
        found.append(f"exit codes {codes}")
    if any("Traceback" in text for text in run.said()):
        found.append("a traceback")
    if fault.one_line and 2 in codes and len(run.refusals()) != 1:
        found.append(f"{len(run.refusals())} lines")
    if not fault.one_line and run.refusals() and not set(codes) & {-9, 130}:
        found.append(f"says {run.refusals()[0][:200]}")
    new = run.losses()[run.before :]
    if new and new[0][0] - 1 not in expected:
        found.append(f"went on at step {new[0][0]}, the newest good checkpoint is {min(expected)}")
    if any(loss != losses[step] for step, loss in new):
        found.append(f"other losses, by {largest_difference(new, losses):.1e}")
    return "; ".join(found)


def elastic(method: str, draw: random.Random, folder: Path, data: Path | None) -> list[dict]:
    """One run whose devices, processes and mesh change from start to start, ended by a kill or SIGTERM in turns."""
    layouts = (*LAYOUTS[:4], *([TENSOR[method]] if method in TENSOR else []), *LAYOUTS[4:])
    steps = PIECE * len(layouts)
    losses = whole(method, folder.parent, steps, Layout(8), data)
    rows, expected = [], 0
    with contextlib.closing(Run(method, folder / f"{method}_elastic", steps, data)) as run:
        for i, layout in enumerate(layouts):
            run.start(layout)
            last = i == len(layouts) - 1
            how = "to its end" if last else ("killed", "terminated")[i % 2]
            wrong = ""
            if not last:
                if run.wait_for(expected + PIECE):
                    run.send(signal.SIGKILL if how == "killed" else signal.SIGTERM, draw.randrange(layout.processes))
                else:
                    wrong = "ended before it was hit; "
            codes = run.ended()
            right = {"killed": {-9, 1} if layout.processes > 1 else {-9}, "terminated": {0}, "to its end": {0}}[how]
            new = run.losses()[run.before :]
            off = largest_difference(new, losses)
            wrong += "" if set(codes) <= right else f"exit codes {codes}; "
            wrong += "" if new and new[0][0] == expected + 1 else f"went on at {new[:1]}, not behind {expected}; "
            wrong += "" if off <= ELASTIC else f"losses differ by {off:.1e}; "
            expected = (run.checkpoints() or [0])[-1]
            rows.append(
                {"fault": f"{layout}, {how}", "codes": codes, "difference": off, "wrong": wrong.removesuffix("; ")}
            )
            print(method, rows[-1], flush=True)
    return rows


def memory(folder: Path, data: Path | None) -> dict[str, Any]:
    """MiB in memory in the course of a long run, whose checkpoints are as far apart as a user's."""
    run, seen = Run("centerclip", folder / "long", LONG, data, ("train.checkpoint_every=200",)), {}
    shutil.rmtree(run.workdir, ignore_errors=True)
    run.start(Layout(), pace=0)
    for part in range(1, SEEN + 1):
        step = LONG * part // SEEN - 10
        if not run.wait_for(step, pause=0.5):  # reading all rows costs more than 0.03 s here
            break
        seen[step] = run.memory()
    codes = run.ended(1200)
    slope, quarters = float("nan"), []
    if len(seen) == SEEN:
        steps, sizes = np.array(list(seen)), np.array(list(seen.values()))
        slope = 1000 * float(np.polyfit(steps[SEEN // 2 :], sizes[SEEN // 2 :], 1)[0])
        quarters = sizes.reshape(4, -1).mean(1).tolist()
    wrong = "" if codes == [0] and slope <= SLOPE else f"exit codes {codes}, grows by {slope:.1f} MiB in 1,000 updates"
    print(seen, slope, wrong, flush=True)
    return {"mib": seen, "quarters": quarters, "slope": slope, "wrong": wrong}


def campaign(count: int, seed: int, root: Path, only: Sequence[str]) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {}
    disk = root / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    small = mounted(disk, "96m")
    try:
        folders = {method: root / f"data-{method}" if method in MEDIA else None for method in METHODS}
        for method in METHODS:
            draw = random.Random(f"{seed} {method}")
            kinds = [f for f in FAULTS if (small or not f.root) and (folders[method] or not f.media)]
            faults = [kinds[i % len(kinds)] for i in range(-(-count // len(METHODS)))]
            draw.shuffle(faults)
            if not only or "faults" in only:
                found[method] = disturbed(method, faults, draw, disk, folders[method])
            if (not only or "elastic" in only) and method in ELASTIC_METHODS:
                found[f"{method}, other devices"] = elastic(method, draw, disk, folders[method])
            for rest in disk.iterdir():
                shutil.rmtree(rest, ignore_errors=True)
        if not only or "memory" in only:
            found["memory"] = memory(root, folders["centerclip"])
    finally:
        if small:
            subprocess.run(["umount", disk], check=True)
    return found


def table(found: dict[str, Any]) -> list[list[Any]]:
    """Rows: what, how many, how many right, and what is said of them."""
    rows = []
    for name, got in found.items():
        if name == "memory":
            line = f"{', '.join(f'{mib:.0f}' for mib in got['quarters'])} in the quarters, " if got["quarters"] else ""
            line += got["wrong"] or f"{got['slope']:+.1f} in 1,000 updates of the second half"
            rows.append([f"MiB in memory over {LONG:,} updates", 1, int(not got["wrong"]), line])
            continue
        kinds: dict[str, list[dict]] = {}
        for row in got:
            kinds.setdefault(row["fault"] if "difference" not in row else "starts", []).append(row)
        for kind, all_of in kinds.items():
            wrong = [row["wrong"] for row in all_of if row["wrong"]]
            note = "; ".join(wrong)[:300]
            if "difference" in all_of[0] and not wrong:
                note = f"losses within {max(r['difference'] for r in all_of):.1e}"
            rows.append([f"{name}: {kind}", len(all_of), len(all_of) - len(wrong), note])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=60, help="over all methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, help="for the runs; default a temporary folder")
    parser.add_argument("--only", nargs="*", default=[], choices=["faults", "elastic", "memory"])
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        found = campaign(args.faults, args.seed, (args.root or Path(temporary)).absolute(), args.only)
    wrong = any(row[1] != row[2] for row in table(found))
    kept = results.FOLDER / "chaos.json"
    if args.only and kept.is_file():  # the other parts stay
        found = json.loads(kept.read_text(encoding="utf-8"))["raw"] | found
    rows = table(found)
    hits = sum(len(got) for name, got in found.items() if name in METHODS) - sum(name in METHODS for name in found)
    starts = ", ".join(map(str, (*LAYOUTS, *TENSOR.values())))
    note = (
        f"{hits} faults at seeded moments, one a start, over runs of tiny networks of {len(METHODS)} methods on one "
        f"device; and two runs whose devices, processes and mesh change from start to start: {starts}. Right is: the "
        "exit code that belongs to the fault, no traceback, a refusal of one line; the next start goes on behind the "
        f"newest checkpoint that is whole (one every {EVERY} updates); every loss that any start logged is that of a "
        f"run to which nothing happened, to the last bit on one device, within {ELASTIC:g} of its size on others. "
        f"Memory may grow by {SLOPE:g} MiB in 1,000 updates, over the second half of a long run. "
        "Videos that are removed are put back before the next start, and so is the room on a full disk. A checkpoint "
        "that a kill left without its list of checksums is used as it is, which is said; one that is damaged besides "
        "may then be used or passed over."
    )
    results.save(
        "chaos", "Runs that are broken and given again", ["what", "cases", "right", "notes"], rows, note, found
    )
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
