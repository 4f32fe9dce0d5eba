"""MIST: questions about long videos, answered by looking only where it matters."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="MIST: multi-modal iterative spatial-temporal transformer for long-form video question answering",
    paper="Gao et al., CVPR 2023, arXiv 2212.09522",
    task="video question answering",
)
