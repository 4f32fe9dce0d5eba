# %% [markdown]
# # CenterCLIP: text-video retrieval by token clustering
#
# A video of twelve frames gives a vision transformer many near-duplicate patch tokens. CenterCLIP
# ([arXiv 2205.00823](https://arxiv.org/abs/2205.00823)) clusters them inside the tower, segment by segment, and lets
# only the cluster *centres* go on: fewer tokens, and attention that spans time inside a segment.
#
# This notebook renders a small world of captioned clips to real mp4 files, trains on them from scratch in a minute or
# two, and searches unseen clips by text. No download; CPU, GPU or TPU. It shows how the method works, not how well it
# does on real video: for that it needs CLIP's weights and a benchmark.

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
from jaxvl.core.session import build_data
from jaxvl.core.writers import read_metrics
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
# The quickstart's config, with a smaller world and fewer steps. A misspelt field is an error with the nearest name.

# %%
world = {"num_train": 480, "num_val": 32, "num_test": 64}
train = {"steps": 200, "log_every": 20, "checkpoint_every": 100}
data = {"world": world}
if tiny:
    train |= {"steps": 4, "log_every": 2}
    data = {"world": {"num_train": 24, "num_val": 8, "num_test": 8}, "batch_size": 8, "eval_batch_size": 8}
config = jaxvl.config("centerclip/quickstart", train=train, data=data)
print("reduction:", config.model.schedule, "(after block 2: 3 segments of 16 centres)")
print("algorithm:", config.model.reduce.algorithm)

# %% [markdown]
# ## A small world, as files
# Every clip is an H.264 file in the folder layout of MSR-VTT. The reader and the decoder are those that a real copy
# would go through. No test combination of shape, colour, texture and motion occurs in training.

# %%
data = build_data(config, workdir, print)
print(*sorted(p.name for p in (workdir / "data").iterdir()), sep="\n")

# %%
stream = data.splits["test"]["video"]
clips = [stream.make(record, np.random.default_rng(0)) for record in stream.source[:3]]
for record, clip in zip(stream.source, clips, strict=False):
    print(record.caption)
    strip = Image.fromarray(np.concatenate(clip["frames"][::2], axis=1))  # every second of the 12 frames
    show(strip.resize((strip.width * 2, strip.height * 2)))

# %% [markdown]
# ## Train
# First what the reader found, then one line every 20 updates. "data wait" is the share of time the device waited for
# decoded clips. Run the cell again after an interruption: it goes on from the last checkpoint.

# %%
result = jaxvl.train(config, workdir)

# %%
series = series_from_rows(read_metrics(workdir, "train"), ["loss"])
chance = np.log(config.data.batch_size)
display(SVG(line_chart(series, title=f"contrastive loss; {chance:.2f} where all pairs look alike")))

# %% [markdown]
# ## Results on unseen clips and captions
# R@K: share of queries (in %) with the right answer among the first K; MdR, MnR: median and mean rank. Chance is
# printed beside them; one short run on a small world is no evidence about the method.

# %%
report.show_results(workdir)

# %% [markdown]
# ## Search by text
# `jaxvl.load` gives the trained model with its verbs: texts and videos in, numpy arrays out.

# %%
model = jaxvl.load(workdir)
queries = ["a large red circle that zigzags across", "an orange cross that grows", "a cyan house that slides left"]
print(model.similarity(queries, [record.path for record in stream.source[:6]]).round(2))

# %% [markdown]
# A whole folder is searched by `jaxvl predict --workdir DIR --videos FOLDER --text "..."`, which keeps an index. Words
# that the model has never seen are named. Try your own.

# %%
flags = [word for query in queries for word in ("--text", query)]
test_ids = {record.video_id for record in stream.source}
folder = workdir / "unseen"  # the test clips, which training has not seen
folder.mkdir(exist_ok=True)
for record in stream.source:
    link = folder / Path(record.path).name
    if not link.exists():
        link.symlink_to(record.path)
code = cli.main(["predict", "--workdir", str(workdir), "--videos", str(folder), "--top", "5", *flags])
assert code == 0
show(Image.open(workdir / "search.png"))

# %% [markdown]
# ## Retrieval of the test captions, and the tokens that were kept
# Queries are spread evenly over the split, not chosen. A frame marks the clip that the caption belongs to. In the last
# picture the darkened patches are dropped after block 2; the others are the cluster centres that go on.

# %%
pictures = json.loads((workdir / "pictures" / "index.json").read_text())
for item in pictures[:2]:
    print(item["title"], "-", item["caption"])
    show(Image.open(workdir / "pictures" / item["file"]))

# %% [markdown]
# ## Next
# * `jaxvl report --workdir DIR` wrote `report.html`: curves, tables, pictures in one file.
# * Your own data: `docs/howto/own_data.md`. More devices: `docs/howto/run_anywhere.md`.
# * Change `config.model.reduce.algorithm` to `"pooling"`, `"sparse_sampling"` or `"random"` and compare.
