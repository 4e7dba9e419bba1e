"""Operations that sum over the batch, where only a part of it is computed here (gpucnn.backends.shares).

Each part's sum is a node of the contract's tree over blocks (rule 3d), so that adding the parts' sums by the same tree
gives the bits of the whole. This class comes first among a backend's bases; without a share the backend's own
operations run. Arrays are NumPy's here; gpucnn/backends/cuda/shared.py adds the parts on a GPU.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.arithmetic import rounded, tree
from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array, Backend
from gpucnn.backends.shares import Finish, Share
from gpucnn.geometry import Window
from gpucnn.parallel.joined import joined

if TYPE_CHECKING:
    from gpucnn.parallel.processes import Processes


@functools.cache
def _constant(count: int, value: int) -> np.ndarray:
    return np.full(count, value, np.float32)


def _count(x: Batch) -> int:
    """Images of the whole batch times positions."""
    return shares.whole(x) * math.prod(x.spatial)


class SharedSums(Backend):
    """See the protocol for what each method does."""

    shares_batches = True
    exchanges_on = "the host"

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
            share.exchange.later(self.channel_sums(dy), Finish(rounded=out))
        else:
            super().bias_gradient(dy, out)  # type: ignore[safe-super]

    def conv_max_pool_gradient(self, dy: Batch, y: Batch, where: Any, pool: Window, out_bias: Array | None) -> Batch:
        if shares.current() is None or out_bias is None:
            return super().conv_max_pool_gradient(dy, y, where, pool, out_bias)
        dz = super().conv_max_pool_gradient(dy, y, where, pool, None)
        self.bias_gradient(dz, out_bias)
        return dz

    def dense_gradients(self, dy, y, x, w, out_w, out_b, input_gradient: bool) -> Batch | None:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.dense_gradients(dy, y, x, w, out_w, out_b, input_gradient)

    # ---- batch norm --------------------------------------------------------------------------------------------------

    def batch_norm_statistics(self, x: Batch) -> tuple[Array, Array, Array]:
        share = shares.current()
        if share is None:
            return super().batch_norm_statistics(x)  # type: ignore[safe-super]
        mean, var, unbiased = (self.zeros((x.channels,)) for _ in range(3))
        mean64, count = self.zeros((x.channels,), np.float64), self._number(_count(x))
        share.exchange.now(self, [(self.channel_sums(x), Finish(count, mean64=mean64, mean=mean))])
        squares = self.channel_sums(x, center=mean64)
        share.exchange.now(self, [(squares, Finish(count, mean=var, unbiased=unbiased))])
        return mean, var, unbiased

    def batch_norm_moving_statistics(self, x: Batch, running_mean, running_var, momentum: float) -> tuple[Array, Array]:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_moving_statistics(x, running_mean, running_var, momentum)

    def batch_norm_gradient(
        self, dy: Batch, x: Batch, mean: Array, var: Array, gamma: Array, eps: float, out_gamma: Array, out_beta: Array
    ) -> Batch:
        share = shares.current()
        if share is None:
            return super().batch_norm_gradient(  # type: ignore[safe-super]
                dy, x, mean, var, gamma, eps, out_gamma, out_beta
            )
        # fma(1, xhat, 0) is xhat but for the sign of a zero, which changes no sum.
        xhat = self.batch_norm(x, mean, var, self._filled(x.channels, 1), self._filled(x.channels, 0), eps)
        beta_mean, gamma_mean = self.zeros((x.channels,)), self.zeros((x.channels,))
        count = self._number(_count(x))
        by_beta = self.channel_sums(dy), Finish(count, mean=beta_mean, rounded=out_beta)
        by_gamma = self.channel_sums(dy, xhat), Finish(count, mean=gamma_mean, rounded=out_gamma)
        share.exchange.now(self, [by_beta, by_gamma])
        return self.batch_norm_gradient_by_means(dy, x, mean, var, gamma, eps, gamma_mean, beta_mean)

    def batch_norm_training(self, *arguments) -> tuple[Batch, Array, Array]:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_training(*arguments)

    def batch_norm_relu_gradient(self, dy, y, x, mean, var, gamma, beta, eps, out_gamma, out_beta) -> Batch:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_relu_gradient(dy, y, x, mean, var, gamma, beta, eps, out_gamma, out_beta)

    def batch_norm_max_pool(self, x, mean, var, gamma, beta, eps, pool: Window) -> tuple[Batch, Any]:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_max_pool(x, mean, var, gamma, beta, eps, pool)

    def batch_norm_max_pool_gradient(
        self, dy, kept, x, mean, var, gamma, beta, eps, pool: Window, out_gamma, out_beta
    ) -> Batch:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_max_pool_gradient(dy, kept, x, mean, var, gamma, beta, eps, pool, out_gamma, out_beta)

    def batch_norm_add_gradient(self, dy, y, x, mean, var, gamma, eps, out_gamma, out_beta) -> tuple[Batch, Batch]:
        of: Any = super() if shares.current() is None else _Defaults(self)
        return of.batch_norm_add_gradient(dy, y, x, mean, var, gamma, eps, out_gamma, out_beta)

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
        share.exchange.later(self.channel_sums(dy), Finish(rounded=out_beta))
        share.exchange.later(self.channel_sums(dy, xhat), Finish(rounded=out_gamma))
        return dx

    # ---- losses: each kernel adds this part's sums to an array of its own --------------------------------------------

    def softmax_cross_entropy(self, logits: Batch, labels: Array, totals: Array | None = None) -> tuple[Array, Batch]:
        share = shares.current()
        if share is None:
            return super().softmax_cross_entropy(logits, labels, totals)  # type: ignore[safe-super]
        own = self._own_totals(2)
        loss, gradient = super().softmax_cross_entropy(logits, labels, own)  # type: ignore[safe-super]
        share.exchange.later(own, Finish(self._number(share.images), mean=loss, gained=totals))
        return loss, gradient

    def weighted_cross_entropy(
        self, logits: Batch, labels: Array, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        share = shares.current()
        if share is None:
            return super().weighted_cross_entropy(  # type: ignore[safe-super]
                logits, labels, weights, smoothing, totals
            )
        own = self._own_totals(3)
        loss, gradient = super().weighted_cross_entropy(  # type: ignore[safe-super]
            logits, labels, weights, smoothing, own
        )
        self._later_divided(share, loss, own, totals, lambda: self.label_weights(labels, weights, logits.images))
        return loss, gradient

    def _later_divided(
        self, share: Share, loss: Array, own: Array, totals: Array | None, of_part: Callable[[], Array]
    ) -> None:
        """Exchange `own`: the sum of the losses, the hits, and what divides the loss.

        That is the whole batch's, which every part knows; for `totals` the parts' add up, as `of_part` gives them.
        """
        share.exchange.later(own[:2], Finish(own[2:3], mean=loss, gained=None if totals is None else totals[:2]))
        if totals is not None:
            with shares.sharing(None):
                part = of_part()
            share.exchange.later(part, Finish(gained=totals[2:]))

    def label_weights(self, labels: Array, weights: Array, images: int) -> Array:
        return self._divisor(lambda: super(SharedSums, self).label_weights(labels, weights, images))

    def label_map_weights(self, labels: Batch, weights: Array) -> Array:
        return self._divisor(lambda: super(SharedSums, self).label_map_weights(labels, weights))

    def _divisor(self, of_part: Callable[[], Array]) -> Array:
        """The sums over the whole batch, if `of_part` gives those over this part."""
        share = shares.current()
        if share is None:
            return of_part()
        known = share.exchange.divisor()
        if known is not None:
            return known
        sums = of_part()
        total = self.zeros(sums.shape, np.float64)
        share.exchange.now(self, [(sums, Finish(mean64=total))])
        return total

    def value_loss(
        self, kind: str, x: Batch, targets: Batch, delta: float = 1.0, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        share = shares.current()
        if share is None:
            return super().value_loss(kind, x, targets, delta, totals)  # type: ignore[safe-super]
        own = self._own_totals(1)
        loss, gradient = super().value_loss(kind, x, targets, delta, own)  # type: ignore[safe-super]
        count = self._number(share.images * math.prod(x.shape[1:]))
        share.exchange.later(own, Finish(count, mean=loss, gained=totals))
        return loss, gradient

    def _own_totals(self, counts: int) -> Array:
        """Zeros at this place of every replay."""
        own = self.zeros((counts,), np.float64)
        self.between(lambda: own.fill(0))
        return own

    def map_cross_entropy(
        self, logits: Batch, labels: Batch, weights: Array, smoothing: float, totals: Array | None = None
    ) -> tuple[Array, Batch]:
        share = shares.current()
        if share is None:
            return super().map_cross_entropy(logits, labels, weights, smoothing, totals)  # type: ignore[safe-super]
        own = self._own_totals(4)
        loss, gradient = super().map_cross_entropy(  # type: ignore[safe-super]
            logits, labels, weights, smoothing, own
        )
        self._later_divided(share, loss, own, totals, lambda: self.label_map_weights(labels, weights))
        return loss, gradient

    def dice(self, p: Batch, labels: Batch, smooth: float, totals: Array | None = None) -> tuple[Array, Batch]:
        share = shares.current()
        if share is None:
            return super().dice(p, labels, smooth, totals)  # type: ignore[safe-super]
        own = self._own_totals(1)
        loss, gradient = super().dice(p, labels, smooth, own)  # type: ignore[safe-super]
        share.exchange.later(own, Finish(self._number(share.images), mean=loss, gained=totals))
        return loss, gradient

    def _filled(self, count: int, value: int) -> Array:
        """A constant, which a recorded step must find again: memory that it allocates itself is reused within it."""
        return _constant(count, value)

    def _number(self, value: float) -> Array:
        return self.array(np.array([float(value)]))

    # ---- adding the parts --------------------------------------------------------------------------------------------

    def packed(self, arrays: list[Array], dtype) -> Array:
        """A copy of all values, one array after the other, as one vector."""
        out = np.zeros(sum(a.size for a in arrays), dtype)
        if arrays:

            def copy() -> None:
                np.concatenate([a.reshape(-1) for a in arrays], out=out)

            self.between(copy)
        return out

    def added(self, rows: list[Array]) -> Array:
        """The tree over vectors of the same length."""
        if len(rows) == 1:
            return rows[0]
        out = np.zeros_like(rows[0])
        self.between(lambda: np.copyto(out, tree(np.stack(rows), 0)))
        return out

    def exchanged(self, processes: "Processes", nodes: int, wide: Array, narrow: Array) -> tuple[Array, Array]:
        """The trees over the first `nodes` processes of a float64 and a float32 vector."""
        if processes.size == 1:
            return wide, narrow
        totals = np.zeros_like(wide), np.zeros_like(narrow)
        join = joined(processes, nodes, wide, narrow)

        def exchange() -> None:
            for out, total in zip(totals, join()):
                out[...] = total

        self.between(exchange)
        return totals

    def finish(self, total: Array, sums: list[Finish], sizes: list[int]) -> None:
        """Each Finish with its part of the vector `total`, in their order."""

        def write() -> None:
            with np.errstate(all="ignore"):  # what overflows is infinite, and `watch` sees it
                for one, part in zip(sums, np.split(total, np.cumsum(sizes)[:-1])):
                    _finish(one, part)

        self.between(write)

    def spread(self, total: Array, weights: list[Array]) -> None:
        """Each array of weights gets its part of the vector `total`, + 0."""

        def write() -> None:
            at = 0
            for array in weights:
                array[...] = (total[at : at + array.size] + np.float32(0)).reshape(array.shape)
                at += array.size

        self.between(write)


def _finish(one: Finish, total: np.ndarray) -> None:
    if one.rounded is not None:
        one.rounded[...] = rounded(total)
    if one.gained is not None:
        one.gained[...] += total
    count = 1.0 if one.count is None else one.count[0] or 1.0  # without a label the sum is 0, and so is the mean
    mean = total / count
    if one.mean64 is not None:
        one.mean64[...] = mean
    if one.mean is not None:
        one.mean[...] = mean[: one.mean.size].astype(np.float32)
    if one.unbiased is not None:
        one.unbiased[...] = (mean * count / max(count - 1, 1)).astype(np.float32)


class _Defaults:
    """The protocol's own way of doing what backends do in one kernel: by operations that share a batch."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def __getattr__(self, name: str) -> Callable:
        return getattr(Backend, name).__get__(self._backend)
