"""Dense layers: forward, input gradient and weight gradient.

Activations are (block, channel, lane), weights (out, in). Rule 2's dot product is a chain of fused multiply-adds, and a
thread walks one chain from its first term to its last.
"""

from gpucnn.kernels.contract import BLOCK
from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, fma
from gpucnn.kernels.numba_cuda.compiler import LANES, kernel
from numba import cuda


@kernel
def dense(x, w, bias, y, rectified):
    """y[b, o, lane] = sum over k of x[b, k, lane] * w[o, k], + bias[o]. One thread per value of y."""
    i = cuda.grid(1)
    if i < y.size:
        lane, o, b = i % LANES, i // LANES % y.shape[1], i // LANES // y.shape[1]
        acc = ZERO
        for k in range(w.shape[1]):
            acc = fma(x[b, k, lane], w[o, k], acc)
        acc = add(add(acc, bias[o]), ZERO)
        y[b, o, lane] = ZERO if rectified and not acc > ZERO else acc


@kernel
def dense_input_gradient(dy, w, dx):
    """dx[b, k, lane] = sum over o of dy[b, o, lane] * w[o, k]. One thread per value of dx."""
    i = cuda.grid(1)
    if i < dx.size:
        lane, k, b = i % LANES, i // LANES % dx.shape[1], i // LANES // dx.shape[1]
        acc = ZERO
        for o in range(w.shape[0]):
            acc = fma(dy[b, o, lane], w[o, k], acc)
        dx[b, k, lane] = add(acc, ZERO)


@kernel
def dense_weight_gradient(dy, x, part, images):
    """part[n, o * in + k] = the chain over the images of block n: rule 3 where there is one position.

    One thread per weight and block of 16 images; sums.weight_total adds up the blocks.
    """
    i = cuda.grid(1)
    if i < part.size:
        n, at = i // part.shape[1], i % part.shape[1]
        o, k = at // x.shape[1], at % x.shape[1]
        acc = ZERO
        for image in range(n * BLOCK, min((n + 1) * BLOCK, images)):
            b, lane = image // LANES, image % LANES
            acc = fma(dy[b, o, lane], x[b, k, lane], acc)
        part[n, at] = acc
