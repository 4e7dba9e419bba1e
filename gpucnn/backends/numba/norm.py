"""Batch norm and bias gradients on the CPU backend."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import flat
from gpucnn.backends.numba.normalized import Normalized
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import is_halving, positions_per_band, rows_per_band
from gpucnn.geometry import Window
from gpucnn.kernels.numba import channel_sums, norm, norm_pool, sums

_LINE = 8  # float64 of a cache line: no two threads write to one


class NumbaNorm(NumbaBase):
    """See the protocol for what each method does."""

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        self._run(norm.bias_gradient, flat(self._data(dy)), out, self._part64(dy), *self._summing(dy))

    def _part64(self, x: Batch, *sums: int) -> np.ndarray:
        """Room for so many sums of each map of a block."""
        return self._empty((*sums, *x.data.shape[:2]), np.float64)

    def _summing(self, x: Batch, *trees: int, rows: bool = False) -> tuple[int, int, np.ndarray]:
        """How maps are summed: the images, a band's positions or rows, and room for each thread's waiting sums."""
        band = positions_per_band(x.spatial)
        levels = sums.levels(max(-(-math.prod(x.spatial) // band), x.data.shape[0]))
        slots = self._empty((self.threads, *trees, -(-levels // _LINE) * _LINE), np.float64)
        return x.images, rows_per_band(x.spatial[-1]) if rows else band, slots

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        nothing = np.zeros(1, np.float32)
        return self._statistics(x, nothing, nothing, 0.0, False)

    def batch_norm_moving_statistics(
        self, x: Batch, running_mean: Array, running_var: Array, momentum: float
    ) -> tuple[Array, Array]:
        mean, var, _ = self._statistics(x, running_mean, running_var, momentum, True)
        return mean, var

    def _statistics(
        self, x: Batch, running_mean: Array, running_var: Array, momentum: float, moves: bool
    ) -> tuple[Array, Array, Array]:
        mean, var, unbiased = (self._empty((x.channels,)) for _ in range(3))
        moving = running_mean, running_var, np.float32(momentum), moves
        room = self._part64(x, 2), self._empty((x.channels,), np.float64), *self._summing(x)
        self._run(norm.batch_norm_statistics, flat(self._data(x)), mean, var, unbiased, *moving, *room)
        return mean, var, unbiased

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        return x.like(self._normalized(x, self._constants(mean, var, gamma, beta, eps), None, relu))

    def batch_norm_add(self, x, mean, var, gamma, beta, eps, other: Batch, relu: bool = False) -> Batch:
        return x.like(self._normalized(x, self._constants(mean, var, gamma, beta, eps), other, relu))

    def _constants(self, mean: Array, var: Array, gamma: Array, beta: Array, eps: float) -> np.ndarray:
        known = self._empty((4, len(mean)))
        self._run(norm.batch_norm_constants, mean, var, gamma, beta, np.float32(eps), known)
        return known

    def _normalized(self, x: Batch, known: np.ndarray, other: Batch | None, relu: bool) -> np.ndarray:
        data = flat(self._data(x))
        addend, y = data if other is None else flat(self._data(other)), self._empty(x.data.shape)
        self._run(norm.batch_norm, data, known, addend, other is not None, flat(y), relu)
        return y

    def batch_norm_training(
        self, x, running_mean, running_var, momentum, gamma, beta, eps, other=None, relu=False
    ) -> tuple[Batch, Array, Array]:
        if other is not None or not relu:
            settings = running_mean, running_var, momentum, gamma, beta, eps
            return super().batch_norm_training(x, *settings, other, relu)
        mean, var = self.batch_norm_moving_statistics(x, running_mean, running_var, momentum)
        known = self._constants(mean, var, gamma, beta, eps)
        return Normalized(x, known, lambda: self._normalized(x, known, None, True)), mean, var

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        # beta is unused without ReLU: gamma is passed in its place.
        return self._batch_norm_gradient(norm.NOTHING, dy, dy, dy, x, mean, var, gamma, gamma, eps, out_gamma, out_beta)

    def batch_norm_relu_gradient(self, dy, y, x, mean, var, gamma, beta, eps, out_gamma, out_beta) -> Batch:
        return self._batch_norm_gradient(norm.RELU, dy, dy, dy, x, mean, var, gamma, beta, eps, out_gamma, out_beta)

    def batch_norm_add_gradient(self, dy, y, x, mean, var, gamma, eps, out_gamma, out_beta) -> tuple[Batch, Batch]:
        settings = x, mean, var, gamma, gamma, eps, out_gamma, out_beta
        if y is None:
            return self._batch_norm_gradient(norm.NOTHING, dy, dy, dy, *settings), dy
        dsum = self._like(dy)
        return self._batch_norm_gradient(norm.RELU_OF_SUM, dy, y, dsum, *settings), dsum

    def _batch_norm_gradient(
        self, after: int, dy, y, dsum, x, mean, var, gamma, beta, eps, out_gamma, out_beta
    ) -> Batch:
        """`y` and `dsum` count after norm.RELU_OF_SUM alone."""
        dx = self._like(x)
        arguments = flat(self._data(dy)), flat(self._data(x)), mean, var, gamma, beta, np.float32(eps), after
        outputs = flat(self._data(y)), flat(self._data(dsum)), flat(dx.data), out_gamma, out_beta
        room = self._part64(x, 2), self._empty((2, x.channels)), *self._summing(x, 2)
        self._run(norm.batch_norm_gradient, *arguments, *outputs, *room)
        return dx

    def channel_sums(self, x: Batch, y: Batch | None = None, center: Array | None = None) -> Array:
        out, data = self._empty((x.channels,), np.float64), flat(self._data(x))
        kind = (
            channel_sums.PRODUCTS if y is not None else channel_sums.VALUES if center is None else channel_sums.SQUARES
        )
        other = data if y is None else flat(self._data(y))
        middle = np.zeros(x.channels) if center is None else center
        self._run(channel_sums.channel_sums, data, other, middle, kind, out, self._part64(x), *self._summing(x))
        return out

    def batch_norm_gradient_by_means(self, dy, x, mean, var, gamma, eps, gamma_mean, beta_mean) -> Batch:
        dx = self._like(x)
        arguments = flat(self._data(dy)), flat(self._data(x)), mean, var, gamma, np.float32(eps), gamma_mean, beta_mean
        self._run(channel_sums.batch_norm_gradient, *arguments, flat(dx.data), x.images)
        return dx

    def batch_norm_max_pool(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, pool: Window
    ) -> tuple[Batch, Array]:
        if not is_halving(pool):
            return super().batch_norm_max_pool(x, mean, var, gamma, beta, eps, pool)
        y = self._maps(x, x.channels, pool.output)
        where = self._empty(y.data.shape)
        arguments = self._data(x), mean, var, gamma, beta, np.float32(eps)
        self._run(norm_pool.batch_norm_max_pool, *arguments, y.data, where)
        return y, where

    def batch_norm_max_pool_gradient(
        self, dy, kept, x, mean, var, gamma, beta, eps, pool: Window, out_gamma, out_beta
    ) -> Batch:
        if not is_halving(pool):
            return super().batch_norm_max_pool_gradient(
                dy, kept, x, mean, var, gamma, beta, eps, pool, out_gamma, out_beta
            )
        dx = self._like(x)
        arguments = self._data(dy), kept, self._data(x), mean, var, gamma, beta, np.float32(eps)
        outputs = dx.data, out_gamma, out_beta, self._part64(x, 2), self._empty((2, x.channels))
        self._run(norm_pool.batch_norm_max_pool_gradient, *arguments, *outputs, *self._summing(x, 2, rows=True))
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        self._run(norm.batch_norm_input_gradient, flat(self._data(dy)), var, gamma, np.float32(eps), flat(dx.data))
        return dx
