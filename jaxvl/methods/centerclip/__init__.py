"""CenterCLIP: text-video retrieval by token clustering (SIGIR 2022, arXiv 2205.00823)."""

from jaxvl.core.registry import MethodInfo

INFO = MethodInfo(
    title="CenterCLIP: Token Clustering for Efficient Text-Video Retrieval",
    paper="SIGIR 2022, arXiv 2205.00823",
    task="text-video retrieval",
    status="from scratch or from converted CLIP weights",
)
