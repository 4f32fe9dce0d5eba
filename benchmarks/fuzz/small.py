"""A small trained run of CenterCLIP on twelve drawn videos, which faults are tried on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

CONFIG = """
from jaxvl.core import config as configs
from jaxvl.methods.centerclip import recipe
def get_config():
    c = recipe.base()
    c.train.update({"steps": 20, "log_every": 1, "checkpoint_every": 5})
    c.model.update({"preset": "tiny", "image_size": 32, "patch_size": 16, "vision_width": 32, "vision_layers": 2})
    c.model.update({"text_width": 32, "vocab_size": 256, "schedule": "", "freeze_layer_num": -1})
    c.data.world = {}
    c.data.update({"root": "data", "tokenizer": "words", "max_words": 24, "fps": 0.0, "sampling": "stratified"})
    c.data.update({"batch_size": 4, "eval_batch_size": 4})
    return c
"""


def make(here: Path) -> None:
    """A small config, twelve videos as arrays in MSR-VTT's layout, and a folder of video files."""
    (here / "data" / "videos").mkdir(parents=True)
    (here / "videos").mkdir()
    (here / "small.py").write_text(CONFIG, encoding="utf-8")
    names = [f"video{i}" for i in range(12)]
    for i, name in enumerate(names):
        np.save(here / "data" / "videos" / f"{name}.npy", np.full((12, 32, 32, 3), 20 * i, np.uint8))
    sentences = [{"video_id": n, "caption": f"clip {i}"} for i, n in enumerate(names)]
    text = json.dumps({"videos": [{"video_id": n} for n in names], "sentences": sentences})
    (here / "data" / "MSRVTT_data.json").write_text(text, encoding="utf-8")
    (here / "data" / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(names[:8]) + "\n", encoding="utf-8")
    rows = "".join(f"k,v,{n},clip {i}\n" for i, n in enumerate(names) if i > 7)
    file = here / "data" / "MSRVTT_JSFUSION_test.csv"
    file.write_text("key,vid_key,video_id,sentence\n" + rows, encoding="utf-8")
    import av

    for number in range(3):
        with av.open(str(here / "videos" / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for i in range(16):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * i + number, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
