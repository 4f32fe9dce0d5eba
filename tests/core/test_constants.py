"""What belongs to the data and to no example: constants in the state, and rows that are spread over the mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import session, sharding
from jaxvl.core.errors import InputError
from jaxvl.core.method import Data

IDS = np.arange(6, dtype=np.int32).reshape(3, 2)


def mutables():
    return {"answers": {"ids": jnp.zeros((3, 2), jnp.int32)}, "batch_stats": {"mean": jnp.ones(2)}}


def placed(tree):
    return jax.tree.map(lambda x: x.sharding, tree)


def test_constants_take_the_place_of_what_init_made():
    before = mutables()
    after = session.lay_constants(before, Data({}, constants={"answers/ids": IDS}), placed(before))
    np.testing.assert_array_equal(after["answers"]["ids"], IDS)
    np.testing.assert_array_equal(after["batch_stats"]["mean"], np.ones(2))
    session.check_constants({"params": {}, **after}, Data({}, constants={"answers/ids": IDS}), "run")
    session.check_constants({"params": {}, **after}, Data({}), "run")


@pytest.mark.parametrize(
    ("constants", "match"),
    [({"answers/texts": IDS}, "no place"), ({"answers/ids": IDS[:2]}, r"\[2, 2\].*\[3, 2\]")],
)
def test_constants_that_fit_nothing_are_one_line(constants, match):
    before = mutables()
    with pytest.raises(InputError, match=match) as error:
        session.lay_constants(before, Data({}, constants=constants), placed(before))
    assert "\n" not in str(error.value)


def test_a_model_of_another_vocabulary_is_refused():
    with pytest.raises(InputError, match=r"run: was trained with other answers/ids"):
        session.check_constants({"params": {}, **mutables()}, Data({}, constants={"answers/ids": IDS}), "run")


@pytest.mark.parametrize("rows", [16, 11, 3])
def test_spread_rows_are_worked_on_everywhere_and_come_back_whole(rows):
    """Whether or not the mesh of eight divides them; the work lies apart, the result on every device."""
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2, "tensor": 1})
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    work = lambda r: jnp.tanh(r @ jnp.ones((4, 5))) + r.sum(1, keepdims=True)  # noqa: E731

    def step(x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return sharding.spread_rows(work, x)

    run = jax.jit(step, in_shardings=sharding.replicated(mesh), out_shardings=sharding.replicated(mesh))
    np.testing.assert_allclose(run(x), work(x), rtol=1e-6)
    np.testing.assert_allclose(sharding.spread_rows(work, x), work(x), rtol=1e-6)
    part = -(-rows // 8)
    assert f"f32[{part},4]" in run.lower(x).compile().as_text()  # a device has its own rows alone
