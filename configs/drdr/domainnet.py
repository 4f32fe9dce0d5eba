"""DRDR on DomainNet (cleaned version), ResNet-50 with a bottleneck of 512, 345 classes: all thirty pairs.

    jaxvl train --config configs/drdr/domainnet.py:NAME --workdir runs/NAME \\
        --config.data.root=ROOT --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS, for example uda_c_r; without one it is uda_c_r. ROOT holds clipart/, ..., sketch/ and the
lists <domain>_train.txt and <domain>_test.txt with lines `path label`. The train list of the target is trained on
without labels, its test list is the test. RESNET50 is a folder that `jaxvl convert --from torchvision_resnet` wrote of
ImageNet weights. Published: 20,000 updates of 128 + 128 images.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
EXPERIMENTS = recipe.pairs(DOMAINS)


def get_config(name="uda_c_r"):
    c = recipe.paper("domainnet", 345, EXPERIMENTS[configs.one_of(name, EXPERIMENTS)])
    c.model.bottleneck_dim = 512
    c.data.batch_size = 128
    c.train.eval_every = 1000  # the test lists are long
    return c
