"""Maps along one spatial axis, launched from kernels/cuda/resampling.cu."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.layout import LANES, ceil_div, i32, i64
from gpucnn.backends.protocol import Array
from gpucnn.resampling import AxisTaps, as_arrays

WARPS = 8  # of resampling.cu


class CudaResampling:
    """See LaneBackend for what each method does."""

    def _tables(self, table: AxisTaps) -> list[Array]:
        """first, position, weight and start on the device."""
        arrays = zip(("first", "position", "weight", "start"), as_arrays(table))
        return [self._constant((name, table), lambda array=array: array) for name, array in arrays]

    def _resample_axis(self, x: Batch, y: Batch, table: AxisTaps, after: int) -> None:
        pixels = y.data.size // LANES
        sizes = i32(table.input), i32(table.output), i32(after), i64(pixels)
        given = self._data(x), y.data, *self._tables(table)
        self._run("resampling.cu", "resample_axis", (ceil_div(pixels, WARPS),), (LANES, WARPS), *given, *sizes)
