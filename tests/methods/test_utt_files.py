"""UTT on videos of one's own: what is written, what odd videos do, wrong flags, results for benchmarks."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

import jaxvl
from jaxvl import cli
from jaxvl.arguments import Parser
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.tracking.mot import read_mot_results
from jaxvl.data.synthetic.encode import write_video
from jaxvl.data.video import index_video, open_source, read_frames
from jaxvl.methods.utt import files, results
from jaxvl.methods.utt.following import Tracked, frames_between, visit_source
from tests import tiny

TINY = (
    "train.steps=0", "mesh.data=1", "precision.matmul=highest",
    "model.blocks=(1,1)", "model.width=8", "model.dim=16", "model.heads=2", "model.ff_dim=16", "model.iterations=1",
    "model.pool=3", "model.detector_layers=1", "model.queries=8", "data.samples=8", "data.frames=2",
    "data.crop_size=32", "data.sot_batch_size=2", "data.mot_batch_size=2", "data.mot_size=(32,32)",
    "data.mot_short=(32,)", "data.mot_longest=32", "data.max_objects=4", "data.sot_eval_rows=1",
    "data.mot_eval_rows=1", "data.world.num_train=1", "data.world.num_test=1", "data.world.frames=24",
    "data.world.image_size=64", "eval.mot.short=32", "eval.mot.longest=48", "eval.mot.max_tracks=4",
    "eval.mot.max_detections=6", "pipeline.threads=1", "pipeline.prefetch=1",
)  # fmt: skip
FRAMES = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir of the quickstart at tiny size, with its starting weights."""
    workdir = tmp_path_factory.mktemp("utt") / "run"
    flags = [f"--config.{item}" for item in TINY]
    assert (
        cli.main(["train", "--config", str(tiny.ROOT / "configs/utt/quickstart.py"), "--workdir", str(workdir), *flags])
        == 0
    )
    return workdir


@pytest.fixture(scope="module")
def model(run):
    return jaxvl.load(run)


@pytest.fixture(scope="module")
def clip():
    """A bright square that moves over grey, uint8 [10, 48, 64, 3]."""
    frames = np.full((FRAMES, 48, 64, 3), 90, np.uint8)
    for i in range(FRAMES):
        frames[i, 16:28, 8 + 2 * i : 20 + 2 * i] = (250, 220, 40)
    return frames


@pytest.fixture(scope="module")
def video(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "square.mp4"
    write_video(path, clip, 5)
    return path


@pytest.fixture(scope="module")
def detections(video):
    """The square, and a second box from frame 4 to 6."""
    lines = [f"{i + 1},-1,{9 + 2 * i},17,12,12,0.9" for i in range(FRAMES)]
    lines += [f"{i},-1,41,31,10,14,0.8" for i in (4, 5, 6)]
    path = video.with_name("det.txt")
    path.write_text("\n".join(lines) + "\n")
    return path


def parsed(*args):
    parser = Parser(prog="jaxvl predict")
    files.add_arguments(parser)
    return parser.parse_args([str(a) for a in args])


def predict(model, capsys, *args):
    """`jaxvl predict --json` on a model that is loaded already."""
    capsys.readouterr()
    assert files.run(model.loaded, parsed(*args), as_json=True) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(model, *args):
    """The one line of wrong input."""
    with pytest.raises((InputError, BadMedia)) as error:
        files.run(model.loaded, parsed(*args), as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_evaluation_leaves_tracks_that_become_official_files(run, model, tmp_path, capsys):
    metrics = json.loads((run / "eval" / "test.json").read_text())["metrics"]
    assert {"sot/auc", "sot/ao", "sot/precision", "mot/mota", "mot/idf1", "mot/hota", "mot/ids"} <= metrics.keys()
    said = predict(model, capsys, "--submit", tmp_path / "out")
    names = sorted(p.rpartition("/out/")[2] for p in said["files"])
    assert names[0].startswith("lasot/")
    assert names[1:] == [f"mot17/MOT17-02-{d}.txt" for d in ("DPM", "FRCNN", "SDP")]
    assert results.read_boxes(tmp_path / "out" / names[0]).shape == (24, 4)
    with np.load(run / "eval" / "test.npz") as file:
        key = next(k for k in file.files if "lasot" not in k and k.startswith("sot"))
        first = file[key][0]
    np.testing.assert_allclose(results.read_boxes(tmp_path / "out" / names[0])[0], first, atol=0.006)
    titles = [title for title, *_ in results.results_tables(metrics)]
    assert titles == [
        "One object, followed from its first box: 1 sequences", "All objects, found and linked: 1 sequences",
    ]  # fmt: skip
    assert "train_sot.txt" in {p.name for p in (run / "ids").iterdir()}


def test_forms_of_the_benchmarks(tmp_path):
    class Sets:
        sot_test, mot_test = "got10k", "mot20"

    boxes = np.array([[1, 2, 3, 4], [1.5, 2, 3, 4.25]])
    rows = np.array([[1, 5, 0, 0, 10, 20, 0.5], [1, 3, 7, 8, 10, 20, 1]])
    name = "GOT-10k_Test_000001"
    tracks = {"sot": {name: boxes}, "mot": {"MOT20-04": rows}, "sot_seconds": {name: np.array([0.25, 1 / 3])}}
    np.savez(
        tmp_path / "test.npz", **{f"{k.partition('_')[0]}/{k}/{n}": v for k, d in tracks.items() for n, v in d.items()}
    )
    results.write_submission(results.read_tracks(tmp_path / "test.npz"), Sets, tmp_path)
    seconds = (tmp_path / f"got10k/{name}/{name}_time.txt").read_text()
    assert seconds == "0.25000000\n0.33333333\n"
    got = (tmp_path / "got10k/GOT-10k_Test_000001/GOT-10k_Test_000001_001.txt").read_text()
    assert got == "1.00,2.00,3.00,4.00\n1.50,2.00,3.00,4.25\n"
    assert (tmp_path / "mot20/MOT20-04.txt").read_text() == (
        "1,1,8.0,9.0,10.0,20.0,1,-1,-1,-1\n1,2,1.0,1.0,10.0,20.0,0.5,-1,-1,-1\n"
    )
    Sets.sot_test = "otb100"
    results.write_submission({"sot": {"Basket": boxes}}, Sets, tmp_path)
    assert (tmp_path / "otb100/Basket.txt").read_text().startswith("2.00\t3.00\t3.00\t4.00\n")
    with pytest.raises(InputError, match="`jaxvl evaluate` writes it"):
        results.read_tracks(tmp_path / "none.npz")
    odd = {
        "sot/a": np.zeros(3),
        "mot/a": np.zeros((2, 2)),
        "mot/b": np.full((2, 7), np.nan),
        "sot/../a": np.zeros((2, 4)),
    }
    for name, value in odd.items():
        np.savez(tmp_path / "odd.npz", **{name: value})
        with pytest.raises(InputError, match=f"{name} holds no tracks"):
            results.read_tracks(tmp_path / "odd.npz")


def test_one_object_with_all_files(model, video, tmp_path, capsys):
    said = predict(model, capsys, "--video", video, "--box", "8,16,12,12", "--out", tmp_path / "o")
    assert (said["task"], said["frames"], said["size"]) == ("one", FRAMES, [64, 48])
    assert said["objects"][0]["boxes"][0] == [8, 16, 12, 12]
    assert len(said["objects"][0]["boxes"]) == FRAMES
    assert said["objects"][0]["spans"] == [[0.0, 2.0]]
    assert said["frames_per_second"] > 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "timeline.png", "tracks.json", "tracks.mp4", "tracks.txt",
    ]  # fmt: skip
    rows = read_mot_results(tmp_path / "o" / "tracks.txt")
    np.testing.assert_allclose(rows.boxes[0], [8, 16, 12, 12])
    index = index_video(tmp_path / "o" / "tracks.mp4")
    np.testing.assert_allclose(index.times, np.arange(FRAMES) / 5, atol=1e-3)
    movie = read_frames(tmp_path / "o" / "tracks.mp4", index.pts[:1], index)[0].astype(int)
    assert np.abs(movie[40:, 40:] - 90).max() < 20  # untouched
    assert np.abs(movie[16, 9:19].mean(0) - (250, 220, 40)).max() > 40  # the frame of the box
    with Image.open(tmp_path / "o" / "timeline.png") as image:
        assert image.width == 960


def test_everything_with_detections_of_ones_own(model, video, detections, tmp_path, capsys):
    out = tmp_path / "o"
    said = predict(model, capsys, "--video", video, "--detections", detections, "--tracker", "released", "--out", out)
    assert said["task"] == "all"
    spans = {o["id"]: o["spans"] for o in said["objects"]}
    assert spans == {1: [[0.0, 2.0]], 2: [[0.6, 1.2]]}
    np.testing.assert_allclose(said["objects"][0]["boxes"], [[8 + 2 * i, 16, 12, 12] for i in range(FRAMES)], atol=0.01)
    rows = read_mot_results(out / "tracks.txt")
    assert rows.frame[rows.track_id == 2].tolist() == [3, 4, 5]
    part = model.track(video, detections=detections, tracker="released", start_s=0.6, end_s=1.0)
    assert part.shown.tolist() == [3, 4, 5]
    assert part.frame[part.of(2)].tolist() == [3, 4, 5]  # frames count as in the video
    assert model.track(video, detections=detections, least_score=0.95).identities == []
    more = video.with_name("more.txt")
    more.write_text(detections.read_text() + "99,-1,1,1,5,5,1\n2,-1,1,1,0,5,1\n" + "3,-1,1,1,5,5,.1\n" * 6)
    assert model.track(video, detections=more, tracker="released").left_out == 3  # one of frame 3 is a seventh
    more.write_text(detections.read_text() + "2,-1,1e30,1,5,5,1\n3,-1,1,-40,5,5,1\n3,-1,-3,1,5,5,1\n")
    assert model.track(video, detections=more, tracker="released").left_out == 2  # outside; the third shows in part


def test_one_object_among_all_others(model, video, detections, tmp_path, capsys):
    out, box = tmp_path / "o", "40,30,10,14"
    args = ("--video", video, "--detections", detections, "--tracker", "released", "--out", out, "--no-video")
    said = predict(model, capsys, *args, "--box", box, "--all")
    assert said["task"] == "all"
    assert [o["id"] for o in said["objects"]] == [1, 2, 3]
    target, square = said["objects"][0], said["objects"][1]
    assert target["boxes"][0] == [40, 30, 10, 14]
    assert target["frames"] == list(range(FRAMES))
    plain = predict(model, capsys, *args)  # the others are what they are without it
    np.testing.assert_allclose(square["boxes"], plain["objects"][0]["boxes"])
    moved = model.track(video, box=(40, 30, 10, 14), everything=True, least_score=1.0)  # with its own detector
    assert moved.identities == [1]
    assert np.abs(np.diff(moved.boxes, axis=0)).max() > 0
    np.testing.assert_allclose(moved.boxes, target["boxes"], atol=0.02)
    assert "give --box" in refused(model, "--video", video, "--all")


def test_the_command_itself(run, video, detections, capsys):
    capsys.readouterr()
    words = [
        "predict",
        "--workdir",
        run,
        "--video",
        video,
        "--detections",
        detections,
        "--tracker",
        "released",
        "--no-video",
    ]
    assert cli.main([str(w) for w in words]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{FRAMES} frames, ")
    assert "  1: 0.0-2.0 s" in said
    assert (run / "tracks" / "square" / "tracks.txt").is_file()
    assert cli.main([*(str(w) for w in words[:5]), "--box", "1,2,3"]) == 2
    assert "needs four numbers x,y,w,h" in capsys.readouterr().err


def test_a_video_without_objects(model, clip, tmp_path, capsys):
    nothing = tmp_path / "none.txt"
    nothing.write_text("")
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(clip[:3]):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{i + 9}.png")
    said = predict(model, capsys, "--video", tmp_path / "frames", "--detections", nothing, "--out", tmp_path / "o")
    assert (said["objects"], said["frames"], said["duration"]) == ([], 3, None)
    assert (tmp_path / "o" / "tracks.txt").read_text() == ""
    assert index_video(tmp_path / "o" / "tracks.mp4").num_frames == 3
    black = model.track(np.zeros((3, 48, 64, 3), np.uint8), least_score=1.0)  # the network's own detections
    assert black.identities == []
    assert len(black.shown) == 3


def test_absence_a_cut_and_a_change_of_size(model, clip, tmp_path):
    gone = clip.copy()
    gone[3:6] = 90  # nobody there
    gone[6:] = np.random.default_rng(0).integers(0, 256, gone[6:].shape)  # another scene
    found = model.track(gone, box=(8, 16, 12, 12))
    assert len(found.boxes) == FRAMES
    assert np.isfinite(found.boxes).all()
    assert (found.boxes[:, 2:] > 0).all()
    path = tmp_path / "sizes"
    path.mkdir()
    for i, frame in enumerate(clip[:6]):
        image = Image.fromarray(frame)
        image = image if i < 3 else image.resize((96, 40))
        image.save(path / f"{i}.png")
    one = model.track(path, box=(8, 16, 12, 12))
    last = one.boxes[3:]
    assert (last[:, 0] + last[:, 2] <= 96).all()
    assert (last[:, 1] + last[:, 3] <= 40).all()
    (tmp_path / "d.txt").write_text("".join(f"{i},-1,81,21,12,12,0.9\n" for i in (4, 5, 6)))
    many = model.track(path, detections=tmp_path / "d.txt", tracker="byte")
    np.testing.assert_allclose(many.boxes[-1], [80, 20, 12, 12], atol=1.5)


def test_a_file_whose_frames_change_their_size_is_read_frame_by_frame(tmp_path):
    parts = []
    for name, width, height in (("a", 64, 48), ("b", 96, 40)):
        with av.open(str(tmp_path / f"{name}.ts"), "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for i in range(3):
                pixels = np.full((height, width, 3), 40 + 40 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")))
            container.mux(stream.encode(None))
        parts.append((tmp_path / f"{name}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    source, seen = open_source(tmp_path / "both.ts"), []
    visit_source(source, frames_between(source, None, None), lambda i, picture: seen.append((i, picture.shape[:2])))
    assert seen == [(i, (48, 64) if i < 3 else (40, 96)) for i in range(6)]


def test_a_movie_of_changing_frames_keeps_its_times(tmp_path):
    from jaxvl.viz.tracks import Movie

    with Movie(tmp_path / "m.mp4", (33, 21)) as movie:
        for seconds, shape in ((0.0, (21, 33)), (0.1, (40, 20)), (0.1, (21, 33)), (1.5, (10, 99))):
            movie.add(np.full((*shape, 3), 200, np.uint8), seconds)
    with av.open(str(tmp_path / "m.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (34, 22)
        times = [float(f.pts * Fraction(stream.time_base)) for f in container.decode(stream)]
    np.testing.assert_allclose(times, [0, 0.1, 0.1, 1.5], atol=2e-3)
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--box", "70,5,9,9"), "lies outside of the first frame, which is 64x48"),
        (("--box", "5,5,0,9"), "has no area"),
        (("--box", "5,5,9"), "needs four numbers x,y,w,h"),
        (("--box", "5,5,9,9", "--detections", "x.txt"), "leave --box out, or add --all"),
        (("--box", "70,5,9,9", "--all"), "lies outside of the first frame"),
        (("--detections", "nowhere.txt"), "no such file"),
        (("--tracker", "sort"), "none of transformer, released, byte"),
        (("--start", "9"), "no frame lies between 9 and inf s"),
        (("--start", "nan"), "needs a number of at least 0, got 'nan'"),
        (("--least-score", "7"), "needs a number from 0 to 1, got '7'"),
    ],
)
def test_wrong_flags_are_one_line(model, video, args, line):
    assert line in refused(model, "--video", video, *args)


def test_other_wrong_input_is_one_line(model, video, tmp_path):
    assert "name a video file" in refused(model)
    far = tmp_path / "far.txt"
    far.write_text("99,-1,1,1,5,5,1\n")
    assert "the first is of frame 99, the video has 10" in refused(model, "--video", video, "--detections", far)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert "broken.mp4" in refused(model, "--video", tmp_path / "broken.mp4")
    assert "leave --video" in refused(model, "--submit", tmp_path, "--video", video)


def test_a_box_half_outside_is_followed(model, clip):
    found = model.track(clip[:3], box=(-4, 40, 12, 12))
    assert len(found.boxes) == 3
    with pytest.raises(InputError, match="lies outside"):
        model.track(clip[:3], box=(-20, 40, 12, 12))


def test_spans_of_a_track():
    found = Tracked(
        frame=np.array([2, 3, 5, 5]), ids=np.array([1, 1, 1, 2]), boxes=np.zeros((4, 4), np.float32),
        scores=np.ones(4), times=np.arange(8) / 2.0, shown=np.arange(1, 6), duration=4.0, timed=True, size=(9, 9),
        rate=1.0,
    )  # fmt: skip
    assert found.spans(1) == [(1.0, 2.0), (2.5, 3.0)]
    assert found.spans(2) == [(2.5, 3.0)]
    assert found.identities == [1, 2]
    assert [found.at(i).tolist() for i in (1, 2, 5, 6)] == [[], [0], [2, 3], []]


def test_pictures_of_the_report(run, model):
    from jaxvl.methods.utt.data import build_data

    data = build_data(model.loaded.config, run, print)
    shown = list(files.pictures(model.loaded, data))
    assert [title for title, *_ in shown] == [
        "One object, followed from its first box",
        "All objects, found and linked",
    ]
    assert all(image.width > 300 for _, image, _ in shown)
