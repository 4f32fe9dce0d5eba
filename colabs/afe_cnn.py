# %% [markdown]
# # AFE-CNN (reconstruction): actions from skeletons
#
# A sequence of 3-D joints becomes a picture, rows are frames and columns joints, and a light network reads it. AFE-CNN
# ([arXiv 2208.03444](https://arxiv.org/abs/2208.03444)) enhances the picture from four sides: key joints, bone vectors,
# key frames, temporal differences. No code was published and only the abstract could be read, so this is a
# reconstruction: what the abstract says, with equations and numbers of its own.
#
# This notebook takes twenty clips of real motion capture that come with the package, shows them to the network from the
# front, and tests it from other sides and on smaller bodies. No download; CPU, GPU or TPU.

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
from jaxvl.data import mocap
from jaxvl.data.synthetic import actions
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
# The quickstart's config with fewer steps. A misspelt field is an error with the nearest name.

# %%
data = {"root": str(world)}
train = {"steps": 200, "log_every": 50}
model = {}
if tiny:
    data |= {"world": {"num_train": 20, "num_test": 20}, "batch_size": 8, "eval_batch_size": 8, "frames": 16}
    train = {"steps": 4, "log_every": 2, "checkpoint_every": 4}
    model = {"width": 4}
config = jaxvl.config("afe_cnn/quickstart", data=data, train=train, model=model)
print("enhancers:", {name: config.model[name] for name in ("kje", "bve", "kfe", "te")})
print("normalised: view", config.data.view, "and size", config.data.size)

# %% [markdown]
# ## Motion
# Twenty clips of sixteen joints. A sample is a part of a clip on a body of its own, seen by a camera, with noise.

# %%
clips = mocap.clips()
print(", ".join(f"{name} ({len(clip)})" for name, clip in clips.items()), "frames")
sample = actions.clip_sample(mocap.CLIPS.index("kick"), actions.CONDITIONS["both"], np.random.default_rng(0))
print("a sample:", sample.shape, "joints in metres, as", actions.to_csv(sample).splitlines()[0][:40], "...")

# %% [markdown]
# ## Train

# %%
result = jaxvl.train(config, workdir)

# %%
series = series_from_rows(read_metrics(workdir, "train"), ["loss"])
display(SVG(line_chart(series, title=f"smoothed cross-entropy; {np.log(20):.2f} for a class at random")))

# %% [markdown]
# ## Results from other sides and on smaller bodies

# %%
report.show_results(workdir)

# %% [markdown]
# ## Recognise
# The same as `jaxvl predict --workdir DIR --sequences FILES --out FILE`, on CSV, JSON or NumPy files of joints, or on
# files of NTU RGB+D or UTKinect. Discs: joints that the gates weight most.

# %%
folder_of_kicks = world / "test" / "kick"
sheet = folder / "kicks.png"
words = ["predict", "--workdir", str(workdir), "--sequences", str(folder_of_kicks), "--top", "2", "--out", str(sheet)]
code = cli.main(words)
assert code == 0
print("sheet:", sheet.name)
show(Image.open(sheet))

# %%
model = jaxvl.load(workdir)
found = model.recognise([clips["kick"].joints, clips["walk"].joints])  # as they were captured
print(found.top(2))

# %% [markdown]
# ## What the network sees
# Sequences of the test split, spread evenly and not chosen, and their action pictures: three channels a picture.

# %%
for item in json.loads((workdir / "pictures" / "index.json").read_text())[:2]:
    print(item["title"], "-", item["caption"])
    show(Image.open(workdir / "pictures" / item["file"]))

# %% [markdown]
# ## Next
# * Take the row `coordinates` of the config, which has neither enhancers nor normalisation, and compare.
# * `configs/afe_cnn/mocap.py:gestures`: small gestures hidden in other motion, where the enhancers count.
# * Real data, and sequences of your own: `docs/methods/afe_cnn_data.md`.
