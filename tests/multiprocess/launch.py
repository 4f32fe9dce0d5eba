"""Starts real processes over loopback, and ends them whatever happens."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Group:
    """Processes of one run. Their output goes to files: a full pipe would stop them."""

    def __init__(
        self,
        folder: Path,
        what: str,
        /,
        *,
        count: int = 2,
        devices: int = 4,
        order: list[int] | None = None,
        heartbeat: int = 20,
        **arguments: Any,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        count_flag = "--xla_force_host_platform_device_count="
        flags = re.sub(count_flag + r"\d+", f"{count_flag}{devices // count}", os.environ["XLA_FLAGS"])
        env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAXVL_HEARTBEAT_SECONDS": str(heartbeat)}
        env["MESH_ORDER"] = json.dumps(order) if order else ""
        port, words = free_port(), [json.dumps(arguments)]
        self.logs = [folder / f"{what}-{i}.log" for i in range(count)]
        self.children = []
        for i, path in enumerate(self.logs):
            call = [sys.executable, "-m", "tests.multiprocess.worker", str(port), str(count), str(i), what, *words]
            with path.open("w") as log:
                self.children.append(subprocess.Popen(call, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT))

    def wait(self, limit: float = 600) -> list[int]:
        """The exit codes; no process is left."""
        end = time.monotonic() + limit
        try:
            for child in self.children:
                child.wait(max(1, end - time.monotonic()))
        finally:
            for child in self.children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        return [child.returncode for child in self.children]

    def texts(self) -> list[str]:
        """What each has printed."""
        return [path.read_text() for path in self.logs]

    def finish(self) -> list[str]:
        """The outputs of processes that all end well."""
        codes = self.wait()
        assert codes == [0] * len(codes), "\n----\n".join(t[-3000:] for t in self.texts())
        return self.texts()

    def until(self, text: str, limit: float = 600) -> None:
        """Waits until process 0 has printed `text`."""
        end = time.monotonic() + limit
        while text not in self.logs[0].read_text() and time.monotonic() < end:
            assert all(c.poll() is None for c in self.children), "\n----\n".join(t[-3000:] for t in self.texts())
            time.sleep(0.05)
