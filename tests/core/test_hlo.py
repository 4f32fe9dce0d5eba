"""Texts of XLA programs are read as they are printed: one of a TPU, whole, and lines of other kinds.

`programs/three_layers_v5e_4x4.hlo` is what libtpu 0.0.52 made for v5e:4x4 (data 4, fsdp 4) of one step of descent
through a scan over three matrices [512, 512] (spread over fsdp) at highest precision, with a sort, of 2,048 rows; the
`backend_config` of each line is cut off.
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import hlo, hlo_counts

MESH = {"data": 4, "fsdp": 4, "tensor": 1}
ROWS, WIDTH, LAYERS = 2048 // 16, 512, 3
MATRIX = WIDTH * WIDTH * 4


@functools.cache
def program():
    return hlo.parse((Path(__file__).parent / "programs" / "three_layers_v5e_4x4.hlo").read_text())


def of(body, computations=""):
    """A program of these lines."""
    return hlo.parse(f"HloModule test\n\n{computations}\nENTRY %main (p: f32[1]) -> f32[1] {{\n{body}\n}}\n")


def test_products_of_a_tpu_are_counted_by_hand():
    """Forward, and gradients of both factors, three times each; six passes for the highest precision."""
    products = hlo_counts.products(program())
    assert sum(p.total for p in products) == 3 * LAYERS * 2 * ROWS * WIDTH * WIDTH
    assert sum(p.total * p.passes for p in products) == 6 * 3 * LAYERS * 2 * ROWS * WIDTH * WIDTH
    assert {p.operands for p in products} == {("f32", "f32")}
    assert {p.precision for p in products} == {"highest"}


def test_loops_of_a_tpu_have_their_trip_counts():
    """TPU programs do not say them: they are read from the counter."""
    exchanged = hlo_counts.collectives(program(), MESH)
    loops = hlo_counts.loops(program(), exchanged)
    assert [(loop.trips, loop.run.times, loop.collectives) for loop in loops] == [(3, 1, 1), (3, 1, 4)]


def test_collectives_of_a_tpu():
    """Both passes gather each matrix; the second one, which the compiler hides behind a product, stands in the text
    three times. Gradients are summed over fsdp, each keeping its part, then over data."""
    found = [(c.kind, c.axis, c.size, c.run.times, c.group) for c in hlo_counts.collectives(program(), MESH)]
    assert sorted(found) == sorted(
        [
            ("all-gather", "fsdp", MATRIX, 3, 4),
            ("all-gather", "fsdp", MATRIX, 3, 4),
            ("reduce-scatter", "fsdp", MATRIX, 3, 4),
            ("all-reduce", "data", MATRIX // 4, 3, 4),
            ("all-to-all", "fsdp", ROWS * WIDTH * 4, 3, 4),
        ]
    )
    text = (Path(__file__).parent / "programs" / "three_layers_v5e_4x4.hlo").read_text()
    assert text.count(" all-gather(") == 4


def test_what_a_device_sends():
    """Round a ring of four: three quarters of what is gathered; twice that of what is reduced everywhere."""
    sent = {(c.kind, c.size): c.wire for c in hlo_counts.collectives(program(), MESH)}
    assert sent["all-gather", MATRIX] == 3 * 0.75 * MATRIX
    assert sent["reduce-scatter", MATRIX] == 3 * 0.75 * MATRIX
    assert sent["all-reduce", MATRIX // 4] == 3 * 1.5 * MATRIX / 4


def test_places_sorts_copies_and_aliases_of_a_tpu():
    (sort,) = hlo_counts.sorts(program())
    assert str(sort.instruction.results[0]) == f"f32[{ROWS},{WIDTH}]"
    assert program().place_of(sort).name == "jit(step)/jvp()/sort"
    assert program().place_of(sort).frames[0] == ("/home/user/layers.py", 11)
    copies = hlo_counts.relayouts(program())
    assert [(run.instruction.op, size) for run, size in copies] == [("copy", ROWS * WIDTH * 4)] * 2
    assert program().aliased == {0: 0}
    assert hlo_counts.decompositions(program()) == []


def test_traffic_of_loops_is_that_of_all_their_turns():
    """Once is what XLA's own analysis says; the other five turns are bounded by hand."""
    step = lambda h, w: (jnp.tanh(h @ w), None)  # noqa: E731
    w, x = jnp.ones((6, 64, 64)), jnp.ones((32, 64))
    looped = jax.jit(lambda w, x: jax.lax.scan(step, x, w)[0]).lower(w, x).compile()
    found = hlo.parse(looped.as_text())
    assert [loop.trips for loop in hlo_counts.loops(found, [])] == [6]
    assert sum(p.total for p in hlo_counts.products(found)) == 6 * 2 * 32 * 64 * 64
    once = sum(hlo_counts.traffic(found, run) for run in found.runs)
    assert once == pytest.approx(looped.cost_analysis()["bytes accessed"], rel=0.02)
    # a turn reads its matrix and 32 rows twice over, and writes these
    least = 5 * (64 * 64 + 2 * 32 * 64) * 4
    assert least <= hlo_counts.all_traffic(found) - once <= 3 * least


def test_traffic_of_a_tpu_leaves_out_what_stays_on_the_chip():
    body = """  %x = f32[512,256]{1,0:T(8,128)} parameter(0)
  %start = (f32[512,256]{1,0:T(8,128)S(1)}, f32[512,256]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %done = f32[512,256]{1,0:T(8,128)S(1)} copy-done(%start)
  %y = f32[512,256]{1,0:T(8,128)S(1)} negate(%done)
  ROOT %z = f32[512,256]{1,0:T(8,128)} negate(%y)"""
    size = 512 * 256 * 4
    assert hlo_counts.all_traffic(of(body)) == 2 * size  # read once, written once
    assert hlo_counts.all_traffic(of(body), everywhere=True) == 6 * size
    # each pass over three layers at least reads every matrix's part that a device has, and writes it once
    assert hlo_counts.all_traffic(program()) >= 3 * LAYERS * MATRIX // 4


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("f32[3,5]", 15 * 4),
        ("f32[3,5]{1,0}", 15 * 4),
        ("f32[3,5]{1,0:T(8,128)}", 8 * 128 * 4),
        ("f32[3,5]{0,1:T(2,128)}", 6 * 128 * 4),
        ("bf16[9,197,64]{2,1,0:T(8,128)(2,1)}", 9 * 200 * 128 * 2),
        ("bf16[9,197,64]{1,0,2:T(8,128)(2,1)S(1)}", 64 * 16 * 256 * 2),
        ("f32[300]{0:T(256)}", 512 * 4),
        ("pred[]{:T(512)}", 512),
    ],
)
def test_arrays_of_a_tpu_fill_whole_tiles(text, kept):
    """https://openxla.org/xla/tiled_layout: the tile lies over the last axes of the layout."""
    (array,) = hlo.arrays(text)
    assert array.padded == kept


PIECES = """%piece_0 (p: f32[512,256]) -> f32[256,256] {
  %p = f32[512,256]{1,0} parameter(0)
  ROOT %s = f32[256,256]{1,0:S(1)} slice(%p), slice={[0:256], [0:256]}
}

%piece_1 (p: f32[512,256]) -> f32[256,256] {
  %p = f32[512,256]{1,0} parameter(0)
  ROOT %s = f32[256,256]{1,0:S(1)} slice(%p), slice={[256:512], [0:256]}
}

"""


def test_traffic_of_what_is_fetched_in_pieces_is_that_of_the_pieces():
    """As the TPU compiler brings a matrix onto the chip ahead, and then calls the pieces one array."""
    body = """  %x = f32[512,256]{1,0} parameter(0)
  %start_0 = ((f32[512,256]{1,0}), f32[256,256]{1,0:S(1)}, s32[]{:S(2)}) async-start(%x), calls=%piece_0
  %start_1 = ((f32[512,256]{1,0}), f32[256,256]{1,0:S(1)}, s32[]{:S(2)}) async-start(%x), calls=%piece_1
  %done_0 = f32[256,256]{1,0:S(1)} async-done(%start_0)
  %done_1 = f32[256,256]{1,0:S(1)} async-done(%start_1)
  %y = f32[512,256]{1,0:S(1)} custom-call(%done_0, %done_1), custom_call_target="ConcatBitcast"
  ROOT %z = f32[512,256]{1,0:S(1)} negate(%y)"""
    size = 512 * 256 * 4
    assert hlo_counts.all_traffic(of(body, PIECES)) == size
    assert hlo_counts.all_traffic(of(body, PIECES), everywhere=True) == 4 * size
    short = re.sub(r"async-(start.*), calls=%piece_(\d)", r"slice-\1, slice={[\2:256]}", body)  # in whole executables
    assert short.count("slice-start(%x)") == 2
    short = short.replace("async-done", "slice-done")
    assert hlo_counts.all_traffic(of(short)) == size
    assert hlo_counts.all_traffic(of(short), everywhere=True) == 4 * size


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    grow = jax.jit(lambda x: jax.lax.while_loop(lambda s: s.sum() < 1e3, lambda s: s @ s, x))
    found = hlo.parse(grow.lower(jnp.ones((16, 16))).compile().as_text())
    (loop,) = hlo_counts.loops(found, [])
    assert loop.trips is None
    (product,) = hlo_counts.products(found)
    assert (product.total, product.run.unknown) == (2 * 16**3, True)


CONVOLUTIONS = {
    "strided": {"window_strides": (2, 2), "padding": "SAME"},
    "valid": {"window_strides": (1, 1), "padding": "VALID"},
    "dilated": {"window_strides": (1, 1), "padding": [(3, 2), (0, 4)], "rhs_dilation": (2, 1)},
    "transposed": {"window_strides": (1, 1), "padding": [(2, 1), (1, 1)], "lhs_dilation": (2, 3)},
    "grouped": {"window_strides": (2, 1), "padding": "SAME", "feature_group_count": 4},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_flops_of_convolutions_are_those_of_xla_s_analysis(kind):
    """Products with padding and between the points of a dilated image are left out, as there."""
    settings = CONVOLUTIONS[kind]
    kernel = (3, 3, 8 // settings.get("feature_group_count", 1), 12)
    run = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)
    lowered = jax.jit(run).lower(jnp.ones((2, 9, 7, 8)), jnp.ones(kernel))
    text = lowered.compiler_ir("hlo").as_hlo_module().to_string()
    (product,) = hlo_counts.products(hlo.parse(text))
    assert product.flops == lowered.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("text", "axis", "first"),
    [
        ("{{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}", "fsdp", [0, 1, 2, 3]),
        ("{{0,4,8,12},{1,5,9,13},{2,6,10,14},{3,7,11,15}}", "data", [0, 4, 8, 12]),
        ("{{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},{14,15}}", "part of fsdp", [0, 1]),
        ("[4,4]<=[16]", "fsdp", [0, 1, 2, 3]),
        ("[4,4]<=[4,4]T(1,0)", "data", [0, 4, 8, 12]),
        ("[1,16]<=[16]", "data+fsdp", list(range(16))),
        ("mesh['a'=4,'b'=4] {'b'}", "fsdp", [0, 1, 2, 3]),
        ("mesh['a'=4,'b'=4] {'a'}", "data", [0, 4, 8, 12]),
        ("mesh['a'=16] {'a'}", "data+fsdp", list(range(16))),
        ("mesh['a'=16] {'a':(1)4}", "data", [0, 4, 8, 12]),
        ("mesh['a'=16] {'a':(4)2}", "part of fsdp", [0, 2]),
        ("mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'a'}", "fsdp", [0, 1, 2, 3]),
        ("mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'c'}", "data", [0, 4, 8, 12]),
        ("mesh['a'=2,'b'=8], device_ids=(1,0,2,3,4,5,6,7,8,9,10,11,12,13,14,15) {'a'}", "part of data+fsdp", [1, 8]),
        ("{}", "all", None),
    ],
)  # fmt: skip
def test_replica_groups_name_an_axis_of_the_mesh(text, axis, first):
    line = f"  ROOT %r = f32[8]{{0}} all-reduce(%x), replica_groups={text}, use_global_device_ids=true, to_apply=%a"
    (found,) = hlo_counts.collectives(of(f"  %x = f32[8]{{0}} parameter(0)\n{line}"), MESH)
    assert found.axis == axis
    groups = hlo_counts.replica_groups(found.run.instruction, MESH)
    assert (groups[0] if groups else None) == first
    if groups:
        assert sorted(np.ravel(groups).tolist()) == list(range(16))


def test_replica_groups_of_an_unknown_form_are_no_guess():
    line = "  ROOT %r = f32[8]{0} all-reduce(%x), replica_groups=mesh['a'=5] {'a'}, to_apply=%a"
    with pytest.raises(ValueError, match="unknown form"):
        hlo_counts.collectives(of(f"  %x = f32[8]{{0}} parameter(0)\n{line}"), MESH)


def test_permutes_and_started_collectives():
    body = """  %x = bf16[64]{0} parameter(0)
  %p = bf16[64]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,4},{4,8},{8,12},{12,0}}
  %s = (bf16[64]{0}, bf16[256]{0}) all-gather-start(%p), channel_id=2, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %d = bf16[256]{0} all-gather-done(%s)"""
    permute, gather = hlo_counts.collectives(of(body), MESH)
    assert (permute.kind, permute.axis, permute.size, permute.wire) == ("collective-permute", "part of data", 128, 128)
    assert (gather.kind, gather.axis, gather.size, gather.wire) == ("all-gather", "fsdp", 512, 384)


def test_copies_to_another_layout_and_only_those():
    body = """  %x = f32[512,256]{1,0:T(8,128)} parameter(0)
  %to_chip = f32[512,256]{1,0:T(8,128)S(1)} copy(%x)
  %turned = f32[512,256]{0,1:T(8,128)} copy(%x)
  %renamed = f32[256,512]{0,1:T(8,128)} transpose(%x), dimensions={1,0}
  %moved = f32[256,512]{1,0:T(8,128)} transpose(%x), dimensions={1,0}
  ROOT %out = (f32[512,256]{1,0:T(8,128)}) tuple(%x)"""
    found = [run.instruction.name for run, _ in hlo_counts.relayouts(of(body))]
    assert found == ["turned", "moved"]


def test_factorisations_are_named():
    body = """  %x = f32[64,64]{1,0} parameter(0)
  %c = f32[64,64]{1,0} cholesky(%x), lower=true
  %e = (f32[64,64]{1,0}, f32[64]{0}) custom-call(%x), custom_call_target="Eigh"
  %s = (f32[64,64]{1,0}, f32[64]{0}, s32[]) custom-call(%x), custom_call_target="lapack_ssyevd_ffi"
  %k = (f32[64,8]{1,0}, s32[64,8]{1,0}) custom-call(%x), custom_call_target="TopK"
  ROOT %m = f32[64,64]{1,0} custom-call(%x), custom_call_target="tpu_custom_call\""""
    assert [run.instruction.name for run in hlo_counts.decompositions(of(body))] == ["c", "e", "s"]
    assert [run.instruction.name for run in hlo_counts.sorts(of(body))] == ["k"]


def test_a_real_decomposition_and_sort_are_found():
    f = jax.jit(lambda x: jnp.linalg.eigh(x + x.T)[0].sum() + jnp.sort(x, 0).sum() + jnp.linalg.qr(x)[0].sum())
    found = hlo.parse(f.lower(jnp.ones((8, 8))).compile().as_text())
    assert len(hlo_counts.decompositions(found)) >= 2
    assert len(hlo_counts.sorts(found)) == 1


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing\n")
