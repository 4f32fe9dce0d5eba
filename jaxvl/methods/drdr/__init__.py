"""DRDR (also DRDA): domain adaptation by radial structures and optimal transport (TIP 2023, arXiv 2301.00383)."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="DRDR: Discriminative Radial Domain Adaptation",
    paper="IEEE TIP 32 (2023) 1419-1431, arXiv 2301.00383",
    task="domain adaptation and generalisation of image classifiers",
    status="from scratch or from converted ResNet weights",
)
