"""Slices by name, and what is said where one is not there."""

import importlib.util

import jax
import pytest

from jaxvl.core import chips
from jaxvl.core.errors import InputError

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v5e:3", "--topology v5e:3: needs the sides of a slice, as in v5e:2x4"),
        ("v5e", "needs the sides"),
        ("v5p:4x4", r"needs the sides of a slice, as in v5p:2x2x4"),
        ("v5ee:4x4", r"'v5ee' is no chip; did you mean v5e\?"),
        ("cuda:8", r"'cuda' is no chip; there are v2, v3, .* and cpu"),
        ("v5litepod-16", "needs its sides, as in v5e:4x4"),
        ("v4-32", "needs its sides, as in v4:2x2x4"),
        ("v3-8", "needs its sides, as in v3:2x2"),
        ("cpu", "needs a number of simulated devices, as in cpu:8"),
        ("cpu:0", "needs a number"),
        ("cpu:4x4", "needs a number"),
    ],
)
def test_wrong_names_are_one_line(name, line):
    with pytest.raises(InputError, match=line) as told:
        chips.parse(name)
    assert "\n" not in str(told.value)


def test_names():
    assert chips.parse("v5litepod:4x4") == chips.parse("v5e:4x4")
    assert chips.parse("V5E:4x4").name == "v5e:4x4"
    assert chips.parse("7x:2x2x1").chip.name == "tpu7x"
    assert (chips.parse("v5e:4x8").chips, chips.parse("v5e:4x8").count) == (32, 32)
    assert (chips.parse("v3:4x4").chips, chips.parse("v3:4x4").count) == (16, 32)
    assert chips.parse("cpu:8").chip is None


def test_larger_slices():
    assert chips.larger(chips.parse("v5e:2x2")).name == "v5e:2x4"
    assert chips.larger(chips.parse("v5e:2x2"), 4).name == "v5e:4x4"
    assert chips.larger(chips.parse("v5p:2x2x1"), 4).name == "v5p:2x2x4"
    assert chips.larger(chips.parse("v5e:16x16")) is None
    assert chips.larger(chips.parse("cpu:4"), 2).name == "cpu:8"


def test_every_slice_on_offer_is_larger_than_the_one_before():
    for chip in chips.CHIPS.values():
        sizes = [chips.parse(f"{chip.name}:{sides}").chips for sides in chip.slices]
        assert sizes == sorted(set(sizes))
        assert chip.usable * chip.cores <= chip.hbm * 1.01


def test_cpu_devices_are_those_of_this_process():
    assert chips.parse("cpu:4").devices() == jax.devices("cpu")[:4]
    with pytest.raises(InputError, match=r"--topology cpu:64: this process has made 8 CPU devices"):
        chips.parse("cpu:64").devices()


@pytest.mark.skipif(HAS_COMPILER, reason="the TPU compiler is installed here")
def test_without_the_compiler_a_tpu_is_refused():
    with pytest.raises(InputError, match=r"pip install 'jaxvl\[aot\]'.*--topology cpu:16"):
        chips.parse("v5e:4x4").devices()


@pytest.mark.skipif(not HAS_COMPILER, reason="needs the TPU compiler: pip install 'jaxvl[aot]'")
def test_with_the_compiler_every_slice_on_offer_has_the_devices_that_are_said():
    for chip in chips.CHIPS.values():
        for sides in chip.slices[:5]:
            topology = chips.parse(f"{chip.name}:{sides}")
            assert len(topology.devices()) == topology.count, topology.name
    with pytest.raises(InputError, match=r"v5e:3x3: the compiler has none \(.*\); there are v5e:1x1, v5e:2x2"):
        chips.parse("v5e:3x3").devices()


@pytest.mark.skipif(not HAS_COMPILER, reason="needs the TPU compiler: pip install 'jaxvl[aot]'")
def test_with_the_compiler_the_memory_of_each_chip_is_what_it_says():
    for chip in chips.CHIPS.values():
        device = chips.parse(f"{chip.name}:{chip.slices[1]}").devices()[0]
        huge = jax.jit(lambda x: (x @ x).sum(), in_shardings=jax.sharding.SingleDeviceSharding(device))
        with pytest.raises(jax.errors.JaxRuntimeError, match=rf"available HBM \({chip.usable}G\)"):
            huge.lower(jax.ShapeDtypeStruct((400_000, 400_000), "bfloat16")).compile()
