# %% [markdown]
# # UTT: one transformer that follows one object, or all of them
#
# *Given boxes in one frame, where are they now?* UTT ([arXiv 2203.15175](https://arxiv.org/abs/2203.15175)) asks that
# for one object and for all of them alike: a target is a vector, pooled at its box, and the same target transformer
# moves its box in the next frame. Batches of both tasks take turns on one set of weights.
#
# This notebook renders drawn shapes that move, hide each other and sometimes look alike, in the layouts of LaSOT and
# MOT17, trains both tasks on them, and follows what moves in videos that were not trained on. No download; CPU, GPU or
# TPU.

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

from IPython.display import SVG, display
from IPython.display import Image as Inline
from PIL import Image

import jaxvl
from jaxvl import cli
from jaxvl.core.writers import read_metrics
from jaxvl.verbs import report
from jaxvl.viz.curves import line_chart, series_from_rows
from jaxvl.viz.images import to_bytes

logging.getLogger("absl").setLevel(logging.ERROR)
folder = Path(tempfile.mkdtemp(prefix="jaxvl-"))
world, workdir = folder / "world", folder / "run"
tiny = bool(int(os.environ.get("JAXVL_TINY", "0")))  # the tests run this notebook at toy size


def show(picture):
    """Puts a picture into the notebook, small (JPEG)."""
    display(Inline(to_bytes(picture.convert("RGB"), "jpeg"), format="jpeg"))


# %% [markdown]
# ## Config
# The quickstart's config with fewer steps and videos. A misspelt field is an error with the nearest name.

# %%
data = {"root": str(world), "world": {"num_train": 30, "num_test": 4, "frames": 48, "objects": (2, 4)}}
data |= {"sot_eval_rows": 4, "mot_eval_rows": 4}
train = {"steps": 600, "log_every": 100, "checkpoint_every": 600}
model = {}
if tiny:
    data["world"] |= {"num_train": 1, "num_test": 1, "frames": 24}
    data |= {"sot_batch_size": 2, "mot_batch_size": 2, "sot_eval_rows": 1, "mot_eval_rows": 1, "samples": 8}
    train = {"steps": 4, "log_every": 2, "checkpoint_every": 4}
    model = {"width": 8, "dim": 16, "heads": 2, "ff_dim": 16, "iterations": 1, "pool": 3, "detector_layers": 1}
config = jaxvl.config("utt/quickstart", data=data, train=train, model=model)
print("both tasks in turns:", config.model.mode, "- tracker of all objects:", config.eval.mot.tracker)

# %% [markdown]
# ## Train
# Even updates follow one shape through crops, odd ones find and follow all shapes of a pair of frames.

# %%
result = jaxvl.train(config, workdir)

# %%
rows = read_metrics(workdir, "train")
curves = series_from_rows(rows, ["iou"])
display(SVG(line_chart(curves, title="overlap of the last box with the truth in training, both tasks in turns")))

# %% [markdown]
# ## Results on videos that were not trained on
# One shape from its first true box, and all shapes from nothing.

# %%
report.show_results(workdir)

# %% [markdown]
# ## Follow one shape
# The same as `jaxvl predict --workdir DIR --video V --box X,Y,W,H`. A video is a file or a folder of frames.

# %%
name = (world / "lasot" / "testing_set.txt").read_text().split()[0]
sequence = world / "lasot" / name.rpartition("-")[0] / name
box = (sequence / "groundtruth.txt").read_text().splitlines()[0]
out = folder / "one"
words = ["predict", "--workdir", str(workdir), "--video", str(sequence / "img"), "--fps", "10", "--box", box]
code = cli.main([*words, "--out", str(out), "--no-video"])
assert code == 0
print("sheet:", "timeline.png")
show(Image.open(out / "timeline.png"))

# %% [markdown]
# ## Follow all of them, in Python
# The model's own detector finds the shapes; `detections=` takes a file of yours instead. Each tracker links them in its
# own way.

# %%
tracker = jaxvl.load(workdir)
street = next(p for p in sorted((world / "mot17" / "test").iterdir()) if p.is_dir())
for name in ("transformer", "released", "byte"):
    found = tracker.track(street / "img1", fps=10, tracker=name)
    lengths = [len(found.of(i)) for i in found.identities]
    print(f"{name}: {len(lengths)} identities in {len(found.shown)} frames, longest {max(lengths, default=0)}")

# %% [markdown]
# ## What it sees
# The first test video of each task, spread evenly and not chosen.

# %%
for item in json.loads((workdir / "pictures" / "index.json").read_text())[:2]:
    print(item["title"], "-", item["caption"])
    show(Image.open(workdir / "pictures" / item["file"]))

# %% [markdown]
# ## Next
# * Train longer (`configs/utt/quickstart.py` has 1,600 updates), or set `model.mode` to `sot` or `mot` and compare.
# * `eval.mot.tracker=byte` adds a Kalman filter, which helps where things move at constant speed, as they do here.
# * Real data, and videos of your own: `docs/methods/utt_data.md`.
