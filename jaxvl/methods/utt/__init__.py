"""UTT: one transformer that follows one object, or all of them."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="UTT: unified transformer tracker for object tracking",
    paper="Ma et al., CVPR 2022, arXiv 2203.15175",
    task="single- and multi-object tracking",
)
