"""The Python API: its page, executed at toy size, and what every model of it has in common."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxvl
from jaxvl import api, cli
from jaxvl.core import config as configs
from jaxvl.core import model as models
from jaxvl.core import registry
from jaxvl.data.clip_bpe import CLIPTokenizer
from jaxvl.nn.clip import PIXEL_MEAN, PIXEL_STD
from tests import tiny
from tests.interop import numpy_clip, torch_writer
from tests.test_docs import BLOCK, ROOT

PAGE = ROOT / "docs" / "howto" / "python.md"
SMALL = {
    "centerclip": tiny.OVERRIDES,
    "slimclr": ("train.steps=2", "train.log_every=1", "mesh.data=1", "data.batch_size=32", "data.eval_batch_size=32",
                "model.queue=64", "eval.monitors=('knn',)"),
    "drdr": ("train.steps=2", "train.log_every=1", "mesh.data=1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A folder with CLIP (a published layout, converted) and picture.png; and the arrays of the weights."""
    folder = tmp_path_factory.mktemp("clip")
    config = dataclasses.replace(numpy_clip.TINY, vision_width=64, vision_heads=1, text_width=64, text_heads=1,
                                 vocab_size=49408, context_length=77)  # fmt: skip
    arrays = numpy_clip.random_arrays(config)
    torch_writer.save(folder / "ViT-B-32.pt", torch_writer.modules(arrays), scripted=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    assert (
        cli.main(["convert", str(folder / "ViT-B-32.pt"), "--from", "openai_clip", "--to", str(folder / "CLIP")]) == 0
    )
    return folder, config, arrays, pixels


@pytest.fixture(scope="module")
def page(clip_folder, tmp_path_factory):
    """The names that the page's examples leave, run in order in one folder with configs cut to seconds."""
    folder = clip_folder[0]
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)

    def small(name, **overrides):
        cfg = configs.load(name, SMALL[str(name).split("/")[0]])
        return configs.apply_values(cfg, dict(api._paths(overrides)))

    patch.setattr(api, "config", small)
    names: dict = {}
    for kind, body in BLOCK.findall(PAGE.read_text()):
        if kind == "python":
            exec(compile(body, str(PAGE), "exec"), names)
    yield names
    patch.undo()


def test_the_page_s_examples_run(page):
    assert page["result"].step == 2
    assert page["metrics"]["gallery"] == 8
    assert page["text"].shape[0] == 2
    assert page["full"].shape[1] > page["small"].shape[1]


def test_importing_it_is_instant():
    heavy = {"jax", "numpy", "flax", "ml_collections", "PIL", "av"}
    code = f"import sys, jaxvl; dir(jaxvl); print(sorted({heavy} & set(sys.modules)), jaxvl.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("[] ")
    assert (ROOT / "jaxvl" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = jaxvl.trian


@pytest.mark.parametrize("name", registry.names())
def test_every_method_offers_verbs(name):
    model = registry.module(name, "files").Model
    assert issubclass(model, models.Model)
    verbs = [v for v in models.VERBS if callable(getattr(model, v, None))]
    assert verbs
    for verb in verbs:
        assert getattr(model, verb).__doc__


def test_an_example_does_not_depend_on_the_others(page):
    """One, or among others, or twice; from a file or from its frames."""
    model, videos = page["model"], page["videos"]
    every = model.encode_video(videos)
    for i in range(len(videos)):
        np.testing.assert_allclose(model.encode_video(videos[i : i + 1])[0], every[i], atol=1e-5)
    np.testing.assert_allclose(model.encode_video([*videos, videos[0]])[-1], every[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(every, axis=1), 1, atol=1e-5)
    for make in (page["slim"].embed, lambda x: page["digits"].classify(x).probability):
        whole = make(page["pictures"])
        np.testing.assert_allclose(make(page["pictures"][3:4])[0], whole[3], atol=1e-5)


def test_pictures_are_paths_arrays_or_pillow_s(page, tmp_path):
    rows = page["pictures"][:2]
    for i, row in enumerate(rows):
        Image.fromarray(row).save(tmp_path / f"{i}.png")
    want = page["slim"].embed(rows)
    for given in ([tmp_path / "0.png", str(tmp_path / "1.png")], [Image.fromarray(r) for r in rows]):
        np.testing.assert_array_equal(page["slim"].embed(given), want)


def test_predict_and_the_model_agree(page, tmp_path, capsys):
    for i, row in enumerate(page["pictures"]):
        Image.fromarray(row).save(tmp_path / f"{i}.png")
    assert cli.main(["predict", "--workdir", "runs/digits", "--images", str(tmp_path), "--json", "--top", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)["images"]
    found = page["digits"].classify([row["path"] for row in rows])
    assert [row["classes"][0]["class"] for row in rows] == found.best
    np.testing.assert_allclose([r["classes"][0]["confidence"] for r in rows], found.probability.max(1), atol=1e-4)


# -- CLIP by itself


def test_clip_s_features_equal_an_independent_forward_pass(page, clip_folder):
    _, config, arrays, pixels = clip_folder
    clip = page["clip"]
    prompts = ["a diagram", "a photo of a dog", ""]
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    text = unit(numpy_clip.encode_text(arrays, config, CLIPTokenizer().tokenize(prompts)))
    normal = (pixels[None] / 255 - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    image = unit(numpy_clip.encode_image(arrays, config, normal))
    np.testing.assert_allclose(clip.encode_text(prompts), text, atol=1e-5)
    np.testing.assert_allclose(clip.encode_image([pixels]), image, atol=1e-5)
    np.testing.assert_allclose(clip.similarity(prompts, [pixels]), text @ image.T, atol=1e-5)
    logits = clip.logit_scale * (image @ text.T)
    got = clip.classify([pixels], ["diagram", "dog"], templates=["a {}"]).probability
    pair = clip.class_vectors(["diagram", "dog"], ["a {}"])
    want = np.exp(clip.logit_scale * (image @ pair.T))
    np.testing.assert_allclose(got, want / want.sum(1, keepdims=True), atol=1e-5)
    assert logits.shape == (1, 3)


def test_the_last_hidden_states_lead_to_the_features(page, clip_folder):
    _, config, _, pixels = clip_folder
    clip, texts = page["clip"], ["a dog", "two cats on a mat"]
    states = clip.hidden_states(texts=texts, images=[pixels])
    assert states["text"].shape == (config.text_layers + 1, 2, 77, 64)
    assert states["image"].shape[:2] == (config.vision_layers + 1, 1)
    p = clip.variables["params"]

    def project(x, norm, proj):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        y = ((x - mean) / np.sqrt(var + config.ln_eps) * norm["scale"] + norm["bias"]) @ proj
        return y / np.linalg.norm(y, axis=-1, keepdims=True)

    end = CLIPTokenizer().tokenize(texts).argmax(1)
    last = states["text"][-1][np.arange(2), end]
    text = project(last, p["text"]["ln_final"], p["text"]["text_projection"])
    np.testing.assert_allclose(text, clip.encode_text(texts), atol=1e-4)
    image = project(states["image"][-1][:, 0], p["visual"]["ln_post"], p["visual"]["proj"])
    np.testing.assert_allclose(image, clip.encode_image([pixels]), atol=1e-4)
    ids = CLIPTokenizer().tokenize(texts)
    first = np.asarray(p["text"]["token_embedding"]["embedding"])[ids] + p["text"]["positional_embedding"]
    np.testing.assert_allclose(states["text"][0], first, atol=1e-6)


def test_a_folder_of_pictures_is_classified(clip_folder, page, tmp_path, capsys):
    folder = clip_folder[0]
    (tmp_path / "sub").mkdir()
    Image.open(folder / "picture.png").save(tmp_path / "sub" / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = ["classify", "--weights", str(folder / "CLIP"), "--images", str(tmp_path), "--classes", "diagram", "dog"]
    assert cli.main([*words, "--template", "a {}", "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    want = page["clip"].classify([folder / "picture.png"], ["diagram", "dog"], ["a {}"]).top(2)[0]
    got = [(c["class"], c["probability"]) for c in found["pictures"][0]["classes"]]
    assert [n for n, _ in got] == [n for n, _ in want]
    np.testing.assert_allclose([p for _, p in got], [p for _, p in want], atol=1e-6)
    assert len(found["skipped"]) == 1
    assert cli.main([*words, "--top", "1"]) == 0
    assert re.search(r"sub/a\.png +(diagram|dog) \d+\.\d %", capsys.readouterr().out)
    for extra, line in ((["--top", "9"], "top 9: needs 1 to 2"), (["--template", "a dog"], r"has no \{\} where")):
        assert cli.main([*words, *extra]) == 2
        assert re.search(line, capsys.readouterr().err)


# -- wrong input


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"vision_width": 128, "vision_heads": 2}, "says vision_width 128, its weights have 64"),
        ({"text_layers": 10**9}, "text_layers 1000000000 is not from 1 to 1024"),
        ({"context_length": 8}, "says context_length 8, its weights have 77"),
    ],
)
def test_a_folder_whose_description_is_not_its_weights_is_refused(clip_folder, tmp_path, change, line):
    shutil.copytree(clip_folder[0] / "CLIP", tmp_path / "CLIP")
    file = tmp_path / "CLIP" / "weights.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps({**info, "config": {**info["config"], **change}}))
    with pytest.raises(jaxvl.InputError, match=line):
        jaxvl.load(tmp_path / "CLIP")


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda page: jaxvl.load("nowhere"), r"nowhere.*has no config\.json"),
        (lambda page: jaxvl.load("picture.png"), r"picture\.png: is a file; convert it first"),
        (lambda page: jaxvl.load("CLIP", best=True), "is a weights folder, which has no checkpoints"),
        (lambda page: page["model"].encode_text("a string"), "texts: needs a list, got str"),
        (lambda page: page["model"].encode_video([]), "videos: is empty"),
        (lambda page: page["model"].encode_video([np.zeros((4, 8, 8))]), r"video 0: needs a path or uint8.*float64"),
        (lambda page: page["slim"].embed([3]), "picture 0: needs a path or uint8.*int"),
        (lambda page: page["slim"].embed(page["pictures"], width=0.3), "0.3: this model has the widths"),
        (lambda page: page["slim"].classify(page["pictures"]), "was trained without labels"),
        (lambda page: page["digits"].classify(page["pictures"], path="both"), "'both': is none of target, source"),
        (lambda page: page["digits"].classify(page["pictures"]).top(99), "top 99: needs 1 to 10"),
        (lambda page: page["clip"].encode_text([3]), "text 0: needs a string, got int"),
        (lambda page: page["clip"].hidden_states(), "give texts, images or both"),
        (lambda page: jaxvl.config("centerclip/quickstart", model=3), r"model: is a group of fields"),
    ],
)
def test_wrong_input_is_one_line(page, call, line):
    with pytest.raises(jaxvl.InputError, match=line) as caught:
        call(page)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_decoded_is_named(page, tmp_path):
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(jaxvl.BadMedia, match=r"no\.mp4"):
        page["model"].encode_video([tmp_path / "no.mp4"])
    with pytest.raises(jaxvl.BadMedia, match=r"gone\.png"):
        page["digits"].classify([Path("gone.png")])


def test_overrides_keep_their_types():
    got = jaxvl.config("centerclip/quickstart", train__steps=np.int64(7), **{"optim.main.lr": np.float32(0.5)})
    assert (got.train.steps, got.optim.main.lr) == (7, 0.5)
    assert jaxvl.config("slimclr/quickstart", model={"widths": [1.0, 0.5]}).model.widths == (1.0, 0.5)
