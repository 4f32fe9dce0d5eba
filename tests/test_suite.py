"""What the tests stand on: random bits that are those of JAX, the published hash; the order of files."""

import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from tests import conftest, threefry

ANSWERS = [  # of the authors' library, Random123: key, counter, hash
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "wanted"), ANSWERS)
def test_hash_has_the_published_values(key, counter, wanted):
    words = [np.uint32([word]) for word in (*key, *counter)]
    assert tuple(int(x[0]) for x in threefry.rounds(*words)) == wanted
    compiled = jax.jit(threefry_2x32).lower(np.uint32(key), np.uint32(counter)).compile()
    assert tuple(np.asarray(compiled(np.uint32(key), np.uint32(counter))).tolist()) == wanted


def test_programs_of_the_tests_have_it_written_out():
    assert "while" not in jax.jit(lambda: jax.random.bits(jax.random.key(3), (5,))).lower().as_text()


def test_longest_files_come_first_then_those_of_many_tests():
    names = ["viz/test_a", "test_b", "test_b", "test_wheel", "methods/test_contract", "test_wheel", "test_c"]
    items = [types.SimpleNamespace(location=(f"tests/{name}.py", i, "")) for i, name in enumerate(names)]
    assert [item.location[1] for item in conftest.in_order(items)] == [4, 3, 5, 1, 2, 6, 0]


def test_longest_files_are_there():
    assert [name for name in conftest.LONGEST if not (Path(__file__).parent / f"{name}.py").is_file()] == []
