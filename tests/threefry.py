"""JAX's random bits in a form that compiles in half the time.

JAX writes the twenty rounds of Threefry-2x32 (Salmon et al. 2011) out everywhere but on CPUs, where LLVM would work on
them for long. Tests are compiled without optimisation: there the loop, with its kernels and copies for each of a
model's parameters, is what takes long. The bits are the same: whole numbers.
"""

import numpy as np
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def rounds(key0, key1, x0, x1):
    """The hash of counters `x0, x1` under a key, uint32 of one shape: two arrays of that shape."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for n in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (x1 << np.uint32(n) | x1 >> np.uint32(32 - n))
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


def write_out():
    """From now on this process lowers the rounds so, on CPUs as elsewhere."""
    rule = mlir.lower_fun(rounds, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, rule, platform="cpu", inline=False)
