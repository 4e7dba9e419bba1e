"""Convolution: forward, input gradient and weight gradient, for up to three spatial axes.

Activations are (block, channel, D, H, W, lane), with leading axes of size 1 for images of fewer dimensions; weights are
(O, C/groups, KD, KH, KW). Output p of an axis sees, through tap r, input pixel p * stride + r * dilation - before. Taps
that fall outside the image are left out: they would multiply a padding of zeros, and rule 2's last + 0 makes both the
same bits. No thread needs what another one computes, except in the sum over images, which is in sums.py.
"""

from gpucnn.kernels.contract import BLOCK
from gpucnn.kernels.numba_cuda.arithmetic import ZERO, add, fma
from gpucnn.kernels.numba_cuda.compiler import LANES, device, kernel
from gpucnn.kernels.numba_cuda.indexing import inside, outputs_around, pixel_seen, place, tap_between
from gpucnn.kernels.numba_cuda.sums import keep, lane_tree, there
from numba import cuda, float32


@kernel
def conv(x, w, bias, y, stride, dilation, before, groups, rectified):
    """y = x correlated with w, plus bias (O,). One thread per value of y: the fma chain of rule 2."""
    i = cuda.grid(1)
    if i >= y.size:
        return
    b, o, d, h, q, lane = place(i, y.shape)
    outputs, channels, KD, KH, KW = w.shape
    _, _, D, H, W, _ = x.shape
    first = o // (outputs // groups) * channels  # the group's first input channel
    acc = ZERO
    for c in range(channels):
        for a in range(KD):
            in_d = d * stride[0] + a * dilation[0] - before[0]
            if in_d < 0 or in_d >= D:
                continue
            for r in range(KH):
                in_h = h * stride[1] + r * dilation[1] - before[1]
                if in_h < 0 or in_h >= H:
                    continue
                for s in range(KW):
                    in_w = q * stride[2] + s * dilation[2] - before[2]
                    if 0 <= in_w < W:
                        acc = fma(x[b, first + c, in_d, in_h, in_w, lane], w[o, c, a, r, s], acc)
    acc = add(add(acc, bias[o]), ZERO)
    y[b, o, d, h, q, lane] = ZERO if rectified and not acc > ZERO else acc


@kernel
def conv_input_gradient(dy, w, dx, stride, dilation, before, groups):
    """dx from dy. One thread per pixel: it looks up the outputs whose windows hold it, in row-major order."""
    i = cuda.grid(1)
    if i >= dx.size:
        return
    b, c, d, h, q, lane = place(i, dx.shape)
    outputs, channels, KD, KH, KW = w.shape
    group, c = c // channels, c % channels
    first = group * (outputs // groups)  # the group's first output channel
    along_d, along_h, along_w = outputs_around(d, h, q, (KD, KH, KW), stride, dilation, before, dy.shape)
    acc = ZERO
    for o in range(first, first + outputs // groups):
        for out_d in range(along_d[0], along_d[1]):
            for out_h in range(along_h[0], along_h[1]):
                for out_w in range(along_w[0], along_w[1]):
                    there, a, r, s = tap_between(d, h, q, out_d, out_h, out_w, stride, dilation, before)
                    if there:
                        acc = fma(dy[b, o, out_d, out_h, out_w, lane], w[o, c, a, r, s], acc)
    dx[b, group * channels + c, d, h, q, lane] = add(acc, ZERO)


@device
def weight_place(k, shape):
    """(o, c, a, r, s) of weight number k of (O, C/groups, KD, KH, KW)."""
    _, C, KD, KH, KW = shape
    s, k = k % KW, k // KW
    r, k = k % KH, k // KH
    a, k = k % KD, k // KD
    return k // C, k % C, a, r, s


@kernel
def conv_weight_gradient(dy, x, part, images, groups, band, shape, stride, dilation, before):
    """part[n * bands + t, k] = what band t of the images of block n gives to weight k of `shape`: rules 3a and 3b.

    One block of 32 threads a weight, band and block of lanes. Each thread walks the band in its own image; then the 32
    sums meet in shared memory and become two, one for each block of 16 images. sums.weight_total does the rest.
    """
    shared = cuda.shared.array(0, float32)
    lane, i = cuda.threadIdx.x, cuda.blockIdx.x
    weights = part.shape[1]
    _, _, rows_d, rows_h, row, _ = dy.shape
    positions = rows_d * rows_h * row
    bands = (positions + band - 1) // band
    k, t, b = i % weights, i // weights % bands, i // weights // bands
    o, c, a, r, s = weight_place(k, shape)
    channel = o // (shape[0] // groups) * shape[1] + c
    acc = ZERO
    if there(b * LANES + lane, images):
        for p in range(t * band, min((t + 1) * band, positions)):
            out_d, out_h, out_w = p // row // rows_h, p // row % rows_h, p % row
            in_d, in_h, in_w = pixel_seen(out_d, out_h, out_w, a, r, s, stride, dilation, before)
            if inside(in_d, in_h, in_w, x.shape):
                acc = fma(dy[b, o, out_d, out_h, out_w, lane], x[b, channel, in_d, in_h, in_w, lane], acc)
    shared[lane] = acc
    lane_tree(shared, lane)
    keep(part, k, shared[lane], b, t, bands, lane)


@kernel
def conv_point_weight_gradient(dy, x, part, images, groups, shape, dilation, before):
    """part[n, k] = the chain over the images of block n, where dy has a single position: see dense_weight_gradient."""
    i = cuda.grid(1)
    if i >= part.size:
        return
    n, k = i // part.shape[1], i % part.shape[1]
    o, c, a, r, s = weight_place(k, shape)
    channel = o // (shape[0] // groups) * shape[1] + c
    in_d, in_h, in_w = a * dilation[0] - before[0], r * dilation[1] - before[1], s * dilation[2] - before[2]
    acc = ZERO
    if inside(in_d, in_h, in_w, x.shape):
        for image in range(n * BLOCK, min((n + 1) * BLOCK, images)):
            b, lane = image // LANES, image % LANES
            acc = fma(dy[b, o, 0, 0, 0, lane], x[b, channel, in_d, in_h, in_w, lane], acc)
    part[n, k] = acc
