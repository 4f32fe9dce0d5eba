import importlib
import math

import pytest

from jaxvl.core import config as configs
from jaxvl.core import fields, registry
from jaxvl.core.errors import InputError
from tests import tiny


def refused(field, *values):
    return [v for v in values if not field.good(v)] == list(values)


def test_ranges_by_hand():
    assert refused(fields.whole(1), 0, -1, True, 1.0, "1", None, 2**31)
    assert all(map(fields.whole(1, also=(-1,)).good, (1, -1, 2**31 - 1)))
    assert refused(fields.real(0, below=1), 1, 1.0, -1e-9, math.nan, math.inf, -math.inf, 1e300, False, "0")
    assert all(map(fields.real(0, below=1).good, (0, 0.0, 0.999)))
    assert refused(fields.real(above=0), 0, 0.0, -1)
    assert refused(fields.pattern(), "(", "*", 3, None)
    assert refused(fields.factors(), ((1, 2),), (("a",),), (("(", 1),), (("a", -1),), "ab", (("a", math.nan),))
    assert fields.factors().good((("^a", 1), ("", 0.5)))
    assert refused(fields.many(fields.whole(1), 2, 2), (1,), (1, 2, 3), (1, 0), 3, "ab")
    assert refused(fields.interval(0, 1), (1, 0), (0, 2), (0,))
    assert refused(fields.choice("a", "b"), "c", "", 1, None, ["a"])
    assert refused(fields.text(empty=False), "", "a\0b", 1)
    assert refused(fields.only(False, "why"), True, 0, None)
    assert refused(fields.only("none", "why"), "full", None)
    assert fields.only("none", "why").good("none")


@pytest.mark.parametrize(("field", "value"), [("precision.remat", "full"), ("precision.scan_layers", True)])
@pytest.mark.parametrize("method", registry.names())
def test_levers_that_a_method_does_not_have_are_refused(method, field, value):
    """All that a lever takes changes the program; what changes nothing is one line."""
    base = importlib.import_module(f"jaxvl.methods.{method}.recipe").base()
    base.precision[field.rpartition(".")[2]] = value
    source = "".join(p.read_text() for p in (tiny.ROOT / "jaxvl" / "methods" / method).glob("*.py"))
    if f"config.{field}" in source or (field == "precision.remat" and "precision.blocks_again(config)" in source):
        fields.check(base)
    else:
        with pytest.raises(InputError, match=rf"config.{field}: needs (false|'none') \(no"):
            fields.check(base)


@pytest.mark.parametrize("method", registry.names())
def test_every_field_of_every_method_is_declared_and_its_default_is_allowed(method):
    base = importlib.import_module(f"jaxvl.methods.{method}.recipe").base()
    fields.check(base)
    table = fields.table(base)
    assert [
        name for name, _ in configs.dotted(base) if fields.find(table, name) is None and base_leaf(base, name)
    ] == []
    for name, field in table.items():
        assert field.words(), name


def base_leaf(config, name):
    """Whether `name` is a field, and no group that happens to be empty."""
    for part in name.split("."):
        config = config[part]
    return not isinstance(config, configs.ConfigDict)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.log_every=0", r"config.train.log_every: needs a whole number of at least 1, got 0"),
        ("train.steps=-1", "config.train.steps: -1, and config.train.epochs is 0; set one of them above 0"),
        ("train.steps=-2", r"config.train.steps: needs a whole number of at least 0 \(or -1\), got -2"),
        ("checkpoint.keep_last=0", "config.checkpoint.keep_last: needs a whole number of at least 1, got 0"),
        ("train.ema=1.5", "config.train.ema: needs a number of at least 0 and below 1, got 1.5"),
        ("optim.main.weight_decay=1e999", "config.optim.main.weight_decay: needs a number of at least 0, got inf"),
        ("optim.main.no_decay=(", r"config.optim.main.no_decay: needs a regular expression, got '\('"),
        ("pipeline.workers=-1", "config.pipeline.workers: needs a whole number from 0 to 1024, got -1"),
        ("mesh.data=0", r"config.mesh.data: needs a whole number of at least 1 \(or -1\), got 0"),
        ("data.batch_size=-8", "config.data.batch_size: needs a whole number"),
        ("data.world.num_train=-5", "config.data.world.num_train: needs a whole number of at least 0, got -5"),
        ("eval.ties=x", "config.eval.ties: 'x' is none of optimistic"),
    ],
)
def test_values_that_no_field_may_hold_name_field_and_range(override, line):
    with pytest.raises(InputError, match=line) as error:
        tiny.quickstart(override)
    assert "\n" not in str(error.value)


def test_the_table_documents_itself():
    rows = {name: (value, words) for name, value, words in fields.document(tiny.quickstart())}
    assert rows["train.log_every"] == (1, "a whole number of at least 1")
    assert rows["data.frames"] == (4, "a whole number from 1 to 65536")
    assert rows["model.head"][1] == "one of meanP, seqTransf, seqLSTM, tightTransf"


def test_missing_unknown_and_misplaced_fields_are_named():
    for change, line in (
        (lambda c: c.train.__delitem__("steps"), "config.train.steps: is missing; it needs a whole number"),
        (lambda c: c.model.__setitem__("hed", 1), "config.model.hed: no such field; did you mean model.head"),
        (lambda c: c.__setitem__("train", 3), "config.train: is a group of fields, got 3"),
        (lambda c: c.optim.main.__delitem__("lr"), "config.optim.main.lr: is missing"),
    ):
        config = tiny.quickstart()
        with config.unlocked(), config.ignore_type():
            change(config)
        with pytest.raises(InputError, match=line):
            fields.check(config)


def test_a_method_that_declares_nothing_has_fields_of_its_own(monkeypatch):
    config = configs.base()
    config.method, config.model = "mine", {"anything": -3}
    fields.check(config)
    config.model.anything_else = math.nan
    with pytest.raises(InputError, match=r"config.model.anything_else: needs a finite number"):
        fields.check(config)


def test_paths_are_seen_from_where_the_run_begins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = tiny.quickstart("data.root=here/data", "init.weights=~/w", "data.videos=~/v")
    got = fields.resolved(config)
    assert (got.data.root, got.init.weights, got.data.videos) == (
        f"{tmp_path}/here/data",
        "/home/someone/w",
        "/home/someone/v",
    )
    assert (config.data.root, got.data.train_csv) == ("here/data", config.data.train_csv)
    assert fields.resolved(tiny.quickstart()).data.root == ""  # WORKDIR/data, wherever that lies
    assert fields.resolved(got) == got
