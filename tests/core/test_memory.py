"""Out of memory is one line with sizes and fields, wherever it happens."""

import jax
import jax.numpy as jnp
import pytest

from jaxvl.core import config as configs
from jaxvl.core import memory


@pytest.mark.parametrize(
    ("message", "needed", "there"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 35184372088832 bytes.", "32 TiB", None),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.", "16 GiB", None),
        ("RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB (2147483648B) on device ordinal 0", "2 GiB", None),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
         "Used 17.30G of 15.75G hbm. Exceeded hbm capacity by 1.55G.", "17.3 GiB", "15.8 GiB"),
        ("RESOURCE_EXHAUSTED: something else", None, None),
    ],
)  # fmt: skip
def test_sizes_of_known_messages(message, needed, there):
    line = memory.line(message, "training", configs.load("centerclip/quickstart"))
    assert line.startswith(f"out of memory on {jax.local_devices()[0].device_kind}: training")
    assert (f"; {needed} were needed" in line) == (needed is not None)
    assert (f" {there} are there" in line) == (there is not None)
    for field in ("config.precision.compute=bfloat16", "config.data.batch_size below 48", "config.train.accumulate"):
        assert field in line
    assert "\n" not in line


def test_what_is_set_already_is_not_advised():
    c = configs.load("centerclip/msrvtt", ["precision.remat=full"])
    assert not any("precision" in mend for mend in memory.mends(c))


def test_a_real_one_is_told_and_other_errors_pass():
    huge = jax.jit(lambda x: jnp.zeros(2**43, jnp.float32) + x)
    with pytest.raises(memory.OutOfMemory, match=r"compiling huge; 32 TiB were needed"), memory.told("compiling huge"):
        jax.block_until_ready(huge(1.0))
    with pytest.raises(ValueError, match="other"), memory.told("x"):
        raise ValueError("other")
