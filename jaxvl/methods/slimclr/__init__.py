"""SlimCLR: slimmable networks for contrastive self-supervised learning (IJCV 2024, arXiv 2209.15525)."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="SlimCLR: Slimmable Networks for Contrastive Self-supervised Learning",
    paper="IJCV 2024, arXiv 2209.15525",
    task="self-supervised image representations of several network sizes",
    status="from scratch or from converted MoCo and SlimCLR weights",
)
