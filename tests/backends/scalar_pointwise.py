"""The contract's rules for losses of values, smoothing, softmax's gradient and clipping, in plain Python loops.

As scalar.py, whose helpers it takes: independent of the package.
"""

import math

import numpy as np

from tests.backends.scalar import f32, fma, library, softmax_parts, sum64, tree


def leaky_relu(x, slope):
    return np.array([v if v > 0 else f32(f32(f32(slope) * v) + 0.0) for v in x.ravel().tolist()], np.float32).reshape(
        x.shape
    )


def leaky_relu_gradient(dy, x, slope):
    pairs = zip(dy.ravel().tolist(), x.ravel().tolist(), strict=True)
    return np.array([d if v > 0 else f32(f32(slope) * d) for d, v in pairs], np.float32).reshape(x.shape)


def softmax_gradient(dy, y):
    """dy and y (N, C)."""
    dx = np.zeros_like(y)
    for n, (ds, ys) in enumerate(zip(dy.tolist(), y.tolist(), strict=True)):
        total = 0.0
        for d, v in zip(ds, ys, strict=True):
            total = fma(d, v, total)
        dx[n] = [f32(f32(d - total) * v) for d, v in zip(ds, ys, strict=True)]
    return dx


def weighted_cross_entropy(z, labels, weights, smoothing):
    """(loss, dz, (sum of the losses, hits, sum of the weights))."""
    classes, weights = z.shape[1], weights.tolist()
    share, keep = f32(smoothing / classes), f32(1 - smoothing)
    losses, hits, rows = [], 0, []
    for row, t in zip(z.tolist(), labels.tolist(), strict=True):
        p, shifted, total, first = softmax_parts(row)
        asked = [f32(share * w) for w in weights]
        asked[t] = fma(keep, weights[t], asked[t])
        together, loss, of_log = 0.0, 0.0, library("ln", total)
        for c in range(classes):
            together = f32(together + asked[c])
            loss = fma(asked[c], f32(of_log - shifted[c]), loss)
        losses.append(loss)
        hits += first == t
        rows.append((p, together, asked))
    weight = sum64(np.array([weights[t] for t in labels.tolist()]))
    dz = np.array(
        [[f32(fma(v, q, -a) * f32(1 / weight)) for v, a in zip(p, asked, strict=True)] for p, q, asked in rows]
    )
    total = sum64(np.array(losses))
    return f32(total / weight), dz.astype(np.float32), (total, hits, weight)


def value_loss(kind, x, t, delta):
    """(loss, dx, sum of the losses); for binary cross-entropy with math's functions,
    good to the last bits of float64.
    """
    count, limit = x.size, f32(delta)
    terms, dx = [], []
    for v, target in zip(x.ravel().tolist(), t.ravel().tolist(), strict=True):
        d = f32(v - target)
        a = abs(d)
        if kind == "mean_squared":
            terms.append(d * d)
            dx.append(f32(d * f32(2 / count)))
        elif kind == "mean_absolute":
            terms.append(a)
            dx.append(f32(((d > 0) - (d < 0)) * f32(1 / count)))
        elif kind == "huber":
            terms.append(limit * (a - 0.5 * limit) if a > limit else 0.5 * (a * a))
            dx.append(f32(max(-limit, min(limit, d)) * f32(1 / count)))
        else:
            terms.append(max(v, 0.0) - v * target + math.log1p(math.exp(-abs(v))))
            dx.append(f32(f32(1 / (1 + math.exp(-v)) - target) * f32(1 / count)))
    total = sum64(np.array(terms).reshape(len(x), -1))
    return f32(total / count), np.array(dx, np.float32).reshape(x.shape), total


def clip_norm(g, limit):
    values, blocks = g.tolist(), []
    for first in range(0, len(values), 1024):
        columns = [0.0] * 16
        for i, v in enumerate(values[first : first + 1024]):
            columns[i % 16] += v * v
        blocks.append(tree(columns))
    norm = math.sqrt(tree(blocks))
    if norm > f32(limit):
        scale = f32(f32(limit) / norm)
        values = [f32(v * scale) for v in values]
    return np.array(values, np.float32)
