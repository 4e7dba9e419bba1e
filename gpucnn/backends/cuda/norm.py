"""Batch norm and bias gradients as launches of kernels/cuda/norm.cu."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import HALVES, HIGHEST, LANES, ceil_div, f32, i32
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import is_halving, positions_per_band
from gpucnn.geometry import Window


def halving_of(where: Array | None, pool: Window) -> tuple:
    """norm.cu's struct Halving for a pooling that is one."""
    return where, i32(pool.input[1]), *map(i32, pool.output)


_ALONE = 16  # norm.cu's: warps that take a small channel
_NO_POOL = None, i32(0), i32(0), i32(0)


class CudaNorm(CudaBase):
    """See the protocol for what each method does."""

    def _sum_channels(
        self, kernel: str, sums: int, x: Batch, *arguments, overlap: tuple = (), file: str = "norm.cu"
    ) -> None:
        """A kernel that sums over each channel of maps like x."""
        blocks, positions, band = x.data.shape[0], math.prod(x.spatial), positions_per_band(x.spatial)
        bands = ceil_div(positions, band)
        part = self._empty((x.channels, sums, blocks * HALVES, bands), np.float64)
        # One warp per band for few channels, several bands per warp if channels fill the GPU.
        parts = min(ceil_div(blocks * bands, 8), ceil_div(8 * self.launcher.processors, x.channels))
        sizes = [i32(size) for size in (x.images, blocks, positions, band)]
        grid = x.channels, parts
        if overlap:
            self._next_branch()
        counters = self._counters_of(x.channels, bool(overlap))
        if overlap:
            overlap = *overlap, part, counters
        self._run(file, kernel, grid, (LANES, 8), *arguments, *sizes, part, counters, overlap=overlap)

    def _is_small(self, x: Batch) -> bool:
        """Whether a block of threads takes a channel of x alone: a warp has no more than one band."""
        return x.data.shape[0] * ceil_div(math.prod(x.spatial), positions_per_band(x.spatial)) <= _ALONE

    def _alone(self, kernel: str, sums: int, x: Batch, *arguments) -> None:
        """A kernel with a block of threads for each channel."""
        blocks, positions, band = x.data.shape[0], math.prod(x.spatial), positions_per_band(x.spatial)
        part = self._empty((x.channels, sums, blocks * HALVES, ceil_div(positions, band)), np.float64)
        sizes = *map(i32, (x.images, blocks, positions, band)), part, self._counters_of(x.channels)
        self._run("norm.cu", kernel, (x.channels,), (LANES, _ALONE), *arguments, *sizes)

    def batch_norm_training(
        self, x, running_mean, running_var, momentum, gamma, beta, eps, other: Batch | None = None, relu: bool = False
    ) -> tuple[Batch, Array, Array]:
        if not self._is_small(x):
            settings = x, running_mean, running_var, momentum, gamma, beta, eps
            return super().batch_norm_training(*settings, other, relu)
        y, mean, var = self._like(x), self._empty((x.channels,)), self._empty((x.channels,))
        statistics = mean, var, running_mean, running_var, f32(momentum)
        ends = None if other is None else self._data(other), y.data, i32(relu)
        self._alone("batch_norm_alone", 1, x, self._data(x), *statistics, gamma, beta, f32(eps), *ends)
        return y, mean, var

    def _over_maps(self, kernel: str, results: Array, *arguments, channels: int = 0) -> None:
        """A kernel of norm.cu that walks each map of `results`, about four values per thread."""
        maps, positions = results.shape[0] * results.shape[1], math.prod(results.shape[2:-1])
        grid = maps, min(ceil_div(positions, 32), HIGHEST)
        sizes = (i32(channels), i32(positions)) if channels else (i32(positions),)
        self._run("norm.cu", kernel, grid, (256,), *arguments, *sizes)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        self._sum_channels("bias_gradient", 1, dy, self._data(dy), out, overlap=(out,))

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        return self._statistics(x, None, None, 0)

    def batch_norm_moving_statistics(
        self, x: Batch, running_mean: Array, running_var: Array, momentum: float
    ) -> tuple[Array, Array]:
        mean, var, _ = self._statistics(x, running_mean, running_var, momentum)
        return mean, var

    def _statistics(self, x: Batch, running_mean, running_var, momentum: float) -> tuple[Array, Array, Array]:
        mean, var, unbiased = (self._empty((x.channels,)) for _ in range(3))
        mean64, data = self._empty((x.channels,), np.float64), self._data(x)
        self._sum_channels("batch_norm_mean", 1, x, data, mean64, mean, running_mean, f32(momentum))
        more = var, unbiased, running_var, f32(momentum)
        self._sum_channels("batch_norm_variance", 1, x, data, mean64, *more)
        return mean, var, unbiased

    def batch_norm(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False
    ) -> Batch:
        return self._batch_norm(x, mean, var, gamma, beta, eps, None, relu)

    def batch_norm_add(self, x, mean, var, gamma, beta, eps, other: Batch, relu: bool = False) -> Batch:
        return self._batch_norm(x, mean, var, gamma, beta, eps, self._data(other), relu)

    def _batch_norm(self, x: Batch, mean, var, gamma, beta, eps: float, other: Array | None, relu: bool) -> Batch:
        y = self._like(x)
        maps, positions = x.data.shape[0] * x.channels, math.prod(x.spatial)
        arguments = self._data(x), mean, var, gamma, beta, f32(eps), other, y.data
        sizes = i32(x.channels), i32(positions), i32(relu)
        self._run("norm.cu", "batch_norm", (maps, min(ceil_div(positions, 32), HIGHEST)), (256,), *arguments, *sizes)
        return y

    def batch_norm_max_pool(
        self, x: Batch, mean: Array, var: Array, gamma: Array, beta: Array, eps: float, pool: Window
    ) -> tuple[Batch, Array]:
        if not is_halving(pool):
            return super().batch_norm_max_pool(x, mean, var, gamma, beta, eps, pool)
        y = self._maps(x, x.channels, pool.output)
        where = self._empty(y.data.shape, np.uint8)
        maps, positions = x.data.shape[0] * x.channels, math.prod(pool.output)
        arguments = self._data(x), mean, var, gamma, beta, f32(eps), y.data, where
        sizes = map(i32, (x.channels, *pool.input, *pool.output))
        grid = maps, min(ceil_div(positions, 32), HIGHEST)
        self._run("norm.cu", "batch_norm_max_pool", grid, (256,), *arguments, *sizes)
        return y, where

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        # y plays no part: gamma stands in for beta.
        return self._gradient_after("Nothing", _NO_POOL, dy, x, mean, var, gamma, gamma, eps, out_gamma, out_beta)

    def batch_norm_relu_gradient(self, dy, y, x, mean, var, gamma, beta, eps, out_gamma, out_beta) -> Batch:
        return self._gradient_after("Relu", _NO_POOL, dy, x, mean, var, gamma, beta, eps, out_gamma, out_beta)

    def batch_norm_max_pool_gradient(
        self, dy, kept, x, mean, var, gamma, beta, eps, pool: Window, out_gamma, out_beta
    ) -> Batch:
        if not is_halving(pool):
            settings = mean, var, gamma, beta, eps, pool
            return super().batch_norm_max_pool_gradient(dy, kept, x, *settings, out_gamma, out_beta)
        halving = halving_of(kept, pool)
        return self._gradient_after("ReluMaxPool", halving, dy, x, mean, var, gamma, beta, eps, out_gamma, out_beta)

    def batch_norm_add_gradient(self, dy, y, x, mean, var, gamma, eps, out_gamma, out_beta) -> tuple[Batch, Batch]:
        settings = dy, x, mean, var, gamma, gamma, eps, out_gamma, out_beta
        if y is None:
            return self._gradient_after("Nothing", _NO_POOL, *settings), dy
        other = self._like(dy)
        dx = self._gradient_after("ReluOfSum", _NO_POOL, *settings, y=self._data(y), other=other.data)
        return dx, other

    def _gradient_after(
        self,
        after: str,
        pool: tuple,
        dy,
        x: Batch,
        mean,
        var,
        gamma,
        beta,
        eps,
        out_gamma,
        out_beta,
        y=None,
        other=None,
    ) -> Batch:
        """dx through the statistics, from the gradient dy of what comes `after` batch norm. `y` is the output of an
        addition and its ReLU; the gradient of what was added is written into `other`.
        """
        dx = self._like(x)
        gradient, values = self._data(dy), self._data(x)
        if self._is_small(x):
            inputs = gradient, y, values, mean, var, gamma, beta, f32(eps), pool
            self._alone(f"batch_norm_gradient_alone<{after}>", 2, x, *inputs, out_gamma, out_beta, dx.data, other)
            return dx
        means = self._empty((x.channels,)), self._empty((x.channels,))
        inputs = gradient, y, values, mean, var, gamma, beta, f32(eps), pool
        self._sum_channels(f"batch_norm_sums<{after}>", 2, x, *inputs, out_gamma, out_beta, *means)
        arguments = *inputs, *means, dx.data, other, i32(x.images)
        self._over_maps(f"batch_norm_gradient<{after}>", dx.data, *arguments, channels=x.channels)
        return dx

    def channel_sums(self, x: Batch, y: Batch | None = None, center: Array | None = None) -> Array:
        out = self._empty((x.channels,), np.float64)
        kernel, others = "value_sums", []
        if y is not None:
            kernel, others = "product_sums", [self._data(y)]
        elif center is not None:
            kernel, others = "square_sums", [center]
        self._sum_channels(kernel, 1, x, self._data(x), *others, out, file="channel_sums.cu")
        return out

    def batch_norm_gradient_by_means(self, dy, x, mean, var, gamma, eps, gamma_mean, beta_mean) -> Batch:
        dx = self._like(x)
        inputs = self._data(dy), None, self._data(x), mean, var, gamma, gamma, f32(eps), _NO_POOL
        arguments = *inputs, gamma_mean, beta_mean, dx.data, None, i32(x.images)
        self._over_maps("batch_norm_gradient<Nothing>", dx.data, *arguments, channels=x.channels)
        return dx

    def batch_norm_input_gradient(self, dy: Batch, var: Array, gamma: Array, eps: float) -> Batch:
        dx = self._like(dy)
        arguments = self._data(dy), var, gamma, f32(eps), dx.data
        self._over_maps("batch_norm_input_gradient", dx.data, *arguments, channels=dy.channels)
        return dx
