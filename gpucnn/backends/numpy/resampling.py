"""Maps along one spatial axis in NumPy, for both maths: a loop over the taps, for all positions at once."""

from collections.abc import Callable

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.base import NumpyBase
from gpucnn.resampling import AxisTaps, as_arrays


class NumpyResampling(NumpyBase):
    """Part of NumpyBase; see the protocol for what each method does."""

    fused: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # a * b + c in this math

    def resample_axis(self, x: Batch, axis: int, taps: AxisTaps) -> Batch:
        """y (N, C, *O, 1) from x.data (N, C, *I, 1); see the protocol."""
        first, position, weight, start = as_arrays(taps, self.dtype.type)  # type: ignore[arg-type]  # type[Any] is hashable
        source = np.moveaxis(x.data, 2 + axis, -1)  # (N, C, ..., I)
        acc = np.array(np.broadcast_to(start, (*source.shape[:-1], taps.output)))
        counts = np.diff(first)
        for tap in range(counts.max()):
            which = np.flatnonzero(counts > tap)  # the positions with more than `tap` taps
            entry = first[which] + tap
            acc[..., which] = self.fused(weight[entry], source[..., position[entry]], acc[..., which])
        return x.like(np.ascontiguousarray(np.moveaxis(acc + self.dtype.type(0), -1, 2 + axis)))
