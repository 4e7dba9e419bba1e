"""Max and average pooling and their gradients (rule 7), for up to three spatial axes, laid out as in conv.py.

Gradients gather: the thread of an input pixel looks up, in row-major order, the outputs whose windows hold it. So every
value has one owner and one order of addition, and no two threads add to the same place.
"""

from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, divide
from gpucnn.kernels.numba_cuda.compiler import kernel
from gpucnn.kernels.numba_cuda.indexing import outputs_holding, place
from numba import cuda


@kernel
def max_pool(x, y, where, window, stride, dilation, before):
    """y = the first largest value of each window; where = its tap, counted row-major through the whole kernel."""
    i = cuda.grid(1)
    if i >= y.size:
        return
    b, c, d, h, w, lane = place(i, y.shape)
    KD, KH, KW = window
    _, _, D, H, W, _ = x.shape
    best, tap = ZERO, -1
    for a in range(KD):
        for r in range(KH):
            for s in range(KW):
                in_d = d * stride[0] + a * dilation[0] - before[0]
                in_h = h * stride[1] + r * dilation[1] - before[1]
                in_w = w * stride[2] + s * dilation[2] - before[2]
                if 0 <= in_d < D and 0 <= in_h < H and 0 <= in_w < W:
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
    KD, KH, KW = window
    _, _, D, H, W, _ = dy.shape
    d_low, d_high = outputs_holding(d, before[0], KD, stride[0], dilation[0], D)
    h_low, h_high = outputs_holding(h, before[1], KH, stride[1], dilation[1], H)
    w_low, w_high = outputs_holding(w, before[2], KW, stride[2], dilation[2], W)
    acc = ZERO
    for out_d in range(d_low, d_high):
        for out_h in range(h_low, h_high):
            for out_w in range(w_low, w_high):
                in_d = d + before[0] - out_d * stride[0]
                in_h = h + before[1] - out_h * stride[1]
                in_w = w + before[2] - out_w * stride[2]
                if in_d % dilation[0] == 0 and in_h % dilation[1] == 0 and in_w % dilation[2] == 0:
                    a, r, s = in_d // dilation[0], in_h // dilation[1], in_w // dilation[2]
                    if where[b, c, out_d, out_h, out_w, lane] == (a * KH + r) * KW + s:
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
    _, _, D, H, W, _ = x.shape
    acc = ZERO
    for a in range(KD):
        for r in range(KH):
            for s in range(KW):
                in_d = d * stride[0] + a * dilation[0] - before[0]
                in_h = h * stride[1] + r * dilation[1] - before[1]
                in_w = w * stride[2] + s * dilation[2] - before[2]
                if 0 <= in_d < D and 0 <= in_h < H and 0 <= in_w < W:
                    acc = add(acc, x[b, c, in_d, in_h, in_w, lane])
    y[b, c, d, h, w, lane] = divide(acc, counts[d, h, w])


@kernel
def avg_pool_gradient(dy, dx, counts, window, stride, dilation, before):
    """dx = from +0, dy / count of each output whose window holds this pixel."""
    i = cuda.grid(1)
    if i >= dx.size:
        return
    b, c, d, h, w, lane = place(i, dx.shape)
    KD, KH, KW = window
    _, _, D, H, W, _ = dy.shape
    d_low, d_high = outputs_holding(d, before[0], KD, stride[0], dilation[0], D)
    h_low, h_high = outputs_holding(h, before[1], KH, stride[1], dilation[1], H)
    w_low, w_high = outputs_holding(w, before[2], KW, stride[2], dilation[2], W)
    acc = ZERO
    for out_d in range(d_low, d_high):
        for out_h in range(h_low, h_high):
            for out_w in range(w_low, w_high):
                in_d = d + before[0] - out_d * stride[0]
                in_h = h + before[1] - out_h * stride[1]
                in_w = w + before[2] - out_w * stride[2]
                if in_d % dilation[0] == 0 and in_h % dilation[1] == 0 and in_w % dilation[2] == 0:
                    share = divide(dy[b, c, out_d, out_h, out_w, lane], counts[out_d, out_h, out_w])
                    acc = add(acc, share)
    dx[b, c, d, h, w, lane] = acc
