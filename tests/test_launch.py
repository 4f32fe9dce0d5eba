"""The launch scripts: dry runs print commands that parse, wrong use ends with 2, and the documents name them."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxvl import cli
from jaxvl.core import config as configs

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
TRAINING = [p for p in SCRIPTS if p.name in ("gpu_host.sh", "gke.sh", "slurm.sh", "tpu_vm.sh")]
STARTED = [p for p in SCRIPTS if p.name != "common.sh"]
GIVEN = ["--config", "configs/centerclip/quickstart.py", "--workdir", "runs/with space", "--config.train.steps=7"]
TPU = {"TPU_NAME": "pod", "TPU_ZONE": "us-central2-b", "TPU_TYPE": "v5litepod-16"}
GKE = {"GKE_CLUSTER": "c", "GKE_PROJECT": "p", "GKE_ZONE": "z", "GKE_IMAGE": "i:1"}
FIRST = {"tpu_vm.sh": ["train"], "gke.sh": ["job"]}
"""Words in front of the flags of training."""


def launch(script, *words, env=None, cwd=ROOT):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "GKE_", "JAXVL_", "XLA_"))}
    return subprocess.run(
        ["bash", str(script), *words],
        cwd=cwd,
        env={**clean, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def hasty(folder):
    """A PATH on which `sleep` waits a moment, whatever it is told: the supervisor's second of grace, after each end."""
    stub = folder / "sleep"
    stub.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 0.02\n")
    stub.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


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


def test_shellcheck_finds_nothing():
    scripts = [*SCRIPTS, ROOT / ".ci" / "run"]
    tool = Path(sys.executable).with_name("shellcheck")  # the environment need not be activated
    done = subprocess.run([tool, "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", STARTED, ids=lambda p: p.name)
def test_documents_name_the_script(script):
    page = (ROOT / "docs" / "howto" / "launch.md").read_text()
    assert re.search(rf"^(\w+=\S+ )*(sbatch .*)?launch/{script.name} ", page, re.M)


def test_gpu_host_installs_checks_and_trains(tmp_path):
    lines = dry("gpu_host.sh", *GIVEN, env={"JAXVL_VENV": str(tmp_path / "venv")})
    assert lines[0] == ["launch/install.sh", "cuda12"]
    assert lines[1] == [f"{tmp_path}/venv/bin/jaxvl", "doctor", "--workdir", GIVEN[3]]
    assert lines[2][:2] == ["env", "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92"]  # XLA's share at the start: preallocated
    assert lines[2][2:5] == ["launch/supervise.sh", f"{tmp_path}/venv/bin/jaxvl", "train"]
    assert not check_train(lines[2][5:]).distributed
    assert len(lines) == 3


def stand_in(folder):
    """An environment whose `jaxvl` writes down its arguments."""
    (folder / "bin").mkdir()
    jaxvl = folder / "bin" / "jaxvl"
    jaxvl.write_text(f'#!/bin/bash\nprintf "%q " "$@" >> {folder}/log\necho >> {folder}/log\n')
    jaxvl.chmod(0o755)
    return {"JAXVL_VENV": str(folder)}


def test_gpu_host_runs_what_the_dry_run_prints(tmp_path):
    env = stand_in(tmp_path)
    done = launch(ROOT / "launch" / "gpu_host.sh", *GIVEN, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in (tmp_path / "log").read_text().splitlines()]
    printed = dry("gpu_host.sh", *GIVEN, env=env)
    assert lines == [printed[0][1:], printed[1][4:]]


def test_install_takes_a_python_that_serves(tmp_path):
    env = {"JAXVL_VENV": str(tmp_path / "venv")}
    made, installed = dry("install.sh", "tpu", env=env)
    assert made[1:] == ["-m", "venv", f"{tmp_path}/venv"]
    assert installed == [f"{tmp_path}/venv/bin/python", "-m", "pip", "install", "-q", "-e", ".[tpu]"]
    assert dry("install.sh", "tpu", env={**env, "JAXVL_PYTHON": sys.executable})[0][0] == sys.executable


def test_install_where_no_python_serves(tmp_path):
    """With a PATH that holds nothing but what the scripts call, and with and without a package manager."""
    for tool in ("bash", "dirname", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    env = {"PATH": str(tmp_path), "JAXVL_VENV": str(tmp_path / "venv")}
    done = launch(ROOT / "launch" / "install.sh", "--dry-run", "tpu", env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no Python 3.11, 3.12 or 3.13" in done.stderr
    for tool in ("apt-get", "sudo"):
        (tmp_path / tool).symlink_to("/bin/true")
    lines = dry("install.sh", "tpu", env=env)
    assert lines[:2] == [
        ["sudo", "apt-get", "-o", "DPkg::Lock::Timeout=600", "update", "-q"],
        ["sudo", "apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "-q", "python3.11", "python3.11-venv"],
    ]
    assert lines[2][0] == "python3.11"


def test_tpu_vm_makes_installs_and_trains_on_all_workers():
    lines = dry("tpu_vm.sh", "up", *GIVEN, env={**TPU, "TPU_PROJECT": "p", "TPU_SPOT": "1"})
    tpu_vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    where = ["--zone", TPU["TPU_ZONE"], "--project", "p"]
    kind = ["--accelerator-type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite", "--spot"]
    assert lines[0] == [*tpu_vm, "create", "pod", *where, *kind]
    archive = lines[1][lines[1].index("-czf") + 1]
    assert lines[2] == [*tpu_vm, "scp", archive, "pod:jaxvl.tar.gz", *where, "--worker", "all"]
    assert [words[:-1] for words in lines[3:]] == [[*tpu_vm, "ssh", "pod", *where, "--worker", "all", "--command"]] * 2
    assert lines[3][-1].endswith("&& jaxvl/launch/install.sh tpu")
    remote = shlex.split(lines[4][-1])  # what the shell of the worker sees
    assert remote[:5] == ["jaxvl/launch/detached.sh", "start", ".venv/bin/jaxvl", "train", "--distributed"]
    assert check_train(remote[4:]).distributed
    assert dry("tpu_vm.sh", "create", env=TPU) + dry("tpu_vm.sh", "install", env=TPU) + dry(
        "tpu_vm.sh", "train", *GIVEN, env=TPU
    ) == [[w for w in words if w not in ("--project", "p", "--spot")] for words in lines]


@pytest.mark.parametrize(
    ("kind", "image"),
    [("v4-8", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5"), ("v6e-8", "v2-alpha-tpuv6e")],
)
def test_tpu_vm_knows_the_image_of_a_kind(kind, image):
    (line,) = dry("tpu_vm.sh", "create", env={**TPU, "TPU_TYPE": kind})
    assert line[line.index("--version") + 1] == image
    (line,) = dry("tpu_vm.sh", "create", env={**TPU, "TPU_TYPE": kind, "TPU_VERSION": "mine"})
    assert line[line.index("--version") + 1] == "mine"


def test_tpu_vm_waits_in_the_queue():
    env = {**TPU, "TPU_QUEUED": "1"}
    (made,), (gone,) = dry("tpu_vm.sh", "create", env=env), dry("tpu_vm.sh", "delete", env=env)
    assert made[3:7] == ["queued-resources", "create", "pod", "--zone"]
    assert made[made.index("--node-id") + 1] == "pod"
    assert gone[3:6] == ["queued-resources", "delete", "pod"]
    assert gone[-2:] == ["--quiet", "--force"]


def test_tpu_vm_on_the_workers():
    (line,) = dry("tpu_vm.sh", "tail", "3", env=TPU)
    assert line[-4:] == ["--worker", "3", "--command", "jaxvl/launch/detached.sh tail"]
    for verb in ("status", "stop"):
        (line,) = dry("tpu_vm.sh", verb, env=TPU)
        assert line[-3:] == ["all", "--command", f"jaxvl/launch/detached.sh {verb}"]
    (line,) = dry("tpu_vm.sh", "state", env=TPU)
    assert line[4:6] == ["describe", "pod"]


GCLOUD = """#!/bin/bash
# Gives the lines of `states`, `runs` and `requests` one after the other; `-` fails, a slice of no state is not there
cd {folder}
echo "${{@:4:1}} ${{@: -1}}" >> log
next() {{ line="$(head -n 1 "$1")"; sed -i 1d "$1"; [ "$line" != - ] || exit 1; echo "$line"; }}
case "${{@:3:2}}" in
  "tpu-vm delete") [ ! -e undeleted ] || {{ rm undeleted; exit 1; }} ;;
  "tpu-vm describe")
    line="$(next states)" || exit 1
    [ -n "$line" ] || {{ echo "ERROR: (gcloud...describe) NOT_FOUND: it is not there" >&2; exit 1; }}
    echo "$line" ;;
  "queued-resources describe") next requests ;;
  "tpu-vm ssh")
    case "${{@: -1}}" in
      *status) said="$(next runs)" || exit 1; tr ';' '\\n' <<<"$said" ;;
      *install.sh*) [ ! -s installs ] || next installs ;;
    esac ;;
esac
"""
BEGIN = ["create", "scp", "ssh", "ssh"]  # make, copy, install, start


def up(folder, states, runs=(), requests=(), installs=(), undeleted=False, **env):
    """`tpu_vm.sh up` and what it called, with a `gcloud` that gives these answers. Of a slice: "" is none, `-` no
    answer, which is asked for twice. Of a run: what each worker says, with `;` in between."""
    states = [line for state in states for line in ([state] * 2 if state == "" else [state])]
    folder.mkdir(exist_ok=True)
    (folder / "gcloud").write_text(GCLOUD.format(folder=folder))
    (folder / "gcloud").chmod(0o755)
    answers = {"states": states, "runs": runs, "requests": requests, "installs": installs, "log": []}
    for name, lines in answers.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    if undeleted:  # the first time
        (folder / "undeleted").touch()
    env = {**TPU, **env, "PATH": f"{folder}:{os.environ['PATH']}", "TPU_POLL": "0", "TMPDIR": str(folder)}
    for name in ("launch", "configs/centerclip"):
        shutil.copytree(ROOT / name, folder / "tree" / name)
    done = launch(folder / "tree" / "launch" / "tpu_vm.sh", "up", *GIVEN, env=env)
    calls = [line.split()[0] for line in (folder / "log").read_text().splitlines()]
    return done, [call for call in calls if call != "describe"]


def test_tpu_vm_goes_on_after_a_preemption(tmp_path):
    states = ["", "CREATING", "READY", "READY", "READY", "PREEMPTED", "PREEMPTED", "READY", "READY", "READY"]
    done, calls = up(tmp_path, states, ["running", "killed", "running", "done"])
    assert done.returncode == 0, done.stderr
    assert "pod is PREEMPTED" in done.stdout
    assert calls == [*BEGIN, "ssh", "ssh", "ssh", "delete", *BEGIN, "ssh", "ssh"]  # status; killed, so started again


def test_tpu_vm_outlives_a_network_that_is_away(tmp_path):
    done, calls = up(tmp_path, ["READY", "-", "-", "READY", "READY"], ["-", "never", "done"])
    assert done.returncode == 0, done.stderr
    assert calls == [
        *BEGIN[1:],
        "ssh",
        "ssh",
        "ssh",
        "ssh",
    ]  # nothing is made or installed again; two looks, a start, a look


def test_tpu_vm_asks_the_queue_again_after_a_preemption(tmp_path):
    states = ["", "", "READY", "READY", "", "", "", "", "READY", "READY"]
    requests = ["", "WAITING_FOR_RESOURCES", "SUSPENDING", "SUSPENDED", "ACCEPTED"]
    done, calls = up(tmp_path, states, ["running", "done"], requests, TPU_QUEUED="1")
    assert done.returncode == 0, done.stderr
    assert calls == [*BEGIN, "ssh", "delete", *BEGIN, "ssh"]


def test_tpu_vm_ends_where_its_request_fails(tmp_path):
    """One that is found to have failed is replaced, its own is not."""
    done, calls = up(tmp_path, [""] * 3, requests=["FAILED", "ACCEPTED", "FAILED", "- why"], TPU_QUEUED="1")
    assert (done.returncode, done.stderr) == (1, "- why\n")
    assert calls == ["delete", "create"]


def test_tpu_vm_ends_when_the_run_is_told_to_stop(tmp_path):
    done, calls = up(tmp_path, ["READY"] * 3, ["running;running", "stopped, exit code 143;running"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pod: stopped; the same command goes on"
    assert calls == [*BEGIN[1:], "ssh", "ssh"]


def test_tpu_vm_watches_every_worker(tmp_path):
    """One whose machine started anew is started again, one that ended ends it all, and the last one is waited for."""
    done, calls = up(tmp_path, ["READY"] * 4, ["running;killed", "done;running", "done;done"])
    assert done.returncode == 0, done.stderr
    assert calls == [*BEGIN[1:], "ssh", "ssh", "ssh", "ssh"]  # a look, a start, two looks
    done, _ = up(tmp_path / "b", ["READY"] * 2, ["running;ended, exit code 2"])
    assert (done.returncode, done.stderr) == (1, "pod: ended, exit code 2; see launch/tpu_vm.sh tail\n")


def test_tpu_vm_installs_again_on_a_machine_that_is_not_yet_ready_for_it(tmp_path):
    done, calls = up(tmp_path, ["READY"] * 5, ["done"], installs=["-", "", ""])
    assert done.returncode == 0, done.stderr
    assert calls == ["scp", "ssh", *BEGIN[1:], "ssh"]
    done, calls = up(tmp_path / "b", ["READY"] * 10, installs=["-"] * 9)
    assert (done.returncode, calls) == (1, ["scp", "ssh"] * 5)


def test_tpu_vm_outlives_a_slice_that_cannot_be_deleted_yet(tmp_path):
    done, calls = up(tmp_path, ["PREEMPTED", "PREEMPTED", "READY", "READY"], ["done"], undeleted=True)
    assert done.returncode == 0, done.stderr
    assert calls == ["delete", "delete", *BEGIN, "ssh"]


def test_tpu_vm_makes_nothing_again_that_somebody_deleted(tmp_path):
    done, calls = up(tmp_path, ["READY", "READY", "", ""], ["running"])
    assert (done.returncode, done.stderr) == (1, "pod was deleted\n")
    assert "create" not in calls


def test_tpu_vm_ends_where_it_never_gets_an_answer(tmp_path):
    done, calls = up(tmp_path, ["-"] * 3)
    assert (done.returncode, calls) == (1, [])


def test_tpu_vm_copies_the_tree_without_runs_and_environments(tmp_path):
    """The printed archive command, run on a small tree."""
    tree = tmp_path / "tree"
    for name in (
        "jaxvl/data/video.py",
        "setup.py",
        ".git/HEAD",
        ".venv/bin/jaxvl",
        "runs/a/x",
        "data/clip.mp4",
        "run.pid",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    words = dry("tpu_vm.sh", "install", env=TPU)[0]
    words[words.index("-czf") + 1] = str(tmp_path / "out.tar.gz")
    subprocess.run(words, cwd=tree, check=True)
    listed = subprocess.run(["tar", "-tzf", tmp_path / "out.tar.gz"], capture_output=True, text=True, check=True).stdout
    assert {n for n in listed.split() if not n.endswith("/")} == {"./jaxvl/data/video.py", "./setup.py"}


def test_slurm_starts_one_task_a_node(tmp_path):
    (line,) = dry("slurm.sh", *GIVEN, env={"JAXVL_VENV": "env"})
    assert line[:5] == ["launch/supervise.sh", "srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "env/bin/jaxvl"]
    assert check_train(line[6:]).distributed
    (cores,) = dry("slurm.sh", *GIVEN, env={"JAXVL_VENV": "env", "SLURM_CPUS_PER_TASK": "8"})
    assert cores == [*line[:4], "--cpus-per-task=8", *line[4:]]  # sbatch's, which srun does not look at
    copy = Path(shutil.copy(ROOT / "launch" / "slurm.sh", tmp_path))  # what Slurm runs
    done = launch(copy, "--dry-run", *GIVEN, env={"SLURM_SUBMIT_DIR": str(ROOT), "JAXVL_VENV": "env"}, cwd=tmp_path)
    assert [shlex.split(words) for words in done.stdout.splitlines()] == [line]


TASKS = """\
#!/usr/bin/env bash
echo "$JAXVL_SIGTERM_CODE" >"$HERE/started"
trap 'exit "$TOLD"' TERM
[ -z "$ENDS" ] || exit "$ENDS"
while :; do sleep 0.05; done
"""
"""In place of srun and all that it starts: ends with $ENDS at once, or with $TOLD when it is told to."""


@pytest.fixture
def slurm_job(tmp_path):
    """`slurm_job(env) -> process` of the script as a job, with stand-ins for srun and scontrol; once it trains."""
    for name, text in (("srun", TASKS), ("scontrol", '#!/usr/bin/env bash\necho "$*" >>"$HERE/asked"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    begun = []

    def start(**env):
        path = {"PATH": hasty(tmp_path), "HERE": str(tmp_path), "ENDS": "", "TOLD": "143"}
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAXVL_", "SLURM_"))}
        words = ["bash", str(ROOT / "launch" / "slurm.sh"), *GIVEN]
        env = {**clean, **path, "SLURM_JOB_ID": "7", **env}
        begun.append(subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize(
    ("env", "asked"),
    [
        ({}, "requeue 7\n"),
        ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "requeue 5_2\n"),
        ({"TOLD": "0"}, None),  # it came to its end just then
        ({"TOLD": "2"}, None),
    ],
    ids=["saved", "of an array", "done", "wrong input"],
)
def test_slurm_queues_itself_again_before_the_time_limit(tmp_path, slurm_job, env, asked):
    job = slurm_job(**env)
    job.send_signal(signal.SIGUSR1)
    job.communicate()
    assert job.returncode == (0 if asked else int(env["TOLD"]))
    found = tmp_path / "asked"
    assert (found.read_text() if found.exists() else None) == asked
    assert (tmp_path / "started").read_text() == "143\n"  # what a preemption ends, the supervisor starts again


@pytest.mark.parametrize("env", [{"ENDS": "0"}, {"ENDS": "2"}], ids=["done", "wrong input"])
def test_slurm_queues_nothing_again_that_is_over(tmp_path, slurm_job, env):
    job = slurm_job(**env)
    job.communicate()
    assert job.returncode == int(env["ENDS"])
    assert not (tmp_path / "asked").exists()


def test_slurm_queues_nothing_again_that_is_told_to_stop(tmp_path, slurm_job):
    job = slurm_job()
    job.terminate()
    job.communicate()
    assert job.returncode == 143
    assert not (tmp_path / "asked").exists()


def test_gke_builds_pushes_and_submits():
    built, pushed, made = dry("gke.sh", "job", *GIVEN, env={**TPU, **GKE})
    assert built == ["docker", "build", "-f", "launch/Dockerfile", "--target", "tpu", "-t", "i:1", "."]
    assert pushed == ["docker", "push", "i:1"]
    assert made[:3] == ["xpk", "workload", "create"]
    flags = dict(zip(made[3::2], made[4::2], strict=True))
    assert (flags["--cluster"], flags["--workload"], flags["--tpu-type"]) == ("c", "job", "v5litepod-16")
    assert flags["--restart-on-exit-codes"] == "1"  # XPK's own are 42 and from 127 on; never 2, wrong input
    env, code, *remote = shlex.split(flags["--command"])
    assert (env, code) == ("env", "JAXVL_SIGTERM_CODE=143")  # of a node that is taken back; with 0 its pod were done
    assert remote[:3] == ["jaxvl", "train", "--distributed"]
    assert check_train(remote[2:]).distributed


@pytest.mark.parametrize("extras", ["tpu", "cuda12,gcs"])
def test_images_install_extras_that_are_there(extras):
    assert f"'.[{extras}]'" in (ROOT / "launch" / "Dockerfile").read_text()
    assert all(f'"{extra}":' in (ROOT / "setup.py").read_text() for extra in extras.split(","))


CHILD = """#!/bin/bash
echo start >> {folder}/starts
code="$(sed -n "$(wc -l < {folder}/starts)p" {folder}/codes)"
if [ "$code" = wait ]; then
  trap 'exit "${{JAXVL_SIGTERM_CODE:-0}}"' TERM
  echo $$ > {folder}/waits
  while :; do sleep 0.05; done
fi
exit "$code"
"""


def child(folder, *codes):
    """A command that ends with these exit codes, one a start; `wait`: when it is told to end, as `jaxvl train` does."""
    script = folder / "child.sh"
    script.write_text(CHILD.format(folder=folder))
    script.chmod(0o755)
    (folder / "codes").write_text("\n".join(map(str, codes)) + "\n")
    return str(script)


@pytest.mark.parametrize(
    ("codes", "env", "starts", "code", "said"),
    [
        ([1, 137, 0], {}, 3, 0, "done"),
        ([2], {}, 1, 2, "ended, exit code 2"),
        ([130], {}, 1, 130, "ended, exit code 130"),
        ([1, 134, 1], {"JAXVL_RESTARTS": "2"}, 3, 1, "ended, exit code 1, 3 times in a row"),
        ([1, 1, 1, 0], {"JAXVL_RESTARTS": "1", "JAXVL_STEADY": "0"}, 4, 0, "done"),  # each one ran long enough
    ],
)
def test_supervised(tmp_path, codes, env, starts, code, said):
    env = {"JAXVL_PAUSE": "0", "PATH": hasty(tmp_path), **env}
    done = launch(ROOT / "launch" / "supervise.sh", child(tmp_path, *codes), env=env)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, f"supervise: {said}")
    assert len((tmp_path / "starts").read_text().splitlines()) == starts


def test_nothing_that_starts_again_begins_anew(tmp_path):
    """`--fresh` would set aside at each start what the one before has done."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "launch", tree / "launch")
    for words in (["supervise.sh"], ["detached.sh", "start"]):
        done = launch(tree / "launch" / words[0], *words[1:], "jaxvl", "train", "--fresh")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert "--fresh" in done.stderr
    assert not (tree / "run.pid").exists()


def test_a_detached_run_is_told_to_save_and_end(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "launch", tree / "launch")
    detached = tree / "launch" / "detached.sh"
    ask = lambda *words: launch(detached, *words, env={"JAXVL_PAUSE": "0"})  # noqa: E731
    assert ask("status").stdout == "never\n"
    assert ask("stop").returncode == 2
    assert ask("start", child(tmp_path, 1, "wait")).stdout.startswith("started as process ")
    while not (tmp_path / "waits").exists():
        time.sleep(0.05)
    assert ask("status").stdout == "running\n"
    refused = ask("start", "true")
    assert refused.returncode == 2
    assert "runs already" in refused.stderr
    assert ask("stop").stdout == "supervise: stopped, exit code 143\n"
    assert ask("status").stdout == "stopped, exit code 143\n"
    (tree / "run.stop").unlink()  # what a machine ends that goes down has not been stopped by anybody
    assert ask("status").stdout == "killed\n"
    (tree / "run.stop").touch()
    assert len((tmp_path / "starts").read_text().splitlines()) == 2
    ask("start", child(tmp_path, "", "", 137, "wait"))
    while len((tmp_path / "starts").read_text().splitlines()) < 4:
        time.sleep(0.05)
    os.kill(int((tree / "run.pid").read_text()), signal.SIGKILL)
    while ask("status").stdout == "running\n":
        time.sleep(0.05)
    assert ask("status").stdout == "killed\n"
    os.kill(int((tmp_path / "waits").read_text()), signal.SIGTERM)
    (tree / "run.log").write_text("supervise: done\n")  # of a run before
    ask("start", child(tmp_path, *[""] * 4, "wait"))
    while len((tmp_path / "starts").read_text().splitlines()) < 5:
        time.sleep(0.05)
    os.kill(int((tree / "run.pid").read_text()), signal.SIGKILL)
    (tree / "run.pid").write_text(f"{os.getpid()}\n")  # after a reboot its number is another's
    assert ask("status").stdout == "killed\n"
    os.kill(int((tmp_path / "waits").read_text()), signal.SIGTERM)


def test_a_run_that_a_signal_to_another_host_ended_starts_again(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "launch", tree / "launch")
    ask = lambda *words: launch(tree / "launch" / "detached.sh", *words, env={"JAXVL_PAUSE": "0"})  # noqa: E731
    ask("start", child(tmp_path, "wait", 0))
    while not (tmp_path / "waits").exists():
        time.sleep(0.05)
    os.kill(int((tmp_path / "waits").read_text()), signal.SIGTERM)
    while ask("status").stdout == "running\n":
        time.sleep(0.05)
    assert ask("status").stdout == "done\n"
    assert len((tmp_path / "starts").read_text().splitlines()) == 2


def test_ctrl_c_waits_until_the_command_has_saved(tmp_path):
    code = "import signal, sys, time; signal.signal(2, lambda *_: (time.sleep(0.5), print('saved'), sys.exit(130))); "
    words = [sys.executable, "-uc", code + "print('up'); time.sleep(60)"]
    script = str(ROOT / "launch" / "supervise.sh")
    run = subprocess.Popen([script, *words], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout.readline() == "up\n"
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    assert run.communicate()[0] == "saved\nsupervise: ended, exit code 130\n"
    assert run.returncode == 130


@pytest.mark.parametrize("script", TRAINING, ids=lambda p: p.name)
def test_equals_signs_work_too(script):
    joined = [f"--config={GIVEN[1]}", f"--workdir={GIVEN[3]}", "--resume", "--folds", GIVEN[4]]
    line = dry(script.name, *FIRST.get(script.name, []), *joined, env={**TPU, **GKE})[-1]
    assert all(word in line or word in shlex.split(line[-1]) for word in joined)


@pytest.mark.parametrize("script", TRAINING, ids=lambda p: p.name)
def test_a_bucket_is_passed_on_as_it_is(script):
    given = [*GIVEN[:3], "gs://my-bucket/runs/a", *GIVEN[4:]]
    lines = dry(script.name, *FIRST.get(script.name, []), *given, env={**TPU, **GKE})
    assert all(word in lines[-1] or word in shlex.split(lines[-1][-1]) for word in given)
    if script.name == "gpu_host.sh":  # the other scripts' installations have what a bucket needs, or are the user's
        assert ["launch/install.sh", "cuda12,gcs"] in lines


@pytest.mark.parametrize("missing", sorted(TPU))
def test_tpu_vm_says_which_variable_is_missing(missing):
    env = {k: v for k, v in TPU.items() if k != missing}
    done = launch(ROOT / "launch" / "tpu_vm.sh", "--dry-run", "up", *GIVEN, env=env)
    assert done.returncode == 2
    assert missing in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"), [([], "no verb"), (["fly"], "fly: name one of up"), (["stop", "now"], "stop takes no now")]
)
def test_tpu_vm_takes_its_verbs(words, said):
    done = launch(ROOT / "launch" / "tpu_vm.sh", *words, env=TPU)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize("script", TRAINING, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workdir", "w"], "--config FILE is needed"),
        (["--config", "c.py"], "--workdir DIR is needed"),
        (["--config", "c.py", "--workdir"], "--workdir"),
        ([], "--config FILE is needed"),
        (["--config", "c.py", "--workdir", "w", "--confg.train.steps=3"], "--confg.train.steps=3"),
        (["--config", "c.py", "--workdir", "w", "--fresh"], "would begin anew each time"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(script, words, said):
    done = launch(script, "--dry-run", *FIRST.get(script.name, []), *words, env={**TPU, **GKE})
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("script", "words"), [("tpu_vm.sh", ["up"]), ("gke.sh", ["job"])])
def test_nothing_is_rented_for_a_config_that_is_not_there(script, words):
    for config in ("centerclip/quickstart", "configs/centerclip/msrvtt.py:9k_b32_meanp", "/mnt/config.py"):
        dry(script, *words, "--config", config, "--workdir", "w", env={**TPU, **GKE})
    wrong = ["--config", "centerclip/quickstrat", "--workdir", "w"]
    done = launch(ROOT / "launch" / script, "--dry-run", *words, *wrong, env={**TPU, **GKE})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "--config centerclip/quickstrat: no such file" in done.stderr


@pytest.mark.parametrize("script", STARTED, ids=lambda p: p.name)
def test_scripts_can_be_started(script):
    assert os.access(script, os.X_OK)
    assert shutil.which("bash")
