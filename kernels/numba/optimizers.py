"""Optimizers over the flat parameter buffer (rule 9), running statistics, and the watch for non-finite numbers."""

import math

import numpy as np
from gpucnn.kernels.numba.chunks import chunks_of, numbers_of
from gpucnn.kernels.numba.compiler import inner, kernel
from gpucnn.kernels.numba.simd import LANES, add, add64, load, splat, subtract, tree64, widen
from gpucnn.kernels.numba.simd import scalar_fma as fma
from gpucnn.kernels.numba.team import prange


@kernel("sgd", contiguous=True)
def sgd(w, g, v, hyper, momentum, weight_decay, nesterov):
    """v = fma(momentum, v, g); w = fma(-lr, v, w), or along fma(momentum, v, g) with Nesterov."""
    lr = hyper[0]
    for u in prange(chunks_of(w)):
        for i in numbers_of(w, u):
            gradient = fma(weight_decay, w[i], g[i])
            velocity = fma(momentum, v[i], gradient)
            v[i] = velocity
            if nesterov:
                velocity = fma(momentum, velocity, gradient)
            w[i] = fma(-lr, velocity, w[i])


@kernel("adam", contiguous=True)
def adam(w, g, m, v, hyper, beta1, beta2, rest1, rest2, eps, weight_decay, decoupled):
    """Adam, or AdamW where the decay is decoupled; rest = 1 - beta."""
    lr, c1, c2, shrink = hyper[0], hyper[1], hyper[2], hyper[3]
    for u in prange(chunks_of(w)):
        for i in numbers_of(w, u):
            weight, gradient = w[i], g[i]
            if decoupled:
                weight = fma(-shrink, weight, weight)
            else:
                gradient = fma(weight_decay, weight, gradient)
            mean = fma(beta1, m[i], rest1 * gradient)
            square = fma(beta2, v[i], (rest2 * gradient) * gradient)
            m[i], v[i] = mean, square
            w[i] = fma(-lr, (mean / c1) / (np.float32(math.sqrt(square / c2)) + eps), weight)


@inner
def moved(running, batch, momentum):
    """A running statistic after one more batch."""
    return fma(momentum, batch - running, running)


@kernel("running statistics")
def update_running(running, batch, momentum):
    for c in range(running.shape[0]):
        running[c] = moved(running[c], batch[c], momentum)


@kernel("watch", contiguous=True)
def watch(status, step, loss, w):
    """status = step at the first loss or weight that is infinite or NaN: x - x is then NaN,
    and so is any sum with it.
    """
    if status[0] == -1:
        even, odd = splat(loss[0] - loss[0]), splat(np.float32(0))
        whole = w.shape[0] // (2 * LANES) * (2 * LANES)
        for i in range(0, whole, 2 * LANES):
            a, b = load(w, i), load(w, i + LANES)
            even, odd = add(even, subtract(a, a)), add(odd, subtract(b, b))
        worst = tree64(add64(widen(even), widen(odd)), LANES)
        for i in range(whole, w.shape[0]):
            worst += w[i] - w[i]
        if worst != 0:
            status[0] = step[0]
