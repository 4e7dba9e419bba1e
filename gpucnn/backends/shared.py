"""Operations that sum over the batch, where only a part of it is computed here (gpucnn.backends.shares).

Each part's sum is a node of the contract's tree over blocks (rule 3d), so that adding the parts' sums by the same tree
gives the bits of the whole. This class comes first among a backend's bases; without a share the backend's own
operations run. Arrays are NumPy's on all backends that have it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.arithmetic import rounded
from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array, Backend
from gpucnn.geometry import Window


def _count(x: Batch) -> int:
    """Images of the whole batch times positions."""
    return shares.whole(x) * math.prod(x.spatial)


def _single(value64: np.ndarray) -> np.ndarray:
    """Rounded to float32 once; what overflows is infinite, and `watch` sees it."""
    with np.errstate(over="ignore", under="ignore"):
        return value64.astype(np.float32)


def _round_into(out: Array) -> Callable[[np.ndarray], None]:
    def write(total: np.ndarray) -> None:
        out[...] = rounded(total)

    return write


class SharedSums(Backend):
    """See the protocol for what each method does."""

    shares_batches = True

    # ---- gradients of parameters -------------------------------------------------------------------------------------

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        super().conv_weight_gradient(dy, x, window, groups, out)  # type: ignore[safe-super]
        if share := shares.current():
            share.exchange.weights(self, out)

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        super().dense_weight_gradient(dy, x, out)  # type: ignore[safe-super]
        if share := shares.current():
            share.exchange.weights(self, out)

    def bias_gradient(self, dy: Batch, out: Array) -> None:
        if share := shares.current():
            share.exchange.later((self.channel_sums(dy),), _round_into(out))
        else:
            super().bias_gradient(dy, out)  # type: ignore[safe-super]

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Any, pool: Window, out_bias: Array | None) -> Batch:
        if shares.current() is None or out_bias is None:
            return super().conv_max_pool_gradient(dy, y, where, pool, out_bias)
        dz = super().conv_max_pool_gradient(dy, y, where, pool, None)
        self.bias_gradient(dz, out_bias)
        return dz

    # ---- batch norm --------------------------------------------------------------------------------------------------

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        share = shares.current()
        if share is None:
            return super().batch_norm_statistics(x)  # type: ignore[safe-super]
        mean, var, unbiased = (self.zeros((x.channels,)) for _ in range(3))
        mean64, count = self.zeros((x.channels,), np.float64), _count(x)

        def center(total: np.ndarray) -> None:
            mean64[...] = total / count
            mean[...] = _single(mean64)

        def spread(total: np.ndarray) -> None:
            var64 = total / count
            var[...], unbiased[...] = _single(var64), _single(var64 * count / max(count - 1, 1))

        share.exchange.now(self, (self.channel_sums(x),), center)
        share.exchange.now(self, (self.channel_sums(x, center=mean64),), spread)
        return mean, var, unbiased

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        share = shares.current()
        if share is None:
            return super().batch_norm_gradient(  # type: ignore[safe-super]
                dy, x, mean, var, gamma, eps, out_gamma, out_beta
            )
        # fma(1, xhat, 0) is xhat but for the sign of a zero, which changes no sum.
        ones = self.array(np.ones(x.channels, np.float32))
        xhat = self.batch_norm(x, mean, var, ones, self.zeros((x.channels,)), eps)
        beta_mean, gamma_mean, count = self.zeros((x.channels,)), self.zeros((x.channels,)), _count(x)

        def finish(beta64: np.ndarray, gamma64: np.ndarray) -> None:
            out_beta[...], out_gamma[...] = rounded(beta64), rounded(gamma64)
            beta_mean[...], gamma_mean[...] = _single(beta64 / count), _single(gamma64 / count)

        share.exchange.now(self, (self.channel_sums(dy), self.channel_sums(dy, xhat)), finish)
        return self.batch_norm_gradient_by_means(dy, x, mean, var, gamma, eps, gamma_mean, beta_mean)

    def batch_norm_relu_gradient(self, dy, y, x, mean, var, gamma, beta, eps, out_gamma, out_beta) -> Batch:
        of = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_relu_gradient(dy, y, x, mean, var, gamma, beta, eps, out_gamma, out_beta)

    def batch_norm_max_pool(self, x, mean, var, gamma, beta, eps, pool: Window) -> tuple[Batch, Any]:
        of = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_max_pool(x, mean, var, gamma, beta, eps, pool)

    def batch_norm_max_pool_gradient(
        self, dy, kept, x, mean, var, gamma, beta, eps, pool: Window, out_gamma, out_beta
    ) -> Batch:
        of = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_max_pool_gradient(dy, kept, x, mean, var, gamma, beta, eps, pool, out_gamma, out_beta)

    # ---- group norm --------------------------------------------------------------------------------------------------

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
        share, outputs = shares.current(), (out_gamma, out_beta)
        if share is None or out_gamma is None or out_beta is None:
            return super().group_norm_gradient(dy, x, mean, var, gamma, eps, *outputs)  # type: ignore[safe-super]
        scratch = self.zeros((x.channels,)), self.zeros((x.channels,))
        dx = super().group_norm_gradient(dy, x, mean, var, gamma, eps, *scratch)  # type: ignore[safe-super]
        xhat = self.group_norm(x, mean, var, None, None, eps)
        share.exchange.later((self.channel_sums(dy),), _round_into(out_beta))
        share.exchange.later((self.channel_sums(dy, xhat),), _round_into(out_gamma))
        return dx

    # ---- losses: each kernel adds this part's sums to totals of its own ----------------------------------------------

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        def compute(own: Array | None) -> tuple[Array, Batch]:
            return super(SharedSums, self).softmax_cross_entropy(logits, labels, own)  # type: ignore[safe-super]

        images = shares.whole(logits)
        return self._loss(compute, totals, 2, lambda total: total[0] / images)

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        def compute(own: Array | None) -> tuple[Array, Batch]:
            return super(SharedSums, self).weighted_cross_entropy(  # type: ignore[safe-super]
                logits, labels, weights, smoothing, own
            )

        return self._loss(compute, totals, 3, lambda total: total[0] / total[2])

    def label_weights(self, labels: Array, weights: Array, images: int) -> Array:
        share = shares.current()
        known = None if share is None else share.exchange.ahead(self, weights)
        if share is None or known is not None:
            return super().label_weights(labels, weights, images) if known is None else known
        total = self.zeros((1,), np.float64)

        def keep(weight: np.ndarray) -> None:
            total[...] = weight

        share.exchange.now(self, (super().label_weights(labels, weights, images),), keep)
        return total

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        def compute(own: Array | None) -> tuple[Array, Batch]:
            return super(SharedSums, self).value_loss(kind, x, targets, delta, own)  # type: ignore[safe-super]

        values = shares.whole(x) * math.prod(x.shape[1:])
        return self._loss(compute, totals, 1, lambda total: total[0] / values)

    def _loss(
        self,
        compute: Callable[[Array | None], tuple[Array, Batch]],
        totals: Array | None,
        counts: int,
        mean: Callable[[np.ndarray], float],
    ) -> tuple[Array, Batch]:
        """`compute` returns (loss, gradient) of this part and adds its sums to the array that it gets."""
        share = shares.current()
        if share is None:
            return compute(totals)
        own = self.zeros((counts,), np.float64)
        self.between(lambda: own.fill(0))
        loss, gradient = compute(own)

        def finish(total: np.ndarray) -> None:
            if counts == 3:  # the images' weights are the whole batch's already
                total[2] = own[2]
            with np.errstate(all="ignore"):
                loss[...] = np.float32(mean(total))
            if totals is not None:
                totals[...] += total

        share.exchange.later((own,), finish)
        return loss, gradient


class _Defaults:
    """The protocol's own way of doing what backends do in one kernel: by operations that share a batch."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def __getattr__(self, name: str) -> Callable:
        return getattr(Backend, name).__get__(self._backend)
