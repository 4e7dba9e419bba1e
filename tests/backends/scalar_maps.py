"""The contract's rules for losses of label maps, in plain Python loops; as scalar.py, independent of the package."""

import numpy as np

from tests.backends.scalar import f32, fma, indices, library, softmax_parts, sum64, tree


def map_cross_entropy(z, labels, weights, smoothing):
    """(loss, dz, (sum of the losses, hits, sum of the weights, labels)); labels (N, *spatial), -1 where ignored."""
    classes, weights = z.shape[1], weights.tolist()
    share, keep = f32(smoothing / classes), f32(1 - smoothing)
    losses, own, dz, hits, count = np.zeros(labels.shape), np.zeros(labels.shape), np.zeros_like(z), 0, 0
    parts = {}
    for at in indices(labels.shape):
        t = int(labels[at])
        if t < 0:
            continue
        p, shifted, total, first = softmax_parts(z[(at[0], slice(None), *at[1:])].tolist())
        q = [f32(share * w) for w in weights]
        q[t] = fma(keep, weights[t], q[t])
        together, loss, log_sum = 0.0, 0.0, library("ln", total)
        for c in range(classes):
            together = f32(together + q[c])
            loss = fma(q[c], f32(log_sum - shifted[c]), loss)
        losses[at], own[at] = loss, weights[t]
        hits, count = hits + (first == t), count + 1
        parts[at] = p, together, q
    total, weight = sum64(losses), sum64(own)
    for at, (p, together, q) in parts.items():
        scale = f32(1 / weight)
        dz[(at[0], slice(None), *at[1:])] = [f32(fma(v, together, -a) * scale) for v, a in zip(p, q, strict=True)]
    return f32(total / weight) if weight else 0.0, dz, (total, hits, weight, count)


def dice(p, labels, smooth):
    """(loss, dp, sum of the images' losses) of probabilities p."""
    images, classes = p.shape[:2]
    losses, dp = [], np.zeros_like(p)
    for n in range(images):
        row, each = labels[n].ravel().tolist(), 0.0
        for c in range(classes):
            values = p[n, c].ravel().tolist()
            overlap, mass = (
                line([v if kept(t) else 0.0 for v, t in zip(values, row, strict=True)])
                for kept in (lambda t, c=c: t == c, lambda t: t >= 0)
            )
            below = (mass + row.count(c)) + f32(smooth)
            ratio = (2 * overlap + f32(smooth)) / below
            each += 1 - ratio
            scaled = below * (images * classes)
            slopes = [f32((ratio - 2) / scaled) if t == c else f32(ratio / scaled) if t >= 0 else 0.0 for t in row]
            dp[n, c] = np.array(slopes, np.float32).reshape(labels[n].shape)
        losses.append(each / classes)
    total = sum64(np.array(losses))
    return f32(total / images), dp, total


def line(values):
    """The float64 sum of an image's values as a line: bands of 64, then their tree."""
    bands = []
    for start in range(0, len(values), 64):
        acc = 0.0
        for value in values[start : start + 64]:
            acc += value
        bands.append(acc)
    return tree(bands)
