"""The launch scripts: dry runs print commands that parse, wrong use ends with 2, and the documents name them."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxvl import cli
from jaxvl.core import config as configs

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
RUNNABLE = [p for p in SCRIPTS if p.name != "common.sh"]
GIVEN = ["--config", "configs/centerclip/quickstart.py", "--workdir", "runs/with space", "--config.train.steps=7"]
TPU = {"TPU_NAME": "pod", "TPU_ZONE": "us-central2-b"}


def launch(script, *words, env=None, cwd=ROOT):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "JAXVL_"))}
    return subprocess.run(
        ["bash", str(script), *words],
        cwd=cwd,
        env={**clean, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def dry(script, *words, env=None):
    done = launch(ROOT / "launch" / script, "--dry-run", *words, env=env)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def check_train(words):
    """The words after `train` are what was given, and `jaxvl` takes them."""
    plain = [w for w in words if not w.startswith("--config.")]
    args, rest = cli._parser().parse_known_args(["train", *plain])
    assert rest == []
    assert (args.config, args.workdir) == (GIVEN[1], GIVEN[3])
    fields = [w.removeprefix("--config.") for w in words if w.startswith("--config.")]
    assert configs.load(ROOT / args.config, fields).train.steps == 7
    return args


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_valid_bash(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda p: p.name)
def test_documents_name_the_script(script):
    page = (ROOT / "docs" / "howto" / "run_anywhere.md").read_text()
    assert re.search(rf"^(\w+=\S+ )*launch/{script.name} ", page, re.M)


def test_gpu_host_makes_the_environment_checks_it_and_trains(tmp_path):
    venv = tmp_path / "venv"
    lines = dry("gpu_host.sh", *GIVEN, env={"JAXVL_VENV": str(venv)})
    assert lines[0] == ["python3", "-m", "venv", str(venv)]
    assert lines[1] == [f"{venv}/bin/pip", "install", "-e", ".[cuda12]"]
    assert lines[2] == [f"{venv}/bin/jaxvl", "doctor", "--workdir", GIVEN[3]]
    assert lines[3][:4] == ["env", "XLA_PYTHON_CLIENT_PREALLOCATE=false", f"{venv}/bin/jaxvl", "train"]
    assert not check_train(lines[3][4:]).distributed
    assert len(lines) == 4
    assert not venv.exists()


def test_gpu_host_uses_the_environment_that_is_there(tmp_path):
    (tmp_path / "bin").mkdir()
    jaxvl = tmp_path / "bin" / "jaxvl"
    jaxvl.write_text("#!/bin/sh\n")
    jaxvl.chmod(0o755)
    lines = dry("gpu_host.sh", *GIVEN, env={"JAXVL_VENV": str(tmp_path)})
    assert [words[1] for words in lines] == ["doctor", "XLA_PYTHON_CLIENT_PREALLOCATE=false"]


def test_gpu_host_runs_what_the_dry_run_prints(tmp_path):
    """With a stand-in for `jaxvl` that writes down its arguments."""
    (tmp_path / "bin").mkdir()
    jaxvl = tmp_path / "bin" / "jaxvl"
    jaxvl.write_text(f'#!/bin/bash\nprintf "%q " "$@" >> {tmp_path}/log\necho >> {tmp_path}/log\n')
    jaxvl.chmod(0o755)
    done = launch(ROOT / "launch" / "gpu_host.sh", *GIVEN, env={"JAXVL_VENV": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in (tmp_path / "log").read_text().splitlines()]
    printed = dry("gpu_host.sh", *GIVEN, env={"JAXVL_VENV": str(tmp_path)})
    assert lines == [printed[0][1:], printed[1][3:]]


def test_tpu_vm_copies_installs_and_trains_on_all_workers():
    lines = dry("tpu_vm.sh", *GIVEN, env=TPU)
    assert [words[0] for words in lines] == ["tar", "gcloud", "gcloud", "gcloud"]
    archive = lines[0][lines[0].index("-czf") + 1]
    assert archive in lines[1]
    tpu_vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    for words, verb in zip(lines[1:], ("scp", "ssh", "ssh"), strict=True):
        assert words[:5] == [*tpu_vm, verb]
        assert words[words.index("--zone") + 1] == TPU["TPU_ZONE"]
        assert words[words.index("--worker") + 1] == "all"
        assert any(w.split(":")[0] == TPU["TPU_NAME"] for w in words)
    install, run = (words[words.index("--command") + 1] for words in lines[2:])
    assert ".[tpu]" in install
    remote = shlex.split(run)  # what the shell of the worker sees
    assert remote[:6] == ["cd", "jaxvl", "&&", ".venv/bin/jaxvl", "train", "--distributed"]
    assert check_train(remote[5:]).distributed


def test_tpu_vm_copies_the_tree_without_runs_and_environments(tmp_path):
    """The printed archive command, run on a small tree."""
    tree = tmp_path / "tree"
    for name in ("jaxvl/data/video.py", "setup.py", ".git/HEAD", ".venv/bin/jaxvl", "runs/a/x", "data/clip.mp4"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    words = dry("tpu_vm.sh", *GIVEN, env=TPU)[0]
    words[words.index("-czf") + 1] = str(tmp_path / "out.tar.gz")
    subprocess.run(words, cwd=tree, check=True)
    listed = subprocess.run(["tar", "-tzf", tmp_path / "out.tar.gz"], capture_output=True, text=True, check=True).stdout
    assert {n for n in listed.split() if not n.endswith("/")} == {"./jaxvl/data/video.py", "./setup.py"}


def test_slurm_starts_one_task_a_node(tmp_path):
    (line,) = dry("slurm.sh", *GIVEN, env={"JAXVL_VENV": "env"})
    assert line[:4] == ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "env/bin/jaxvl"]
    assert check_train(line[5:]).distributed
    copy = Path(shutil.copy(ROOT / "launch" / "slurm.sh", tmp_path))  # what Slurm runs
    done = launch(copy, "--dry-run", *GIVEN, env={"SLURM_SUBMIT_DIR": str(ROOT), "JAXVL_VENV": "env"}, cwd=tmp_path)
    assert [shlex.split(words) for words in done.stdout.splitlines()] == [line]


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda p: p.name)
def test_equals_signs_work_too(script):
    joined = [f"--config={GIVEN[1]}", f"--workdir={GIVEN[3]}", "--resume", GIVEN[4]]
    line = dry(script.name, *joined, env=TPU)[-1]
    assert all(word in line or word in shlex.split(line[-1]) for word in joined)


@pytest.mark.parametrize("missing", sorted(TPU))
def test_tpu_vm_says_which_variable_is_missing(missing):
    done = launch(
        ROOT / "launch" / "tpu_vm.sh", "--dry-run", *GIVEN, env={k: v for k, v in TPU.items() if k != missing}
    )
    assert done.returncode == 2
    assert missing in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workdir", "w"], "--config FILE is needed"),
        (["--config", "c.py"], "--workdir DIR is needed"),
        (["--config", "c.py", "--workdir"], "--workdir"),
        ([], "--config FILE is needed"),
        (["--config", "c.py", "--workdir", "w", "--confg.train.steps=3"], "--confg.train.steps=3"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(script, words, said):
    done = launch(script, "--dry-run", *words, env=TPU)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda p: p.name)
def test_scripts_can_be_started(script):
    assert os.access(script, os.X_OK)
    assert shutil.which("bash")
