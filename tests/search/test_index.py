"""The search index by itself, with made-up embeddings."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.search import index as indexing

E, S = 8, 3
MADE_BY = {"weights": "w1", "model": "m", "frames": 6, "fps": 3.0}


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def vectors_of(name):
    rng = np.random.default_rng(abs(hash(name)) % 2**32)
    spans = np.cumsum(rng.random((S, 2)), -1)
    return indexing.Vectors(unit(rng.normal(size=E)), unit(rng.normal(size=(S, E))), np.arange(S) < 2, spans)


class Embedder:
    """Counts what it is asked for; files called bad* cannot be decoded."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def __call__(self, paths):
        for path in paths:
            if self.stop_after is not None and len(self.calls) == self.stop_after:
                raise KeyboardInterrupt
            self.calls.append(path.name)
            yield path, "broken" if path.name.startswith("bad") else vectors_of(path.name)


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "videos"
    (top / "sub" / ".hidden").mkdir(parents=True)
    for name in ("b.mp4", "sub/a.é.avi", "bad.mkv", "notes.txt", ".x.mp4", "sub/.hidden/y.mp4"):
        (top / name).write_bytes(name.encode())
    return top


def refresh(tmp_path, folder, embed=None, **how):
    embed = embed or Embedder()
    made_by = how.pop("made_by", MADE_BY)
    index, counts = indexing.refresh(tmp_path / "index", folder, made_by, embed, say=lambda line: None, **how)
    return sorted(embed.calls), index, counts


def test_only_new_and_changed_files_are_embedded(tmp_path, folder):
    calls, index, counts = refresh(tmp_path, folder)
    assert calls == ["a.é.avi", "b.mp4", "bad.mkv"]
    assert (counts.embedded, counts.kept, counts.dropped, counts.bad) == (2, 0, 0, (("bad.mkv", "broken"),))
    calls, again, counts = refresh(tmp_path, folder)
    assert calls == []
    assert (counts.embedded, counts.kept, counts.dropped) == (0, 2, 0)
    assert counts.bad == (("bad.mkv", "broken"),)  # said again, not decoded again
    assert set(again.vectors) == {"b.mp4", "sub/a.é.avi"}
    for name, vectors in again.vectors.items():
        for field in ("video", "segments", "segment_mask", "spans"):
            np.testing.assert_array_equal(getattr(vectors, field), getattr(index.vectors[name], field))

    (folder / "new.webm").write_bytes(b"1")
    assert refresh(tmp_path, folder)[0] == ["new.webm"]
    (folder / "b.mp4").write_bytes(b"another size")
    assert refresh(tmp_path, folder)[0] == ["b.mp4"]
    stat = os.stat(folder / "new.webm")
    os.utime(folder / "new.webm", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert refresh(tmp_path, folder)[0] == ["new.webm"]
    (folder / "b.mp4").unlink()
    (folder / "bad.mkv").rename(folder / "good.mkv")
    calls, index, counts = refresh(tmp_path, folder)
    assert (calls, counts.dropped, counts.kept, counts.bad) == (["good.mkv"], 2, 2, ())
    assert set(index.vectors) == {"good.mkv", "new.webm", "sub/a.é.avi"}
    assert [p.name for p in (tmp_path / "index").iterdir()] == ["index.npz"]
    assert refresh(tmp_path, folder, rebuild=True)[2].embedded == 3


def test_nothing_to_do_writes_nothing(tmp_path, folder):
    refresh(tmp_path, folder)
    files = sorted((tmp_path / "index").iterdir())
    stamps = [p.stat().st_mtime_ns for p in files]
    refresh(tmp_path, folder)
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "index").iterdir())] == stamps


def test_interrupted_run_keeps_what_it_had(tmp_path, folder):
    with pytest.raises(KeyboardInterrupt):
        refresh(tmp_path, folder, Embedder(stop_after=2))
    calls, index, _ = refresh(tmp_path, folder)
    assert len(calls) == 1
    assert len(index.vectors) == 2


def test_what_a_kill_can_lose_is_bounded_in_time(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(indexing, "SAVE_SECONDS", 0)
    monkeypatch.setattr(indexing, "SAVE_SHARE", 0)
    on_disk = []

    class Watching(Embedder):
        def __call__(self, paths):
            for result in super().__call__(paths):
                yield result
                on_disk.append(len(indexing.read(tmp_path / "index").files))

    refresh(tmp_path, folder, Watching())
    assert on_disk == [1, 2, 3]


def test_two_runs_at_once_leave_a_whole_index(tmp_path, folder):
    """Each writes while the other has it open; the later one wins, and what it lacks is embedded again."""
    other = {}

    class Slow(Embedder):
        def __call__(self, paths):
            yield from super().__call__(paths[:1])
            other["calls"] = refresh(tmp_path, folder)[0]
            yield from super().__call__(paths[1:])

    calls, mine, _ = refresh(tmp_path, folder, Slow())
    assert len(calls) == len(other["calls"]) == 3
    again, index, _ = refresh(tmp_path, folder)
    assert again == []
    assert set(index.vectors) == set(mine.vectors)


def test_linked_folders_are_followed_once(tmp_path, folder):
    (tmp_path / "disk2").mkdir()
    (tmp_path / "disk2" / "far.mp4").write_bytes(b"far")
    (folder / "more").symlink_to(tmp_path / "disk2")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert list(indexing.list_videos(folder)) == ["b.mp4", "bad.mkv", "more/far.mp4", "sub/a.é.avi"]


def test_previews_beside_a_video_are_no_second_video(tmp_path):
    for name in ("a.mp4", "a.gif", "a.jpg", "a.txt", "a", "alone.gif"):
        (tmp_path / name).write_bytes(b"x")
    assert list(indexing.list_videos(tmp_path)) == ["a.mp4", "alone.gif"]


def test_other_provenance_is_refused_by_name(tmp_path, folder):
    refresh(tmp_path, folder)
    for change, message in (({"weights": "w2"}, r"\(weights\)"), ({"fps": 2.0}, r"\(fps 3\.0 instead of 2\.0\)")):
        with pytest.raises(InputError, match=message + ".*--rebuild"):
            refresh(tmp_path, folder, made_by=MADE_BY | change)
    assert len(refresh(tmp_path, folder, made_by=MADE_BY | {"fps": 2.0}, rebuild=True)[0]) == 3
    with pytest.raises(InputError, match=r"fps 2\.0"):
        refresh(tmp_path, folder)


def test_other_folder_is_refused_a_moved_one_is_not(tmp_path, folder):
    refresh(tmp_path, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.mp4").write_bytes(b"1")
    with pytest.raises(InputError, match="shares no file with"):
        refresh(tmp_path, tmp_path / "other")
    folder.rename(tmp_path / "moved")
    assert refresh(tmp_path, tmp_path / "moved")[0] == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video file"):
        refresh(tmp_path, tmp_path / "empty")


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path, folder):
    (tmp_path / "index").write_text("a file")
    embed = Embedder()
    with pytest.raises(InputError, match=r"index: cannot be written \(File exists\)"):
        refresh(tmp_path, folder, embed)
    assert embed.calls == []


def test_a_full_disk_is_one_line_and_leaves_the_old_index(tmp_path, folder, monkeypatch):
    refresh(tmp_path, folder)
    (folder / "new.mp4").write_bytes(b"new")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(InputError, match=r"index: cannot be written \(No space left on device\)"):
            refresh(tmp_path, folder)
    assert [p.name for p in (tmp_path / "index").iterdir()] == ["index.npz"]
    assert refresh(tmp_path, folder)[0] == ["new.mp4"]


def rewrite(path, **changed):
    with np.load(path) as arrays:
        arrays = dict(arrays) | changed
    np.savez(path, **arrays)


def about(path):
    with np.load(path) as arrays:
        return json.loads(arrays["about"].tobytes())


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def empty(file):
    file.write_bytes(b"")


def drop_row(file):
    rows = about(file)
    rows["rows"].pop()
    rewrite(file, about=np.frombuffer(json.dumps(rows).encode(), np.uint8))


def wrong_type(file):
    rewrite(file, about=np.frombuffer(b"[]", np.uint8))


@pytest.mark.parametrize("damage", [cut, flip, empty, drop_row, wrong_type])
def test_damaged_index_is_one_line_and_can_be_rebuilt(tmp_path, folder, damage):
    refresh(tmp_path, folder)
    damage(tmp_path / "index" / "index.npz")
    with pytest.raises(InputError, match=r"index: damaged search index .*--rebuild") as error:
        refresh(tmp_path, folder)
    assert "\n" not in str(error.value)
    assert len(refresh(tmp_path, folder, rebuild=True)[0]) == 3
    assert refresh(tmp_path, folder)[0] == []


def test_another_version_is_said(tmp_path, folder):
    refresh(tmp_path, folder)
    file = tmp_path / "index" / "index.npz"
    rewrite(file, about=np.frombuffer(json.dumps(about(file) | {"version": 1}).encode(), np.uint8))
    with pytest.raises(InputError, match=r"index\.npz: is of version 1, this is 2; --rebuild it"):
        refresh(tmp_path, folder)


def test_search_equals_brute_force():
    rng = np.random.default_rng(0)
    n = 40
    mask = rng.random((n, S)) < 0.6
    mask[:, 0] |= ~mask.any(1)
    gallery = indexing.Gallery(
        tuple(f"v{i:02d}" for i in range(n)), unit(rng.normal(size=(n, E))), unit(rng.normal(size=(n, S, E))), mask,
        rng.random((n, S, 2)),
    )  # fmt: skip
    queries = unit(rng.normal(size=(5, E)))
    for query, row in zip(queries, gallery.search(queries, 7)):
        wanted = sorted(range(n), key=lambda i: -float(np.dot(query, gallery.video[i])))[:7]
        assert [f.name for f in row] == [gallery.names[i] for i in wanted]
        for f, i in zip(row, wanted):
            valid = [s for s in range(S) if mask[i, s]]
            best = max(valid, key=lambda s: float(np.dot(query, gallery.segments[i, s])))
            assert f.segment == tuple(gallery.spans[i, best])
            assert f.score == pytest.approx(float(np.dot(query, gallery.video[i])), abs=1e-6)
    assert len(gallery.search(queries, 100)[0]) == n


def test_segment_spans_by_hand():
    times = np.array([1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    full = np.ones(6, bool)
    np.testing.assert_allclose(indexing.segment_spans(times, full, 12.0, 3), [[0, 4], [4, 8], [8, 12]])
    np.testing.assert_allclose(indexing.segment_spans(times, full, 12.0, 6)[[0, 5]], [[0, 2], [10, 12]])
    short = np.array([0.0, 1.0, 2.0, 2.0, 2.0, 2.0])  # three frames, the last repeated
    spans = indexing.segment_spans(short, np.arange(6) < 3, 3.0, 3)
    np.testing.assert_allclose(spans, [[0, 1.5], [1.5, 3], [3, 3]])


def test_digest_sees_values_names_and_shapes():
    tree = {"a": np.arange(4.0), "b": {"c": np.zeros((2, 3))}}
    same = indexing.weights_digest({"b": {"c": np.zeros((2, 3))}, "a": np.arange(4.0)})
    assert indexing.weights_digest(tree) == same
    changed = [
        {**tree, "a": np.array([0, 1, 2, 3.0000001])},
        {"a2": tree["a"], "b": tree["b"]},
        {**tree, "b": {"c": np.zeros((3, 2))}},
        {**tree, "a": np.arange(4)},
    ]
    assert len({indexing.weights_digest(t) for t in (tree, *changed)}) == 5
