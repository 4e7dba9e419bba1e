"""Clipping by norm, SGD and Adam: rule 9."""

import numpy as np

from gpucnn.arithmetic import BAND, BLOCK, fma, tree
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.protocol import Array


class ExactOptimizers(NumpyBase):
    """Part of NumpyExact; see the protocol for what each method does."""

    def clip_norm(self, g: Array, limit: float) -> None:
        size, limit = BAND * BLOCK, np.float64(np.float32(limit))
        squares = np.zeros(-(-g.size // size) * size)
        squares[: g.size] = g.astype(np.float64) * g  # exact
        total = np.zeros((squares.size // size, BLOCK))
        for row in squares.reshape(-1, BAND, BLOCK).swapaxes(0, 1):
            total += row
        norm = np.sqrt(tree(tree(total, 1), 0))
        if norm > limit:
            g *= np.float32(limit / norm)

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        factor = np.float32(momentum)
        g = fma(np.float32(weight_decay), w, g)
        v[...] = fma(factor, v, g)
        w[...] = fma(-hyper[0], fma(factor, v, g) if nesterov else v, w)

    def adam(
        self,
        w: Array,
        g: Array,
        m: Array,
        v: Array,
        hyper: Array,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        lr, c1, c2, decay = hyper
        if decoupled:
            w[...] = fma(-decay, w, w)
        else:
            g = fma(np.float32(weight_decay), w, g)
        m[...] = fma(np.float32(beta1), m, np.float32(1 - beta1) * g)
        v[...] = fma(np.float32(beta2), v, (np.float32(1 - beta2) * g) * g)
        w[...] = fma(-lr, (m / c1) / (np.sqrt(v / c2) + np.float32(eps)), w)
