"""AFE-CNN, a reconstruction: actions from skeletons by a light network on enhanced action pictures."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="AFE-CNN (reconstruction): 3D skeleton-based action recognition with action feature enhancement",
    paper="Guan et al., Neurocomputing 514 (2022), arXiv 2208.03444",
    task="skeleton-based action recognition",
    status="complete; a reconstruction from the paper's abstract",
)
