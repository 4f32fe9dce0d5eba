from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.keys import Dropped, Rule

RULES = [
    Rule("m.0.w", (4, 3), ("m_0/q/kernel",), keys.split_heads(2)),
    Rule("m.1.w", (4, 3), ("m_1/q/kernel",), keys.split_heads(2)),
    Rule("b", (6,), ("q/bias", "k/bias", "v/bias"), keys.fused(keys.split_heads_bias(2))),
    Rule("out", (3, 4), ("out/kernel",), keys.merge_heads(2)),
    Rule("s", (), ("s",), keys.same()),
]


def arrays():
    rng = np.random.default_rng(0)
    return {r.key: rng.standard_normal(r.shape) for r in RULES}


def test_heads_by_hand():
    w = np.arange(12.0).reshape(4, 3)  # rows 0, 1 are head 0
    (q,) = keys.split_heads(2).forward(w)
    assert q.shape == (3, 2, 2)
    assert q[1, 0].tolist() == [1, 4]  # input 1 to head 0
    assert q[2, 1].tolist() == [8, 11]
    (o,) = keys.merge_heads(2).forward(np.arange(12.0).reshape(3, 4))  # columns 0, 1 are head 0
    assert o.shape == (2, 2, 3)
    assert o[1, 0].tolist() == [2, 6, 10]
    parts = keys.fused(keys.split_heads_bias(1)).forward(np.arange(6.0))
    assert [p.tolist() for p in parts] == [[[0, 1]], [[2, 3]], [[4, 5]]]


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (keys.same(), (2, 3)),
        (keys.linear(), (2, 3)),
        (keys.transpose(2, 3, 1, 0), (2, 3, 4, 5)),
        (keys.split_heads(2), (6, 5)),
        (keys.split_heads_bias(3), (6,)),
        (keys.merge_heads(2), (5, 6)),
        (keys.fused(keys.split_heads(2)), (12, 5)),
    ],
)
def test_every_transform_has_its_inverse(transform, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_array_equal(transform.backward(*transform.forward(x)), x)


def test_forward_and_backward():
    source = arrays()
    flat, report = keys.forward(RULES, source)
    assert set(flat) == {p for r in RULES for p in r.paths}
    assert all(v.dtype == np.float32 for v in flat.values())
    assert report.numbers == 12 + 12 + 6 + 12 + 1
    assert [r.key for r in report.reshaped] == ["m.0.w", "m.1.w", "b", "out"]
    report.check()
    back, report = keys.backward(RULES, flat)
    report.check()
    for name, value in source.items():
        np.testing.assert_array_equal(back[name], value.astype(np.float32))
    assert keys.flatten(keys.nest(flat)) == flat


def test_what_a_terminal_would_obey_is_escaped_in_the_table():
    _, report = keys.forward(RULES, {**arrays(), "\x1b[2J": np.ones(2)})
    assert r"UNUSED   \x1b[2J" in report.table()


def test_report_names_everything_that_is_left_over():
    source = arrays()
    del source["out"]
    source |= {"extra.weight": np.ones((2, 2)), "position_ids": np.arange(5)}
    flat, report = keys.forward(RULES, source, [Dropped("position_ids", "integers")])
    assert "out/kernel" not in flat
    assert report.missing == ("out",)
    assert report.unused == ("extra.weight",)
    assert report.dropped == (("position_ids", "integers"),)
    assert report.dropped_numbers == 5
    table = report.table().splitlines()
    assert "m.*.w          4x3     2      m_*/q/kernel  transpose, 2 heads" in table
    assert "b              6       1      {q,k,v}/bias  thirds, 2 heads" in table
    assert table[-4:-1] == ["dropped  position_ids  (integers)", "MISSING  out", "UNUSED   extra.weight"]
    assert table[-1] == ("4 tensors mapped (31 numbers), 3 of them changed in form; 1 dropped, 1 missing, 1 unused")
    with pytest.raises(InputError, match=r"a\.pt: keys do not match; 1 missing: out; 1 unused: extra\.weight; allow"):
        report.check(source="a.pt")
    with pytest.raises(InputError, match="1 missing: out; allow"):
        report.check([r"extra\..*"])
    with pytest.raises(InputError, match="1 unused"):
        report.check(["out", "extra"])  # the whole name must match
    report.check(["out", r"extra\..*"])
    with pytest.raises(InputError, match="not a regular expression"):
        report.check(["("])
    assert report.summary()["missing"] == ["out"]


def test_wrong_shapes_are_never_allowed():
    source = arrays()
    source["out"] = np.ones((4, 4))
    _, report = keys.forward(RULES, source)
    with pytest.raises(InputError, match=r"out is \[4, 4\], not \[3, 4\]"):
        report.check([".*"])
    flat, _ = keys.forward(RULES, arrays())
    flat["k/bias"] = np.ones((3, 1))
    _, report = keys.backward(RULES, flat)
    with pytest.raises(InputError, match=r"q/bias, k/bias, v/bias give no b of \[6\]"):
        report.check([".*"])


def test_backward_reports_paths():
    flat, _ = keys.forward(RULES, arrays())
    del flat["k/bias"]
    flat["head/w"] = np.ones(2)
    published, report = keys.backward(RULES, flat)
    assert "b" not in published
    assert report.missing == ("k/bias",)
    assert report.unused == ("head/w",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([[1, np.nan, np.inf]], np.float32), "w holds 2 of 3 values that are not finite"),
        (np.array([[1, 2, 1e300]]), "w holds 1 of 3 values that are not finite in float32"),
        (np.array([[1, 2, 3]]), "w holds int64, not floats"),
        (np.array([[True, False, True]]), "w holds bool, not floats"),
        (np.array([[1, 2, 3j]]), "w holds complex128, not floats"),
    ],
)
def test_values_that_are_no_weights_are_refused_whatever_is_allowed(value, words):
    rules = [Rule("w", (1, 3), ("w",), keys.same()), Rule("n", (1,), ("n",), keys.same(), counts=True)]
    flat, report = keys.forward(rules, {"w": value, "n": np.array([3])})
    assert list(flat) == ["n"]
    assert f"VALUES   {words}" in report.table()
    with pytest.raises(InputError, match=words):
        report.check(allow=[".*"])


def test_half_floats_are_floats_and_a_list_of_one_is_a_number():
    rules = [Rule("h", (2,), ("h",), keys.same()), Rule("s", (), ("s",), keys.same())]
    flat, report = keys.forward(rules, {"h": np.ones(2, ml_dtypes.bfloat16), "s": np.array([2.5], np.float16)})
    report.check()
    assert flat["s"].shape == ()
    assert flat["s"] == 2.5
    assert flat["h"].tolist() == [1, 1]
