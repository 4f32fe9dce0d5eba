"""What differs by platform: each place where a program for CPUs is another than that for accelerators, or a choice of
this process hangs on where it runs.

`tests/core/test_platforms.py` keeps this list whole: no other function may use `platform_dependent` or
`default_backend`. It lowers every one of FORMS for CPU, TPU and CUDA, which needs none of them, looks for the operation
that is expected there, forward and backward, and compares the two forms' numbers on CPU.
"""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """A computation of two forms. where: module and function below `jaxvl`; cpu, elsewhere: what it is there; why: what
    the form for CPUs gains, or what it would cost elsewhere."""

    where: str
    cpu: str
    elsewhere: str
    why: str


FORMS = (
    Form(
        "core/in_place.py:replaced",
        "new moments are stored first, and the parameters' update reads them there",
        "as written",
        "XLA's CPU backend computes them twice from the old ones, which it copies for that; a TPU updates a parameter "
        "with its moments in one pass over memory",
    ),
    Form(
        "core/in_place.py:laid_down",
        "new parameters are stored before anything is computed from them",
        "as written",
        "as with moments, for averages and momentum encoders",
    ),
    Form(
        "nn/convolution.py:convolve",
        "1x1 kernels, and larger ones on at most 16 cells: one product of matrices; on large maps the gradient of the "
        "kernel is a sum of products",
        "a convolution",
        "XLA's CPU convolution is three to thirty times as slow, and that gradient two to three times; on TPU the "
        "matrices are another layout than the maps, which are copied there and back (docs/results/pods_levers.md)",
    ),
    Form(
        "nn/convolution.py:depthwise",
        "a sum of shifted products, with a gradient of its own",
        "a convolution of as many groups as channels",
        "XLA's CPU backend leaves its fast path for grouped convolutions",
    ),
    Form(
        "nn/batch_norm.py:_both_sums",
        "one reduction of two arrays",
        "two sums",
        "XLA's CPU backend would compute the input of the sums twice; elsewhere sums are fused anyway, and so are the "
        "collectives of a batch over many devices",
    ),
    Form(
        "nn/batch_norm.py:_weighted_sum",
        "a product with the weights",
        "a sum",
        "a sum over all but the last axis is several times as slow as a product in XLA's CPU backend",
    ),
    Form(
        "nn/attention.py:plain_attention",
        "the softmax keeps its weights",
        "products of queries and keys are computed anew where weights are needed, which are kept for one product alone",
        "on TPU and GPU arrays of all pairs of tokens cost more than the products that they are made of "
        "(docs/results/pods_levers.md); on a CPU exponentials and products are what costs",
    ),
    Form(
        "nn/attention.py:softmax",
        "JAX's own, which keeps the weights",
        "keeps the logits, and computes the weights anew in every product that reads them",
        "exponentials are slow on a CPU; elsewhere they are free beside the memory that the weights would go through "
        "(docs/results/pods_levers.md)",
    ),
    Form(
        "ops/roi_align.py:roi_align",
        "sixteen gathers a bin, on maps above 256 cells",
        "two products with interpolation weights",
        "gathers are cheap on a CPU and slow on a matrix unit",
    ),
)

KERNELS = {
    "nn/attention.py:_on_cuda": "cuDNN's flash attention, where it can compute what is asked; else products",
}
"""Forms for NVIDIA GPUs alone, by a kernel of a library, which no other platform can run. `tests/nn/test_attention.py`
lowers them for each platform."""

CHOICES = {
    "nn/attention.py:_has_flash_attention": "whether the GPUs of this process are new enough for the kernel above",
    "core/session.py:compiled_quickly": "programs that run once are compiled with less effort on CPUs",
    "core/programs.py:keep": "CPU programs are kept by kind of CPU, since another may not have the instructions",
    "methods/centerclip/verbs.py:_rows_a_call": "videos are embedded one a device at a time on CPUs, else by a batch",
}
"""What this process decides by the platform it runs on; no program differs in what it computes."""
