"""The forward kernel on the CPU backend: convolution, dense layers and the input gradients of both."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba import tiles
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.backends.numba.layout import deep
from gpucnn.backends.numba.normalized import AS_STORED, Normalized
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

    def _reading(self, x: Batch) -> tuple[np.ndarray, tuple[np.ndarray, bool]]:
        """The values that a kernel reads for those of x, and its last arguments: what it makes of them."""
        if isinstance(x, Normalized) and not x.is_stored:
            return self._data(x.x), (x.known, True)
        return self._data(x), AS_STORED

    def _correlate(self, batch: Batch, w, bias, y, stride, dilation, before, relu: bool, other=None) -> None:
        """Launch the forward kernel on views of y (block, C, D, H, W, lane) and w (group, O/group, C/group, *K).

        `other`, if any, is a map that lies as y does, and is added.
        """
        ends = relu, y if other is None else other, other is not None
        data, reading = self._reading(batch)
        x = deep(data)
        if x.shape[2:5] == y.shape[2:5] == w.shape[3:] == (1, 1, 1) and before == (0, 0, 0):
            # One pixel per image and a single tap: use the blocks as a row of pixels, so that a tile reuses
            # each weight. No block may be stepped over, so the stride, which moves nothing here, is 1.
            x, reading = deep(self._data(batch)), AS_STORED
            x, y, stride = x.transpose(4, 1, 2, 3, 0, 5), y.transpose(4, 1, 2, 3, 0, 5), (1, 1, 1)
            ends = relu, ends[1].transpose(4, 1, 2, 3, 0, 5), ends[2]
        outputs, width, launch = w.shape[1], w.shape[5], None
        pairs = tiles.fills_half(batch.images) and outputs > 1
        if dilation == (1, 1, 1) and w.shape[3] == x.shape[2] == y.shape[2] == 1 and before[0] == 0:
            outside = tiles.outside(x.shape[4], before[2], y.shape[4], stride[2], width)
            tile = tiles.row_tile(outputs, w.shape[2], y.shape[4], width, outside, stride[2], pairs)
            if tile and x.strides[4] == LANES * 4:
                launch = self._by_rows(tile, pairs, outside, x, reading, w, bias, y, stride, before, ends)
        if launch is not None and self._try(launch):
            return
        if reading is not AS_STORED:
            x = deep(self._data(batch))
        if launch is None:
            row = x.shape[4], width, stride[2], before[2], dilation[2]
            tile = tiles.broadcast_tile(outputs, y.shape[4], row)
            # A dense layer on few images reads each weight too rarely for packing to pay off.
            packs = width > 1 or y.shape[0] * w.shape[0] * math.prod(y.shape[2:5]) >= _PACK_USES * tile[1]
            pairs = pairs and packs
            tile = tiles.broadcast_tile(outputs // 2, y.shape[4], row) if pairs else tile
            common = width in WIDTHS and stride[2] == 1 and x.strides[4] == LANES * x.itemsize
            choices = width if common or not packs else 0, common, packs, pairs
            if self._try(self._by_pixels(tile, choices, x, w, bias, y, stride, dilation, before, ends)):
                return
        tile = tiles.general(tiles.GENERAL_BROADCAST, outputs, y.shape[4])
        self._run(*self._by_pixels(tile, (0, False, True, False), x, w, bias, y, stride, dilation, before, ends))

    def _by_pixels(self, tile, choices, x, w, bias, y, stride, dilation, before, ends) -> tuple:
        """The kernel of _correlate with tiles of (OB, QB), OB counting pairs of channels if there are any, otherwise
        chosen as conv_of takes it, and its arguments.
        """
        *_, packs, pairs = choices
        filters = 2 * tile[0] if pairs else tile[0]
        number = -(-w.shape[1] // filters)
        rows = y.shape[0] * w.shape[0] * y.shape[2] * y.shape[3]
        packed = self._empty((w.shape[0], number, math.prod(w.shape[2:]) if packs else 0, filters))
        chunks = min(number, -(-UNITS_PER_THREAD * self.threads // max(rows, 1)))
        return conv.conv_of(*tile, *choices), x, w, bias, y, packed, stride, dilation, before, *ends, chunks

    def _by_rows(self, tile, pairs: bool, outside, x, reading, w, bias, y, stride, before, ends) -> tuple:
        """The kernel of _correlate by whole kernel rows, with tiles of (OB, QB), OB counting pairs of channels if there
        are any, and its arguments.
        """
        ob, qb = tile
        filters = 2 * ob if pairs else ob
        (groups, outputs, channels), (height, width) = w.shape[:3], w.shape[4:]
        packed = self._empty((groups, -(-outputs // filters), math.prod(w.shape[2:]), filters))
        line, rows, copies = x.shape[4], y.shape[3], channels > 1 or pairs or reading is not AS_STORED
        images, number = y.shape[0] * groups, packed.shape[1]
        depth, chunks = tiles.strip_depth(channels, line * stride[1], height, rows, images, self.threads), 1
        units = -(-UNITS_PER_THREAD * self.threads // images)
        if copies and depth < rows and units <= number and tiles.fits_strip(channels, line * x.shape[3]):
            # Then each thread copies an image once, and reads the weights of its own channels only.
            depth, chunks = rows, units
        strip = channels * (((depth - 1) * stride[1] + height) * line + qb) * LANES if copies else 0
        strips = self._empty((self.threads, strip))
        choices = {"stride": stride[2], "copies": copies, "pairs": pairs}
        kernel = conv_rows.conv_rows_of(ob, qb, width, *outside, qb == y.shape[4], **choices)
        return kernel, x, w, bias, y, packed, strips, stride[1], before, *ends, depth, chunks, *reading
