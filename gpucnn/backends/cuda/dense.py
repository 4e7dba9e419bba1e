"""Dense layers as launches of kernels/cuda/dense.cu, and the weight gradient of layers with one position per image."""

import math

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import LANES, ceil_div, i32, i64
from gpucnn.backends.cuda.tiles import Tile
from gpucnn.backends.protocol import Array
from gpucnn.backends.spatial import is_dense, window3d
from gpucnn.geometry import Window


class CudaDense(CudaBase):
    """See the protocol for what each method does."""

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        return self._multiply(x, w, bias, w.shape[0], w.shape[1], (w.shape[1], 1), relu)

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        return self._multiply(dy, w, None, w.shape[1], w.shape[0], (1, w.shape[1]), False)

    def _multiply(self, x: Batch, w, bias, outputs: int, inputs: int, strides: tuple[int, int], relu: bool) -> Batch:
        blocks, y = x.data.shape[0], self._maps(x, outputs, ())
        ob, nb = self._tile("dense", outputs, blocks)
        kernel = f"dense<{ob}, {nb}, {'true' if strides[0] == 1 else 'false'}>"
        numbers = i32(blocks), i32(inputs), i32(outputs), i64(strides[0]), i64(strides[1]), i32(relu)
        grid = ceil_div(outputs, 4 * ob), ceil_div(blocks, nb)
        self._run("dense.cu", kernel, grid, (LANES, 4), self._data(x), w, bias, y.data, *numbers)
        return y

    def _tile(self, kernel: str, outputs: int, blocks: int) -> Tile:
        tile = self.tiles.choose(kernel, outputs, blocks, self.launcher.processors)
        assert tile is not None
        return tile

    def dense_gradients(
        self, dy: Batch, y: Batch | None, x: Batch, w: Array, out_w: Array, out_b: Array | None, input_gradient: bool
    ) -> Batch | None:
        (outputs, inputs), blocks = w.shape, dy.data.shape[0]
        ob, nb = self._tile("dense gradients", inputs, blocks)
        dx = self._maps(dy, inputs, ()) if input_gradient else None
        dx_columns, dw_columns = ceil_div(inputs, 4 * ob), ceil_div(inputs, 64)
        dx_end = dx_columns * ceil_div(blocks, nb) if dx else 0
        dw_end = dx_end + dw_columns * ceil_div(outputs, 16)
        end = dw_end if out_b is None else dw_end + ceil_div(outputs, 4)
        arrays = self._data(dy), y and self._data(y), self._data(x), w, dx and dx.data, out_w, out_b
        sizes = map(i32, (dy.images, blocks, inputs, outputs, dx_columns, dx_end, dw_columns, dw_end))
        kernel = f"dense_gradients<{ob}, {nb}, {blocks.bit_length()}>"
        self._run("dense.cu", kernel, (end,), (LANES, 4), *arrays, *sizes)
        return dx

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        # A window without axes, over one pixel: its values are the inputs.
        self._chain_weight_gradient(dy, x, _POINT, 1, out)

    def _chain_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        """The weight gradient where each image has one position."""
        blocks, outputs, terms = dy.data.shape[0], out.shape[0] // groups, math.prod(out.shape[1:])
        source = None
        if not is_dense(window, 1):
            source = self._constant(("source", window, out.shape[1]), lambda: _sources(window, out.shape[1]))
        sizes = [i32(size) for size in (dy.images, blocks, outputs, out.shape[1] * math.prod(window.input), terms)]
        grid = ceil_div(terms, 64), ceil_div(outputs, 16), groups
        self._next_branch()
        kernel = f"chain_weight_gradient<{blocks.bit_length()}>"
        arguments = self._data(dy), self._data(x), source, out, *sizes
        self._run("dense.cu", kernel, grid, (LANES, 4), *arguments, overlap=(out,))


_POINT = Window((), (), (), (), (), ())


def _sources(window: Window, channels: int) -> np.ndarray:
    """For each weight (channel, *kernel) of a window with one position, the index into (channel, *input) of the value
    that it is multiplied with; -1 for padding."""
    sizes = window3d(window)
    indices = np.indices((channels, *sizes.kernel)).reshape(4, -1)
    at, inside = indices[0], np.ones(indices.shape[1], bool)
    for axis in range(3):
        pixel = indices[axis + 1] * sizes.dilation[axis] - sizes.before[axis]
        inside &= (pixel >= 0) & (pixel < sizes.input[axis])
        at = at * sizes.input[axis] + pixel
    return np.where(inside, at, -1).astype(np.int32)
