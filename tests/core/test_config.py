import pytest

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core.errors import InputError
from tests import tiny


@pytest.fixture
def cfg():
    c = configs.base()
    c.model = {"layers": 4, "name": "tiny", "lists": (1, 2), "use": True}
    c.lock()
    return c


def test_overrides_are_typed(cfg):
    configs.apply(
        cfg, ["train.steps=7", "optim.main.lr=1", "model.lists=[3,4]", "model.use=false", "model.name=a=b", "seed=3"]
    )
    assert (cfg.train.steps, cfg.optim.main.lr, cfg.model.lists, cfg.model.use, cfg.model.name, cfg.seed) == (
        7, 1.0, (3, 4), False, "a=b", 3,
    )  # fmt: skip
    assert isinstance(cfg.optim.main.lr, float)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train.stps=3", r"--config.train.stps: no such field; did you mean train.steps"),
        ("learning.lr=3", r"no such field; did you mean optim.main.lr"),
        ("model.layers=6.5", r"--config.model.layers: needs a whole number, got '6.5'"),
        ("model.layers=abc", r"needs a whole number"),
        ("model.use=maybe", r"needs true or false, got 'maybe'"),
        ("optim.main.lr=fast", r"needs a number, got 'fast'"),
        ("model=3", r"is a group of fields; set one of model.layers"),
        ("train.steps", r"give a value, --config.train.steps=VALUE"),
        ("train.steps.more=1", r"no such field"),
        ("train.steps=True", r"needs a whole number"),
    ],
)
def test_wrong_overrides_are_one_line(cfg, item, message):
    with pytest.raises(InputError, match=message) as error:
        configs.apply(cfg, [item])
    assert "\n" not in str(error.value)


def test_json_round_trip_keeps_tuples_and_digest(cfg):
    again = configs.from_json(configs.to_json(cfg))
    assert again.model.lists == (1, 2)
    assert configs.digest(again) == configs.digest(cfg)
    assert configs.differences(again, cfg) == []
    configs.apply(again, ["train.steps=5"])
    assert configs.differences(cfg, again) == ["train.steps: 1000 -> 5"]


def test_configs_of_older_versions_get_the_fields_that_came_later(cfg, tmp_path):
    old = configs.from_json(configs.to_json(cfg))
    with old.unlocked():
        del old.pipeline, old.train.ema, old.model.use
        old.optim.critic = old.optim.main
        del old.optim.main
    assert configs.complete(old, cfg).keys() == {
        *(f"pipeline.{k}" for k in cfg.pipeline), "train.ema", "model.use", *(f"optim.main.{k}" for k in cfg.optim.main)
    }  # fmt: skip
    assert old.train.ema == cfg.train.ema
    with pytest.raises(AttributeError, match="the config is locked"):
        old.train.new = 1
    new = tiny.quickstart()
    kept = configs.from_json(configs.to_json(new))
    with kept.unlocked():
        del kept.data.frame_order, kept.model.linear_patch
        kept.optim.only, kept.data.frames = kept.optim.main, 7
        del kept.optim.main
    (tmp_path / "config.json").write_text(configs.to_json(kept))
    lines = []
    got = session.read_config(tmp_path, lines.append)
    assert (got.data.frame_order, got.model.linear_patch, got.data.frames) == ("forward", "2d", 7)
    assert list(got.optim) == ["only"]
    (line,) = lines
    assert "of an older version; config.data.frame_order is taken as 'forward', config.model.linear_patch is" in line
    (tmp_path / "config.json").write_text(configs.to_json(new))
    session.read_config(tmp_path, lines.append)
    assert len(lines) == 1


def test_file_without_get_config_and_missing_file(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"a.py: has no get_config"):
        configs.load(tmp_path / "a.py")
    with pytest.raises(InputError, match=r"no such file; did you mean .*a.py"):
        configs.load(tmp_path / "aa.py")


def test_argument_reaches_get_config(tmp_path):
    (tmp_path / "a.py").write_text(
        "from jaxvl.core import config\ndef get_config(name='x'):\n"
        "    c = config.base()\n    c.method, c.eval.split = 'mine', name\n    return c\n"
    )
    assert configs.load(f"{tmp_path}/a.py:hello").eval.split == "hello"
