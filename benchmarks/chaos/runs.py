"""A training run of real processes that can be broken: started, watched, hit, judged."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import tiny

ROOT = Path(__file__).parent.parent.parent
WORKER = ROOT / "benchmarks" / "processes" / "worker.py"
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
EVERY = 4  # updates between checkpoints
PACE = 0.15  # seconds of a batch, so that a fault hits in the middle of a run
HANG = 240  # seconds
SHARED = [
    *("train.log_every=1", f"train.checkpoint_every={EVERY}", "checkpoint.keep_last=3", "train.eval_every=0"),
    *("precision.matmul=highest", "pipeline.on_error=raise", "mesh.data=-1"),
]
MEDIA = {"centerclip": "videos", "utt": "lasot"}
"""Folder of the data that is read all the time; DRDR's digits come from a package."""
METHODS = {
    "centerclip": [*tiny.OVERRIDES, *SHARED],
    "utt": [
        *("model.width=8", "model.dim=32", "model.heads=2", "model.ff_dim=16", "model.iterations=1", "model.pool=3"),
        *("model.detector_layers=1", "data.world.num_train=6", "data.world.num_test=2", "data.world.frames=20"),
        *("data.sot_batch_size=8", "data.mot_batch_size=8", "eval.mot.beside=()", *SHARED),
    ],
    "drdr": [
        *("model.channels=(4,8)", "model.bottleneck_dim=8", "data.batch_size=16", "data.eval_batch_size=64", *SHARED),
    ],
}


@dataclass(frozen=True)
class Layout:
    """Devices in all, processes, and fields of the mesh."""

    devices: int = 1
    processes: int = 1
    mesh: tuple[str, ...] = ()

    def __str__(self) -> str:
        over = f" over {self.processes} processes" if self.processes > 1 else ""
        mesh = f" ({', '.join(m.removeprefix('mesh.') for m in self.mesh)})" if self.mesh else ""
        return f"{self.devices} device{'s' * (self.devices > 1)}{over}{mesh}"


@dataclass
class Run:
    """A run of `method` in `workdir`, of `steps` updates; `data`: the folder of its files, where it has some."""

    method: str
    workdir: Path
    steps: int
    data: Path | None = None
    more: tuple[str, ...] = ()  # fields of the config
    children: list[subprocess.Popen] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    starts: int = 0
    before: int = 0  # rows of losses that earlier starts have logged
    bad: set[tuple[int, int]] = field(default_factory=set)  # (step, inode) of checkpoints that were damaged
    unsure: set[tuple[int, int]] = field(default_factory=set)  # the same, of those without a list of checksums

    def start(self, layout: Layout, pace: float = PACE) -> None:
        """Gives the command."""
        self.starts, self.before = self.starts + 1, len(self.losses())
        flags = [
            f"--config.{f}" for f in (*METHODS[self.method], f"train.steps={self.steps}", *self.more, *layout.mesh)
        ]
        where = [f"--config.data.root={self.data}"] if self.data else []
        config = ["--config", str(ROOT / "configs" / self.method / "quickstart.py")]
        words = ["train", *config, "--workdir", str(self.workdir), *flags, *where]
        words += ["--resume"] if self.starts > 1 else []
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        count = layout.devices // layout.processes
        env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "NPROC": "64", "PLANT": "slow"}
        env |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {FAST}", "PACE": str(pace)}
        env |= {"JAXVL_HEARTBEAT_SECONDS": "10"}
        self.children, self.logs = [], []
        for i in range(layout.processes):
            more = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(layout.processes), "--process", str(i)]
            self.logs.append(self.workdir.parent / f"{self.workdir.name}.{self.starts}.{i}.log")
            with self.logs[-1].open("w") as log:
                call = [sys.executable, str(WORKER), *words, *(more if layout.processes > 1 else [])]
                env["PROCESS"] = str(i)
                # a group of its own: a Ctrl-C of the terminal shall not reach it
                self.children.append(
                    subprocess.Popen(call, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
                )

    def wait_for(self, step: int, pause: float = 0.03) -> bool:
        """Until that step is logged, looked for every `pause` seconds; False where the run ended first."""
        end = time.monotonic() + HANG
        while time.monotonic() < end:
            if self.last_step() >= step:
                return True
            if any(child.poll() is not None for child in self.children):
                return False
            time.sleep(pause)
        raise TimeoutError(f"{self.workdir}: no step {step} within {HANG} s")

    def send(self, number: signal.Signals, which: int = 0) -> None:
        """A signal to one of the processes."""
        self.children[which].send_signal(number)

    def ended(self, seconds: float = HANG) -> list[int | None]:
        """Exit codes; None for one that had to be killed."""
        end, codes = time.monotonic() + seconds, []
        for child in self.children:
            try:
                codes.append(child.wait(max(end - time.monotonic(), 0.01)))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                codes.append(None)
        return codes

    def close(self) -> None:
        """Kills what still runs."""
        self.ended(0)

    def said(self) -> list[str]:
        """The logs of the last start."""
        return [log.read_text(errors="replace") for log in self.logs]

    def refusals(self) -> list[str]:
        """Lines of errors of the last start."""
        return [line for text in self.said() for line in text.splitlines() if line.startswith("jaxvl: ")]

    def rows(self) -> list[dict]:
        """What metrics.jsonl has; half a last line is left out, half a line in the middle too (a kill leaves it)."""
        file = self.workdir / "metrics.jsonl"
        found = []
        for line in file.read_bytes().splitlines() if file.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def last_step(self) -> int:
        """The last step that this start has logged."""
        return max((step for step, _ in self.losses()[self.before :]), default=0)

    def losses(self) -> list[tuple[int, float]]:
        """Every row, also those of steps that were done again."""
        return [(r["step"], r["loss"]) for r in self.rows() if r["kind"] == "train"]

    def checkpoints(self) -> list[int]:
        """Whole ones that nobody has damaged, ascending."""
        folder = self.workdir / "checkpoints"
        found = [p for p in folder.iterdir() if re.fullmatch(r"\d+", p.name)] if folder.is_dir() else []
        return sorted(int(p.name) for p in found if (int(p.name), p.stat().st_ino) not in self.bad)

    def damaged(self, step: int) -> None:
        """This checkpoint is whole no more. One without a list of checksums, since the run was killed while it wrote
        it, may still be used, with a line that says so: then its losses must tell."""
        listed = (self.workdir / "integrity" / f"{step}.json").is_file()
        (self.bad if listed else self.unsure).add((step, (self.workdir / "checkpoints" / str(step)).stat().st_ino))

    def last_good(self) -> set[int]:
        """Steps that the next start may go on from: the newest whole checkpoint, and one behind it that has lost a byte
        and has no list."""
        folder = self.workdir / "checkpoints"
        steps = self.checkpoints()
        unsure = {step for step in steps if (step, (folder / str(step)).stat().st_ino) in self.unsure}
        newest = max((step for step in steps if step not in unsure), default=0)
        return {newest, *(step for step in unsure if step > newest)}

    def move(self, to: Path) -> None:
        """Renames the workdir."""
        shutil.move(self.workdir, to)
        self.workdir = to

    def memory(self) -> float:
        """MiB that the first process holds in memory."""
        text = Path(f"/proc/{self.children[0].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024


def largest_difference(rows: Sequence[tuple[int, float]], whole: dict[int, float]) -> float:
    """Largest relative difference of a loss to that of the run that nothing happened to."""
    return max((abs(loss / whole[step] - 1) for step, loss in rows), default=0.0)
