"""What `--config` finds, from anywhere, and how listings and dry runs show it."""

import pytest

from jaxvl import cli
from jaxvl.core import config as configs
from jaxvl.core import config_files, registry
from jaxvl.core.errors import InputError
from tests import golden_update as golden


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["centerclip/msrvtt", "configs/centerclip/msrvtt.py", "./configs/centerclip/msrvtt"])
def test_configs_of_the_project_are_found_from_anywhere(name):
    assert config_files.find(name) == (config_files.folder() / "centerclip" / "msrvtt.py", "")
    assert config_files.find(f"{name}:9k_b32_meanp")[1] == "9k_b32_meanp"
    assert configs.load(f"{name}:9k_b32_meanp").model.schedule == "none"


def test_a_path_on_disk_wins(elsewhere):
    own = elsewhere / "centerclip" / "msrvtt.py"
    own.parent.mkdir()
    own.write_text("from jaxvl.core import config\ndef get_config(): return config.base()\n")
    assert config_files.find("centerclip/msrvtt")[0].resolve() == own
    odd = elsewhere / "a:b.py"
    odd.write_text(own.read_text())
    assert config_files.find(str(odd)) == (odd, "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def get_config(:\n", r"own\.py: line 1: not Python"),
        ("x = 1\n", r"own\.py: has no get_config\(\)"),
        ("def get_config(): return None\n", r"own\.py: its get_config\(\) returns NoneType"),
    ],
)
def test_a_config_file_that_is_none_is_one_line(elsewhere, text, line):
    (elsewhere / "own.py").write_text(text)
    with pytest.raises(InputError, match=line):
        configs.load("own")


def test_names_that_are_not_there_are_one_line():
    with pytest.raises(InputError, match=r"centerclip/msrvt: no such file; did you mean centerclip/msrvtt"):
        configs.load("centerclip/msrvt:9k_b32_meanp")
    with pytest.raises(InputError, match="experiment 'nope': is not in this file"):
        configs.load("centerclip/msrvtt:nope")
    with pytest.raises(InputError, match="has one config only; leave out :nope"):
        configs.load("centerclip/quickstart:nope")


def test_the_listing_has_every_row_and_what_it_needs(capsys):
    assert cli.main(["configs"]) == 0
    out = capsys.readouterr().out
    words = set(out.split())
    for experiment in golden.experiments():
        assert f"{experiment.file.parent.name}/{experiment.file.stem}" in words
        assert not experiment.name or experiment.name in words
    assert cli.main(["configs", "drdr"]) == 0
    listed = capsys.readouterr().out
    assert "drdr/quickstart" in listed
    assert "centerclip" not in listed
    assert "data.root: the folder of your domains in the layout of 'office31'" in " ".join(listed.split())
    assert cli.main(["configs", "drdrr"]) == 2
    assert "did you mean drdr?" in capsys.readouterr().err


@pytest.mark.parametrize("method", registry.names())
def test_a_dry_run_shows_sizes_and_writes_nothing(method, capsys, elsewhere):
    assert cli.main(["train", "--config", f"{method}/quickstart", "--dry-run", "--config.seed=5"]) == 0
    out = capsys.readouterr().out
    count = golden.describe(golden.Experiment(config_files.folder() / method / "quickstart.py", ""))["count"]
    assert f"  parameters: {count:,}\n" in out
    assert "  seed = 5\n" in out
    lacks = "nothing\n" if method != "mist" else "\n  --config.data.features: runs/mist_world/features is not there"
    assert f"missing: {lacks}" in out.replace("missing:\n", "missing: \n")
    assert list(elsewhere.iterdir()) == []


def test_a_dry_run_names_what_is_missing(capsys):
    assert cli.main(["train", "--config", "centerclip/msrvtt", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "  parameters: 151,277,313\n" in out
    assert "  train.frames: uint8 [128, 12, 224, 224, 3]\n" in out
    assert "--config.init.weights: pretrained weights" in out
    assert "--config.data.root: the folder of your data" in out
    assert cli.main(["train", "--config", "centerclip/msrvtt", "--dry-run", "--config.mesh.data=3"]) == 2
    assert "not divisible by the 3 batch shards" in capsys.readouterr().err


# -- lengths


def test_a_length_in_epochs_follows_the_batch_size():
    c = configs.load("centerclip/msrvtt")
    assert (c.train.steps, c.train.epochs) == (-1, 5.0)
    for epoch in (1406, 703):
        t = configs.with_length(c, epoch).train
        assert (t.steps, t.eval_every, t.checkpoint_every) == (5 * epoch, epoch, epoch)


def test_a_length_that_is_given_replaces_the_one_of_the_config():
    t = configs.load("centerclip/msrvtt", ["train.steps=7", "train.eval_every=0"]).train
    assert (t.steps, t.epochs, t.eval_every, t.eval_epochs) == (7, 0.0, 0, 0.0)
    t = configs.load("centerclip/quickstart", ["train.epochs=0.5"]).train
    assert (t.steps, t.epochs) == (-1, 0.5)
    assert configs.with_length(configs.load("centerclip/quickstart", ["train.epochs=0.5"]), 20).train.steps == 10


@pytest.mark.parametrize(
    ("items", "line"),
    [
        (["train.steps=-1"], r"config\.train\.steps: -1, and config\.train\.epochs is 0"),
        (["train.steps=5", "train.epochs=2"], r"config\.train\.epochs: 2, but config\.train\.steps is 5, too"),
    ],
)
def test_a_length_given_twice_or_not_at_all_is_one_line(items, line):
    with pytest.raises(InputError, match=line):
        configs.load("centerclip/quickstart", items)
