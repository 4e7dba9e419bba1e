"""Max and average pooling and their gradients, for up to three spatial axes.

One vector is one pixel of 16 images, so a window is a plain loop over its taps. Gradients gather: each input pixel
looks up, in row-major order, the outputs whose windows hold it, so every value has one owner and one order of addition.
"""

import numpy as np
from gpucnn.kernels.numba.compiler import inner, kernel
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
from gpucnn.kernels.numba.vectors import larger, largest_of_four
from numba import prange

ZERO = np.float32(0)


@inner
def all_pairs(x, y, window, stride, before):
    """Whether this is the common case: windows of 2x2 pixels side by side, all in the image.
    It needs no look at borders.
    """
    inside = (
        before == (0, 0, 0)
        and y.shape[2] <= x.shape[2]
        and 2 * y.shape[3] <= x.shape[3]
        and 2 * y.shape[4] <= x.shape[4]
    )
    return inside and window == (1, 2, 2) and stride == (1, 2, 2)


@kernel("max pool")
def max_pool(x, y, where, window, stride, dilation, before):
    """y = the first largest value of each window; where = its tap, counted row-major through the whole kernel."""
    KD, KH, KW = window
    B, C, D, H, W = y.shape[0], y.shape[1], y.shape[2], y.shape[3], y.shape[4]
    pairs = all_pairs(x, y, window, stride, before)
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
            if pairs:
                for w in range(W):
                    at = xi + 2 * w * LANES
                    below = at + stride_of(x, 3)
                    upper, lower = (load(x, at), load(x, at + LANES)), (load(x, below), load(x, below + LANES))
                    best, tap = largest_of_four(upper[0], upper[1], lower[0], lower[1])
                    store(y, yi + w * LANES, best)
                    store(where, wi + w * LANES, tap)
                continue
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


@inner
def outputs_holding(pixel, before, kernel, stride, dilation, size):
    """The range of outputs whose windows may hold an input pixel."""
    reach = (kernel - 1) * dilation
    first = pixel + before
    low = 0 if first <= reach else (first - reach + stride - 1) // stride
    return low, min(first // stride + 1, size)


@kernel("max pool gradient")
def max_pool_gradient(dy, where, dx, window, stride, dilation, before):
    """dx = from +0, the dy of each output whose maximum this pixel was."""
    KD, KH, KW = window
    B, C, D, H, W = dx.shape[0], dx.shape[1], dx.shape[2], dx.shape[3], dx.shape[4]
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        zero = splat(ZERO)
        d_low, d_high = outputs_holding(d, before[0], KD, stride[0], dilation[0], dy.shape[2])
        yi = b * stride_of(dy, 0) + c * stride_of(dy, 1)
        wi = b * stride_of(where, 0) + c * stride_of(where, 1)
        for h in range(H):
            h_low, h_high = outputs_holding(h, before[1], KH, stride[1], dilation[1], dy.shape[3])
            for w in range(W):
                w_low, w_high = outputs_holding(w, before[2], KW, stride[2], dilation[2], dy.shape[4])
                acc = zero
                for p in range(d_low, d_high):
                    from_d = d + before[0] - p * stride[0]
                    for q in range(h_low, h_high):
                        from_h = h + before[1] - q * stride[1]
                        for o in range(w_low, w_high):
                            from_w = w + before[2] - o * stride[2]
                            if from_d % dilation[0] == 0 and from_h % dilation[1] == 0 and from_w % dilation[2] == 0:
                                a, r, s = from_d // dilation[0], from_h // dilation[1], from_w // dilation[2]
                                at = p * stride_of(dy, 2) + q * stride_of(dy, 3) + o * stride_of(dy, 4)
                                wt = p * stride_of(where, 2) + q * stride_of(where, 3) + o * stride_of(where, 4)
                                tap = splat(np.float32((a * KH + r) * KW + s))
                                acc = add(acc, where_equal(load(where, wi + wt), tap, load(dy, yi + at), zero))
                at = b * stride_of(dx, 0) + c * stride_of(dx, 1) + d * stride_of(dx, 2) + h * stride_of(dx, 3)
                store(dx, at + w * stride_of(dx, 4), acc)


@kernel("max pool gradient, apart")
def max_pool_gradient_apart(dy, where, dx, window, stride, dilation, before):
    """The same where windows do not overlap: each output hands its dy to the pixels it holds, zero to all but one."""
    KD, KH, KW = window
    B, C, D, H, W = dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3], dy.shape[4]
    pairs = all_pairs(dx, dy, window, stride, before)
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
                if pairs:
                    for w in range(W):
                        gradient = add(load(dy, yi + w * LANES), zero)
                        tap = load(where, wi + w * LANES)
                        at = xi + 2 * w * LANES
                        store(dx, at, where_equal(tap, zero, gradient, zero))
                        store(dx, at + LANES, where_equal(tap, splat(np.float32(1)), gradient, zero))
                        at += stride_of(dx, 3)
                        store(dx, at, where_equal(tap, splat(np.float32(2)), gradient, zero))
                        store(dx, at + LANES, where_equal(tap, splat(np.float32(3)), gradient, zero))
                    continue
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


@kernel("max pool gradient with relu and bias")
def max_pool_relu_bias_gradient(dy, y, where, dx, out, images, band, part, scratch):
    """dx = what max_pool_gradient makes of dy where y > 0; out (C,) = dx summed by rules 3 and 4.

    Windows of 2x2 pixels that cover dx (block, C, H, W, lane); all contiguous. `band` is in rows; part (blocks, C) and
    scratch (blocks * C, levels) float64.
    """
    B, C, H, W = dy.shape[0], dy.shape[1], dy.shape[2], dy.shape[3]
    for u in prange(B * C):
        u = np.int64(u)
        b, c = u // C, u % C
        lanes = min(LANES, images - b * LANES)
        line, first = 2 * W * LANES, u * 4 * H * W * LANES
        zero, acc, rows, bands = splat(ZERO), splat64(0.0), 0, 0
        for h in range(H):
            at = first + 2 * h * line
            for w in range(W):
                i = (u * H + h) * W * LANES + w * LANES
                gradient = add(where_greater(load(y, i), zero, load(dy, i), zero), zero)
                tap, j = load(where, i), at + 2 * w * LANES
                store(dx, j, where_equal(tap, zero, gradient, zero))
                store(dx, j + LANES, where_equal(tap, splat(np.float32(1)), gradient, zero))
                store(dx, j + line, where_equal(tap, splat(np.float32(2)), gradient, zero))
                store(dx, j + line + LANES, where_equal(tap, splat(np.float32(3)), gradient, zero))
            for row in range(2):  # once more while they are in the cache, now in the order of the sum
                for j in range(at + row * line, at + (row + 1) * line, LANES):
                    acc = add64(acc, widen(load(dx, j)))
                rows += 1
                if rows == band or (h == H - 1 and row == 1):
                    push64(scratch[u], bands, tree64(acc, lanes))
                    acc, rows, bands = splat64(0.0), 0, bands + 1
        part[b, c] = total64(scratch[u], bands)
    for c in range(C):
        for b in range(B):
            push64(scratch[c], b, part[b, c])
        out[c] = np.float32(total64(scratch[c], B)) + ZERO


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
def avg_pool_gradient(dy, dx, counts, window, stride, dilation, before):
    """dx = from +0, dy / count of each output whose window holds this pixel."""
    KD, KH, KW = window
    B, C, D, H, W = dx.shape[0], dx.shape[1], dx.shape[2], dx.shape[3], dx.shape[4]
    for u in prange(B * C * D):
        u = np.int64(u)
        rest, d = u // D, u % D
        b, c = rest // C, rest % C
        d_low, d_high = outputs_holding(d, before[0], KD, stride[0], dilation[0], dy.shape[2])
        yi = b * stride_of(dy, 0) + c * stride_of(dy, 1)
        for h in range(H):
            h_low, h_high = outputs_holding(h, before[1], KH, stride[1], dilation[1], dy.shape[3])
            for w in range(W):
                w_low, w_high = outputs_holding(w, before[2], KW, stride[2], dilation[2], dy.shape[4])
                acc = splat(ZERO)
                for p in range(d_low, d_high):
                    from_d = d + before[0] - p * stride[0]
                    for q in range(h_low, h_high):
                        from_h = h + before[1] - q * stride[1]
                        for o in range(w_low, w_high):
                            from_w = w + before[2] - o * stride[2]
                            if from_d % dilation[0] == 0 and from_h % dilation[1] == 0 and from_w % dilation[2] == 0:
                                at = p * stride_of(dy, 2) + q * stride_of(dy, 3) + o * stride_of(dy, 4)
                                acc = add(acc, divide(load(dy, yi + at), splat(counts[p, q, o])))
                at = b * stride_of(dx, 0) + c * stride_of(dx, 1) + d * stride_of(dx, 2) + h * stride_of(dx, 3)
                store(dx, at + w * stride_of(dx, 4), acc)
