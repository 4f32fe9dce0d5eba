"""DRDR on VisDA-2017, synthetic to real, ResNet-101. The paper has no table of it; Office-Home's weights.

    jaxvl train --config configs/drdr/visda2017.py --workdir runs/visda \\
        --config.data.root=ROOT --config.init.weights=RESNET101

ROOT holds train/ and validation/, each with its twelve class folders (and image_list.txt, which is read where it is).
Mean accuracy per class, the score of this set, is `mean_per_class/validation`. RESNET101 is a folder that `jaxvl
convert --from torchvision_resnet` wrote of ImageNet weights.
"""

from jaxvl.methods.drdr import recipe


def get_config():
    c = recipe.paper("visda2017", 12, "train->validation", "office_home")
    c.model.depth = 101
    c.model.weights.transport = recipe.TRANSPORT
    c.train.eval_every = 2000  # 55,388 images
    c.checkpoint.best_metric = "mean_per_class/validation"
    return c
