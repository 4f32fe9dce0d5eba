"""How a process finds the others. What several do together is in tests/multiprocess."""

from __future__ import annotations

import pytest

from jaxvl import cli
from jaxvl.core import processes
from jaxvl.core.errors import InputError

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "node[07-09]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "3",
}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--processes", "2", "--process", "0"], "--coordinator HOST:PORT"),
        (["--process", "1"], "give the address of process 0"),
        (["--coordinator", "host0:1234"], "--processes N and --process I"),
        (["--coordinator", "host0:1234", "--process", "1"], "--processes N and --process I"),
        (["--coordinator", "host0", "--processes", "2", "--process", "1"], "needs HOST:PORT"),
        (["--coordinator", "host0:1234", "--processes", "2", "--process", "2"], "needs 0 to 1"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_half_an_address_is_one_line(verb, words, line, tmp_path, capsys):
    config = ["--config", "configs/centerclip/quickstart.py"] if verb == "train" else []
    assert cli.main([verb, *config, "--workdir", str(tmp_path / "run"), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxvl: --")
    assert line in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_no_cluster_is_one_line(monkeypatch):
    """JAX itself says only what it could not fill in."""

    def initialize(**given):
        assert given["coordinator_address"] is None
        assert 0 < given["heartbeat_timeout_seconds"] < 30
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes.jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(processes, "_take_aborts", lambda: None)
    with pytest.raises(InputError, match=r"--distributed: JAX finds no other processes .* --coordinator HOST"):
        processes.connect(find=True)


@pytest.mark.parametrize("seconds", ["", "0", "ten", "1.5"])
def test_a_heartbeat_that_is_none_is_one_line(monkeypatch, seconds):
    monkeypatch.setenv("JAXVL_HEARTBEAT_SECONDS", seconds)
    with pytest.raises(InputError, match="JAXVL_HEARTBEAT_SECONDS: needs whole seconds"):
        processes.connect("host0:1234", 2, 0)


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "JAX_LOCAL_DEVICE_IDS", "JAX_COORDINATOR_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("tasks", [None, "1", "1(x3)"])
def test_one_task_a_node_has_all_of_its_devices(slurm, tasks):
    """JAX would give it the one that has its number on the node; found by ourselves, nothing is bound."""
    if tasks:
        slurm.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    got = processes._whole_nodes(None, None, None)
    host, port = got.pop("coordinator_address").split(":")
    assert host == "node07"
    assert 1024 < int(port) < 65536
    assert got == {"num_processes": 3, "process_id": 2, "cluster_detection_method": "deactivate"}
    assert processes._whole_nodes("other:1", None, None)["coordinator_address"] == "other:1"


@pytest.mark.parametrize("tasks", ["4", "4(x3)", "1(x2),2"])
def test_several_tasks_a_node_have_one_device_each(slurm, tasks):
    slurm.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    nothing = {"coordinator_address": None, "num_processes": None, "process_id": None}
    assert processes._whole_nodes(None, None, None) == nothing  # JAX finds all, and binds by SLURM_LOCALID


def test_chosen_devices_stay_chosen(slurm):
    slurm.setenv("JAX_LOCAL_DEVICE_IDS", "1,2")
    assert "cluster_detection_method" not in processes._whole_nodes(None, None, None)


def test_one_process_asks_nobody():
    assert (processes.count(), processes.index()) == (1, 0)
    assert processes.gather("own") == ["own"]
    assert processes.decide(lambda: 7) == 7
    processes.barrier()
    processes.fail("a line", 2)  # does not end this process
    processes.leave()
