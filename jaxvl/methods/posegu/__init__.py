"""PoseGU, a reconstruction: 3-D poses of a person from 2-D joints, learned from few poses and many generated ones."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="PoseGU (reconstruction): 3D human pose estimation with a pose generator and unbiased learning",
    paper="Guan et al., CVIU 233 (2023), arXiv 2207.03618",
    task="lifting of 2-D joints to 3-D poses",
    status="complete; a reconstruction from the paper's abstract",
)
