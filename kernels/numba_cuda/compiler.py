"""How a Python function becomes a kernel: for a device, or in Numba's CUDA simulator (NUMBA_ENABLE_CUDASIM=1).

A kernel is launched for so many threads; each finds out who it is from `cuda.grid(1)`, or from `cuda.blockIdx.x` and
`cuda.threadIdx.x` where the 32 threads of a block work together. The simulator runs one Python thread for each.

A device function is called by kernels. In the simulator it stays the Python function it is, which is quicker, except
where it needs `cuda` itself: then it says `@cuda.jit(device=True)`, so that the simulator puts its own in.
"""

import warnings

from numba import config, cuda

# Images side by side in a block of a batch: one warp.
LANES = 32

SIMULATED = bool(config.ENABLE_CUDASIM)

# Numba warns about launches of few blocks; a small layer has no more work.
warnings.filterwarnings("ignore", message="Grid size .* will likely result in GPU under-utilization")

kernel = cuda.jit


def device(function):
    """A function for kernels to call, inlined into them."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)
