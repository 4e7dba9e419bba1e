"""kernels/CONTRACT.md once more, in plain Python loops over single numbers, independent of the package.

Numbers are Python floats that hold float32 values. `window` is any object with gpucnn.geometry.Window's fields. Arrays
in and out are NumPy arrays (N, C, *spatial), without lanes.
"""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np


def f32(value: float) -> float:
    """Rounded to float32. Of a float64 +, -, *, / or sqrt of float32 values this is the correctly rounded result."""
    with np.errstate(all="ignore"):
        return float(np.float32(value))


def nearest(value: Fraction) -> float:
    """The float32 nearest to a fraction that is not 0, ties to even; a result too small keeps the sign."""
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    return math.copysign(float(round(magnitude / unit) * unit), value.numerator)  # finite in these tests


def fma(a: float, b: float, c: float) -> float:
    """Exact by fractions, then rounded once."""
    a, b, c = float(a), float(b), float(c)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return nearest(exact) if exact else a * b + c  # a zero is exact in float64 and has IEEE's sign there


def tree(terms: list) -> float:
    """Adjacent pairs of float64 or, if they are np.float32, float32 numbers, an odd tail carried up."""
    while len(terms) > 1:
        pairs = [terms[i] + terms[i + 1] for i in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]


def band_cuts(sizes) -> list[range]:
    count = math.prod(sizes)
    length = {0: 1, 1: 64}.get(len(sizes)) or math.ceil(64 / sizes[-1]) * sizes[-1]
    return [range(start, min(start + length, count)) for start in range(0, count, length)]


def indices(sizes):
    return itertools.product(*map(range, sizes))


def seen(window, p, r):
    """The input pixel that output position p reads at kernel position r; None outside the image."""
    pixel = tuple(
        q * s + t * d - before
        for q, t, s, d, (before, _) in zip(p, r, window.stride, window.dilation, window.padding, strict=True)
    )
    return pixel if all(0 <= i < size for i, size in zip(pixel, window.input, strict=True)) else None


# ---- rule 2 ----------------------------------------------------------------------------------------------------------


def conv(x, w, bias, window, groups, relu):
    outs, ins = w.shape[0] // groups, w.shape[1]
    y = np.zeros((len(x), w.shape[0], *window.output), np.float32)
    for n, o in itertools.product(range(len(x)), range(w.shape[0])):
        for p in indices(window.output):
            acc = 0.0
            for c in range(ins):
                for r in indices(window.kernel):
                    pixel = seen(window, p, r)
                    if pixel is not None:
                        acc = fma(x[(n, o // outs * ins + c, *pixel)], w[(o, c, *r)], acc)
            if bias is not None:
                acc = f32(acc + float(bias[o]))
            acc += 0.0
            y[(n, o, *p)] = acc if acc > 0 or not relu else 0.0
    return y


def conv_input_gradient(dy, w, window, groups):
    outs, ins = w.shape[0] // groups, w.shape[1]
    dx = np.zeros((len(dy), ins * groups, *window.input), np.float32)
    # For each pixel, the outputs whose windows contain it in row-major order, each with the kernel position.
    holders = {pixel: [] for pixel in indices(window.input)}
    for p in indices(window.output):
        for r in indices(window.kernel):
            pixel = seen(window, p, r)
            if pixel is not None:
                holders[pixel].append((p, r))
    for n, c in itertools.product(range(len(dy)), range(ins * groups)):
        group = c // ins
        for pixel, held in holders.items():
            acc = 0.0
            for o in range(group * outs, (group + 1) * outs):
                for p, r in held:
                    acc = fma(dy[(n, o, *p)], w[(o, c % ins, *r)], acc)
            dx[(n, c, *pixel)] = acc + 0.0
    return dx


# ---- rules 3 and 4 ---------------------------------------------------------------------------------------------------


def conv_weight_gradient(dy, x, window, groups, shape):
    outs, ins = shape[0] // groups, shape[1]
    positions = list(indices(window.output))
    dw = np.zeros(shape, np.float32)
    for o, c in itertools.product(range(shape[0]), range(ins)):
        channel = o // outs * ins + c
        for r in indices(window.kernel):

            def term(n, p, acc, o=o, channel=channel, r=r):
                pixel = seen(window, p, r)
                return acc if pixel is None else fma(dy[(n, o, *p)], x[(n, channel, *pixel)], acc)

            blocks = []
            for first in range(0, len(dy), 16):
                images = range(first, min(first + 16, len(dy)))
                if len(positions) == 1:
                    acc = 0.0
                    for n in images:
                        acc = term(n, positions[0], acc)
                    blocks.append(np.float32(acc))
                    continue
                of_bands = []
                for band in band_cuts(window.output):
                    of_images = []
                    for n in images:
                        acc = 0.0
                        for i in band:
                            acc = term(n, positions[i], acc)
                        of_images.append(np.float32(acc))
                    of_bands.append(tree(of_images))
                blocks.append(tree(of_bands))
            dw[(o, c, *r)] = tree(blocks) + np.float32(0)
    return dw


def sum64(values) -> float:
    """Rule 4 of one channel: values (N, *positions) float64."""
    sizes, rows = values.shape[1:], values.reshape(len(values), -1).tolist()
    blocks = []
    for first in range(0, len(rows), 16):
        of_bands = []
        for band in band_cuts(sizes):
            of_images = []
            for row in rows[first : first + 16]:
                acc = 0.0
                for i in band:
                    acc += row[i]
                of_images.append(acc)
            of_bands.append(tree(of_images))
        blocks.append(tree(of_bands))
    return tree(blocks)


def bias_gradient(dy):
    return np.array([f32(sum64(dy[:, c].astype(np.float64))) + 0.0 for c in range(dy.shape[1])], np.float32)


def global_avg_pool(x):
    y = np.zeros(x.shape[:2], np.float32)
    for n, c in indices(y.shape):
        values, of_bands = x[n, c].ravel().tolist(), []
        for band in band_cuts(x.shape[2:]):
            acc = 0.0
            for i in band:
                acc += values[i]
            of_bands.append(acc)
        y[n, c] = f32(tree(of_bands) / len(values)) + 0.0
    return y


# ---- rules 4 and 5: batch norm ---------------------------------------------------------------------------------------


def batch_norm_statistics(x):
    count, rows = x.size // x.shape[1], []
    for c in range(x.shape[1]):
        values = x[:, c].astype(np.float64)
        mean = sum64(values) / count
        square = np.array([(v - mean) * (v - mean) for v in values.ravel().tolist()]).reshape(values.shape)
        var = sum64(square) / count
        rows.append((f32(mean), f32(var), f32((var * count) / max(count - 1, 1))))
    return tuple(np.array(column, np.float32) for column in zip(*rows, strict=True))


def inverse(var, eps):
    return f32(1 / f32(math.sqrt(f32(float(var) + f32(eps)))))


def normalized(x, mean, var, eps):
    xhat = np.zeros_like(x)
    for i in indices(x.shape):
        xhat[i] = f32(f32(float(x[i]) - float(mean[i[1]])) * inverse(var[i[1]], eps))
    return xhat


def batch_norm(x, mean, var, gamma, beta, eps, relu):
    xhat, y = normalized(x, mean, var, eps), np.zeros_like(x)
    for i in indices(x.shape):
        v = fma(gamma[i[1]], xhat[i], beta[i[1]])
        y[i] = v if v > 0 or not relu else 0.0
    return y


def batch_norm_gradient(dy, x, mean, var, gamma, eps):
    xhat, dx, count = normalized(x, mean, var, eps), np.zeros_like(x), x.size // x.shape[1]
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    for c in range(x.shape[1]):
        beta64 = sum64(dy[:, c].astype(np.float64))
        gamma64 = sum64(dy[:, c].astype(np.float64) * xhat[:, c].astype(np.float64))
        dbeta[c], dgamma[c] = f32(beta64) + 0.0, f32(gamma64) + 0.0
        a, b = f32(beta64 / count), f32(gamma64 / count)
        scale = f32(float(gamma[c]) * inverse(var[c], eps))
        for n in range(len(x)):
            for p in indices(x.shape[2:]):
                i = (n, c, *p)
                dx[i] = f32(scale * fma(-xhat[i], b, f32(float(dy[i]) - a)))
    return dx, dgamma, dbeta


# ---- rule 7 ----------------------------------------------------------------------------------------------------------


def max_pool(x, window):
    """(y, winner): winner maps (n, c, *p) to the pixel of the maximum."""
    y, winner = np.zeros((*x.shape[:2], *window.output), np.float32), {}
    for n, c in indices(x.shape[:2]):
        for p in indices(window.output):
            best = None
            for r in indices(window.kernel):
                pixel = seen(window, p, r)
                if pixel is not None and (best is None or x[(n, c, *pixel)] > x[(n, c, *best)]):
                    best = pixel
            y[(n, c, *p)], winner[(n, c, *p)] = x[(n, c, *best)], best
    return y, winner


def max_pool_gradient(dy, winner, window):
    dx = np.zeros((*dy.shape[:2], *window.input), np.float32)
    for i in indices(dy.shape):  # row-major outputs: each pixel is added to in that order
        dx[(*i[:2], *winner[i])] += dy[i]
    return dx


def pool_count(window, p, include):
    count = 0
    for r in indices(window.kernel):
        pixel = [
            q * s + t * d - before
            for q, t, s, d, (before, _) in zip(p, r, window.stride, window.dilation, window.padding, strict=True)
        ]
        high = [i + (after if include else 0) for i, (_, after) in zip(window.input, window.padding, strict=True)]
        low = [-before if include else 0 for before, _ in window.padding]
        count += all(a <= v < b for a, v, b in zip(low, pixel, high, strict=True))
    return count


def avg_pool(x, window, include):
    y = np.zeros((*x.shape[:2], *window.output), np.float32)
    for n, c in indices(x.shape[:2]):
        for p in indices(window.output):
            acc = 0.0
            for r in indices(window.kernel):
                pixel = seen(window, p, r)
                if pixel is not None:
                    acc = f32(acc + float(x[(n, c, *pixel)]))
            y[(n, c, *p)] = f32(acc / pool_count(window, p, include))
    return y


def avg_pool_gradient(dy, window, include):
    dx = np.zeros((*dy.shape[:2], *window.input), np.float32)
    for n, c in indices(dy.shape[:2]):
        for p in indices(window.output):
            share = f32(float(dy[(n, c, *p)]) / pool_count(window, p, include))
            for r in indices(window.kernel):
                pixel = seen(window, p, r)
                if pixel is not None:
                    dx[(n, c, *pixel)] = f32(float(dx[(n, c, *pixel)]) + share)
    return dx


# ---- rule 8 ----------------------------------------------------------------------------------------------------------


def library(function: str, x: float) -> float:
    """Decimal's exp or ln with 40 digits, rounded once to float32."""
    if function == "exp" and x < -200:
        return 0.0  # below half the smallest subnormal, and slow to compute
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 40, -(10**6), 10**6
        value = Fraction(getattr(Decimal(x), function)())
    return nearest(value) if value else 0.0


def softmax_parts(row):
    """(p, z - max, s, first largest) of one image's logits."""
    largest, first = row[0], 0
    for c, z in enumerate(row):
        if z > largest:
            largest, first = z, c
    shifted = [f32(z - largest) for z in row]
    powers, total = [library("exp", v) for v in shifted], 0.0
    for e in powers:
        total = f32(total + e)
    return [f32(e / total) for e in powers], shifted, total, first


def softmax_cross_entropy(z, labels):
    """(loss, dz, sum of the losses, hits)."""
    losses, dz, hits = [], np.zeros_like(z), 0
    for n, (row, t) in enumerate(zip(z.tolist(), labels.tolist(), strict=True)):
        p, shifted, total, first = softmax_parts(row)
        losses.append(f32(library("ln", total) - shifted[t]))
        hits += first == t
        for c, v in enumerate(p):
            dz[n, c] = f32(f32(v - (c == t)) * f32(1 / len(z)))
    total = sum64(np.array(losses))
    return f32(total / len(z)), dz, total, hits


# ---- rule 10 ---------------------------------------------------------------------------------------------------------


def philox_word(seed, index, step, purpose, layer=0):
    low = 0xFFFFFFFF
    c, k = [index & low, index >> 32, step, purpose << 16 | layer], [seed & low, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & low, (p0 >> 32) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c[0]
