"""Group norm and layer norm on the two NumPy backends: the specification, and a quick one."""

import numpy as np

from gpucnn.arithmetic import fma, over_bands64, rounded, total64, tree
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array


class ExactGroupNorm:
    """Rules 4 and 5 to the bit."""

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        values = lines(x.data.astype(np.float64), groups)
        mean = line_sums(values) / values.shape[2]
        deviation = values - mean[..., None]
        var = line_sums(deviation * deviation) / values.shape[2]
        return self.batch(mean.astype(np.float32)), self.batch(var.astype(np.float32))

    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        xhat, _ = normalised(x, mean, var, eps)
        y = x.like(fma(per_channel(gamma, x, 1), xhat, per_channel(beta, x, 0)))
        return self.relu(y) if relu else y

    def group_norm_gradient(
        self,
        dy: Batch,
        x: Batch,
        mean: Batch,
        var: Batch,
        gamma: Array | None,
        eps: float,
        out_gamma: Array | None,
        out_beta: Array | None,
    ) -> Batch:
        xhat, inv = normalised(x, mean, var, eps)
        if gamma is not None:
            out_beta[...] = rounded(total64(dy.data[..., 0]))
            out_gamma[...] = rounded(total64((dy.data.astype(np.float64) * xhat)[..., 0]))
        g = per_channel(gamma, x, 1) * dy.data
        groups = mean.channels
        line = lines(g.astype(np.float64), groups)
        a = line_sums(line) / line.shape[2]
        b = line_sums(line * lines(xhat, groups)) / line.shape[2]
        a, b = (per_group(self.batch(value.astype(np.float32)).data, x) for value in (a, b))
        return dy.like(inv * fma(-xhat, b, g - a))


class FastGroupNorm:
    """The same formulas, summed in whatever order NumPy likes."""

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        values = lines(x.data, groups)
        mean = values.mean(2, dtype=np.float64)
        deviation = values - mean[..., None]
        var = np.square(deviation, out=deviation).mean(2)
        return self.batch(mean.astype(self.dtype)), self.batch(var.astype(self.dtype))

    def group_norm(
        self, x: Batch, mean: Batch, var: Batch, gamma: Array | None, beta: Array | None, eps: float, relu: bool = False
    ) -> Batch:
        y, _ = normalised(x, mean, var, eps)
        y *= per_channel(gamma, x, 1)
        y += per_channel(beta, x, 0)
        return x.like(np.maximum(y, 0, out=y) if relu else y)

    def group_norm_gradient(
        self,
        dy: Batch,
        x: Batch,
        mean: Batch,
        var: Batch,
        gamma: Array | None,
        eps: float,
        out_gamma: Array | None,
        out_beta: Array | None,
    ) -> Batch:
        xhat, inv = normalised(x, mean, var, eps)
        if gamma is not None:
            axes = (0, *range(2, x.data.ndim))
            out_beta[...] = dy.data.sum(axes, dtype=np.float64)
            out_gamma[...] = (dy.data * xhat).sum(axes, dtype=np.float64)
        g = per_channel(gamma, x, 1) * dy.data
        a = lines(g, mean.channels).mean(2, dtype=np.float64)
        b = lines(g * xhat, mean.channels).mean(2, dtype=np.float64)
        a, b = (per_group(value.astype(self.dtype)[..., None], x) for value in (a, b))
        return dy.like(inv * (g - a - xhat * b))


def lines(data: np.ndarray, groups: int) -> np.ndarray:
    """(N, C, *spatial, 1) as (N, groups, values of a group)."""
    return data.reshape(len(data), groups, -1)


def line_sums(values: np.ndarray) -> np.ndarray:
    """(N, groups): the float64 sums of lines (N, groups, M) of float64: bands of 64, then the tree over them."""
    return tree(over_bands64(values, values.shape[2:]), -1)


def per_group(values: np.ndarray, x: Batch) -> np.ndarray:
    """(N, groups, 1) so that it broadcasts along x.data (N, C, *spatial, 1)."""
    values = np.repeat(values, x.channels // values.shape[1], axis=1)
    return values.reshape(*values.shape[:2], *(1,) * (x.data.ndim - 2))


def per_channel(values: np.ndarray | None, x: Batch, missing: int) -> np.ndarray:
    """(C,) so that it broadcasts along x.data; `missing` where there is none."""
    if values is None:
        return x.data.dtype.type(missing)
    return values.reshape(-1, *(1,) * (x.data.ndim - 2))


def normalised(x: Batch, mean: Batch, var: Batch, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(xhat, inv): inv = 1 / sqrt(var + eps) and (x - mean) * inv, each step rounded, shaped like x.data."""
    kind = x.data.dtype.type
    inv = kind(1) / np.sqrt(per_group(var.data, x) + kind(eps))
    return (x.data - per_group(mean.data, x)) * inv, inv
