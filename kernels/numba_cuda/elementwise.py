"""Activations with their gradients, and residual addition (rules 5 to 7): one thread per value, all arrays flat.

An operation is two expressions, its value and its gradient; FORWARD and GRADIENT are their kernels. What they are
called, and whether a gradient starts from x or from y, is declared in gpucnn/backends/elementwise.py.
"""

from gpucnn.kernels.numba_cuda.arithmetic import ONE, ZERO, add, fma, multiply, narrow, subtract, widen
from gpucnn.kernels.numba_cuda.compiler import device, kernel
from gpucnn.kernels.numba_cuda.elementary import gelu64, gelu_slope64, sigmoid64, silu64, silu_slope64, tanh64
from numba import cuda


@device
def rectified(v):
    """v > 0 ? v : +0."""
    return v if v > ZERO else ZERO


@device
def rounded(v):
    """A float64 as float32, +0 for -0."""
    return add(narrow(v), ZERO)


# name -> (value of x, gradient of dy and what is saved), each also of the operation's settings
EXPRESSIONS = {
    "relu": (
        lambda x: rectified(x),
        lambda dy, y: dy if y > ZERO else ZERO,
    ),
    "tanh": (
        lambda x: rounded(tanh64(widen(x))),
        lambda dy, y: multiply(dy, fma(-y, y, ONE)),
    ),
    "sigmoid": (
        lambda x: narrow(sigmoid64(widen(x))),
        lambda dy, y: multiply(dy, multiply(y, subtract(ONE, y))),
    ),
    "leaky_relu": (
        lambda x, slope: x if x > ZERO else add(multiply(slope, x), ZERO),
        lambda dy, x, slope: dy if x > ZERO else multiply(slope, dy),
    ),
    "gelu": (
        lambda x: rounded(gelu64(widen(x))),
        lambda dy, x: multiply(dy, rounded(gelu_slope64(widen(x)))),
    ),
    "silu": (
        lambda x: rounded(silu64(widen(x))),
        lambda dy, x: multiply(dy, rounded(silu_slope64(widen(x)))),
    ),
}


def _forward_of(name, expression):
    value = device(expression)

    def forward(x, y, settings):
        i = cuda.grid(1)
        if i < y.size:
            y[i] = value(x[i], *settings)

    forward.__name__ = name
    return kernel(forward)


def _gradient_of(name, expression):
    slope = device(expression)

    def gradient(dy, saved, dx, settings):
        i = cuda.grid(1)
        if i < dx.size:
            dx[i] = slope(dy[i], saved[i], *settings)

    gradient.__name__ = f"{name}_gradient"
    return kernel(gradient)


FORWARD = {name: _forward_of(name, value) for name, (value, _) in EXPRESSIONS.items()}
GRADIENT = {name: _gradient_of(name, slope) for name, (_, slope) in EXPRESSIONS.items()}


@kernel
def add_batches(a, b, y, relu):
    """y = a + b, or its ReLU."""
    i = cuda.grid(1)
    if i < y.size:
        value = add(a[i], b[i])
        y[i] = rectified(value) if relu else value
