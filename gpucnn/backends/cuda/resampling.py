"""Maps along one spatial axis, launched from kernels/cuda/resampling.cu."""

from functools import partial

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import LANES, ceil_div, i32, i64
from gpucnn.backends.protocol import Array
from gpucnn.resampling import AxisTaps, as_arrays

WARPS = 8  # of resampling.cu


class CudaResampling(CudaBase):
    """See LaneBackend for what each method does."""

    def _arrays(self, taps: AxisTaps) -> list[Array]:
        """first, position, weight and start on the device."""
        names = "first", "position", "weight", "start"
        return [self._constant((name, taps), partial(np.asarray, a)) for name, a in zip(names, as_arrays(taps))]

    def _resample_axis(self, x: Batch, y: Batch, taps: AxisTaps, after: int) -> None:
        pixels = y.data.size // LANES
        sizes = i32(taps.input), i32(taps.output), i32(after), i64(pixels)
        arguments = self._data(x), y.data, *self._arrays(taps)
        self._run("resampling.cu", "resample_axis", (ceil_div(pixels, WARPS),), (LANES, WARPS), *arguments, *sizes)
