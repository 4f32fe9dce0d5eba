"""`jaxvl aot` on simulated CPU devices: a toy with two towers, whose figures are known by hand."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from jaxvl import cli
from jaxvl.core import chips, costs, hlo, session
from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.verbs import aot
from tests import toys

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
WIDTH, DIM = 2048, toys.DIM
WEIGHTS = 2 * DIM * WIDTH + WIDTH + 1
CONFIG = """
from tests import toys

def get_config():
    c = toys.toy_config()
    c.mesh.data = -1
    c.data = {"batch_size": 16}
    return c
"""


def toy(config):
    rows = {"x": jax.ShapeDtypeStruct((8, DIM), jnp.float32)}
    return dataclasses.replace(toys.contrastive(config.data.batch_size), predict_spec=[{"test": rows}])


def config_of(name, *overrides):
    return configs.with_length(configs.load(name, overrides), configs.NOMINAL_EPOCH)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(*words) -> (exit code, stdout, stderr)` of `jaxvl aot` with the toy's config."""
    (tmp_path / "toy.py").write_text(CONFIG)
    monkeypatch.setattr(session, "build_method", toy)

    def call(*words):
        capsys.readouterr()
        code = cli.main(["aot", "--config", str(tmp_path / "toy.py"), *words])
        return code, *capsys.readouterr()

    return call


def refused(result):
    code, out, error = result
    assert (code, out) == (2, "")
    return error.strip().removeprefix("jaxvl: ")


def test_all_figures_as_one_json_object(run):
    code, out, error = run("--topology", "cpu:2", "--also", "cpu:8", "--json")
    assert code == 0, error
    assert error.splitlines() == [
        "compiling objective pair for cpu:2 (1 of 2)",
        "compiling predict of test for cpu:2 (2 of 2)",
        "compiling objective pair for cpu:8, as many rows a device",
    ]
    found = json.loads(out)
    update, predict = found["programs"]

    assert found["state"] == {
        "parameters": 4 * WEIGHTS, "optimiser": 2 * 4 * WEIGHTS + 4, "mutables": 0, "ema": 0, "rest": 16,
    }  # fmt: skip
    assert found["hosts"] == {"16": {"0": "0-15"}}
    assert update["batch"] == {"train": {"x": "float32[16, 16]", "y": "float32[16, 16]"}}
    assert update["batch_bytes"] == 2 * 8 * DIM * 4

    # both towers, forward and the gradient of the weights; 16 x 16 similarities, forward and towards both sides
    towers, pairs = 2 * 2 * (2 * 16 * DIM * WIDTH), 3 * (2 * 16 * 16 * WIDTH)
    assert update["flops"]["traced"] == (towers + pairs) / 2
    assert update["flops"]["ratio"] == pytest.approx(1.0, abs=0.2)
    assert predict["flops"]["traced"] == predict["flops"]["compiled"] == 2 * 4 * DIM * 4

    # the state is donated and stays in place; predict reads one of the kernels, and the rest lies beside it
    assert update["donation"]["copied"] == 0
    assert update["memory"]["aliased"] >= 4 * WEIGHTS * 3
    assert update["needed"] >= update["memory"]["total"] + update["batch_bytes"]
    assert predict["resident"] == sum(found["state"].values()) - 4 * DIM * WIDTH

    # gradients of the weights are summed over the data axis
    summed = sum(c["bytes"] for c in update["collectives"] if c["kind"] == "all-reduce" and c["axis"] == "data")
    assert summed >= 4 * (WEIGHTS - 1)
    assert update["roofline"]["step"] is None
    assert update["input"] == {"bytes": 2 * 16 * DIM * 4, "per_second": None}
    assert update["f32_products"] is None
    assert found["fits"]
    assert found["line"].startswith("fits: ")

    # every device compares its rows with those of all: at four times the devices, four times the products
    second = found["second"]
    assert second["programs"][0]["batch_bytes"] == update["batch_bytes"]
    assert second["programs"][0]["flops"]["compiled"] > 1.2 * update["flops"]["compiled"]
    assert any(line.startswith("FLOPs: ") for line in second["grows"]["objective pair"])


def test_what_does_not_fit_names_the_change_that_does(run):
    """Weights and moments of 0.8 MB a device do not fit into half of it, spread over all eight they do."""
    limit = str(2.5 * 4 * WEIGHTS / 2**30)
    words = ("--topology", "cpu:8", "--also", "none", "--objective", "pair", "--hbm", limit)
    code, out, _ = run(*words)
    assert code == 0
    last = out.splitlines()[-1]
    assert last.startswith("does not fit: objective pair needs ")
    assert "(given by --hbm); the smallest change that fits: --config.mesh.fsdp=" in last
    assert "  --config.precision.remat=dots: changes nothing in this method" in out
    assert "  --config.train.accumulate=2: " in out
    code, out, _ = run(*words, "--trials", "0", "--json")
    assert json.loads(out)["line"].endswith("none of what was tried fits: nothing could be tried")


def test_a_larger_slice_comes_with_rows_of_the_evaluation_for_all_its_chips():
    config = config_of("centerclip/msrvtt:9k_b32_kmedoids_b6_4_49", "data.eval_batch_size=24")
    found = {what: overrides for what, overrides, _ in aot._changes(config, chips.parse("v5e:2x2"), ())}
    assert {what: overrides for what, overrides in found.items() if what.startswith("--topology")} == {
        "--topology v5e:2x4": (),
        "--topology v5e:4x4 --config.data.eval_batch_size=32": ("data.eval_batch_size=32",),
        "--topology v5e:4x8 --config.data.eval_batch_size=32": ("data.eval_batch_size=32",),
    }
    config.mesh.tensor = 2  # half as many shards of the batch
    (last,) = (what for what, *_ in aot._changes(config, chips.parse("v5e:2x2"), ()) if "4x4" in what)
    assert last == "--topology v5e:4x4"


OOM = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (16.42G) exceeds available HBM (15.75G)."


def test_a_compiler_that_runs_out_of_memory_is_an_answer(run, monkeypatch):
    spent = {"compile": 1.0, "compile_cpu": 1.0}
    monkeypatch.setattr(aot, "_compile", lambda lowered, effort, folder: (None, OOM, spent))
    code, out, error = run("--topology", "cpu:4", "--also", "none", "--objective", "pair", "--trials", "1")
    assert code == 0
    assert "Traceback" not in error
    assert OOM in out
    assert out.splitlines()[-1].startswith("does not fit: objective pair needs 16.4 GiB of ")
    assert "none of what was tried fits: --config.train.accumulate=2" in out.splitlines()[-1]


def test_only_want_of_memory_is_an_answer():
    class Lowered:
        def __init__(self, text):
            self.text = text

        def compile(self, options):
            raise jax.errors.JaxRuntimeError(self.text)

    assert aot._compile(Lowered(OOM), aot.DEFAULT)[:2] == (None, OOM)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        aot._compile(Lowered("INTERNAL: a bug"), aot.DEFAULT)


def test_a_program_in_a_process_of_its_own_has_the_same_figures(monkeypatch):
    """As for a TPU, here for a CPU, whose compiler is done before it could be left. Without dropout: random bits are
    lowered in another form in the tests' own processes."""
    config, here = config_of("posegu/mocap:seeds", "model.dropout=0.0"), chips.parse("cpu:1")
    compiled = session.compile_method(config, devices=here.devices())
    (job,) = aot._jobs(compiled, ["lift"])
    inside, apart = (
        aot._figures(config, here, compiled, job, aot.Settings(code, aot.DEFAULT, 2**40, "")) for code in (True, False)
    )
    for figures in (inside, apart):
        del figures["seconds"], figures["compiler"]
    assert apart == json.loads(json.dumps(inside))
    assert aot.lowered(config, "cpu:1", ["lift"]) == {"objective lift": apart["lowered"]}
    other = config_of("posegu/mocap:seeds", "model.dropout=0.1")
    assert aot.lowered(other, "cpu:1", ["lift"]) != aot.lowered(config, "cpu:1", ["lift"])
    monkeypatch.setattr(aot.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="process that compiles objective lift ended with code 1: it said nothing"):
        aot._figures(config, here, compiled, job, aot.Settings(False, aot.DEFAULT, 2**40, ""))


@pytest.fixture
def level_of_runs():
    yield lambda level: jax.config.update("jax_optimization_level", level)
    jax.config.update("jax_optimization_level", "UNKNOWN")


@pytest.mark.parametrize(
    ("given", "level", "told"), [([], "UNKNOWN", "default"), ([], "O1", "O1"), (["O3"], "O1", "O3")]
)
def test_the_effort_is_told(run, level_of_runs, given, level, told):
    level_of_runs(level)
    words = ("--topology", "cpu:2", "--objective", "predict", *(f"--effort={word}" for word in given))
    (predict,) = json.loads(run(*words, "--json")[1])["programs"]
    assert predict["compiler"] == {"effort": told, "code": True}
    assert f"; effort {told}, with machine code\n" in run(*words)[1]


def test_the_compiler_is_asked_for_the_effort():
    class Lowered:
        def compile(self, options):
            return options

    assert aot._compile(Lowered(), aot.DEFAULT)[0] == {}
    assert aot._compile(Lowered(), "O1")[0] == {"optimization_level": 19}
    with pytest.raises(InputError, match=r"^effort 'high': there are O0, O1, O2, O3$"):
        aot.aot(config_of("posegu/mocap:seeds"), "cpu:1", effort="high")


def test_predict_alone_has_no_second_size(run):
    code, out, error = run("--topology", "cpu:2", "--objective", "predict", "--json")
    assert (code, error) == (0, "compiling predict of test for cpu:2 (1 of 1)\n")
    assert json.loads(out)["second"] is None


def test_what_is_computed_again_shows_in_the_ratio(run):
    """Accumulation of pairs encodes each half once without gradient and once more with it: a third more products. The
    toy does not care for bfloat16, so all of them are listed, those of the similarities at the highest precision."""
    words = ("--topology", "cpu:1", "--also", "none", "--objective", "pair", "--json")
    words += ("--config.train.accumulate=2", "--config.precision.compute=bfloat16")
    (update,) = json.loads(run(*words)[1])["programs"]
    towers, pairs = 2 * (2 * 16 * DIM * WIDTH), 3 * (2 * 16 * 16 * WIDTH)
    assert update["flops"]["ratio"] == pytest.approx((3 * towers + pairs) / (2 * towers + pairs), rel=0.01)
    shares = {p: sum(r["share"] for r in update["f32_products"] if r["precision"] == p) for p in ("default", "highest")}
    assert shares["highest"] == pytest.approx(pairs / (3 * towers + pairs), rel=0.01)
    assert sum(shares.values()) == pytest.approx(1)
    assert [(loop["trips"], loop["collectives"]) for loop in update["loops"]].count((2, 0)) == 2  # and the key's


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--topology", "v5e:4"), "--topology v5e:4: needs the sides of a slice, as in v5e:2x4"),
        (("--topology", "cpu:2", "--also", "v5e:2x2"), "--also v5e:2x2: is of another kind than cpu:2, so"),
        (("--topology", "v5e:2x2", "--also", "v5p:2x2x1"), "--also v5p:2x2x1: is of another kind than v5e:2x2, so"),
        (("--topology", "cpu:2", "--objective", "pairs"), "pairs: toy has none of this name; there are pair"),
        (("--topology", "cpu:8", "--also", "none", "--mesh", "data=3"), "(x): 16 is not divisible by the 3"),
        (("--topology", "cpu:2", "--mesh", "date=1"), "--config.mesh.date: no such field; did you mean mesh.data"),
        (("--topology", "cpu:2", "--also", "v5x"), "--also v5x: 'v5x' is no chip; did you mean v5"),
        (("--topology", "cpu:2", "--mesh", "data"), "--mesh data: needs sizes of axes, as in data=-1,fsdp=4"),
        (("--topology", "cpu:2", "--effort", "2"), "argument --effort: '2' is unknown, did you mean O2?"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(run, words, line):
    assert line in refused(run(*words))


@pytest.mark.skipif(HAS_COMPILER, reason="the TPU compiler is installed here")
def test_a_tpu_without_its_compiler_is_refused(run):
    line = refused(run("--topology", "v5e:4x4"))
    assert line.startswith("--topology v5e:4x4: the TPU compiler is not installed; pip install 'jaxvl[aot]'")


def test_a_place_is_the_innermost_line_of_a_method():
    program = hlo.parse("HloModule m\n\nENTRY %main (p: f32[1]) -> f32[1] {\n  ROOT %p = f32[1]{0} parameter(0)\n}\n")
    package = costs.PACKAGE

    def place(*frames, name="jit(f)/layer_3/dot_general"):
        found = [(str(package / file) if not file.startswith("/") else file, line) for file, line in frames]
        copy = dataclasses.replace(program, frames={7: tuple(found)})
        text = f'metadata={{op_name="{name}" stack_frame_id=7}}'
        line = dataclasses.replace(program.runs[0].instruction, text=text)
        return costs.place_of(copy, dataclasses.replace(program.runs[0], instruction=line))

    house = ("core/step.py", 60), ("/home/user/run.py", 3)
    assert place(("core/sharding.py", 9), ("nn/norm.py", 5), ("methods/a/method.py", 8), *house) == "nn/norm.py:5"
    assert place(("/x/site-packages/flax/a.py", 1), ("/home/user/own.py", 2), *house) == "own.py:2"
    assert place(("core/optim.py", 4), *house) == "core/optim.py:4"
    assert place(*house) == "core/step.py:60"
    assert place() == "jit(f)/layer_*/dot_general"


def test_rows_are_told_as_spans():
    assert costs.spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert costs.spans([]) == ""


def test_batches_of_one_stream_in_two_shapes_are_two_programs(run, monkeypatch):
    rows = [{"test": {"x": jax.ShapeDtypeStruct((n, DIM), jnp.float32)}} for n in (8, 16)]
    monkeypatch.setattr(session, "build_method", lambda c: dataclasses.replace(toy(c), predict_spec=rows))
    found = json.loads(run("--topology", "cpu:2", "--objective", "predict", "--json")[1])["programs"]
    assert [(p["name"], p["batch"]["test"]["x"]) for p in found] == [
        ("predict of test", "float32[8, 16]"),
        ("predict of test (2)", "float32[16, 16]"),
    ]
