# %% [markdown]
# # MIST: questions about long videos
#
# A minute of video is hundreds of frames, and a question is about a few seconds and a corner of them. MIST
# ([arXiv 2212.09522](https://arxiv.org/abs/2212.09522)) cuts a video into segments, picks those that a question asks
# for, picks regions in their frames, and attends over these alone. Features are computed once and kept.
#
# This notebook renders videos of a minute in which coloured shapes come and go, computes their features with the
# command that real data would use, trains MIST to say where a shape was, and shows where it looked. No download; CPU,
# GPU or TPU. The tower is an untrained CLIP, so only colours and places are asked about: this shows how the method
# works, not how well it does on real video.

# %% [markdown]
# ## Install
# In a checkout of the repository this works as it is. Anywhere else, put the address of the repository into the second
# line and remove its `#`; the configs come with the package.

# %% tags=install
# %pip install -q .
# # %pip install -q git+https://github.com/OWNER/jaxvl.git

# %%
import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import SVG, display
from IPython.display import Image as Inline
from PIL import Image

import jaxvl
from jaxvl import cli
from jaxvl.core.writers import read_metrics
from jaxvl.data.features import open_features
from jaxvl.data.frame_views import load_view
from jaxvl.data.readers.question_answering.agqa import read_agqa
from jaxvl.data.synthetic.on_disk import read_truth
from jaxvl.verbs import report
from jaxvl.verbs.prepare import extract
from jaxvl.viz.curves import line_chart, series_from_rows
from jaxvl.viz.images import film_strip, to_bytes

logging.getLogger("absl").setLevel(logging.ERROR)
folder = Path(tempfile.mkdtemp(prefix="jaxvl-"))
world, workdir = folder / "world", folder / "run"
tiny = bool(int(os.environ.get("JAXVL_TINY", "0")))  # the tests run this notebook at toy size


def show(picture):
    """Puts a picture into the notebook, small (JPEG)."""
    display(Inline(to_bytes(picture, "jpeg"), format="jpeg"))


# %% [markdown]
# ## Config
# The quickstart's config with fewer steps. A misspelt field is an error with the nearest name.

# %%
data = {"root": str(world)}
train = {"steps": 600, "log_every": 100}
if tiny:
    data |= {"world": {"num_train": 12, "num_test": 4}, "batch_size": 8, "eval_batch_size": 8}
    train = {"steps": 4, "log_every": 2, "checkpoint_every": 4}
config = jaxvl.config("mist/quickstart", data=data, train=train)
print("segments:", config.model.num_segments, "of which a question picks", config.model.topk)
print("selector:", config.model.selector)

# %% [markdown]
# ## Videos and features
# The same as `jaxvl prepare --config mist/quickstart --extract FEATURES`. Videos are H.264 files in the layout of AGQA
# 2.0; each of 32 frames gives a vector of its central square and 16 of its tiles. Run the cell again after an
# interruption: it goes on behind the last video that was whole.

# %%
extract(config, world / "features")

# %%
store = open_features(world / "features")
print({name: list(shape) for name, shape in store.shapes.items()}, "a video")
print(json.dumps(store.provenance, indent=1))

# %%
questions = read_agqa(world, "test").questions
video = world / "videos" / f"{questions[0].video_id}.mp4"
show(film_strip(load_view(video, num_frames=32, size=64, grid=1).whole, 16, 56))
for question in [q for q in questions if q.video_id == questions[0].video_id]:
    print(question.question, "-", question.answer)

# %% [markdown]
# Each shape is seen during one eighth of the minute. Answers are dealt evenly, so the question alone tells nothing:
# chance is one in five.

# %% [markdown]
# ## Train

# %%
result = jaxvl.train(config, workdir)

# %%
series = series_from_rows(read_metrics(workdir, "train"), ["loss"])
display(SVG(line_chart(series, title=f"cross-entropy; {np.log(5):.2f} for an answer at random")))

# %% [markdown]
# ## Results on unseen videos
# Beside the accuracy: how often the segment with the evidence was looked at (one of eight, two are picked).

# %%
report.show_results(workdir)

# %% [markdown]
# ## Ask
# The same as `jaxvl predict --workdir DIR --video FILE --question "..."`, on any video. All questions of a call share
# its features.

# %%
record = next(r for r in read_truth(world) if r["id"] == questions[0].video_id)
colours = [event["colour"] for event in record["events"]]
flags = [word for colour in colours[:2] for word in ("--question", f"where is the {colour} shape?")]
code = cli.main(["predict", "--workdir", str(workdir), "--video", str(video), "--top", "3", *flags])
assert code == 0
for event in record["events"][:2]:
    print(f"{event['colour']}: seen from {event['start']:.1f} to {event['end']:.1f} s")
show(Image.open(workdir / "evidence.png"))

# %% [markdown]
# ## Where it looked, on questions of the test split
# Spread evenly over the split, not chosen. The green bar is the true evidence.

# %%
for item in json.loads((workdir / "pictures" / "index.json").read_text())[:2]:
    print(item["title"], "-", item["caption"])
    show(Image.open(workdir / "pictures" / item["file"]))

# %% [markdown]
# ## Next
# * Set `config.model.selector` to `"random"`, `"official"` or `"hard"`, or `config.model.visual` to `"none"` (blind),
#   and compare.
# * Real data: `docs/methods/mist_data.md`.
