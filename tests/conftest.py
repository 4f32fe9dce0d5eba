"""Eight simulated CPU devices and one compilation cache for the whole suite, set before jax is imported."""

import collections
import functools
import gc
import logging
import os
from importlib.metadata import version
from pathlib import Path

import hypothesis

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
# a test's program runs once or twice on tiny arrays: compiled without optimisation it takes a third of the time
flags += ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if version("jaxlib").startswith("0.10."):  # XLA ends the program on a flag that it does not know
    # one LLVM module a program, not 32, each set up for itself: a fifth less, where every core has a test process
    flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
else:  # one kernel for what is computed from the same arrays: fewer of them, each of which is compiled for itself
    flags += ["--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"]
os.environ["XLA_FLAGS"] = " ".join(flags)
# XLA's CPU client has one thread a device by default; two collectives at once then wait for each other for ever
os.environ.setdefault("NPROC", "64")
CACHE = Path(os.environ.get("JAXVL_TEST_CACHE", Path(__file__).parent.parent / ".cache" / "xla"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # child processes share it
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxvl.core import programs  # noqa: E402 (jax reads the variables above)
from tests import threefry  # noqa: E402

programs.keep_none_over_cpus()
threefry.write_out()

logging.getLogger("absl").setLevel(logging.ERROR)

# the same examples every time: a rare one that fails should not be found by another's change
hypothesis.settings.register_profile("house", derandomize=True, deadline=None)
hypothesis.settings.load_profile("house")

# tracing makes millions of objects that live for a moment: a search for cycles at every 700 of them, as Python does it,
# is a quarter of the time
gc.set_threshold(50_000, 20, 20)


def roomy(function):
    """Calls `function` from a frame of half a megabyte.

    CPython keeps the frames of calls in chunks of 16 KiB and gives a chunk back as soon as its first frame returns. A
    loop that happens to run at a chunk's end, as tracing does, asks the system for memory at every call: a million
    times in a whole run. Behind a large frame the chunk is as large, and everything that is called fits into it.
    """
    return function()


roomy.__code__ = roomy.__code__.replace(co_stacksize=2**16)


LONGEST = (
    *("methods/test_contract", "test_colabs", "methods/test_configs", "multiprocess/test_two_processes", "test_docs"),
    *("test_cli", "end_to_end/test_loop", "end_to_end/test_bucket", "test_wheel", "test_api", "multiprocess/test_ends"),
    *("end_to_end/test_bad_media", "end_to_end/test_quickstart", "end_to_end/test_prepare", "end_to_end/test_search"),
)
"""Files that several processes begin with, the longest first. One of few tests that take long would else come last, and
the other processes would wait for it."""


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist hands files out in the order that follows


def in_order(items):
    """The tests with the files of `LONGEST` first, then those of many tests; in a file as they are."""
    files = [item.location[0].removeprefix("tests/").removesuffix(".py") for item in items]
    count = collections.Counter(files)
    first = {name: i for i, name in enumerate(LONGEST)}
    places = sorted(range(len(items)), key=lambda i: (first.get(files[i], len(first)), -count[files[i]], files[i], i))
    return [items[i] for i in places]


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        items[:] = in_order(items)
    gc.freeze()  # what is imported stays
    for item in items:
        item.setup, item.runtest = functools.partial(roomy, item.setup), functools.partial(roomy, item.runtest)
