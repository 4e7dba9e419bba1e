"""Dense layers on the CPU backend, and the weight gradient of layers with one position per image."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba import tiles
from gpucnn.backends.numba.correlation import NumbaCorrelation
from gpucnn.backends.numba.layout import deep
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import window3d
from gpucnn.geometry import Window
from gpucnn.kernels.numba import dense, sums
from gpucnn.kernels.numba.simd import LANES


class NumbaDense(NumbaCorrelation):
    """See the protocol for what each method does."""

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        y = self._maps(x, len(w), ())
        bias = np.zeros(len(w), np.float32) if bias is None else bias
        weights = w.reshape(1, *w.shape, 1, 1, 1)
        one, none = (1, 1, 1), (0, 0, 0)
        self._correlate(x, weights, bias, deep(y.data), one, one, none, relu)
        return y

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        dx = self._maps(dy, w.shape[1], ())
        weights = w.reshape(1, *w.shape, 1, 1, 1).swapaxes(1, 2)
        one, none = (1, 1, 1), (0, 0, 0)
        nothing = np.zeros(w.shape[1], np.float32)
        self._correlate(dy, weights, nothing, deep(dx.data), one, one, none, False)
        return dx

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        self._chain_weight_gradient(dy, x, _POINT, 1, out)

    def _chain_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        """The weight gradient where each image has one position."""
        blocks, outputs = dy.data.shape[0], out.shape[0]
        terms = math.prod(out.shape[1:])  # of one group
        sizes = outputs // groups, -(-terms // LANES)
        c = window3d(window)
        images, gradient = deep(self._data(x)), self._data(dy).reshape(blocks, outputs, LANES)

        def launches(ob: int, cb: int) -> tuple[tuple, tuple]:
            # Padded because the last tile of the last group may read past the terms.
            turned = self._empty((blocks, LANES, -(-terms * groups // LANES) * LANES + cb * LANES))
            square = self._empty((self.threads, LANES * LANES))
            slots = self._empty((self.threads, sums.levels(blocks) * ob * cb * LANES))
            kernel, result = dense.dense_weight_gradient_of(ob, cb), out.reshape(outputs, terms)
            return (
                (dense.patches, images, c.kernel, c.dilation, c.before, turned, square),
                (kernel, gradient, turned, result, slots, dy.images, groups),
            )

        if not self._try(*launches(*tiles.broadcast_tile(*sizes))):
            for launch in launches(*tiles.general(tiles.GENERAL_BROADCAST, *sizes)):
                self._run(*launch)


_POINT = Window((), (), (), (), (), ())
