# %% [markdown]
# # SlimCLR: one self-supervised network, several sizes
#
# The leading channels of a convolutional network are themselves smaller networks. SlimCLR
# ([arXiv 2209.15525](https://arxiv.org/abs/2209.15525)) trains all of them at once, without labels: two views of a
# picture should look alike to every size. Trained naively the sizes disturb each other; three remedies mend that.
#
# This notebook trains three sizes in one set of weights on real handwritten digits, in minutes on a CPU. Labels are
# used afterwards only, to see what each size has learned. It shows how the method works, not how well: for that there
# is `docs/methods/slimclr.md`.

# %% [markdown]
# ## Install
# In a checkout of the repository this works as it is. Anywhere else, put the address of the repository into the second
# line and remove its `#`. The extra `digits` brings a package that contains 5,000 digits of MNIST.

# %% tags=install
# %pip install -q '.[digits]'
# # %pip install -q 'jaxvl[digits] @ git+https://github.com/OWNER/jaxvl.git'

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
from jaxvl.core.session import build_data
from jaxvl.core.writers import read_metrics
from jaxvl.data.readers.classification.image_records import load_picture
from jaxvl.verbs import report
from jaxvl.viz.curves import line_chart, series_from_rows
from jaxvl.viz.images import to_bytes

logging.getLogger("absl").setLevel(logging.ERROR)
workdir = Path(tempfile.mkdtemp(prefix="jaxvl-")) / "run"
tiny = bool(int(os.environ.get("JAXVL_TINY", "0")))  # the tests run this notebook at toy size


def show(picture):
    """Puts a picture into the notebook, small (JPEG)."""
    display(Inline(to_bytes(picture, "jpeg"), format="jpeg"))


# %% [markdown]
# ## Config
# The quickstart's config, a little shorter. Each remedy is one field. A misspelt field is an error that names the
# nearest.

# %%
train = {"steps": 200, "log_every": 20, "checkpoint_every": 100}
data, sizes = {"batch_size": 128}, {}
if tiny:
    train |= {"steps": 4, "log_every": 2}
    data = {"batch_size": 16, "image_size": 12, "eval_resize": 12, "bank": 64, "holdout": 3800}
    sizes = {"conv_channels": (8, 16), "strides": (2, 2), "queue": 32, "slow_start": 0.0, "analyse_every": 0}
config = jaxvl.config("slimclr/quickstart", train=train, data=data, model=sizes)
print("widths:", config.model.widths)
print(
    "slow start:", config.model.slow_start, " distillation:", config.model.distill, " weights:", config.model.reweight
)

# %% [markdown]
# ## Pictures and their views
# Each row: a digit, and pairs of views as training sees them in successive epochs. A digit is never mirrored.

# %%
data = build_data(config, workdir, print)
stream = data.train["train"]
for index in (0, 1200, 2400):
    record = stream.source[index % len(stream.source)]
    views = [stream.make(record, np.random.default_rng(epoch)) for epoch in range(3)]
    tiles = [v for view in views for v in (view["view_a"], view["view_b"])]
    first = np.asarray(load_picture(record).resize(tiles[0].shape[:2]))
    strip = Image.fromarray(np.concatenate([first, *tiles], axis=1))
    show(strip.resize((strip.width * 3, strip.height * 3), Image.Resampling.NEAREST))

# %% [markdown]
# ## Train
# In the first half the full width trains alone (the slow start); then all widths do, and the printed loss becomes a sum
# with the distillation terms. Run the cell again after an interruption: it goes on from the last checkpoint.

# %%
result = jaxvl.train(config, workdir)

# %%
rows = read_metrics(workdir, "train")
names = [f"contrast_w{w}" for w in ("100", "050", "025")]
chance = np.log(1 + config.model.queue)
title = f"contrastive loss of each width; {chance:.2f} where all pictures look alike"
display(SVG(line_chart(series_from_rows(rows, names), title=title)))

# %% [markdown]
# ## What each width has learned
# Features of 3,500 training digits label 1,000 unseen ones: by their nearest neighbours, and by a linear probe. Chance
# is 10 %. One short run is no evidence about the method.

# %%
report.show_results(workdir)

# %% [markdown]
# ## Neighbours, speed and gradients
# Nearest neighbours by the features of the largest and of the smallest network (a green frame: the same digit); speed
# against accuracy of the three networks on this machine; and whether the weights that the smallest one shares get the
# larger gradient (below 1) or not.

# %%
for item in json.loads((workdir / "pictures" / "index.json").read_text()):
    print(item["title"], "-", item["caption"])
    show(Image.open(workdir / "pictures" / item["file"]))

# %% [markdown]
# ## Your own pictures
# `jaxvl.load` gives the trained model with its verbs; each takes the width of the network to use.

# %%
model = jaxvl.load(workdir)
query = data.splits["test"]["query"]
pictures = [load_picture(query.source[i]) for i in range(0, 1000, 100)]
for width in config.model.widths:
    print(width, model.embed(pictures, width=width).shape)
print(model.similarity(pictures[:1], pictures, width=0.5).round(2))

# %% [markdown]
# For a whole folder of pictures: `jaxvl predict --workdir DIR --images FOLDER --width 0.5 --like PICTURE`. Here the
# folder holds unseen digits.

# %%
folder = workdir / "unseen"
folder.mkdir(exist_ok=True)
for i in range(0, len(query.source), 10):
    load_picture(query.source[i]).save(folder / f"{i:04d}.png")
flags = [
    "--images",
    str(folder),
    "--width",
    "0.5",
    "--like",
    str(folder / "0000.png"),
    "--like",
    str(folder / "0500.png"),
]
code = cli.main(["predict", "--workdir", str(workdir), "--top", "6", *flags])
assert code == 0
show(Image.open(workdir / "neighbours.png"))

# %% [markdown]
# ## Next
# * `jaxvl report --workdir DIR` wrote `report.html`: curves, tables, pictures in one file.
# * Turn the remedies off (`model.slow_start=0`, `model.distill=none`, `model.reweight=0`) and compare; or train one
#   size alone with `model.alone=0.25`.
# * ImageNet, published weights, exports for detectors: `docs/methods/slimclr.md`.
