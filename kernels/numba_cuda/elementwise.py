"""Activations, their gradients and residual addition (rules 5 to 7): one thread a value, all arrays flat."""

from gpucnn.kernels.numba_cuda.arithmetic import ONE, ZERO, add, fma, multiply, narrow, subtract, widen
from gpucnn.kernels.numba_cuda.compiler import kernel
from gpucnn.kernels.numba_cuda.elementary import sigmoid64, tanh64
from numba import cuda


@kernel
def relu(x, y):
    """y = x > 0 ? x : +0."""
    i = cuda.grid(1)
    if i < y.size:
        y[i] = x[i] if x[i] > ZERO else ZERO


@kernel
def relu_gradient(dy, y, dx):
    """dx = y > 0 ? dy : +0."""
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dy[i] if y[i] > ZERO else ZERO


@kernel
def tanh(x, y):
    """The last + 0 turns -0 into +0."""
    i = cuda.grid(1)
    if i < y.size:
        y[i] = add(narrow(tanh64(widen(x[i]))), ZERO)


@kernel
def tanh_gradient(dy, y, dx):
    """dx = dy * (1 - y * y)."""
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = multiply(dy[i], fma(-y[i], y[i], ONE))


@kernel
def sigmoid(x, y):
    """y = 1 / (1 + exp(-x))."""
    i = cuda.grid(1)
    if i < y.size:
        y[i] = narrow(sigmoid64(widen(x[i])))


@kernel
def sigmoid_gradient(dy, y, dx):
    """dx = dy * (y * (1 - y))."""
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = multiply(dy[i], multiply(y[i], subtract(ONE, y[i])))


@kernel
def add_batches(a, b, y, rectified):
    """y = a + b, or its ReLU."""
    i = cuda.grid(1)
    if i < y.size:
        value = add(a[i], b[i])
        y[i] = ZERO if rectified and not value > ZERO else value
