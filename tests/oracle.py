"""What every operation should give, in float64 and plain loops over output positions and kernel taps.

Independent of the package: nothing of gpucnn is imported, sizes included. Functions return `Expected` values, each with
the magnitude that a rounding error is measured against: a float32 result may differ by `terms * 2**-24 * magnitude`.

The bounds are derived, not guessed. With u = 2**-24 the half spacing of float32 at 1: a sum of k products in any order,
fused or not, is off by at most k*u*sum(|a||b|) to first order (Higham, "Accuracy and Stability of Numerical
Algorithms", section 3.1), one more term for a bias, one for the final rounding. Where errors pass through further
operations, the comment next to `terms` counts them. Library functions of float32 (NumPy's exp, log, tanh) are taken as
right within 4 units in the last place, 8 u, as NumPy's own tests have it.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

UNIT = 2.0**-24
LIBRARY = 8  # u of a library function: 4 units in the last place
TINY = 2.0**-140  # room for results among the subnormals, where spacing no longer shrinks


class Expected(NamedTuple):
    """A float64 value, and how far a float32 result may be from it: terms * u * magnitude."""

    value: np.ndarray
    magnitude: np.ndarray
    terms: float

    @property
    def bound(self) -> np.ndarray:
        return (self.terms + 1) * UNIT * np.asarray(self.magnitude) + TINY


def assert_within(actual: np.ndarray, expected: Expected) -> None:
    """Every value within its own derived bound; the message names the worst."""
    actual, value = np.asarray(actual), np.asarray(expected.value)
    assert actual.shape == value.shape, f"shape {actual.shape}, expected {value.shape}"
    excess = np.abs(actual.astype(np.float64) - value) - expected.bound
    if not (excess <= 0).all():
        at = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), value.shape)
        bound = np.broadcast_to(expected.bound, value.shape)[at]
        raise AssertionError(f"at {at}: {actual[at]!r}, expected {value[at]!r} within {bound!r}")


def _slides(image, kernel, stride, padding, dilation):
    """(output sizes, list of (position, tap, pixel)): which pixel each tap of each window meets, padding left out."""
    output = tuple(
        (i + before + after - (d * (k - 1) + 1)) // s + 1
        for i, k, s, (before, after), d in zip(image, kernel, stride, padding, dilation)
    )
    meets = []
    for position in itertools.product(*map(range, output)):
        for tap in itertools.product(*map(range, kernel)):
            pixel = tuple(p * s + t * d - b for p, s, t, d, (b, _) in zip(position, stride, tap, dilation, padding))
            if all(0 <= x < i for x, i in zip(pixel, image)):
                meets.append((position, tap, pixel))
    return output, meets


def conv(x, w, bias, stride, padding, dilation, groups) -> Expected:
    """Cross-correlation; stride and dilation one per axis, padding (before, after) per axis."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    output, meets = _slides(x.shape[2:], w.shape[2:], stride, padding, dilation)
    y = np.zeros((x.shape[0], w.shape[0], *output))
    magnitude = np.zeros_like(y)
    for _, channels, filters in _groups(x.shape[1], w.shape[0], groups):
        for p, t, i in meets:
            pixels, weights = x[:, channels, *i], w[filters, :, *t]
            y[:, filters, *p] += pixels @ weights.T
            magnitude[:, filters, *p] += np.abs(pixels) @ np.abs(weights).T
    if bias is not None:
        shaped = bias.astype(np.float64).reshape(-1, *(1 for _ in output))
        y, magnitude = y + shaped, magnitude + np.abs(shaped)
    return Expected(y, magnitude, w[0].size + 1)


def conv_backward(dy, x, w, stride, padding, dilation, groups) -> tuple[Expected, Expected, Expected]:
    """(dx, dw, db)."""
    dy, x, w = dy.astype(np.float64), x.astype(np.float64), w.astype(np.float64)
    output, meets = _slides(x.shape[2:], w.shape[2:], stride, padding, dilation)
    dx, dx_size, dw, dw_size = np.zeros_like(x), np.zeros_like(x), np.zeros_like(w), np.zeros_like(w)
    for _, channels, filters in _groups(x.shape[1], w.shape[0], groups):
        for p, t, i in meets:
            factor, pixels, weights = dy[:, filters, *p], x[:, channels, *i], w[filters, :, *t]
            dx[:, channels, *i] += factor @ weights
            dx_size[:, channels, *i] += np.abs(factor) @ np.abs(weights)
            dw[filters, :, *t] += factor.T @ pixels
            dw_size[filters, :, *t] += np.abs(factor).T @ np.abs(pixels)
    positions = math.prod(output)
    return (
        Expected(dx, dx_size, w.shape[0] // groups * math.prod(w.shape[2:])),
        Expected(dw, dw_size, x.shape[0] * positions),
        _channel_sum(dy),
    )


def _groups(channels, filters, groups):
    for g in range(groups):
        c, f = channels // groups, filters // groups
        yield g, slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)


def _channel_sum(dy) -> Expected:
    """The sum over all but the channels, in float64 and rounded once: one term, and room for float64's errors."""
    axes = (0, *range(2, dy.ndim))
    return Expected(dy.sum(axes, dtype=np.float64), np.abs(dy).sum(axes, dtype=np.float64), 1)


def max_pool(x, size, stride, padding) -> np.ndarray:
    """The maxima: no rounding, so no bound."""
    return _max_pool(x, size, stride, padding)[0]


def _max_pool(x, size, stride, padding):
    """(y, the pixel of each maximum): the first largest in row-major order."""
    output, meets = _slides(x.shape[2:], size, stride, padding, (1,) * len(size))
    y = np.full((*x.shape[:2], *output), np.nan, x.dtype)
    winner = np.empty((*x.shape[:2], *output), object)
    for n, c in np.ndindex(x.shape[:2]):
        for p, _, i in meets:
            if winner[n, c, *p] is None or x[n, c, *i] > y[n, c, *p]:
                y[n, c, *p], winner[n, c, *p] = x[n, c, *i], i
    return y, winner


def max_pool_backward(dy, x, size, stride, padding) -> Expected:
    """dx: at most one term from each of the windows that hold a pixel."""
    _, winner = _max_pool(x, size, stride, padding)
    dx, magnitude = np.zeros(x.shape), np.zeros(x.shape)
    for at in np.ndindex(dy.shape):
        dx[*at[:2], *winner[at]] += np.float64(dy[at])
        magnitude[*at[:2], *winner[at]] += abs(np.float64(dy[at]))
    return Expected(dx, magnitude, math.prod(size))


def _counts(x, size, stride, padding, count_include_pad):
    output, meets = _slides(x.shape[2:], size, stride, padding, (1,) * len(size))
    counts = np.zeros(output)
    for p, _, _ in meets:
        counts[p] += 1
    return meets, np.full(output, float(math.prod(size))) if count_include_pad else counts


def avg_pool(x, size, stride, padding, count_include_pad) -> Expected:
    """Means: the sum's terms, and one for the division."""
    meets, counts = _counts(x, size, stride, padding, count_include_pad)
    total, magnitude = np.zeros((*x.shape[:2], *counts.shape)), np.zeros((*x.shape[:2], *counts.shape))
    for p, _, i in meets:
        total[:, :, *p] += x[:, :, *i]
        magnitude[:, :, *p] += np.abs(x[:, :, *i])
    return Expected(total / counts, magnitude / counts, math.prod(size) + 1)


def avg_pool_backward(dy, x, size, stride, padding, count_include_pad) -> Expected:
    """dx: dy / count from each of the windows that hold a pixel."""
    meets, counts = _counts(x, size, stride, padding, count_include_pad)
    share = dy.astype(np.float64) / counts
    dx, magnitude = np.zeros(x.shape), np.zeros(x.shape)
    for p, _, i in meets:
        dx[:, :, *i] += share[:, :, *p]
        magnitude[:, :, *i] += np.abs(share[:, :, *p])
    return Expected(dx, magnitude, math.prod(size) + 1)


def dense(x, w, bias) -> Expected:
    x, w = x.astype(np.float64), w.astype(np.float64)
    bias = np.zeros(w.shape[0]) if bias is None else bias.astype(np.float64)
    return Expected(x @ w.T + bias, np.abs(x) @ np.abs(w).T + np.abs(bias), w.shape[1] + 1)


def dense_backward(dy, x, w) -> tuple[Expected, Expected, Expected]:
    """(dx, dw, db)."""
    dy, x, w = dy.astype(np.float64), x.astype(np.float64), w.astype(np.float64)
    return (
        Expected(dy @ w, np.abs(dy) @ np.abs(w), w.shape[0]),
        Expected(dy.T @ x, np.abs(dy).T @ np.abs(x), x.shape[0]),
        _channel_sum(dy),
    )


def relu(x) -> np.ndarray:
    return np.where(x > 0, x, np.zeros((), x.dtype))


def tanh(x) -> Expected:
    value = np.tanh(x.astype(np.float64))
    return Expected(value, np.abs(value), LIBRARY)


def sigmoid(x) -> Expected:
    """1 / (1 + exp(-x)), the exponential's relative error at most kept, then an addition and a division."""
    values = x.ravel().tolist()
    value = np.array([1 / (1 + math.exp(-v)) if v >= 0 else math.exp(v) / (1 + math.exp(v)) for v in values])
    return Expected(value.reshape(x.shape), value.reshape(x.shape), LIBRARY + 4)


def _norm(x, eps):
    """(axes, mean, var, inv, xhat, spread): `spread` bounds what an error of one u does to xhat.

    mean is rounded (u * |mean|), x - mean is rounded (u * |x - mean|), inv carries var, eps, their sum, the root and
    the division: together |error of xhat| <= 8 u * inv * (|mean| + |x - mean|), of which u is taken out.
    """
    x = x.astype(np.float64)
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    inv = 1 / np.sqrt(var + eps)
    return axes, mean, var, inv, (x - mean) * inv, inv * (np.abs(mean) + np.abs(x - mean))


def _along(values, x):
    return values.astype(np.float64).reshape(1, -1, *(1 for _ in x.shape[2:]))


def batch_norm(x, gamma, beta, eps) -> tuple[Expected, Expected, Expected]:
    """(y, mean, var)."""
    axes, mean, var, _, xhat, spread = _norm(x, eps)
    gamma, beta = _along(gamma, x), _along(beta, x)
    y = Expected(gamma * xhat + beta, np.abs(gamma) * spread + np.abs(beta), 8 + 2)  # xhat's, a product, a sum
    size = np.abs(x.astype(np.float64)).mean(axes)
    return y, Expected(mean.ravel(), size, 1), Expected(var.ravel(), var.ravel() + (2.0**-26 * size) ** 2, 1)


def batch_norm_backward(dy, x, gamma, eps) -> tuple[Expected, Expected, Expected]:
    """(dx, dgamma, dbeta), dx = gamma * inv * (dy - mean(dy) - xhat * mean(dy * xhat))."""
    axes, _, _, inv, xhat, spread = _norm(x, eps)
    dy, gamma = dy.astype(np.float64), _along(gamma, x)
    dgamma = Expected((dy * xhat).sum(axes), (np.abs(dy) * spread).sum(axes), 8 + 2)
    means = dy.mean(axes, keepdims=True), (dy * xhat).mean(axes, keepdims=True)
    sizes = np.abs(dy).mean(axes, keepdims=True), (np.abs(dy) * spread).mean(axes, keepdims=True)
    dx = Expected(
        gamma * inv * (dy - means[0] - xhat * means[1]),
        np.abs(gamma) * inv * (np.abs(dy) + sizes[0] + spread * sizes[1]),
        # 8 of xhat and 10 of the mean that it multiplies, 2 of their product; 2 differences; gamma * inv with inv's 5
        8 + 10 + 2 + 2 + 7,
    )
    return dx, dgamma, _channel_sum(dy)


def softmax_cross_entropy(logits, labels) -> tuple[Expected, Expected]:
    """(mean loss, dlogits)."""
    z = logits.astype(np.float64)
    images, classes = z.shape
    below = z - z.max(1, keepdims=True)  # float32 has it within u * |below|, which is the exponential's relative error
    e = np.exp(below)
    s = e.sum(1, keepdims=True)
    p = e / s
    reach = np.abs(below).max(1, keepdims=True)
    relative = 2 * reach + 2 * LIBRARY + classes + 2  # of p: two exponentials, a sum, a division
    onehot = np.eye(classes)[labels]
    gradient = Expected((p - onehot) / images, (relative * p + 3 * np.abs(p - onehot)) / images, 1)
    own = -below[np.arange(images), labels]
    losses = np.log(s[:, 0]) + own
    size = (reach[:, 0] + LIBRARY + classes) + (LIBRARY + 1) * np.log(s[:, 0]) + 2 * own
    return Expected(losses.mean(), size.mean(), 1), gradient
