"""Error bounds of float32 results of exact math, counted from the roundings in kernels/CONTRACT.md.

u = 2**-24 is the relative error of one rounding. A sum of products in which each product meets at most k roundings has
an error of at most k*u / (1 - k*u) * sum|x||w| (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1).
A result rounded once from float64 has the error u * |result|. Norms are chains of such steps; `Normalized` adds up the
errors that each step adds and passes on. SLACK covers the products of two such errors, and PyTorch's roundings in
float64.
"""

import numpy as np

UNIT = 2.0**-24
SLACK = 1 + 2.0**-10
DOUBLE = 2.0**-52  # two roundings of float64: one of ours and one of PyTorch's


def chain(roundings, size: np.ndarray) -> np.ndarray:
    """The error of sums of products, `size` being the sums of their magnitudes."""
    error = np.asarray(roundings, np.float64) * UNIT
    return SLACK * error / (1 - error) * size


def rounded_once(value: np.ndarray, terms, size: np.ndarray) -> np.ndarray:
    """The error of float64 sums or means of `terms` numbers, rounded to float32; `size` is that of the magnitudes."""
    return SLACK * (UNIT * np.abs(value) + DOUBLE * terms * size)


class Normalized:
    """xhat = (x - mean) / sqrt(var + eps) over `axes` in float64, and `error`, the bound of ours.

    `constants` are a fixed mean and variance (inference); else they are computed from x.

    inv = 1 / sqrt(var + eps): var and eps have an error of u each, and so does rounding their sum: 2u, which the root
    halves, and it adds u; the division adds u: 3u. The mean has an error of u * |mean| (none if fixed), rounding the
    difference adds u * |x - mean|, the product u: |error of xhat| <= u * inv * (|mean| + 5 * |x - mean|).
    """

    def __init__(self, x: np.ndarray, axes: tuple[int, ...], eps: float, constants=None):
        x = x.astype(np.float64)
        self.axes, self.terms = axes, int(np.prod([x.shape[axis] for axis in axes]))
        mean, var = constants or (x.mean(axes, keepdims=True), x.var(axes, keepdims=True))
        self.inv = 1 / np.sqrt(var + eps)
        self.xhat = (x - mean) * self.inv
        self.error = UNIT * self.inv * ((constants is None) * np.abs(mean) + 5 * np.abs(x - mean))

    def y(self, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """fma(gamma, xhat, beta): xhat's error and one rounding."""
        return SLACK * (np.abs(gamma) * self.error + UNIT * np.abs(gamma * self.xhat + beta))

    def dx(self, dy: np.ndarray, gamma: np.ndarray, *, gamma_first: bool) -> np.ndarray:
        """(gamma * inv) * r or, with gamma_first, inv * r; r = fma(-xhat, b, g - a), a = mean(g), b = mean(g * xhat).

        g is dy (batch norm) or gamma * dy, which is rounded (group norm). a and b are rounded once from float64; g - a
        and r are rounded. The factor of r carries inv's 3u, with gamma u more, and the last product adds u.
        """
        dy = dy.astype(np.float64)
        g = gamma * dy if gamma_first else dy
        g_error = UNIT * np.abs(g) * gamma_first
        a, b = self._mean(g), self._mean(g * self.xhat)
        a_error = self._mean(g_error) + rounded_once(a, self.terms, self._mean(np.abs(g)))
        xhat = np.abs(self.xhat) + self.error
        b_error = self._mean(np.abs(g) * self.error + g_error * xhat)
        b_error = b_error + rounded_once(b, self.terms, self._mean(np.abs(g * self.xhat)))
        r = (g - a) - self.xhat * b
        r_error = g_error + a_error + UNIT * np.abs(g - a) + self.error * np.abs(b) + xhat * b_error + UNIT * np.abs(r)
        factor = np.abs(self.inv) if gamma_first else np.abs(gamma) * self.inv
        return SLACK * factor * (r_error + (4 if gamma_first else 5) * UNIT * np.abs(r))

    def dx_of_constants(self, dy: np.ndarray, gamma: np.ndarray) -> np.ndarray:
        """dy * (gamma * inv): inv's 3u, and two products."""
        return SLACK * 5 * UNIT * np.abs(dy * gamma * self.inv)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return values.mean(self.axes, keepdims=True)


def dgamma(dy: np.ndarray, xhat: np.ndarray, error: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """sum(dy * xhat) in float64: xhat's errors and one rounding."""
    return SLACK * ((np.abs(dy) * error).sum(axes) + UNIT * np.abs((dy * xhat).sum(axes)))


def dbeta(dy: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """sum(dy) in float64, rounded once."""
    dy = dy.astype(np.float64)
    return rounded_once(dy.sum(axes), dy.size, np.abs(dy).sum(axes))


def running(before: np.ndarray, batch: np.ndarray, momentum: float, terms: int, size: np.ndarray) -> np.ndarray:
    """fma(momentum, s - r, r): s, s - r and momentum are rounded, then the result.
    s is a mean of `terms` in float64.
    """
    after = before + momentum * (batch - before)
    steps = momentum * (rounded_once(batch, terms, size) + 2 * UNIT * np.abs(batch - before))
    return SLACK * (steps + UNIT * np.abs(after))
