"""Real processes over loopback: `python -m benchmarks.processes [--before COMMIT] [--runs DIR] [--only SCENARIO ...]`.

Tiny quickstarts through the command line, alone and in several processes, of this version and of an earlier one; and
planted faults: what a process that fails or is killed does to the others. Writes `docs/results/processes.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.results import save
from tests import tiny

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).with_name("worker.py")
BEFORE = "7cfed9f"
SLICE = "0,2,1,3"  # as jax.make_mesh lays out a TPU v5p of 2x2x2: rows belong to processes 0, 1, 0, 1
LIMIT = 100  # seconds after which processes that wait for each other are killed and called hung
STEPS = 4
FLAGS = {
    "centerclip": [*tiny.OVERRIDES, f"train.steps={STEPS}", "mesh.data=-1", "checkpoint.keep_last=4"],
    "drdr": [
        f"train.steps={STEPS}", "train.log_every=1", "model.channels=(4,8)", "model.bottleneck_dim=8",
        "data.batch_size=16", "data.eval_batch_size=64",
    ],
    "slimclr": [
        f"train.steps={STEPS}", "train.log_every=1", "model.conv_channels=(8,16)", "model.strides=(1,2)",
        "model.widths=(1.0,0.5)", "model.hidden=16", "model.dim=8", "data.batch_size=16", "data.eval_batch_size=64",
    ],
}  # fmt: skip


class Bench:
    """The scenarios of one version of the package."""

    def __init__(self, tree: Path, runs: Path):
        self.tree, self.runs = tree, runs
        runs.mkdir(parents=True, exist_ok=True)

    def spawn(self, words, count=2, order="", plant="", tag="run", workdirs=None):
        """The processes, four devices in all; `workdirs`: one for each, where they differ."""
        flags = f"--xla_force_host_platform_device_count={4 // count}"
        if version("jaxlib").startswith("0.10."):  # compiled quickly, as in the tests
            flags += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
            flags += " --xla_cpu_use_fusion_emitters=false"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        env = {**os.environ, "PYTHONPATH": str(self.tree), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "64"}
        env |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "MESH_ORDER": order, "PLANT": plant}
        children, self.logs = [], []
        for i in range(count):
            call = [sys.executable, str(WORKER), *words]
            call += ["--workdir", str(workdirs[i])] if workdirs else []
            if count > 1:
                call += ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process", str(i)]
            self.logs.append(self.runs / f"{tag}-{i}.log")
            with self.logs[-1].open("w") as log:
                env["PROCESS"] = str(i)
                children.append(subprocess.Popen(call, cwd=self.tree, env=env, stdout=log, stderr=subprocess.STDOUT))
        return children

    def wait(self, children, begun=None, limit=5 * LIMIT):
        """Exit code (or `hung`), seconds since `begun` and last line of each."""
        begun, ended = begun or time.monotonic(), {}
        while len(ended) < len(children) and time.monotonic() - begun < limit:
            for i, child in enumerate(children):
                if i not in ended and child.poll() is not None:
                    ended[i] = (child.returncode, round(time.monotonic() - begun, 1))
            time.sleep(0.05)
        for i, child in enumerate(children):
            if child.poll() is None:
                child.kill()
                child.wait()
                ended[i] = ("hung", round(time.monotonic() - begun, 1))
        lines = [[x for x in log.read_text(errors="replace").splitlines() if x.strip()] for log in self.logs]
        return [
            {
                "code": ended[i][0],
                "seconds": ended[i][1],
                "last": (lines[i] or [""])[-1].replace(str(self.runs), "RUNS"),
            }
            for i in range(len(children))
        ]

    def words(self, method, run, *more):
        """The command that trains a tiny quickstart."""
        config = ["--config", f"configs/{method}/quickstart.py"]
        flags = [f"--config.{f}" for f in (*FLAGS[method], *more)]
        root = self.runs / "data" / method
        where = [f"--config.data.root={root}"] if method == "centerclip" else []
        return ["train", *config, *(["--workdir", str(self.runs / run)] if run else []), *flags, *where]

    def train(self, method, run, count=1, order="", *more):
        """Losses and metrics of a whole run."""
        shutil.rmtree(self.runs / run, ignore_errors=True)
        ends = self.wait(self.spawn(self.words(method, run, *more), count, order, tag=run))
        return {"ends": ends, "losses": self.losses(run), "metrics": self.metrics(run)}

    def losses(self, run):
        """By step."""
        file = self.runs / run / "metrics.jsonl"
        rows = map(json.loads, file.read_text().splitlines()) if file.is_file() else ()
        return {r["step"]: r["loss"] for r in rows if r["kind"] == "train"}

    def metrics(self, run):
        """Of the last evaluation."""
        file = self.runs / run / "eval" / "test.json"
        return json.loads(file.read_text())["metrics"] if file.is_file() else None

    def evaluate(self, run, order):
        """`jaxvl evaluate` in two processes over the weights of a run of one."""
        (self.runs / run / "eval" / "test.json").unlink(missing_ok=True)
        ends = self.wait(self.spawn(["evaluate", "--workdir", str(self.runs / run)], 2, order, tag="evaluate"))
        return {"ends": ends, "losses": self.losses(run), "metrics": self.metrics(run)}

    def killed(self, victim):
        """kill -9 in the middle of a run of two."""
        run = f"killed{victim}"
        shutil.rmtree(self.runs / run, ignore_errors=True)
        children = self.spawn(self.words("centerclip", run, "train.steps=200"), 2, plant="slow", tag=run)
        end = time.monotonic() + 2 * LIMIT
        while max(self.losses(run), default=0) < 3 and time.monotonic() < end:
            time.sleep(0.1)
        children[victim].send_signal(signal.SIGKILL)
        return {"ends": self.wait(children, time.monotonic(), LIMIT)}

    def fails(self):
        """An InputError in process 1 alone. Seconds are counted from the step after which it comes."""
        shutil.rmtree(self.runs / "fails", ignore_errors=True)
        children = self.spawn(self.words("centerclip", "fails", "train.steps=200"), 2, plant="bad", tag="fails")
        end = time.monotonic() + 2 * LIMIT
        while max(self.losses("fails"), default=0) < 1 and time.monotonic() < end:
            time.sleep(0.1)
        return {"ends": self.wait(children, time.monotonic(), LIMIT)}

    def apart(self):
        """Each process with a workdir of its own."""
        dirs = [self.runs / f"disk{i}" / "run" for i in range(2)]
        for folder in dirs:
            shutil.rmtree(folder, ignore_errors=True)
        children = self.spawn(self.words("centerclip", ""), 2, tag="apart", workdirs=dirs)
        return {"ends": self.wait(children, limit=2 * LIMIT), "steps": max(self.losses("disk0/run"), default=0)}


def scenarios(bench: Bench, only: list[str]) -> dict[str, dict]:
    """All results of a version, by name."""
    found: dict[str, dict] = {}
    table = {}
    for method in FLAGS:
        table[f"{method}, 1 process"] = lambda m=method: bench.train(m, f"{m}1")
        table[f"{method}, 2 processes"] = lambda m=method: bench.train(m, f"{m}2", 2, SLICE)
    table["centerclip, 2 processes in order"] = lambda: bench.train("centerclip", "centerclip_in_order", 2)
    table["centerclip, 4 processes"] = lambda: bench.train("centerclip", "centerclip4", 4, SLICE)
    table["centerclip, 2 processes, from weights"] = lambda: bench.train(
        "centerclip", "from_weights", 2, SLICE, f"init.weights={bench.runs / 'centerclip1'}"
    )
    table["evaluate, 2 processes"] = lambda: bench.evaluate("centerclip1", SLICE)
    table["process 1 fails"] = bench.fails
    table["process 1 is killed"] = lambda: bench.killed(1)
    table["process 0 is killed"] = lambda: bench.killed(0)
    table["workdirs apart"] = bench.apart
    for name, run in table.items():
        if not only or any(part in name for part in only):
            begun = time.monotonic()
            found[name] = run()
            print(f"{name}: {json.dumps(found[name])[:300]} ({time.monotonic() - begun:.0f} s)", flush=True)
    return found


def cell(name: str, found: dict[str, dict]) -> str:
    """One result in words, a run of several processes against that of one."""
    got = found.get(name)
    if got is None:
        return "-"
    ends = "; ".join(f"process {i}: {e['code']} after {e['seconds']:.0f} s" for i, e in enumerate(got["ends"]))
    if "losses" not in got:
        others = [e["last"] for e in got["ends"] if e["code"] not in ("hung", 0, -9)]
        return f"{ends}; says `{others[0][:150]}`" if others else ends
    codes = sorted({str(e["code"]) for e in got["ends"]})
    if got["metrics"] is None:
        return f"exit {', '.join(codes)}; no evaluation"
    shown = {k: round(v, 2) for k, v in got["metrics"].items() if k in ("t2v/R@1", "v2t/R@1", "accuracy", "knn/w100")}
    text = f"exit {', '.join(codes)}; " + ", ".join(f"{k} {v}" for k, v in shown.items())
    one = found.get(f"{name.split(',')[0]}, 1 process".replace("evaluate, 1", "centerclip, 1"))
    if one is None or got is one or "weights" in name:
        return text
    loss = max((abs(got["losses"][s] / one["losses"][s] - 1) for s in one["losses"]), default=float("nan"))
    metric = max(abs(got["metrics"][k] - v) for k, v in one["metrics"].items())
    return f"{text}; largest difference to one process: losses {loss:.1e} of their size, metrics {metric:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help="the earlier version; '' for none")
    parser.add_argument("--runs", metavar="DIR", help="where the runs go; default: a temporary folder")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="scenarios with this in their name")
    args = parser.parse_args()
    runs = Path(args.runs or tempfile.mkdtemp())
    found = {}
    if args.before:
        tree = runs / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", args.before], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        found["before"] = scenarios(Bench(tree, runs / "before"), args.only)
    found["now"] = scenarios(Bench(ROOT, runs / "now"), args.only)
    columns = ["scenario", *(f"{k} ({args.before})" if k == "before" else k for k in found)]
    rows = [[name, *(cell(name, part) for part in found.values())] for name in found["now"]]
    note = (
        f"Tiny quickstarts, {STEPS} steps on four simulated devices, through the command line; processes talk over "
        f"loopback, with their devices in the order {SLICE} unless said otherwise. `hung`: killed after {LIMIT} s. "
        "Seconds count from the start, or from the fault, on a machine that was not quiet."
    )
    save("processes", "Several processes against one", columns, rows, note, found)


if __name__ == "__main__":
    main()
