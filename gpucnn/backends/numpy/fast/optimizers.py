"""Clipping by norm, SGD and Adam."""

import numpy as np

from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.protocol import Array


class FastOptimizers(NumpyBase):
    """Part of NumpyFast; see the protocol for what each method does."""

    def clip_norm(self, g: Array, limit: float) -> None:
        norm = np.sqrt(np.square(g, dtype=np.float64).sum())
        if norm > limit:
            g *= self.dtype.type(limit / norm)

    def sgd(
        self, w: Array, g: Array, v: Array, hyper: Array, *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        rate = hyper[0]
        step = g + w * weight_decay if weight_decay else g
        v *= momentum
        v += step
        w -= rate * (step + v * momentum) if nesterov else rate * v

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
        rate, c1, c2, decay = hyper
        if decoupled:
            w -= decay * w
        elif weight_decay:
            g = g + w * weight_decay
        m *= beta1
        m += g * (1 - beta1)
        v *= beta2
        v += np.square(g) * (1 - beta2)
        w -= rate * (m / c1) / (np.sqrt(v / c2) + eps)
