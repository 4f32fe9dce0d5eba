# %% [markdown]
# # DRDR: domain adaptation by radial structures
#
# A classifier trained on one set of digits loses a third of its accuracy on digits of other writers and scanners. DRDR
# ([arXiv 2301.00383](https://arxiv.org/abs/2301.00383)) aligns the *radial structures* of the two sets, class means as
# spokes around the mean of all, without a single label of the second.
#
# Both sets are real and lie inside Python packages: 5,000 digits of MNIST with labels, 1,797 of UCI's optdigits without
# them. Nothing is downloaded beyond the packages; two cores need a few minutes.

# %% [markdown]
# ## Install
# In a checkout of the repository this works as it is. Anywhere else, put the address of the repository into the second
# line and remove its `#`.

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
from jaxvl.verbs import report
from jaxvl.viz import images
from jaxvl.viz.curves import line_chart, series_from_rows

logging.getLogger("absl").setLevel(logging.ERROR)
root = Path(tempfile.mkdtemp(prefix="jaxvl-"))
tiny = bool(int(os.environ.get("JAXVL_TINY", "0")))  # the tests run this notebook at toy size


def show(picture):
    """Puts a picture into the notebook, small (JPEG)."""
    display(Inline(images.to_bytes(picture, "jpeg"), format="jpeg"))


# %% [markdown]
# ## Two configs
# The quickstart, and the same network trained on the source alone: that is what adaptation is compared with.

# %%
train = {"steps": 800, "log_every": 100, "eval_every": 0, "checkpoint_every": 800}
train |= {"steps": 4, "log_every": 2} if tiny else {}
adapted = jaxvl.config("drdr/quickstart", train=train)
plain = jaxvl.config("drdr/quickstart:source_only", train=train)
print("task:", adapted.data.task)
print("weights:", adapted.model.weights.to_dict())

# %% [markdown]
# ## The digits
# Source above, target below, as the network sees them: 16 by 16 pixels.

# %%
data = build_data(adapted, root / "adapted", print)
for stream in (data.splits["source"]["mnist5k"], data.splits["test"]["optdigits"]):
    picked = np.linspace(0, len(stream.source) - 1, 20).astype(int)
    digits = [stream.make(stream.source[i], np.random.default_rng(0))["images"][..., 0] for i in picked]
    show(images.grid([images.scale(digit, 48) for digit in digits], 20, 4))

# %% [markdown]
# ## Source only
# MNIST with labels, nothing of optdigits. The table is of optdigits.

# %%
jaxvl.train(plain, root / "plain")
report.show_results(root / "plain")

# %% [markdown]
# ## Adapted
# The target's images come in without labels. The protocol is transductive: the same images are the test.

# %%
jaxvl.train(adapted, root / "adapted")
report.show_results(root / "adapted")

# %% [markdown]
# ## What happened to the structures
# The cosine of matched spokes rises towards 1; that of different classes stays low.

# %%
rows = read_metrics(root / "adapted", "train")
curves = series_from_rows(rows, ["matched_cosine", "between_cosine"])
display(SVG(line_chart(curves, title="cosine of spokes: the same class in both domains, and different classes")))

# %%
for name in ("plain", "adapted"):
    item = json.loads((root / name / "pictures" / "index.json").read_text())[0]
    print(name, "-", item["title"])
    show(Image.open(root / name / "pictures" / item["file"]))

# %% [markdown]
# ## Classify
# `jaxvl.load` gives the trained model with its verbs.

# %%
model = jaxvl.load(root / "adapted")
stream = data.splits["test"]["optdigits"]
eight = [stream.make(stream.source[i], np.random.default_rng(0))["images"][..., 0] for i in range(0, 96, 12)]
print(model.classify(eight).top(1))

# %% [markdown]
# For a whole folder of pictures: `jaxvl predict --workdir DIR --images FOLDER` gives classes with confidence, and the
# nearest local anchors of the target.

# %%
folder = root / "digits"
folder.mkdir(exist_ok=True)
for i, digit in enumerate(eight):
    Image.fromarray(digit).save(folder / f"{i:03d}.png")
sheet = root / "sheet.png"
words = ["--workdir", str(root / "adapted"), "--images", str(folder), "--top", "2", "--out", str(sheet)]
code = cli.main(["predict", *words])
assert code == 0
show(Image.open(sheet))

# %% [markdown]
# ## Next
# * `docs/methods/drdr.md`: Office-31, Office-Home, DomainNet and others; what was measured, and when it does not help.
# * Set one of the `model.weights` to 0 and compare. Without `translation` it collapses.
