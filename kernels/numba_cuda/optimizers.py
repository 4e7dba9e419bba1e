"""Optimizers over the flat parameter buffer (rule 9), running statistics, and the watch for non-finite numbers."""

import math

from gpucnn.kernels.numba_cuda.arithmetic import add, divide, fma, multiply, sqrt, subtract
from gpucnn.kernels.numba_cuda.compiler import kernel
from numba import cuda


@kernel
def sgd(w, g, v, hyper, momentum, weight_decay, nesterov):
    """v = fma(momentum, v, g); w = fma(-lr, v, w), or along fma(momentum, v, g) with Nesterov. A thread per weight."""
    i = cuda.grid(1)
    if i < w.size:
        gradient = fma(weight_decay, w[i], g[i])
        velocity = fma(momentum, v[i], gradient)
        v[i] = velocity
        if nesterov:
            velocity = fma(momentum, velocity, gradient)
        w[i] = fma(-hyper[0], velocity, w[i])


@kernel
def adam(w, g, m, v, hyper, beta1, beta2, rest1, rest2, eps, weight_decay, decoupled):
    """Adam, or AdamW where the decay is decoupled; rest = 1 - beta. One thread per weight."""
    i = cuda.grid(1)
    if i < w.size:
        lr, c1, c2, shrink = hyper[0], hyper[1], hyper[2], hyper[3]
        weight, gradient = w[i], g[i]
        if decoupled:
            weight = fma(-shrink, weight, weight)
        else:
            gradient = fma(weight_decay, weight, gradient)
        mean = fma(beta1, m[i], multiply(rest1, gradient))
        square = fma(beta2, v[i], multiply(multiply(rest2, gradient), gradient))
        m[i], v[i] = mean, square
        w[i] = fma(-lr, divide(divide(mean, c1), add(sqrt(divide(square, c2)), eps)), weight)


@kernel
def update_running(running, batch, momentum):
    """running = fma(momentum, batch - running, running). One thread per channel."""
    c = cuda.grid(1)
    if c < running.size:
        running[c] = fma(momentum, subtract(batch[c], running[c]), running[c])


@kernel
def watch(status, step, loss, w):
    """status = step at the first loss or weight that is infinite or NaN. One thread per weight, one if there is none.

    Several threads may write at once; all of them write the same number.
    """
    i = cuda.grid(1)
    bad = (i == 0 and not math.isfinite(loss[0])) or (i < w.size and not math.isfinite(w[i]))
    if bad and status[0] == -1:
        status[0] = step[0]
