"""The forward kernel on the CPU backend: convolution, dense layers and the input gradients of both."""

import math

from gpucnn.backends.numba import tiles
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.kernels.numba import conv, conv_rows
from gpucnn.kernels.numba.simd import LANES

# Units of work per thread, so that an uneven end costs little.
UNITS_PER_THREAD = 4
# The number of tiles that must read a weight before packing the weights pays off.
_PACK_USES = 32
# Kernel widths for which kernels are specialized.
WIDTHS = (1, 3, 5)


class NumbaCorrelation(NumbaBase):
    """Part of NumbaBackend."""

    def _correlate(self, images: int, x, w, bias, y, stride, dilation, before, relu: bool) -> None:
        """Launch the forward kernel on (block, C, D, H, W, lane) views; w (group, O/group, C/group, *K)."""
        if x.shape[2:5] == y.shape[2:5] == w.shape[3:] == (1, 1, 1) and before == (0, 0, 0):
            # One pixel per image and a single tap: use the blocks as a row of pixels, so that a tile reuses
            # each weight. No block may be stepped over, so the stride, which moves nothing here, is 1.
            x, y, stride = x.transpose(4, 1, 2, 3, 0, 5), y.transpose(4, 1, 2, 3, 0, 5), (1, 1, 1)
        outputs, width = w.shape[1], w.shape[5]
        if dilation == (1, 1, 1) and w.shape[3] == x.shape[2] == y.shape[2] == 1 and before[0] == 0:
            outside = before[2], max(0, (y.shape[4] - 1) * stride[2] + width - x.shape[4] - before[2])
            pairs = tiles.fills_half(images) and outputs > 1
            tile = tiles.row_tile(outputs, w.shape[2], y.shape[4], width, outside, stride[2], pairs)
            if tile and x.strides[4] == LANES * 4:
                self._correlate_rows(tile, pairs, outside, x, w, bias, y, stride, before, relu)
                return
        ob, qb = tiles.broadcast_tile(outputs, y.shape[4], (x.shape[4], width, stride[2], before[2], dilation[2]))
        number = -(-outputs // ob)
        rows = y.shape[0] * w.shape[0] * y.shape[2] * y.shape[3]
        # A dense layer on few images reads each weight too rarely for packing to pay off.
        packs = width > 1 or rows * y.shape[4] >= _PACK_USES * qb
        packed = self._empty((w.shape[0], number, math.prod(w.shape[2:]) if packs else 0, ob))
        chunks = min(number, -(-UNITS_PER_THREAD * self.threads // max(rows, 1)))
        common = width in WIDTHS and stride[2] == 1 and x.strides[4] == LANES * x.itemsize
        kernel = conv.conv_of(ob, qb, width if common or not packs else 0, common, packs)
        self._run(kernel, x, w, bias, y, packed, stride, dilation, before, relu, chunks)

    def _correlate_rows(self, tile, pairs: bool, outside, x, w, bias, y, stride, before, relu: bool) -> None:
        """_correlate by whole kernel rows, with tiles of (OB, QB), OB counting pairs of channels if there are any."""
        ob, qb = tile
        filters = 2 * ob if pairs else ob
        (groups, outputs, channels), (height, width) = w.shape[:3], w.shape[4:]
        packed = self._empty((groups, -(-outputs // filters), math.prod(w.shape[2:]), filters))
        line, rows, copies = x.shape[4], y.shape[3], channels > 1 or pairs
        depth = tiles.strip_depth(channels, line * stride[1], height, rows, y.shape[0] * groups, self.threads)
        strip = channels * ((depth - 1) * stride[1] + height) * line * LANES if copies else 0
        strips = self._empty((self.threads, strip))
        choices = {"stride": stride[2], "copies": copies, "pairs": pairs}
        kernel = conv_rows.conv_rows_of(ob, qb, width, *outside, qb == y.shape[4], **choices)
        self._run(kernel, x, w, bias, y, packed, strips, stride[1], before, relu, depth)
