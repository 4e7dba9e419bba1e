"""Maps along one spatial axis (rule 7): padding, upsampling, the windows of adaptive pooling, and their gradients."""

from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, fma
from gpucnn.kernels.numba_cuda.compiler import kernel
from numba import cuda


@kernel
def resample_axis(x, y, first, position, weight, start, inputs, outputs, inner):
    """y[p] = start[p], then fma(weight, x[position], .) over the taps first[p] to first[p + 1], then + 0.

    x is (outer, inputs, inner) and y (outer, outputs, inner), both flat; inner is all axes after the mapped one.
    """
    i = cuda.grid(1)
    if i >= y.size:
        return
    row, rest = i // inner, i % inner
    outer, p = row // outputs, row % outputs
    acc = start[p]
    for t in range(first[p], first[p + 1]):
        acc = fma(weight[t], x[(outer * inputs + position[t]) * inner + rest], acc)
    y[i] = add(acc, ZERO)
