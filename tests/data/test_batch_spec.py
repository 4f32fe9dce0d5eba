from __future__ import annotations

import types

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.spec import check_batch


def like(shape, dtype):
    return types.SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


SPEC = {"video": like((8, 2, 4, 4, 3), np.uint8), "mask": like((8, 2), bool)}


def good(rows):
    return {"video": np.zeros((rows, 2, 4, 4, 3), np.uint8), "mask": np.zeros((rows, 2), bool), "_id": ["a"] * rows}


def test_good_batches_pass():
    check_batch(good(8), SPEC, "train")
    check_batch(good(4), SPEC, "train", local_batch=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "stream 'train': the batch lacks 'mask'; it has 'video'"),
        ({"extra": np.zeros(4)}, "has 'extra', which the method's batch_spec does not name"),
        ({"mask": np.zeros((4, 2), np.int32)}, "field 'mask' is int32 [4, 2], batch_spec says bool [4, 2]"),
        ({"mask": np.zeros((4, 3), bool)}, "field 'mask' is bool [4, 3], batch_spec says bool [4, 2]"),
        ({"mask": np.zeros((8, 2), bool)}, "bool [8, 2], batch_spec says bool [4, 2]"),
        ({"mask": [[True, False]] * 4}, "field 'mask' is list [4, 2]"),
    ],
)
def test_one_line_says_what_is_wrong(change, message):
    batch = {k: v for k, v in (good(4) | change).items() if v is not None}
    with pytest.raises(InputError) as error:
        check_batch(batch, SPEC, "train", local_batch=4)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
