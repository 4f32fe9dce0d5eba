"""The documents are true: links lead somewhere, commands exist, and the page on new methods is built and trained."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxvl
from jaxvl import cli
from jaxvl.core import config as configs
from jaxvl.core import registry, sharding
from jaxvl.core.errors import InputError
from jaxvl.core.writers import read_metrics
from jaxvl.data.clip_bpe import CLIPTokenizer
from jaxvl.nn.clip import PIXEL_MEAN, PIXEL_STD
from jaxvl.verbs import train
from tests import tiny
from tests.interop import numpy_clip, torch_writer
from tests.methods import test_contract as contract
from tests.methods import tiny as methods_tiny

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "configs" / "centerclip" / "quickstart.py"
QUICKSTARTS = sorted((ROOT / "configs").glob("*/quickstart.py"))
DOCUMENTED = [
    path.parent.name for path in QUICKSTARTS if (ROOT / "docs" / "methods" / f"{path.parent.name}.md").is_file()
]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NEW_METHOD = ROOT / "docs" / "howto" / "new_method.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
FILE = re.compile(r"^### `([^`]+)`\n(?:(?!#)[^\n]*\n)*?```python\n(.*?)^```", re.M | re.S)

relative = lambda page: str(page.relative_to(ROOT))  # noqa: E731


def files_of_new_method():
    return dict(FILE.findall(NEW_METHOD.read_text()))


# -- links


def links(page):
    text = BLOCK.sub("", page.read_text())
    return [t for t in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text) if "://" not in t and not t.startswith("mailto:")]


def anchors(page):
    heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_relative_links_resolve(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{relative(page)}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{relative(page)}: {link} names no heading"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_named_files_of_the_repository_exist(page):
    """Paths in backticks that start with a room of the repository."""
    made = set(files_of_new_method())
    text = BLOCK.sub("", page.read_text())
    for name in re.findall(r"`((?:jaxvl|docs|configs|launch|tests|benchmarks|colabs)/[\w./-]+)`", text):
        there = (ROOT / name).exists() or name in made or any(m.startswith(name) for m in made)
        assert there or "NAME" in name, f"{relative(page)}: {name} does not exist"


# -- commands


def shell_lines(page):
    """Command lines of the shell blocks, continuation lines joined, chains taken apart."""
    for kind, body in BLOCK.findall(page.read_text()):
        if kind in ("sh", "bash", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words:
                    end = next((i for i, w in enumerate(words) if w in ("&&", "|", ";")), len(words))
                    yield words[:end]
                    words = words[end + 1 :]


def jaxvl_commands():
    for page in PAGES:
        for words in shell_lines(page):
            for i, word in enumerate(words):
                if word == "jaxvl" or word.endswith("/bin/jaxvl"):
                    yield pytest.param(words[i + 1 :], id=f"{relative(page)}: {' '.join(words[i : i + 3])}")
                    break


def launch_commands():
    for page in PAGES:
        for words in shell_lines(page):
            for i, word in enumerate(words):
                if re.fullmatch(r"(\./)?launch/\w+\.sh", word):
                    yield pytest.param(word, words[i + 1 :], id=f"{relative(page)}: {word}")


def config_of(words, tmp_path):
    """The config that a command line names (the quickstart where it names none), with the line's overrides."""
    name = next((b for a, b in itertools.pairwise(words) if a == "--config"), str(QUICKSTART.relative_to(ROOT)))
    made = files_of_new_method()
    path = ROOT / name if (ROOT / name).exists() else name
    if name in made:
        path = tmp_path / "config.py"
        path.write_text(made[name])
    overrides = [w.removeprefix("--config.") for w in words if w.startswith("--config.")]
    return configs.load(path, overrides)


def predict_flags():
    """Flags of `jaxvl predict` of every method there is, and of the one that the documents build."""
    known = set()
    for name in registry.names():
        parser = argparse.ArgumentParser(allow_abbrev=False)
        registry.module(name, "files").add_arguments(parser)
        known |= set(parser._option_string_actions)
    page = files_of_new_method()["jaxvl/methods/moons/files.py"]
    return known | set(re.findall(r'add_argument\("(--[\w-]+)"', page))


@pytest.mark.parametrize("words", jaxvl_commands())
def test_commands_of_the_documents_exist(words, tmp_path):
    plain = [w for w in words if not w.startswith("--config.")]
    args, rest = cli._parser().parse_known_args(plain)  # exits where a verb or value is wrong
    assert args.verb is not None
    if args.verb not in cli.TAKE_CONFIG:
        assert plain == words, f"jaxvl {args.verb} takes no --config fields"
    if args.verb == "predict":
        assert {w for w in rest if w.startswith("--")} <= predict_flags()
    else:
        assert rest == []
    config_of(words, tmp_path)


@pytest.mark.parametrize(("script", "words"), launch_commands())
def test_launch_lines_of_the_documents_exist(script, words, tmp_path):
    assert (ROOT / script).is_file()
    config_of(words, tmp_path)


def test_wrong_lines_would_be_found(tmp_path):
    with pytest.raises((SystemExit, InputError)):
        cli._parser().parse_known_args(["trian", "--workdir", "x"])
    with pytest.raises(InputError, match=r"no such field; did you mean .*train.steps"):
        config_of(["train", "--config.train.step=3"], tmp_path)
    with pytest.raises(InputError, match="no such file"):
        config_of(["train", "--config", "configs/centerclip/nothing.py"], tmp_path)


# -- config fields


def explained(page):
    return set(re.findall(r"`((?:[a-z_]\w*\.)*[a-z_]\w*)`", page.read_text()))


def test_architecture_explains_every_field_of_the_house():
    fields = {name for name, _ in configs.dotted(configs.base()) if not name.startswith(("model", "data"))}
    assert fields - explained(ROOT / "docs" / "architecture.md") == set()


@pytest.mark.parametrize("method", DOCUMENTED)
def test_page_of_a_method_explains_every_field_of_it(method):
    cfg = configs.load(ROOT / "configs" / method / "quickstart.py")
    house = {name for name, _ in configs.dotted(configs.base())} | {f"optim.main.{name}" for name in configs.RARE}
    fields = {name for name, _ in configs.dotted(cfg)} - house
    fields = {"data.world" if n.startswith("data.world.") else n for n in fields}
    assert fields - explained(ROOT / "docs" / "methods" / f"{method}.md") == set()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_config_fields_named_in_the_text_exist(page, tmp_path):
    """`config.a.b` and `--config.a.b=...` in running text."""
    moons = tmp_path / "moons.py"
    moons.write_text(files_of_new_method()["configs/moons/quickstart.py"])
    known = [name for path in (*QUICKSTARTS, moons) for name, _ in configs.dotted(configs.load(path))]
    known += [f"optim.main.{name}" for name in configs.RARE]
    text = BLOCK.sub("", page.read_text())
    for name in re.findall(r"`(?:--)?config\.((?:\w+\.)*\w+)(?:=[^`]*)?`", text):
        assert any(k == name or k.startswith(f"{name}.") for k in known), f"{relative(page)}: config.{name}"


# -- CLIP


def test_zero_shot_classification_of_the_page(tmp_path, monkeypatch, capsys):
    """The page's code on a CLIP of random weights, converted by the page's first command."""
    page = (ROOT / "docs" / "howto" / "clip.md").read_text()
    config = dataclasses.replace(numpy_clip.TINY, vision_width=64, vision_heads=1, text_width=64, text_heads=1,
                                 vocab_size=49408, context_length=77)  # fmt: skip
    arrays = numpy_clip.random_arrays(config)
    torch_writer.save(tmp_path / "ViT-B-32.pt", torch_writer.modules(arrays), scripted=True)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    (command, *_) = [w for w in shell_lines(ROOT / "docs" / "howto" / "clip.md") if w[:2] == ["jaxvl", "convert"]]
    assert cli.main(command[1:]) == 0
    capsys.readouterr()
    ((_, code),) = [b for b in BLOCK.findall(page) if b[0] == "python"]
    exec(code, {})
    got = ast.literal_eval(capsys.readouterr().out)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    ids = CLIPTokenizer().tokenize([p.format(c) for c in got for p in ("a {}", "a photo of a {}")])
    text = unit(unit(numpy_clip.encode_text(arrays, config, ids)).reshape(len(got), 2, -1).mean(1))
    pixels = (picture[None] / 255 - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    logits = np.exp(3.5) * unit(numpy_clip.encode_image(arrays, config, pixels)) @ text.T
    want = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(list(got.values()), want[0], atol=1e-4)


# -- the new method


@pytest.fixture
def moons(tmp_path, monkeypatch):
    """The files of the page, written out, with their folder on the path of `jaxvl.methods`."""
    for name, text in files_of_new_method().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    package = importlib.import_module("jaxvl.methods")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "jaxvl" / "methods")])
    importlib.invalidate_caches()
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("jaxvl.methods.moons")]:
        del sys.modules[name]
    if hasattr(package, "moons"):
        del package.moons


def test_page_on_new_methods_builds_one_that_learns(moons, capsys):
    assert "moons" in registry.names()
    cfg = configs.load(moons / "configs" / "moons" / "quickstart.py", ["data.train_size=512"])
    workdir = moons / "run"
    result = train.train(cfg, workdir, say=lambda line: None)
    assert result.step == 200
    assert result.recompilations == 0
    assert result.metrics["points"] == 200
    assert result.metrics["accuracy"] >= 0.99  # what the page promises
    assert (workdir / "report.html").is_file()
    capsys.readouterr()
    for x, y, near in ((0.0, 1.0, 1), (1.0, -0.5, 0)):
        assert cli.main(["predict", "--workdir", str(workdir), "--json", "--point", str(x), str(y)]) == 0
        got = float(re.search(r'"probability": ([\d.e-]+)', capsys.readouterr().out).group(1))
        assert abs(got - near) < 0.1


def test_a_run_without_files_py_ends_with_a_plain_table(moons, capsys):
    """`files.py` is optional: every verb that needs it says so, and the table keeps the digits of each value."""
    (moons / "jaxvl" / "methods" / "moons" / "files.py").unlink()
    importlib.invalidate_caches()
    config, workdir = str(moons / "configs" / "moons" / "quickstart.py"), str(moons / "plain")
    words = ["--config", config, "--workdir", workdir, "--config.train.steps=30", "--config.data.test_size=1000"]
    assert cli.main(["train", *words]) == 0
    accuracy = read_result(Path(workdir))["accuracy"]
    rows = dict(line.split() for line in capsys.readouterr().out.splitlines() if re.match(r"(accuracy|points) ", line))
    assert rows == {"accuracy": f"{accuracy:.4g}", "points": "1000"}
    for verb, code, line in (("evaluate", 0, ""), ("report", 0, ""), ("predict", 2, "has no `jaxvl predict`")):
        assert cli.main([verb, "--workdir", workdir]) == code
        assert line in capsys.readouterr().err
    with pytest.raises(InputError, match="has no verbs for Python"):
        jaxvl.load(workdir)


def read_result(workdir):
    return json.loads((workdir / "eval" / "test.json").read_text())["metrics"]


def test_page_s_method_passes_the_whole_contract_suite(moons, tmp_path, monkeypatch):
    """By the entry of tiny.py that the page gives, as any method of the project."""
    page = NEW_METHOD.read_text()
    entry = re.search(r"<!-- entry of tiny.py -->\n```python\n(.*?)^```", page, re.M | re.S).group(1)
    monkeypatch.setattr(tiny, "ROOT", moons)
    monkeypatch.setattr(methods_tiny, "TINY", dict(methods_tiny.TINY))
    exec(compile(entry, "tiny.py", "exec"), vars(methods_tiny) | {"TINY": methods_tiny.TINY})
    bench = contract.Bench(methods_tiny.TINY["moons"]())
    monkeypatch.setattr(contract, "TINY", methods_tiny.TINY)
    monkeypatch.setattr(contract, "bench_of", lambda name: bench)
    monkeypatch.setattr(sharding, "FSDP_MIN_SIZE", 16)
    given = {"bench": bench, "tmp_path": tmp_path / "saved", "name": "moons", "mesh": "mixed"}
    given["tmp_path"].mkdir()
    skipped = lambda test: any(m.name == "skipif" and m.args[0] for m in getattr(test, "pytestmark", ()))  # noqa: E731
    tests = [test for name, test in sorted(vars(contract).items()) if name.startswith("test_") and not skipped(test)]
    assert len(tests) > 10
    for test in tests:
        test(**{name: given[name] for name in inspect.signature(test).parameters})


def test_page_s_classifier_has_its_verb_in_python(moons):
    cfg = configs.load(moons / "configs" / "moons" / "quickstart.py", ["train.steps=100"])
    jaxvl.train(cfg, moons / "verbs", say=lambda line: None)
    found = jaxvl.load(moons / "verbs").classify([[0.0, 1.0], [1.0, -0.5]])
    assert found.best == ["upper", "lower"]


def test_page_on_new_methods_accumulates_exactly(moons):
    """`per_example`, as the page says: two micro-batches give the losses of one batch."""
    runs = {}
    for parts in (1, 2):
        cfg = configs.load(
            moons / "configs" / "moons" / "quickstart.py",
            ["train.steps=6", "train.log_every=1", f"train.accumulate={parts}", "mesh.data=1"],
        )
        train.train(cfg, moons / f"run{parts}", say=lambda line: None)
        runs[parts] = [row["loss"] for row in read_metrics(moons / f"run{parts}", "train")]
    assert runs[1] == pytest.approx(runs[2], rel=1e-5)
    assert len(runs[1]) == 6


def test_page_s_own_tests_pass(moons):
    module = types.ModuleType("test_moons_of_the_page")
    exec(compile(files_of_new_method()["tests/methods/test_moons.py"], "test_moons.py", "exec"), module.__dict__)
    module.test_loss_at_zero_logits_is_log_two()
    for record in (0, 1, 17, 1000):
        module.test_points_without_jitter_lie_on_their_half_circle(record)


def test_page_s_code_is_clean(moons):
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"),
             "--config", "lint.isort.known-first-party=['jaxvl', 'tests']", "."],
            cwd=moons, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_tables_in_the_docs_are_copies_of_the_results_files():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "copy_results.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + "mend: python tools/copy_results.py"
