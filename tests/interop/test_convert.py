from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import shutil

import jax
import numpy as np
import pytest

from jaxvl.cli import main
from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.state import flatten
from jaxvl.interop import clip, clip_hf, keys, layouts
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors
from jaxvl.interop.weights import load_weights, merge_weights
from jaxvl.methods.centerclip import recipe
from jaxvl.nn.clip import CLIP, CLIPConfig
from jaxvl.nn.positional import resize_positions
from jaxvl.verbs import convert
from tests import tiny
from tests.interop import torch_writer
from tests.interop.numpy_clip import TINY, TINY_RESNET, random_arrays

HEADS = {"vision_heads": 3, "text_heads": 2}
GIVEN = ("--set", "vision_heads=3", "--set", "text_heads=2")


def quiet(line):
    pass


@pytest.fixture
def openai(tmp_path):
    """A released archive: TorchScript, matrices in half precision."""
    arrays = {k: v.astype(np.float16) if v.ndim >= 2 else v for k, v in random_arrays(TINY).items()}
    return torch_writer.save(tmp_path / "ViT-tiny.pt", torch_writer.modules(arrays), scripted=True), arrays


def test_openai_archive_to_weights_folder(tmp_path, openai):
    file, arrays = openai
    lines = []
    convert.convert("openai_clip", file, tmp_path / "w", given=HEADS, say=lines.append)
    flat, info = load_weights(tmp_path / "w")
    model = jax.eval_shape(
        CLIP(TINY).init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 12), np.int32)
    )
    merged = merge_weights(model["params"], flat)
    np.testing.assert_array_equal(merged["visual"]["proj"], arrays["visual.proj"].astype(np.float32))
    assert info["family"] == "openai_clip"
    assert info["source"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert info["source"]["file"] == "ViT-tiny.pt"
    assert info["semantics"]["activation"] == "quick_gelu"
    assert info["semantics"]["ln_eps"] == 1e-5
    assert CLIPConfig(**info["config"]) == TINY
    assert info["report"]["mapped"] == 48 + 14
    assert info["report"]["dropped"] == ["input_resolution", "context_length", "vocab_size"]
    table = lines[0]
    assert "visual.transformer.resblocks.*.attn.in_proj_weight" in table
    assert "visual/resblocks_*/attn/{query,key,value}/kernel" in table
    assert "dropped  input_resolution  (a size, not a weight)" in table


def test_there_and_back_through_every_layout(tmp_path, openai):
    file, arrays = openai
    convert.convert("openai_clip", file, tmp_path / "w", given=HEADS, say=quiet)
    expected, _ = load_weights(tmp_path / "w")
    for family in ("openai_clip", "hf_clip", "clip4clip", "centerclip"):
        out = convert.reverse(family, tmp_path / "w", tmp_path / family, say=quiet)
        # heads and the like come from the file itself: its metadata, or config.json
        convert.convert(family, out, tmp_path / f"{family}_again", say=quiet)
        flat, info = load_weights(tmp_path / f"{family}_again")
        assert CLIPConfig(**info["config"]) == TINY
        assert flat.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(flat[name], value)
    got, _ = read_safetensors(tmp_path / "openai_clip" / convert.EXPORT)
    for name, value in got.items():
        np.testing.assert_array_equal(value, arrays[name])


def test_resnet_keeps_its_statistics(tmp_path):
    file = torch_writer.save(tmp_path / "RN.pt", torch_writer.Ordered(random_arrays(TINY_RESNET)))
    given = {"vision_heads": 2, "text_heads": 2}
    convert.convert("openai_clip", file, tmp_path / "w", given=given, say=quiet)
    params, info = load_weights(tmp_path / "w")
    stats, _ = load_weights(tmp_path / "w", "batch_stats")
    assert info["collections"] == ["batch_stats"]
    assert not any(p.startswith("batch_stats") for p in params)
    assert stats["visual/stem_bn1/var"].shape == (2,)
    out = convert.reverse("openai_clip", tmp_path / "w", tmp_path / "out", say=quiet)
    arrays, _ = read_safetensors(out)
    expected = random_arrays(TINY_RESNET, extras=False)
    assert arrays.keys() == expected.keys()
    with pytest.raises(InputError, match="has no ResNet"):
        convert.reverse("hf_clip", tmp_path / "w", tmp_path / "out2", say=quiet)


@pytest.mark.parametrize("rule", ["hf", "openclip"])
def test_image_size_interpolates_image_positions_only(tmp_path, openai, rule):
    file, arrays = openai
    convert.convert("openai_clip", file, tmp_path / "w", image_size=32, interpolation=rule, given=HEADS, say=quiet)
    flat, info = load_weights(tmp_path / "w")
    expected = resize_positions(arrays["visual.positional_embedding"].astype(np.float32), 4, rule)
    np.testing.assert_array_equal(flat["visual/positional_embedding"], expected)
    np.testing.assert_array_equal(flat["text/positional_embedding"], arrays["positional_embedding"].astype(np.float32))
    assert (info["config"]["image_size"], info["interpolation"]) == (32, rule)
    with pytest.raises(InputError, match="image_size 20 is not a multiple of patch_size 8"):
        convert.convert("openai_clip", file, tmp_path / "x", image_size=20, given=HEADS, say=quiet)


def test_left_over_and_missing_keys_are_errors_unless_allowed_by_name(tmp_path):
    arrays = random_arrays(TINY) | {"visual.extra": np.ones(2, np.float32)}
    del arrays["visual.ln_post.bias"]
    file = tmp_path / "a.safetensors"
    write_safetensors(file, arrays)
    with pytest.raises(
        InputError, match=r"a\.safetensors: .*1 missing: visual\.ln_post\.bias; 1 unused: visual\.extra"
    ):
        convert.convert("openai_clip", file, tmp_path / "w", given=HEADS, say=quiet)
    assert not (tmp_path / "w").exists()
    allow = [r"visual\.extra", r"visual\.ln_post\.bias"]
    convert.convert("openai_clip", file, tmp_path / "w", given=HEADS, allow=allow, say=quiet)
    flat, info = load_weights(tmp_path / "w")
    assert "visual/ln_post/bias" not in flat
    assert info["report"]["unused"] == ["visual.extra"]
    assert info["report"]["missing"] == ["visual.ln_post.bias"]
    assert info["allowed"] == allow
    with pytest.raises(InputError, match=r"holds weights\.safetensors already"):
        convert.convert("openai_clip", file, tmp_path / "w", given=HEADS, allow=allow, say=quiet)


@pytest.mark.parametrize(
    ("stated", "words"),
    [("3", "are 3, not fields of a CLIP"), ("{", "are no JSON"), ('{"width": 3}', "'width' is no field of a CLIP")],
)
def test_stated_fields_that_are_none_are_one_line(tmp_path, stated, words):
    write_safetensors(tmp_path / "a.safetensors", random_arrays(TINY), {layouts.CONFIG_METADATA: stated})
    with pytest.raises(InputError, match=rf"a\.safetensors: [^\n]*{words}[^\n]*$"):
        convert.convert("openai_clip", tmp_path / "a.safetensors", tmp_path / "w", given=HEADS, say=quiet)


def test_hugging_face_folder(tmp_path):
    hf, _ = clip_hf.to_hf(clip.from_openai(random_arrays(TINY), TINY)[0], TINY)
    file = tmp_path / "pytorch_model.bin"
    torch_writer.save(file, torch_writer.Ordered(hf | {"text_model.embeddings.position_ids": np.arange(12)[None]}))
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        convert.convert("hf_clip", file, tmp_path / "w", say=quiet)
    config = dataclasses.replace(TINY, activation="gelu")
    (tmp_path / "config.json").write_text(json.dumps(clip_hf.hf_config(config)))
    convert.convert("hf_clip", file, tmp_path / "w", say=quiet)
    flat, info = load_weights(tmp_path / "w")
    assert info["semantics"]["activation"] == "gelu"
    np.testing.assert_array_equal(flat["visual/proj"], hf["visual_projection.weight"].T)


def test_published_run_brings_its_config(tmp_path):
    config = dataclasses.replace(TINY, vision_layers=2)
    arrays = {f"module.clip.{k}": v for k, v in random_arrays(config).items()}
    file = torch_writer.save(tmp_path / "ckpt.best.pth.tar", {"epoch": 4, "state_dict": torch_writer.Ordered(arrays)})
    hparams = {
        **{"max_frames": 4, "max_words": 16, "pretrained_clip_name": "ViT-B/32", "cluster_inter": 1},
        **{"cluster_num_blocks": [4, 3], "target_frames_blocks": [4, 2]},
    }
    (tmp_path / "hparams_train.json").write_text(json.dumps(hparams))
    lines = []
    convert.convert("centerclip", file, tmp_path / "w", given=HEADS, say=lines.append)
    info = load_weights(tmp_path / "w")[1]
    assert info["overrides"]["model.schedule"] == "B1-2,3"
    (flags,) = (line for line in lines if line.startswith("the run it is of had "))
    words = [w.removeprefix("--config.") for w in shlex.split(flags) if w.startswith("--config.")]
    assert "model.schedule=B1-2,3" in words
    applied = dict(configs.dotted(configs.apply(recipe.base(), words)))
    assert {name: applied[name] for name in info["overrides"]} == info["overrides"]
    assert info["semantics"]["head_ln_eps"] == 1e-5


def test_workdir_to_openai_layout(tmp_path):
    """A workdir with one checkpoint, its CLIP being the model with 2 heads of width 16: read off the tree."""
    config = tiny.quickstart("model.vocab_size=64")
    compiled = session.compile_method(config, devices=jax.devices()[:1])
    workdir = tmp_path / "run"
    session.claim_workdir(workdir, config, False, False, quiet)
    state = compiled.fresh_state()
    checkpoints = Checkpoints(workdir, config, quiet)
    checkpoints.save(state, {}, {"step": 0})
    checkpoints.close()
    out = convert.reverse("openai_clip", workdir, tmp_path / "out", say=quiet)
    convert.convert("openai_clip", out, tmp_path / "w", say=quiet)
    flat, info = load_weights(tmp_path / "w")
    assert info["config"]["vision_heads"] == 2
    own = flatten(state.params)
    assert flat.keys() == own.keys()
    for name, value in own.items():
        np.testing.assert_array_equal(flat[name], value)


def test_clip_inside_a_larger_model_is_found(tmp_path):
    flat = keys.to_flat(clip.from_openai(random_arrays(TINY), TINY)[0])
    info = {"config": {}, "collections": []}
    inner = {f"backbone/{k}": v for k, v in flat.items()} | {"head/w": np.ones(2, np.float32)}
    convert.weights.save_weights(tmp_path / "w", inner, info)
    with pytest.raises(InputError, match="1 unused: head/w"):
        convert.reverse("openai_clip", tmp_path / "w", tmp_path / "out", say=quiet)
    out = convert.reverse("openai_clip", tmp_path / "w", tmp_path / "out", allow=["head/.*"], say=quiet)
    assert read_safetensors(out)[0].keys() == random_arrays(TINY, extras=False).keys()


def run(*words):
    return main(["convert", *map(str, words)])


def test_command_line(tmp_path, openai, capsys):
    file, _ = openai
    to, back = tmp_path / "w", tmp_path / "back"
    assert run("--from", "openai_clip", file, "--to", to, "--set", "vision_heads=3", "--set", "text_heads=2") == 0
    out = capsys.readouterr().out
    assert "62 tensors mapped" in out
    assert out.splitlines()[-1].startswith(f"{to}: ")
    assert run("--from", "hf_clip", to, "--to", back, "--reverse") == 0
    assert {p.name for p in back.iterdir()} == {"model.safetensors", "config.json"}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--from", "torchvision"), "--from torchvision: is none of openai_clip, hf_clip, clip4clip"),
        (("--from", "openai_clip"), "ViT-tiny.pt: vision_heads: the width is not a multiple of 64"),
        (("--from", "openai_clip", *GIVEN, "--image-size", "0"), "--image-size: needs a whole number of at least 1"),
        (("--from", "hf_clip"), "config.json: no such file"),
        (("--from", "clip4clip"), "no tensor clip.token_embedding.weight; it looks like OpenAI's layout"),
        (("--from", "openai_clip", "--set", "width=3"), "--set: 'width' is no field of a CLIP"),
        (("--from", "openai_clip", "--set", "width"), "--set width: is not FIELD=VALUE"),
        (("--from", "openai_clip", "--interpolation", "linear"), "--interpolation linear: is none of hf, openclip"),
        (("--from", "openai_clip", "--reverse"), "neither a weights folder nor a workdir"),
        (("--from", "openai_clip", "--reverse", "--image-size", "32"), "--reverse: takes no --image-size"),
    ],
)
def test_command_line_errors_are_one_line(tmp_path, openai, capsys, words, line):
    assert run(openai[0], "--to", tmp_path / "w", *words) == 2
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_wrong_and_truncated_files(tmp_path, openai, capsys):
    file, _ = openai
    cut = tmp_path / "cut.pt"
    shutil.copy(file, cut)
    with cut.open("r+b") as f:
        f.truncate(file.stat().st_size // 2)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    for path in (cut, picture, tmp_path, tmp_path / "gone"):
        assert run("--from", "openai_clip", path, "--to", tmp_path / "w") == 2
        err = capsys.readouterr().err
        assert str(path) in err
        assert err.count("\n") == 1


def test_fields_of_a_config_are_parsed():
    assert convert.parse_fields(["vision_heads=4", "activation=gelu", "ln_eps=1e-6"], layouts.CLIP) == {
        "vision_heads": 4,
        "activation": "gelu",
        "ln_eps": 1e-6,
    }


def test_methods_add_their_own_layouts():
    assert set(convert.all_layouts()) - set(convert.layouts.LAYOUTS) >= {"centerclip"}
