"""Elementwise operations on NumPy's batches; the expressions are in exact/ and fast/."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpucnn.arithmetic import DROPOUT, uniform, words
from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.backends.protocol import Array


class NumpyElementwise(NumpyBase):
    """Part of NumpyBase; see the protocol for what each method does."""

    values: Mapping[str, Callable[..., Any]]  # name: (x, *settings) -> y, of arrays
    gradients: Mapping[str, Callable[..., Any]]  # name: (dy, x or y, *settings) -> dx

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return x.like(self.values[name](x.data, *map(self.dtype.type, settings)))

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        return dy.like(self.gradients[name](dy.data, saved.data, *map(self.dtype.type, settings)))

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        return self.rectified(a.like(a.data + b.data), relu)

    def dropout(self, x: Batch, rate: float, seed: int, step: Array, layer: int) -> Batch:
        # One lane: data is in logical order.
        first = shares.offset() * (x.data.size // len(x.data))
        index = np.arange(first, first + x.data.size, dtype=np.uint64).reshape(x.data.shape)
        u = uniform(words(seed, index, int(step[0]), DROPOUT, layer))
        scale = self.dtype.type(1.0 / (1.0 - rate))
        return x.like(np.where(u < np.float32(rate), self.dtype.type(0), x.data * scale))
