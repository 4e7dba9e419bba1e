"""Leaky ReLU, GELU, SiLU and their gradients, and softmax's gradient (rules 6, 7 and 8): flat arrays,
a thread a value.
"""

from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, fma, multiply, narrow, subtract, widen
from gpucnn.kernels.numba_cuda.compiler import LANES, kernel
from gpucnn.kernels.numba_cuda.elementary import gelu64, gelu_slope64, silu64, silu_slope64
from numba import cuda


@kernel
def leaky_relu(x, y, slope):
    """y = x > 0 ? x : slope * x + 0."""
    i = cuda.grid(1)
    if i < y.size:
        y[i] = x[i] if x[i] > ZERO else add(multiply(slope, x[i]), ZERO)


@kernel
def leaky_relu_gradient(dy, x, dx, slope):
    """dx = x > 0 ? dy : slope * dy."""
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dy[i] if x[i] > ZERO else multiply(slope, dy[i])


@kernel
def gelu(x, y):
    """y = x * Phi(x)."""
    i = cuda.grid(1)
    if i < y.size:
        y[i] = add(narrow(gelu64(widen(x[i]))), ZERO)


@kernel
def gelu_gradient(dy, x, dx):
    """dx = dy * (Phi(x) + x * phi(x))."""
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = multiply(dy[i], add(narrow(gelu_slope64(widen(x[i]))), ZERO))


@kernel
def silu(x, y):
    """y = x / (1 + exp(-x))."""
    i = cuda.grid(1)
    if i < y.size:
        y[i] = add(narrow(silu64(widen(x[i]))), ZERO)


@kernel
def silu_gradient(dy, x, dx):
    """dx = dy * (s * (1 + x * (1 - s))), s the sigmoid of x."""
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = multiply(dy[i], add(narrow(silu_slope64(widen(x[i]))), ZERO))


@kernel
def softmax_gradient(dy, y, dx):
    """dx = (dy - s) * y, s the chain of dy * y along the channels of (block, C, position, lane); a thread a pixel."""
    i = cuda.grid(1)
    positions = y.shape[2]
    if i < y.shape[0] * positions * LANES:
        lane, p, b = i % LANES, i // LANES % positions, i // LANES // positions
        total = ZERO
        for c in range(y.shape[1]):
            total = fma(dy[b, c, p, lane], y[b, c, p, lane], total)
        for c in range(y.shape[1]):
            dx[b, c, p, lane] = multiply(subtract(dy[b, c, p, lane], total), y[b, c, p, lane])
