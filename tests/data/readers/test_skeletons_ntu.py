"""NTU RGB+D: `.skeleton` files, the choice of bodies against a plain re-implementation, splits, lists, the cache."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.skeletons import clips as store
from jaxvl.data.readers.skeletons import ntu, ntu_file, protocols
from jaxvl.data.readers.skeletons.ntu_bodies import select_bodies
from tests.data.readers.skeleton_files import ntu_names, person, skeleton_text, write_ntu

ID = 72057594037931101


def flat(frame):
    return [v for point in frame for v in point]


def plain_selection(frames, gaps):
    """The rules of the preparation one by one, in float64 and loops: `[F, 75]` or `[F, 150]`."""
    kept = []
    for frame in frames:
        if len(frame) > 0:
            kept.append(frame)
    order, joints, where = [], {}, {}
    for f, frame in enumerate(kept):
        for body, points in frame.items():
            if body not in order:
                order.append(body)
                joints[body], where[body] = [], []
                where[body].append(f)
            elif gaps == "official":
                where[body].append(where[body][-1] + 1)
            else:
                where[body].append(f)
            joints[body].append([[float(v) for v in p] for p in points])
    if len(order) == 1:
        return np.array([flat(frame) for frame in joints[order[0]]])

    def spread(values):
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / len(values)

    def moves(frames_of_body):
        return sum(spread([p[axis] for frame in frames_of_body for p in frame]) for axis in range(3))

    amount = {body: moves(joints[body]) for body in order}
    left = [body for body in order if len(where[body]) > 11]
    if not left:
        longest = max(len(where[body]) for body in order)
        left = [next(body for body in order if len(where[body]) == longest)]
    if len(left) > 1:
        for body in list(left):
            if len(left) == 1:
                break
            good = []
            for frame in joints[body]:
                x, y = [p[0] for p in frame], [p[1] for p in frame]
                if max(x) - min(x) <= 0.8 * (max(y) - min(y)):
                    good.append(frame)
            bad = len(joints[body]) - len(good)
            if bad == 0:
                continue
            if bad / len(joints[body]) >= 0.69754:
                left.remove(body)
            else:
                amount[body] = min(amount[body], moves(good))
    total = len(kept)
    if len(left) == 1:
        out = np.zeros((total, 75))
        for f, frame in zip(where[left[0]], joints[left[0]]):
            out[f] = flat(frame)
    else:
        out = np.zeros((total, 150))
        left = sorted(left, key=lambda body: -amount[body])
        first, second = (where[left[0]][0], where[left[0]][-1]), (0, 0)
        for f, frame in zip(where[left[0]], joints[left[0]]):
            out[f, :75] = flat(frame)
        for body in left[1:]:
            start, end = where[body][0], where[body][-1]
            if min(first[1], end) - max(first[0], start) <= 0:
                columns, first = slice(0, 75), (min(first[0], start), max(first[1], end))
            elif min(second[1], end) - max(second[0], start) <= 0:
                columns, second = slice(75, 150), (min(second[0], start), max(second[1], end))
            else:
                continue
            for f, frame in zip(where[body], joints[body]):
                out[f, columns] = flat(frame)
    return out[[not (row == 0).all() for row in out]]


def random_frames(rng):
    """Bodies that come, vanish and return; some lie, some are short; frames without any."""
    frames = [{} for _ in range(int(rng.integers(13, 40)))]
    for body in range(int(rng.integers(1, 6))):
        start, end = sorted(rng.integers(0, len(frames) + 1, 2))
        walk = person(rng, len(frames), at=rng.normal(0, 1, 3)) * rng.uniform(0.3, 2)
        lying = walk[..., [1, 0, 2]]
        share, holes = rng.choice([0, 0, 0.3, 0.9]), rng.choice([0, 0.2])
        for f in range(start, end):
            if rng.uniform() >= holes:
                frames[f][f"{ID + body}"] = lying[f] if rng.uniform() < share else walk[f]
    return [dict(sorted(f.items(), key=lambda _: rng.uniform())) for f in frames]


@pytest.mark.parametrize("gaps", ["official", "true_index"])
def test_the_choice_of_bodies_is_that_of_the_rules(gaps):
    rng = np.random.default_rng(0)
    kinds = {"one body": 0, "one left": 0, "two": 0, "glued": 0}
    for _ in range(60):
        frames = random_frames(rng)
        if not any(frames):
            continue
        want = plain_selection(frames, gaps)
        got = select_bodies(frames, gaps)
        assert got.dtype == np.float32
        rows = got.transpose(1, 0, 2, 3).reshape(got.shape[1], -1)
        assert rows.shape == want.shape
        np.testing.assert_array_equal(rows, want.astype(np.float32))
        ids = {name for frame in frames for name in frame}
        kinds["one body" if len(ids) == 1 else "one left" if len(got) == 1 else "two"] += 1
        kinds["glued"] += not np.array_equal(got, select_bodies(frames, "official"))
    assert min(kinds["one body"], kinds["one left"], kinds["two"]) >= 5
    assert (kinds["glued"] > 5) == (gaps == "true_index")


def test_bodies_all_too_short_leave_the_longest():
    a, b = person(np.random.default_rng(0), 8), person(np.random.default_rng(1), 8)
    frames = [{"a": a[f]} if f < 3 else {"b": b[f]} for f in range(8)]
    np.testing.assert_array_equal(select_bodies(frames)[0], b[3:])


def test_a_file_with_every_trap():
    rng = np.random.default_rng(0)
    a, b = person(rng, 20), person(rng, 20, at=(1, 0, 3)) * 0.5
    frames = [[(ID, a[f]), (ID + 1, b[f])] for f in range(20)]  # ids that float64 cannot tell apart
    frames[0] = []
    frames[3] = frames[3][::-1]
    frames[5] = [(ID, a[5])]
    assert float(ID) == float(ID + 1)
    text = skeleton_text(frames, newline="\r\n")
    parsed = ntu_file.parse_skeleton(text.encode(), "x")
    assert [len(f) for f in parsed.frames] == [0, 2, 2, 2, 2, 1] + [2] * 14
    assert parsed.notes == ()
    assert list(parsed.frames[3]) == [str(ID + 1).encode(), str(ID).encode()]
    np.testing.assert_array_equal(parsed.frames[7][str(ID + 1).encode()], b[7])
    unix = ntu_file.parse_skeleton(skeleton_text(frames).rstrip("\n").encode(), "x")
    assert [sorted(f) for f in unix.frames] == [sorted(f) for f in parsed.frames]


def write(tmp_path, text, name="S001C001P001R001A001.skeleton"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_that_was_cut_keeps_its_whole_frames(tmp_path):
    a = person(np.random.default_rng(0), 12)
    whole = skeleton_text([[(ID, x)] for x in a])
    for cut in (3, 30, 300, 3000, len(whole) * 2 // 3):
        bodies, notes = ntu_file.read_clip(write(tmp_path, whole[:-cut]))
        assert 1 <= bodies.shape[1] <= 12
        np.testing.assert_array_equal(bodies[0], a[: bodies.shape[1]])
        assert (notes == (ntu_file.SHORT,)) == (bodies.shape[1] < 12)
    assert ntu_file.read_clip(write(tmp_path, skeleton_text([[(ID, a[0])]] * 2, promised=1)))[1] == (ntu_file.SURPLUS,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: "", "is empty"),
        (lambda t: "x" + t, "line 1: the number of frames is missing"),
        (lambda t: t.replace("\n25\n", "\n24\n", 1), "line 4: 24 joints, not 25"),
        (lambda t: t.replace(str(ID), "body", 1), "line 3: no body id"),
        (lambda t: t.replace(" 0.5 0.5 0.5 0.5 2", "", 1), "line 5: 7 values of a joint, not 12"),
        (lambda t: t.replace("\n25\n", "\n25\nx ", 1), "line 5: 13 values"),
        (lambda t: t + t.rstrip("\n").rsplit("\n", 1)[1], "line 86: a line that belongs to no frame"),
        (lambda t: t.replace("0 1 0 1 1", "0 1_0 1 1"), "line 3: a value that is no number"),
        (lambda t: "0\n", "no frames"),
        (lambda t: "2\n0\n0\n", "no frame has a body"),
    ],
)
def test_broken_files_say_where(tmp_path, change, reason):
    text = skeleton_text([[(ID, x)] for x in person(np.random.default_rng(0), 3)])
    path = write(tmp_path, change(text))
    with pytest.raises(BadMedia, match=reason) as error:
        ntu_file.read_clip(path)
    assert str(path) in str(error.value)


def test_a_body_with_nan_is_absent_in_its_frame(tmp_path):
    a = person(np.random.default_rng(0), 5)
    bad = a.copy()
    bad[2, 7, 1], bad[3, 0, 0] = np.nan, np.inf
    bodies, notes = ntu_file.read_clip(write(tmp_path, skeleton_text([[(ID, x)] for x in bad])))
    np.testing.assert_array_equal(bodies[0], a[[0, 1, 4]])
    assert notes == (ntu_file.UNREAL,)
    twice = skeleton_text([[(ID, x), (ID, x + 1)] for x in a])
    bodies, notes = ntu_file.read_clip(write(tmp_path, twice))
    np.testing.assert_array_equal(bodies[0], a)
    assert notes == (ntu_file.TWICE,)


SETUPS = {
    1: "1-8", 2: "3,7-14", 3: "1,2,7,8,15-19", 4: "3,7,8,20", 5: "4,10,13,15-18,21", 6: "1,7,8,15-17,19,22-24",
    7: "1,7,8,15-19,25-28", 8: "1,7,8,15,19,25,29-36", 9: "7,8,15-17,19,25", 10: "7,8,13,15-19,21,25",
    11: "1,2,7,8,15-19,25,27,28,38", 12: "7,8,15-19,25,27,28,37", 13: "7,8,15-19,25,27,28,37",
    14: "7,8,15,17,19,25,27,37,39", 15: "7,8,15-17,19,25,37,40", 16: "7,8,19,25,39,40", 17: "3,7-9,15-17,20",
}  # fmt: skip
"""Setup of NTU RGB+D -> its performers."""
MISSING = {"xsub": (229, 73), "xview": (274, 28)}
"""How many of the 302 published names with missing skeletons belong to train and test: counted in that list."""
SIZES = {"xsub": (40_091, 16_487), "xview": (37_646, 18_932)}


def performers(text):
    ends = [part.partition("-") for part in text.split(",")]
    return [p for a, _, b in ends for p in range(int(a), int(b or a) + 1)]


@pytest.mark.parametrize("protocol", SIZES)
def test_every_name_of_ntu60_falls_on_the_published_side(protocol):
    rows = [(s, c, p) for s, text in SETUPS.items() for p in performers(text) for c in (1, 2, 3) for _ in range(2 * 60)]
    setup, camera, subject = np.array(rows).T
    assert len(rows) == 56_880
    trained = protocols.ntu_training(protocol, {"setup": setup, "camera": camera, "subject": subject})
    counts = int(trained.sum()), int((~trained).sum())
    assert (counts[0] - MISSING[protocol][0], counts[1] - MISSING[protocol][1]) == SIZES[protocol]


SIZES_120 = {"xsub": (63_026, 50_919), "xset": (54_468, 59_477)}


def test_published_name_lists_give_the_published_sizes():
    """Where `JAXVL_NTU_LISTS` is a folder of the two lists of missing skeletons and of `skes_available_name.txt` (NTU
    RGB+D 120, of CTR-GCN)."""
    folder = os.environ.get("JAXVL_NTU_LISTS")
    if not folder:
        pytest.skip("JAXVL_NTU_LISTS names no folder of the published lists")
    lists = sorted((protocols.read_missing(path) for path in protocols.find_missing_lists(folder)), key=len)
    assert [len(names) for names in lists] == [302, 535]
    assert lists[0] < lists[1]
    available = protocols.read_missing(os.path.join(folder, "skes_available_name.txt"))
    assert len(available) == 113_945
    assert not available & lists[1]
    for classes, sizes in ((60, SIZES), (120, SIZES_120)):
        rows = [s for s in map(ntu_file.parse_name, available) if s.action <= classes]
        columns = {
            field: np.array([getattr(row, name) for row in rows])
            for field, name in (("subject", "performer"), ("camera", "camera"), ("setup", "setup"))
        }
        for protocol, size in sizes.items():
            trained = protocols.ntu_training(protocol, columns)
            assert (trained.sum(), (~trained).sum()) == size


def test_lists_of_missing_skeletons_with_and_without_a_header(tmp_path):
    names = ["S001C002P005R002A008", "S017C003P020R001A059"]
    head = '302 of the captured samples in the "NTU RGB+D" dataset have missing data.\nPlease ignore S001.\n\n'
    for text in (head + "\n".join(names) + "\n", "\r\n".join(names)):
        path = tmp_path / "NTU_RGBD_samples_with_missing_skeletons.txt"
        path.write_bytes(text.encode())
        assert protocols.read_missing(path) == set(names)
    assert protocols.find_missing_lists(tmp_path) == [str(path)]
    path.write_text("nothing\n")
    with pytest.raises(InputError, match="holds no name of a sample"):
        protocols.read_missing(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 good files, of two setups, cameras and performers; a broken one, an empty one, one of another name."""
    root = tmp_path_factory.mktemp("ntu")
    files = write_ntu(root, ntu_names(), two=lambda name: name.endswith("50"))
    (files / "S001C001P001R002A001.skeleton").write_text("3\nbroken\n3\n")
    (files / "S001C001P001R002A002.skeleton").write_text("1\n0\n")
    (files / "copy of S001C001P001R001A001.skeleton").write_text("")
    (files / "S018C001P041R001A061.skeleton").write_bytes((files / "S001C001P001R001A001.skeleton").read_bytes())
    (root / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text("a header\n\nS001C001P003R001A060\n")
    return root


def test_a_folder_is_read_split_and_reported(folder, tmp_path):
    seen = []
    read = ntu.read_ntu(folder, "xsub", 60, tmp_path, progress=lambda n, total: seen.append((n, total)))
    assert seen == [(n, 27) for n in range(1, 28)]
    assert {s: len(r.clips) for s, r in read.items()} == {"train": 12, "test": 11}
    assert {int(c.subject) for c in read["train"].clips} == {1}
    clip = read["test"].clips[0]
    assert (clip.name, clip.label, clip.camera, clip.setup, clip.take) == ("S001C001P003R001A001", 0, 1, 1, 1)
    assert [c.bodies.shape for c in read["train"].clips][:3] == [(1, 14, 25, 3), (2, 14, 25, 3), (1, 14, 25, 3)]
    want = ntu_file.read_clip(folder / "nturgb+d_skeletons" / f"{clip.name}.skeleton")[0]
    np.testing.assert_array_equal(clip.bodies, want)
    lines = [r.report.line() for r in read.values()]
    assert lines[0].startswith("NTU RGB+D xsub train: 12 sequences; ")
    for part in (
        "1 skipped, line 2: the number of bodies is missing (S001C001P001R002A001)",
        "1 skipped, no frame has a body (S001C001P001R002A002)",
        "1 skipped, no name like S001C001P001R001A001 (copy of S001C001P001R001A001.skeleton)",
        "0 on the list of missing skeletons",
    ):
        assert part in lines[0], lines[0]
    assert (
        lines[1]
        == "NTU RGB+D xsub test: 11 sequences; 1 on the list of missing skeletons; 1 of actions beyond A060 left out"
    )
    assert read["train"].classes[59] == "A060 walking apart"


def test_the_cache_is_that_of_the_files(folder, tmp_path):
    parsed = []
    count = lambda *_: parsed.append(1)  # noqa: E731
    first = ntu.parse_ntu(folder, tmp_path, progress=count)
    again = ntu.parse_ntu(folder, tmp_path, progress=count)
    assert len(parsed) == 27
    assert again.skipped == first.skipped
    ntu.parse_ntu(folder, tmp_path, track_gaps="true_index", progress=count)
    assert len(parsed) == 54
    other = ntu.read_ntu(folder, "xview", 60, tmp_path, progress=count)
    assert (len(parsed), {s: len(r.clips) for s, r in other.items()}) == (54, {"train": 12, "test": 11})
    copy = pickle.loads(pickle.dumps(other["test"].clips))
    assert len(pickle.dumps(other["test"].clips)) < 1000
    assert copy[3].name == other["test"].clips[3].name
    np.testing.assert_array_equal(copy[-1].bodies, other["test"].clips[10].bodies)
    with pytest.raises(IndexError):
        copy[11]


def test_spawned_processes_give_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxvl.data.readers.skeletons.ntu.FEW", 4)
    one, two = (ntu.parse_ntu(folder, tmp_path / str(n), processes=n) for n in (1, 2))
    assert one.skipped == two.skipped
    for a, b in zip(one.clips, two.clips, strict=True):
        assert (a.name, a.label) == (b.name, b.label)
        np.testing.assert_array_equal(a.bodies, b.bodies)


def test_many_shards_and_damaged_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD", 3)
    rng = np.random.default_rng(0)
    made = [store.SkeletonClip(f"c{i}", i, person(rng, 2 + i)[None].repeat(1 + i % 2, 0), subject=i) for i in range(8)]
    written = store.write_clips(tmp_path / "a", iter(made), ntu.NTU25, ["x"], {"k": 1})
    assert len(written.shards) == 3
    for clip, want in zip(written, made, strict=True):
        np.testing.assert_array_equal(clip.bodies, want.bodies)
        assert (clip.name, clip.subject, clip.camera) == (want.name, want.subject, -1)
    some = written.select([5, 2]).select([1])
    assert [c.name for c in some] == ["c2"]
    assert isinstance(store.map_member(tmp_path / "a" / "clips-00000.npz", "data.npy"), np.memmap)
    path = tmp_path / "a" / "clips-00001.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged skeleton sequences"):
        store.ClipStore(tmp_path / "a")
    with pytest.raises(store.NoClips):
        store.write_clips(tmp_path / "b", [], ntu.NTU25, ["x"], {})
    assert not (tmp_path / "b").exists()


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        ntu.find_files(tmp_path / "none")
    with pytest.raises(InputError, match="holds no file like"):
        ntu.find_files(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "S001C001P001R001A001.skeleton").write_text("0\n")
    with pytest.raises(InputError, match="a second file of this name"):
        ntu.find_files(tmp_path)
    with pytest.raises(InputError, match="none of its 1 files can be read; S001C001P001R001A001: no frames"):
        ntu.parse_ntu(tmp_path / "a", tmp_path / "cache")
    with pytest.raises(InputError, match="'xwrong' is none of xsub, xview, xset"):
        protocols.ntu_training("xwrong", {})
