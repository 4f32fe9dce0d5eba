# %% [markdown]
# # PoseGU (reconstruction): a repertoire of poses from eight frames of walking
#
# A network lifts the joints of a picture to 3-D. It only knows poses that it was shown, and 3-D poses are hard to get.
# PoseGU ([arXiv 2207.03618](https://arxiv.org/abs/2207.03618)) draws many poses from a few: it turns bones and changes
# their lengths, and knows with which density it drew each, so that the loss over them can be weighted as if all
# plausible poses were equally likely. No code was published and only the abstract could be read, so this is a
# reconstruction with numbers of its own.
#
# This notebook takes eight frames of a walk that come with the package, and tests on fourteen other clips of real
# motion: cartwheels, kicks, crawling, ... No download; CPU, GPU or TPU.

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
from jaxvl.data.readers.poses import motions
from jaxvl.data.skeletons import H36M16
from jaxvl.metrics import poses
from jaxvl.verbs import report
from jaxvl.viz.curves import line_chart, series_from_rows
from jaxvl.viz.images import to_bytes
from jaxvl.viz.poses import sheet

logging.getLogger("absl").setLevel(logging.ERROR)
folder = Path(tempfile.mkdtemp(prefix="jaxvl-"))
workdir = folder / "run"
tiny = bool(int(os.environ.get("JAXVL_TINY", "0")))  # the tests run this notebook at toy size


def show(picture):
    """Puts a picture into the notebook, small (JPEG)."""
    display(Inline(to_bytes(picture.convert("RGB"), "jpeg"), format="jpeg"))


# %% [markdown]
# ## Config
# The quickstart's config with fewer steps. A misspelt field is an error with the nearest name.

# %%
train = {"steps": 600, "log_every": 100, "checkpoint_every": 600}
model, data = {}, {}
if tiny:
    train = {"steps": 4, "log_every": 2, "checkpoint_every": 4}
    model, data = {"width": 8, "gen": {"pool_size": 256}}, {"batch_size": 32}
config = jaxvl.config("posegu/quickstart", train=train, model=model, data=data)
print("seeds: every", config.data.seed_every, "frames of", config.data.seeds)
print("share of generated poses in a batch:", config.model.generated)
print("spread of each group of bones, degrees:", *config.model.gen.sigma_deg)

# %% [markdown]
# ## Seeds
# All that is known of human poses: sixteen joints, eight times.

# %%
seeds = motions.read_seeds(config.data.seeds, config.data.seed_every)
print(len(seeds), "seeds,", f"{poses.diversity(seeds.world):.2f} bits of limb directions")
show(sheet(seeds.world, H36M16))

# %% [markdown]
# ## Train

# %%
result = jaxvl.train(config, workdir)

# %%
series = series_from_rows(read_metrics(workdir, "train"), ["real", "generated"])
display(SVG(line_chart(series, title="squared error, square metres: of real and of generated poses")))

# %% [markdown]
# ## Results on motion that was never shown

# %%
report.show_results(workdir)

# %% [markdown]
# ## Generate
# The same as `jaxvl predict --workdir DIR --generate 2000 --write FILE.npz`. Each pose comes with the rotations and
# lengths that made it of its seed, and with two log densities: of the generator, and of the target, under which every
# rotation within a group's largest angle is as likely as any other.

# %%
loaded = jaxvl.load(workdir)
drawn = loaded.generate(40 if tiny else 2000)
ratio = drawn.log_q - drawn.log_p
print(f"{len(drawn.pose)} poses, {poses.diversity(drawn.pose):.2f} bits of limb directions")
print(f"log of target over generator: {ratio.min():.1f} to {ratio.max():.1f}")
show(sheet(drawn.pose[:16], H36M16))

# %% [markdown]
# ## Lift
# The same as `jaxvl predict --workdir DIR --joints FILES --out FILE`, on JSON, CSV or NumPy files of COCO's 17 or
# Human3.6M's 16 joints. Here a kick, seen by a camera; the left side is blue.

# %%
kick = motions.upright(motions.mocap.clips()["kick"].joints)[::6]
x2d, x3d = (np.stack(part) for part in zip(*(motions.see(pose, np.random.default_rng(7)) for pose in kick)))
(folder / "kick.json").write_text(json.dumps({"joints": x2d.tolist()}))
picture = folder / "kick.png"
words = ["predict", "--workdir", str(workdir), "--joints", str(folder / "kick.json"), "--out", str(picture)]
code = cli.main(words)
assert code == 0
print("sheet:", picture.name)
show(Image.open(picture))

# %%
lifted = loaded.lift(list(x2d))
error = 1000 * poses.mpjpe(lifted, poses.rooted(x3d))
print("millimetres of each frame:", *np.round(error).astype(int))

# %% [markdown]
# ## What the generator covers, and what it costs to be far away
# Where limbs point, in the torso's axes; how generated poses are weighted; the error by the distance from the seeds.

# %%
for item in json.loads((workdir / "pictures" / "index.json").read_text())[2:]:
    print(item["title"], "-", item["caption"])
    show(Image.open(workdir / "pictures" / item["file"]))

# %% [markdown]
# ## Next
# * `configs/posegu/quickstart.py:seeds` trains the same network on the eight frames alone; compare.
# * `configs/posegu/mocap.py:biased_posegu`: a generator that hardly leaves its seeds, where the weights count.
# * Human3.6M, MPI-INF-3DHP, 3DPW, and joints of your own: `docs/methods/posegu_data.md`.
