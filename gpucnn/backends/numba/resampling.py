"""Maps along one spatial axis on the CPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba.base import NumbaBase
from gpucnn.kernels.numba import resampling
from gpucnn.kernels.numba.simd import LANES
from gpucnn.resampling import AxisTaps, as_arrays


class NumbaResampling(NumbaBase):
    """See LaneBackend for what each method does."""

    def _resample_axis(self, x: Batch, y: Batch, taps: AxisTaps, after: int) -> None:
        # (block, C, *before) as one axis, the mapped one, (*after, lane) as one
        arrays = self._data(x).reshape(-1, taps.input, after * LANES), y.data.reshape(-1, taps.output, after * LANES)
        self._run(resampling.resample_axis, *arrays, *as_arrays(taps))
