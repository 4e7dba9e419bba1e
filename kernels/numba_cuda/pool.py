"""Max and average pooling and their gradients (rule 7), for up to three spatial axes, laid out as in conv.py.

Gradients gather: the thread of an input pixel looks up, in row-major order, the outputs whose windows hold it. So every
value has one owner and one order of addition, and no two threads add to the same place.
"""

from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, divide
from gpucnn.kernels.numba_cuda.compiler import kernel
from gpucnn.kernels.numba_cuda.indexing import inside, outputs_around, pixel_seen, place, tap_between
from numba import cuda


@kernel
def max_pool(x, y, where, window, stride, dilation, before):
    """y = the first largest value of each window; where = its tap, counted row-major through the whole kernel."""
    i = cuda.grid(1)
    if i >= y.size:
        return
    b, c, d, h, w, lane = place(i, y.shape)
    KD, KH, KW = window
    best, tap = ZERO, -1
    for a in range(KD):
        for r in range(KH):
            for s in range(KW):
                in_d, in_h, in_w = pixel_seen(d, h, w, a, r, s, stride, dilation, before)
                if inside(in_d, in_h, in_w, x.shape):
                    value = x[b, c, in_d, in_h, in_w, lane]
                    if tap < 0 or value > best:
                        best, tap = value, (a * KH + r) * KW + s
    y[b, c, d, h, w, lane] = best
    where[b, c, d, h, w, lane] = tap


@kernel
def max_pool_gradient(dy, where, dx, window, stride, dilation, before):
    """dx = from +0, the dy of each output whose maximum this pixel was."""
    i = cuda.grid(1)
    if i >= dx.size:
        return
    b, c, d, h, w, lane = place(i, dx.shape)
    _, KH, KW = window
    along_d, along_h, along_w = outputs_around(d, h, w, window, stride, dilation, before, dy.shape)
    acc = ZERO
    for out_d in range(along_d[0], along_d[1]):
        for out_h in range(along_h[0], along_h[1]):
            for out_w in range(along_w[0], along_w[1]):
                there, a, r, s = tap_between(d, h, w, out_d, out_h, out_w, stride, dilation, before)
                if there and where[b, c, out_d, out_h, out_w, lane] == (a * KH + r) * KW + s:
                    acc = add(acc, dy[b, c, out_d, out_h, out_w, lane])
    dx[b, c, d, h, w, lane] = acc


@kernel
def avg_pool(x, y, counts, window, stride, dilation, before):
    """y = the sum over the taps inside the image, from +0 and row-major, over counts (D, H, W)."""
    i = cuda.grid(1)
    if i >= y.size:
        return
    b, c, d, h, w, lane = place(i, y.shape)
    KD, KH, KW = window
    acc = ZERO
    for a in range(KD):
        for r in range(KH):
            for s in range(KW):
                in_d, in_h, in_w = pixel_seen(d, h, w, a, r, s, stride, dilation, before)
                if inside(in_d, in_h, in_w, x.shape):
                    acc = add(acc, x[b, c, in_d, in_h, in_w, lane])
    y[b, c, d, h, w, lane] = divide(acc, counts[d, h, w])


@kernel
def avg_pool_gradient(dy, dx, counts, window, stride, dilation, before):
    """dx = from +0, dy / count of each output whose window holds this pixel."""
    i = cuda.grid(1)
    if i >= dx.size:
        return
    b, c, d, h, w, lane = place(i, dx.shape)
    along_d, along_h, along_w = outputs_around(d, h, w, window, stride, dilation, before, dy.shape)
    acc = ZERO
    for out_d in range(along_d[0], along_d[1]):
        for out_h in range(along_h[0], along_h[1]):
            for out_w in range(along_w[0], along_w[1]):
                if tap_between(d, h, w, out_d, out_h, out_w, stride, dilation, before)[0]:
                    acc = add(acc, divide(dy[b, c, out_d, out_h, out_w, lane], counts[out_d, out_h, out_w]))
    dx[b, c, d, h, w, lane] = acc
