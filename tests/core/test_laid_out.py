"""A compiler that is left before it generates code: what it has written by then, and what it says when it cannot."""

import threading

import jax
import jax.numpy as jnp
import pytest

from jaxvl.core import costs
from jaxvl.core.laid_out import LaidOut, lay_out, memory_of

PLACES = """BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <131 add @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 4096, page 0, parameter 0, shape |f32[1024]| at ShapeIndex {}, maybe-live-out:
 value: <1 p @0> (size=4096,offset=0): f32[1024]{0:T(1024)}
allocation 2: size 8192, page 0, parameter 1, shape |f32[2048]| at ShapeIndex {}:
allocation 3: size 512, page 0, output shape is |(f32[1024], f32[8])|, maybe-live-out:
allocation 4: size 1024, page 0, maybe-live-out:
allocation 5: size 65536, page 0, preallocated-temp:
allocation 6: size 120, color 2, page 0, preallocated-temp:
allocation 7: size 999424, color 1, page 0, preallocated-temp:
allocation 8: size 64, page 0, constant:
"""
WANTED = {"argument": 12288, "output": 5632, "alias": 4096, "temp": 65536}


class Compiler:
    """Writes as libtpu does, then generates code for ever."""

    def __init__(self, files):
        self.files, self.asked, self.never = files, None, threading.Event()

    def compile(self, options):
        self.asked = options
        folder = options["xla_dump_to"]
        for name, text in self.files:
            with open(f"{folder}/module_0002.jit_f.cl_1.{name}.txt", "w") as file:
                file.write(text)
        self.never.wait()


@pytest.fixture
def compiler():
    found = Compiler(
        [
            ("before_optimizations", "HloModule g"),
            ("after_optimizations-buffer-assignment", PLACES),
            ("after_optimizations", "HloModule f"),
            ("after_optimizations_after_buffer_assignment", "HloModule f"),
        ]
    )
    yield found
    found.never.set()


def test_code_is_not_waited_for(compiler, tmp_path):
    found = lay_out(compiler, {"optimization_level": 19}, tmp_path)
    assert found == LaidOut("HloModule f", WANTED)
    assert compiler.asked["optimization_level"] == 19
    held = 12288 + 5632 - 4096 + 65536
    assert costs.of_memory(found) == {
        "arguments": 12288, "outputs": 5632, "aliased": 4096, "temporaries": 65536,
        "code": None, "peak": None, "total": held,
    }  # fmt: skip


def test_a_file_that_is_being_written_is_waited_for(compiler, tmp_path):
    compiler.files[-1] = ("after_optimizations_after_buffer_assignment", "HloMod")
    threading.Timer(0.2, lambda: [setattr(compiler, "files", ()), compiler.never.set()]).start()
    assert lay_out(compiler, {}, tmp_path) is None  # what `compile` gave in the end


def test_what_is_done_first_is_the_executable(tmp_path):
    lowered = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4)))
    assert lay_out(lowered, {}, tmp_path)(jnp.ones((4, 4))).sum() == 64
    (places,) = tmp_path.glob("*buffer-assignment.txt")
    sizes = costs.of_memory(lowered.compile())
    found = memory_of(places.read_text())
    assert (found["argument"], found["output"]) == (sizes["arguments"], sizes["outputs"])


def test_what_the_compiler_raises_is_raised(tmp_path):
    class Refuses:
        def compile(self, options):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        lay_out(Refuses(), {}, tmp_path)
