"""The processes of one run: how they find each other, agree on what one of them knows, and end together.

A process is usually a host. Everything here goes through the coordination service that `jax.distributed` starts, a
store of keys and values on process 0; no device takes part, so it works before the first compilation and while the
devices wait for a peer. With one process every function does the plain thing and starts nothing.

End together: whoever fails puts its line into the store, and a thread of every other process prints it and ends that
process, even while its main thread sits in a collective that would never return. A process that was killed is missed by
its heart-beats, which are sent from C++ and so do not depend on what Python does.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import inspect
import json
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax

from jaxvl.core.errors import BadMedia, InputError, Unavailable

T = TypeVar("T")

HEARTBEAT_SECONDS = 20  # a process that is silent for so long is taken for dead; the others end within 30
START_SECONDS = 300  # hosts of a job come up minutes apart
END_SECONDS = 3600  # process 0 may still be making the pictures of the report
POLL_SECONDS = 0.5
LINGER_SECONDS = 5  # whoever ends waits so long at most for the others to have read why

FAILED, HEARD, HOST = "jaxvl/failed/", "jaxvl/heard/", "jaxvl/host/"
GONE = contextlib.suppress(jax.errors.JaxRuntimeError)  # the service is gone because process 0 is; `_take_aborts` tells
KILLED = "ended without a word (killed, out of memory, or cut off); the same command resumes from the last checkpoint"


# -- what all processes do alike ---------------------------------------------------------------------------------------


def count() -> int:
    """Number of processes of this run."""
    return _state().num_processes if _state().client is not None else 1


def index() -> int:
    """Number of this process, from 0. Process 0 writes what is written once."""
    return _state().process_id if _state().client is not None else 0


def decide(function: Callable[[], T]) -> T:
    """The value of `function`, called by process 0 alone and heard by all. Its InputError is raised in all."""
    if count() == 1:
        return function()
    key = f"jaxvl/decided/{_numbers.next('decide')}"
    if index() > 0:
        value, line, away = pickle.loads(_get(key))
        if line is not None:
            raise Unavailable(line) if away else InputError(line)
        return value
    try:
        value = function()
    except InputError as error:
        _state().client.key_value_set_bytes(key, pickle.dumps((None, str(error), isinstance(error, Unavailable))))
        raise
    _state().client.key_value_set_bytes(key, pickle.dumps((value, None, False)))
    return value


def gather(value: T) -> list[T]:
    """The values of all processes, in their order. All must call it, as often and in the same order."""
    if count() == 1:
        return [value]
    n, client = _numbers.next("gather"), _state().client
    client.key_value_set_bytes(f"jaxvl/gathered/{n}/{index()}", pickle.dumps(value))
    values = [pickle.loads(_get(f"jaxvl/gathered/{n}/{p}")) for p in range(count())]
    if n:  # everybody is here, so everybody has read the values before
        client.key_value_delete(f"jaxvl/gathered/{n - 1}/{index()}")
    return values


def barrier() -> None:
    """Returns when all processes have called it."""
    gather(None)


def name_of(process: int) -> str:
    """`process 1 (its host)`, for people."""
    host = _names.get(process)
    if host is None and _state().client is not None:
        rows = dict(_state().client.key_value_dir_get(HOST))
        _names.update({int(key.rsplit("/", 1)[-1]): value for key, value in rows.items()})
        host = _names.get(process)
    return f"process {process} ({host})" if host else f"process {process}"


# -- start and end -----------------------------------------------------------------------------------------------------


def connect(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    find: bool = False,
) -> None:
    """Joins the other processes and begins to watch them; before any other use of JAX.

    coordinator: `HOST:PORT` of process 0, with the number of `processes` and that of this `process`. find: JAX finds
    what is not given (Slurm, TPU pods, Open MPI). Without either, nothing happens. Raises InputError.
    """
    if not find and coordinator is None:
        if processes is not None or process is not None:
            raise InputError(
                "--processes, --process: give the address of process 0, too (--coordinator HOST:PORT); under Slurm or "
                "on a TPU pod --distributed alone finds all three"
            )
        return
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator {coordinator}: needs HOST:PORT of process 0, for example host0:1234")
    if not find and (processes is None or process is None):
        raise InputError("--coordinator: needs --processes N and --process I (from 0), too")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise InputError(f"--process {process}: needs 0 to {processes - 1}, as there are {processes} processes")
    heartbeat = os.environ.get("JAXVL_HEARTBEAT_SECONDS", str(HEARTBEAT_SECONDS))
    if not heartbeat.isdecimal() or not int(heartbeat):
        raise InputError(f"JAXVL_HEARTBEAT_SECONDS: needs whole seconds, 1 or more, got {heartbeat!r}")
    global _given
    _given = coordinator is not None
    where = _whole_nodes(coordinator, processes, process)
    # the service shall not end the others for a dead one in C++, where nobody can say which it was: `_Watch` does it
    jax.config.update("jax_enable_recoverability", True)
    _take_aborts()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=int(heartbeat),
            shutdown_timeout_seconds=END_SECONDS,
        )
    except ValueError as error:  # of what JAX could not find out
        raise InputError(
            f"--distributed: JAX finds no other processes here ({error}); it knows Slurm, TPU pods and Open MPI. "
            "Else give --coordinator HOST:PORT --processes N --process I"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"--coordinator {_state().coordinator_address}: process 0 cannot listen there "
            f"({str(error).splitlines()[0]}); take a free port of its own host"
        ) from None
    if count() > 1:
        global _watch
        _watch = _Watch(int(heartbeat))


def _whole_nodes(coordinator: str | None, processes: int | None, process: int | None) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`. Under Slurm JAX gives each task the one GPU of its number on the
    node; where a node has one task, that task shall have all of them."""
    given = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    from jax._src.clusters import SlurmCluster

    if not SlurmCluster.is_env_present() or "JAX_LOCAL_DEVICE_IDS" in os.environ or not one_task_a_node(os.environ):
        return given
    found = {
        "coordinator_address": coordinator or _slurm_coordinator(SlurmCluster),
        "num_processes": SlurmCluster.get_process_count() if processes is None else processes,
        "process_id": SlurmCluster.get_process_id() if process is None else process,
    }
    return {**found, "cluster_detection_method": "deactivate"}  # which leaves all devices visible


def _slurm_coordinator(cluster: Any) -> str:
    """`HOST:PORT` of process 0 as JAX finds it; before jax 0.9 it does not take the port of JAX_COORDINATOR_PORT."""
    ask, port = cluster.get_coordinator_address, os.environ.get("JAX_COORDINATOR_PORT")
    if "override_coordinator_port" in inspect.signature(ask).parameters:
        return ask(START_SECONDS, port)
    found = ask(START_SECONDS)
    return f"{found.rpartition(':')[0]}:{port}" if port else found


def one_task_a_node(environment: Any) -> bool:
    """Whether a Slurm step has one task on each of its nodes (`1` or `1(x4)`)."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    if tasks:
        return re.fullmatch(r"1(\(x\d+\))?", tasks) is not None
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    return nodes is not None and nodes == environment.get("SLURM_NTASKS")


def fail(line: str, code: int) -> None:
    """Tells the others why this process ends, and ends it with exit code `code`; all of them end likewise. `line` has
    been printed here. With one process, nothing: the caller returns the code itself."""
    if _watch is not None:
        _watch.fail(line, code)


class Telling:
    """What goes wrong inside is told to the others at once, before this process cleans up behind it."""

    def __enter__(self) -> Telling:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and _watch is not None:
            _watch.tell_error(error)


def leave(code: int = 0) -> None:
    """Waits for the others to come to their end, too, and parts from them; `code` is the exit code to be. Called at the
    exit of Python at the latest."""
    if _watch is not None:
        _watch.leave(code)


class _Watch:
    """Two threads that wait for a line of another process, and for one that is missed."""

    def __init__(self, heartbeat: int):
        self.client, self.index, self.count = _state().client, index(), count()
        self.heartbeat = heartbeat
        self.address = _state().coordinator_address
        self.ending = threading.Event()  # this process is about to end, whatever becomes of the others
        self.done: int | None = None  # exit code of a run that has come to its end
        self.told = False  # why this process fails
        self.lock = threading.Lock()
        self.client.key_value_set(HOST + str(self.index), socket.gethostname())
        _names[0] = self.client.blocking_key_value_get(HOST + "0", START_SECONDS * 1000)
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self._listen, self._miss)]
        for thread in self.threads:
            thread.start()
        self.hook, sys.excepthook = sys.excepthook, self._uncaught
        atexit.register(self.leave)

    # -- the ends of this process

    def tell(self, line: str, code: int) -> None:
        """Of a failure of our own: the others end, and so does this process soon, even if it hangs in what it cleans up
        behind itself (an unfinished checkpoint waits for the others)."""
        with self.lock:
            if self.told:
                return
            self._wait_if_ending()
            self.told = True
        with GONE:
            self.client.key_value_set(FAILED + str(self.index), json.dumps({"line": line, "code": code}))

        def end():
            time.sleep(2 * LINGER_SECONDS)
            _print(f"jaxvl: {line}")
            _exit(code)

        threading.Thread(target=end, daemon=True).start()

    def tell_error(self, error: BaseException) -> None:
        """As `tell`. A collective breaks when a peer is lost: then the watch says which, and ends this process."""
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error) and not self.told:
            time.sleep(self.heartbeat + LINGER_SECONDS)
        first = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, InputError | BadMedia):
            self.tell(str(error), error.code)
        elif isinstance(error, KeyboardInterrupt):
            self.tell("interrupted", 130)
        else:
            self.tell(f"{type(error).__name__}: {first}", 1)

    def fail(self, line: str, code: int) -> NoReturn:
        """As `tell`, and ends this process as soon as the others have heard."""
        self.tell(line, code)
        with GONE:
            self._await_heard()
        _exit(code)

    def leave(self, code: int = 0) -> None:
        """Of a run that is done."""
        if self.ending.is_set():
            return
        self.client.wait_at_barrier("jaxvl/leave", END_SECONDS * 1000)
        self.ending.set()
        self.done = code
        if self.index == 0:  # holds the service, so goes last: this returns when the others have parted
            last = threading.Thread(target=self._alive, daemon=True)
            last.start()
            last.join(LINGER_SECONDS)
        jax.distributed.shutdown()

    def _begin_to_end(self) -> None:
        with self.lock:
            self._wait_if_ending()

    def _wait_if_ending(self) -> None:
        if self.ending.is_set():  # another thread is at it, and will be done in a moment
            time.sleep(2 * LINGER_SECONDS)
        self.ending.set()

    def _await_heard(self) -> None:
        """Until all others have heard, or are gone; process 0 holds what they read."""
        others = {str(p) for p in range(self.count)} - {str(self.index)}
        end = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < end:
            known = {key.rsplit("/", 1)[-1] for k in (HEARD, FAILED) for key, _ in self.client.key_value_dir_get(k)}
            if others <= known:
                return
            time.sleep(POLL_SECONDS / 5)

    # -- the ends of others

    def _listen(self) -> None:
        while not self.ending.wait(POLL_SECONDS):
            with GONE:
                rows = self.client.key_value_dir_get(FAILED)
                if rows and not self.ending.is_set():
                    key, text = min(rows)
                    self._hear(int(key.rsplit("/", 1)[-1]), **json.loads(text))

    def _hear(self, process: int, line: str, code: int) -> NoReturn:
        self._begin_to_end()
        _print(f"jaxvl: {name_of(process)}: {line}")
        self.client.key_value_set(HEARD + str(self.index), "")
        if self.index == 0:
            self._await_heard()
            time.sleep(2 * POLL_SECONDS)  # until they have ended: without the service their C++ adds noise of its own
        _exit(code)

    def _miss(self) -> None:
        while not self.ending.wait(POLL_SECONDS):
            with GONE:
                dead = sorted(set(range(self.count)) - self._alive())
                if not dead:
                    continue
                time.sleep(2 * POLL_SECONDS)  # one that failed has left a line, one that is done met us at the barrier
                failed = [key for key, _ in self.client.key_value_dir_get(FAILED)]
                if failed or self.ending.is_set():
                    continue
                self._begin_to_end()
                _print(f"jaxvl: {', '.join(map(name_of, dead))} {KILLED}")
                if self.index == 0:
                    time.sleep(LINGER_SECONDS / 2)  # the others find out for themselves
                _exit(1)

    def _alive(self) -> set[int]:
        """Processes whose heart beats; returns when all of these have asked."""
        return set(self.client.get_live_nodes(list(range(self.count))))

    # -- what Python does not see

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self.tell_error(error)
        self.hook(kind, error, trace)
        self.fail("", error.code if isinstance(error, InputError | BadMedia) else 1)  # the line has been told

    def aborted(self) -> None:
        """Says why C++ aborts this process, if it is known, and ends it before that."""
        if self.done is not None:
            os._exit(self.done)
        if self.ending.is_set():  # it has been said
            time.sleep(LINGER_SECONDS)
            _exit(1)
        if self.index > 0 and not _reachable(self.address):
            _print(f"jaxvl: {name_of(0)} {KILLED}")
            _exit(1)


def _take_aborts() -> None:
    """Process 0 holds the service. Where it does not answer, at the start or because it was killed, the C++ of JAX
    aborts the others at once; a handler in C is all that can still say why. Called by the thread that aborts."""
    global _handler
    if _handler is not None:
        return

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_number: int) -> None:
        if _watch is not None:
            _watch.aborted()
        elif _state().client is not None and (address := _state().coordinator_address) is not None:
            _print(
                f"jaxvl: {'--coordinator' if _given else '--distributed: process 0 at'} {address}: cannot be reached "
                f"from here, or not all of the {_state().num_processes} processes have started within {START_SECONDS} s"
            )
            _exit(2 if _given else 1)  # an address that JAX found is not wrong input: the others may be there next time

    _handler = handler  # must outlive the process's last abort
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))


@dataclasses.dataclass
class _Numbers:
    """How often each kind of meeting took place; the same in all processes, so it names their keys."""

    seen: dict[str, int] = dataclasses.field(default_factory=dict)

    def next(self, kind: str) -> int:
        self.seen[kind] = self.seen.get(kind, -1) + 1
        return self.seen[kind]


_watch: _Watch | None = None
_given = False  # the address of process 0, by the user
_handler: Any = None
_numbers = _Numbers()
_names: dict[int, str] = {}


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _get(key: str) -> bytes:
    """The value of `key` as soon as it is there. In short waits, so that Ctrl-C is heard."""
    while True:
        try:
            return _state().client.blocking_key_value_get_bytes(key, 2000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _reachable(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _print(line: str) -> None:
    """Around Python's buffers, whose lock a thread in the middle of a line may hold."""
    os.write(2, f"\n{' '.join(line.split())}\n".encode())


def _exit(code: int) -> NoReturn:
    """At once: the main thread may sit in a collective for ever."""
    for stream in (sys.stdout, sys.stderr):
        threading.Thread(target=stream.flush, daemon=True).start()
    for child in multiprocessing.active_children():
        child.terminate()  # decoder processes
    time.sleep(0.1)
    os._exit(code)
