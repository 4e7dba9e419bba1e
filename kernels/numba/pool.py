"""Max and average pooling and their gradients, for up to three spatial axes.

One vector is one pixel of 16 images, so a window is a plain loop over its taps. Gradients gather: each input pixel
looks up, in row-major order, the outputs whose windows hold it, so every value has one owner and one order of addition.
"""

import functools

import numpy as np
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.conv import stride_of, taps_inside
from gpucnn.kernels.numba.simd import (
    LANES,
    add,
    add64,
    divide,
    load,
    splat,
    splat64,
    store,
    tree64,
    where_equal,
    where_greater,
    widen,
)
from gpucnn.kernels.numba.sums import push64, total64
from gpucnn.kernels.numba.team import leads, prange
from gpucnn.kernels.numba.vectors import larger

ZERO = np.float32(0)


@functools.cache
def max_pool_side_by_side_of(KD: int, KH: int, KW: int):
    """max_pool for windows side by side, all in the image: no look at borders, and the loops over taps unrolled."""

    @kernel(f"max pool {KD}x{KH}x{KW}, side by side")
    def max_pool_side_by_side(x, y, where):
        B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
        x_d, x_h = stride_of(x, 2), stride_of(x, 3)
        for u in prange(B * C * D):
            u = np.int64(u)
            rest, d = u // D, u % D
            b, c = rest // C, rest % C
            for h in range(H):
                xi = b * stride_of(x, 0) + c * stride_of(x, 1) + d * KD * x_d + h * KH * x_h
                yi = b * stride_of(y, 0) + c * stride_of(y, 1) + d * stride_of(y, 2) + h * stride_of(y, 3)
                for w in range(0, W * LANES, LANES):
                    best, tap = load(x, xi + w * KW), splat(ZERO)
                    for a in range(KD):
                        for r in range(KH):
                            for s in range(KW):  # the first, which is not greater than itself, changes nothing
                                v = load(x, xi + a * x_d + r * x_h + w * KW + s * LANES)
                                best, tap = larger(best, tap, v, (a * KH + r) * KW + s)
                    store(y, yi + w, best)
                    store(where, yi + w, tap)

    return max_pool_side_by_side


@functools.cache
def max_pool_gradient_side_by_side_of(KD: int, KH: int, KW: int):
    """max_pool_gradient for such windows: each output hands its dy to the pixels it holds, zero to all but one."""

    @kernel(f"max pool gradient {KD}x{KH}x{KW}, side by side")
    def max_pool_gradient_side_by_side(dy, where, dx):
        B, C, D, H, W = dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
        x_d, x_h = stride_of(dx, 2), stride_of(dx, 3)
        covered = KD * D == dx.shape[2] and KH * H == dx.shape[3] and KW * W == dx.shape[4]
        for u in prange(B * C):
            b, c = np.int64(u) // C, np.int64(u) % C
            zero = splat(ZERO)
            if not covered:
                dx[b, c] = ZERO
            for d in range(D):
                for h in range(H):
                    xi = b * stride_of(dx, 0) + c * stride_of(dx, 1) + d * KD * x_d + h * KH * x_h
                    yi = b * stride_of(dy, 0) + c * stride_of(dy, 1) + d * stride_of(dy, 2) + h * stride_of(dy, 3)
                    for w in range(0, W * LANES, LANES):
                        gradient, tap = add(load(dy, yi + w), zero), load(where, yi + w)
                        for a in range(KD):
                            for r in range(KH):
                                for s in range(KW):
                                    here = where_equal(tap, splat(np.float32((a * KH + r) * KW + s)), gradient, zero)
                                    store(dx, xi + a * x_d + r * x_h + w * KW + s * LANES, here)

    return max_pool_gradient_side_by_side


@functools.cache
def max_pool_relu_bias_gradient_of(KD: int, KH: int, KW: int):
    """The same after a ReLU, with the gradient of the bias before it."""

    @kernel(f"max pool gradient {KD}x{KH}x{KW}, with relu and bias")
    def max_pool_relu_bias_gradient(dy, y, where, dx, out, images, band, part, scratch):
        """dx = what max_pool_gradient makes of dy where y > 0; out (C,) = dx summed by rules 3 and 4.

        Windows that cover dx (block, C, D, H, W, lane); all contiguous. `band` is in positions; part (blocks, C) and
        scratch (blocks * C, levels) float64.
        """
        B, C, D, H, W = dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
        x_h = KW * W * LANES
        x_d = KH * H * x_h
        for u in prange(B * C):
            u = np.int64(u)
            b, c = u // C, u % C
            lanes = min(LANES, images - b * LANES)
            zero, acc, bands = splat(ZERO), splat64(0.0), 0
            at = summed = u * KD * D * x_d
            end, band_end = at + KD * D * x_d, min(at + band * LANES, at + KD * D * x_d)
            for row in range(D * H):
                d, h = row // H, row % H
                i, xi = (u * D * H + row) * W * LANES, at + d * KD * x_d + h * KH * x_h
                for w in range(0, W * LANES, LANES):
                    gradient = add(where_greater(load(y, i + w), zero, load(dy, i + w), zero), zero)
                    tap = load(where, i + w)
                    for a in range(KD):
                        for r in range(KH):
                            for s in range(KW):
                                here = where_equal(tap, splat(np.float32((a * KH + r) * KW + s)), gradient, zero)
                                store(dx, xi + a * x_d + r * x_h + w * KW + s * LANES, here)
                if KD > 1 and h < H - 1:
                    continue
                # What is complete, once more while it is in the cache, now in the order of the sum.
                complete = at + (d + 1) * KD * x_d if KD > 1 else xi + KH * x_h
                while summed < complete:
                    stop = min(complete, band_end)
                    for j in range(summed, stop, LANES):
                        acc = add64(acc, widen(load(dx, j)))
                    summed = stop
                    if stop == band_end:
                        push64(scratch[u], bands, tree64(acc, lanes))
                        acc, bands, band_end = splat64(0.0), bands + 1, min(band_end + band * LANES, end)
            part[b, c] = total64(scratch[u], bands)
        if leads():
            for c in range(C):
                for b in range(B):
                    push64(scratch[c], b, part[b, c])
                out[c] = np.float32(total64(scratch[c], B)) + ZERO

    return max_pool_relu_bias_gradient


@kernel("max pool")
def max_pool(x, y, where, window, stride, dilation, before):
    """y = the first largest value of each window; where = its tap, counted row-major through the whole kernel."""
    KD, KH, KW = window
    B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        in_d = d * stride[0] - before[0]
        a_low, a_high = taps_inside(in_d, dilation[0], KD, x.shape[2])
        for h in range(H):
            in_h = h * stride[1] - before[1]
            r_low, r_high = taps_inside(in_h, dilation[1], KH, x.shape[3])
            xi = b * stride_of(x, 0) + c * stride_of(x, 1) + in_d * stride_of(x, 2) + in_h * stride_of(x, 3)
            yi = b * stride_of(y, 0) + c * stride_of(y, 1) + d * stride_of(y, 2) + h * stride_of(y, 3)
            wi = b * stride_of(where, 0) + c * stride_of(where, 1) + d * stride_of(where, 2) + h * stride_of(where, 3)
            for w in range(W):
                in_w = w * stride[2] - before[2]
                s_low, s_high = taps_inside(in_w, dilation[2], KW, x.shape[4])
                at = a_low * dilation[0] * stride_of(x, 2) + r_low * dilation[1] * stride_of(x, 3)
                best = load(x, xi + at + (in_w + s_low * dilation[2]) * stride_of(x, 4))
                tap = splat(np.float32((a_low * KH + r_low) * KW + s_low))
                for a in range(a_low, a_high):
                    for r in range(r_low, r_high):
                        row = xi + a * dilation[0] * stride_of(x, 2) + r * dilation[1] * stride_of(x, 3)
                        for s in range(s_low, s_high):
                            v = load(x, row + (in_w + s * dilation[2]) * stride_of(x, 4))
                            best, tap = larger(best, tap, v, (a * KH + r) * KW + s)
                store(y, yi + w * stride_of(y, 4), best)
                store(where, wi + w * stride_of(where, 4), tap)


@kernel("max pool gradient")
def max_pool_gradient(dy, where, dx, window, planes, rows, pixels):
    """dx = from +0, the dy of each output whose maximum this pixel was.

    planes, rows and pixels say which outputs hold a pixel, axis by axis: int64 starts (size + 1,) and, between two of
    them, (output, tap) in the order of the outputs.
    """
    KH, KW = window[1], window[2]
    (d_starts, d_holders), (h_starts, h_holders), (w_starts, w_holders) = planes, rows, pixels
    B, C, D, H, W = dx.shape[0], dx.shape[1], dx.shape[2], dx.shape[3], dx.shape[4]
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        zero = splat(ZERO)
        yi = b * stride_of(dy, 0) + c * stride_of(dy, 1)
        wi = b * stride_of(where, 0) + c * stride_of(where, 1)
        xi = b * stride_of(dx, 0) + c * stride_of(dx, 1) + d * stride_of(dx, 2)
        for h in range(H):
            for w in range(W):
                acc = zero
                for i in range(d_starts[d], d_starts[d + 1]):
                    y_d, w_d = yi + d_holders[i, 0] * stride_of(dy, 2), wi + d_holders[i, 0] * stride_of(where, 2)
                    for j in range(h_starts[h], h_starts[h + 1]):
                        y_h = y_d + h_holders[j, 0] * stride_of(dy, 3)
                        w_h = w_d + h_holders[j, 0] * stride_of(where, 3)
                        first = (d_holders[i, 1] * KH + h_holders[j, 1]) * KW
                        for k in range(w_starts[w], w_starts[w + 1]):
                            o, tap = w_holders[k, 0], splat(np.float32(first + w_holders[k, 1]))
                            chosen = load(where, w_h + o * stride_of(where, 4))
                            acc = add(acc, where_equal(chosen, tap, load(dy, y_h + o * stride_of(dy, 4)), zero))
                store(dx, xi + h * stride_of(dx, 3) + w * stride_of(dx, 4), acc)


@kernel("max pool gradient, apart")
def max_pool_gradient_apart(dy, where, dx, window, stride, dilation, before):
    """The same where windows do not overlap: each output hands its dy to the pixels it holds, zero to all but one."""
    KD, KH, KW = window
    B, C, D, H, W = dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
    # Windows side by side that reach over the far end leave no pixel out.
    reach = (
        D * KD - before[0] >= dx.shape[2] and H * KH - before[1] >= dx.shape[3] and W * KW - before[2] >= dx.shape[4]
    )
    covered = reach and stride == window and dilation == (1, 1, 1)
    for u in prange(B * C):
        b, c = np.int64(u) // C, np.int64(u) % C
        zero = splat(ZERO)
        if not covered:
            dx[b, c] = ZERO
        for d in range(D):
            in_d = d * stride[0] - before[0]
            a_low, a_high = taps_inside(in_d, dilation[0], KD, dx.shape[2])
            for h in range(H):
                in_h = h * stride[1] - before[1]
                r_low, r_high = taps_inside(in_h, dilation[1], KH, dx.shape[3])
                yi = b * stride_of(dy, 0) + c * stride_of(dy, 1) + d * stride_of(dy, 2) + h * stride_of(dy, 3)
                wi = (
                    b * stride_of(where, 0)
                    + c * stride_of(where, 1)
                    + d * stride_of(where, 2)
                    + h * stride_of(where, 3)
                )
                xi = b * stride_of(dx, 0) + c * stride_of(dx, 1) + in_d * stride_of(dx, 2) + in_h * stride_of(dx, 3)
                for w in range(W):
                    in_w = w * stride[2] - before[2]
                    s_low, s_high = taps_inside(in_w, dilation[2], KW, dx.shape[4])
                    gradient = add(load(dy, yi + w * stride_of(dy, 4)), zero)
                    tap = load(where, wi + w * stride_of(where, 4))
                    for a in range(a_low, a_high):
                        for r in range(r_low, r_high):
                            row = xi + a * dilation[0] * stride_of(dx, 2) + r * dilation[1] * stride_of(dx, 3)
                            for s in range(s_low, s_high):
                                here = splat(np.float32((a * KH + r) * KW + s))
                                at = row + (in_w + s * dilation[2]) * stride_of(dx, 4)
                                store(dx, at, where_equal(tap, here, gradient, zero))


@kernel("average pool")
def avg_pool(x, y, counts, window, stride, dilation, before):
    """y = the sequential sum over the taps inside the image, from +0, over counts (D, H, W)."""
    KD, KH, KW = window
    B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        in_d = d * stride[0] - before[0]
        a_low, a_high = taps_inside(in_d, dilation[0], KD, x.shape[2])
        for h in range(H):
            in_h = h * stride[1] - before[1]
            r_low, r_high = taps_inside(in_h, dilation[1], KH, x.shape[3])
            xi = b * stride_of(x, 0) + c * stride_of(x, 1) + in_d * stride_of(x, 2) + in_h * stride_of(x, 3)
            for w in range(W):
                in_w = w * stride[2] - before[2]
                s_low, s_high = taps_inside(in_w, dilation[2], KW, x.shape[4])
                acc = splat(ZERO)
                for a in range(a_low, a_high):
                    for r in range(r_low, r_high):
                        row = xi + a * dilation[0] * stride_of(x, 2) + r * dilation[1] * stride_of(x, 3)
                        for s in range(s_low, s_high):
                            acc = add(acc, load(x, row + (in_w + s * dilation[2]) * stride_of(x, 4)))
                at = b * stride_of(y, 0) + c * stride_of(y, 1) + d * stride_of(y, 2) + h * stride_of(y, 3)
                store(y, at + w * stride_of(y, 4), divide(acc, splat(counts[d, h, w])))


@kernel("average pool gradient")
def avg_pool_gradient(dy, dx, counts, planes, rows, pixels):
    """dx = from +0, dy / count of each output whose window holds this pixel; planes, rows and pixels as for
    `max_pool_gradient`.
    """
    (d_starts, d_holders), (h_starts, h_holders), (w_starts, w_holders) = planes, rows, pixels
    B, C, D, H, W = dx.shape[0], dx.shape[1], dx.shape[2], dx.shape[3], dx.shape[4]
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        yi = b * stride_of(dy, 0) + c * stride_of(dy, 1)
        xi = b * stride_of(dx, 0) + c * stride_of(dx, 1) + d * stride_of(dx, 2)
        for h in range(H):
            for w in range(W):
                acc = splat(ZERO)
                for i in range(d_starts[d], d_starts[d + 1]):
                    p = d_holders[i, 0]
                    for j in range(h_starts[h], h_starts[h + 1]):
                        q = h_holders[j, 0]
                        at = yi + p * stride_of(dy, 2) + q * stride_of(dy, 3)
                        for k in range(w_starts[w], w_starts[w + 1]):
                            o = w_holders[k, 0]
                            acc = add(acc, divide(load(dy, at + o * stride_of(dy, 4)), splat(counts[p, q, o])))
                store(dx, xi + h * stride_of(dx, 3) + w * stride_of(dx, 4), acc)
