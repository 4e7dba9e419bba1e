"""Maps along one spatial axis on the readable GPU backend."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.kernels.numba_cuda import resampling
from gpucnn.kernels.numba_cuda.compiler import LANES
from gpucnn.resampling import AxisTaps, as_arrays


class NumbaCudaResampling(NumbaCudaBase):
    """See LaneBackend for what each method does."""

    def _resample_axis(self, x: Batch, y: Batch, taps: AxisTaps, after: int) -> None:
        arrays = self._flat(x), self._flat(y), *map(self.array, as_arrays(taps))
        self._run(resampling.resample_axis, y.data.size, *arrays, taps.input, taps.output, after * LANES)
