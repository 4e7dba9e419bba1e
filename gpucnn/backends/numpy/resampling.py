"""Maps along one spatial axis in NumPy, for both maths: a loop over the taps, of all positions at once."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.resampling import AxisTaps, as_arrays


class NumpyResampling:
    """`resample_axis` of the protocol; the backend says how a product is added."""

    def _fused(self, weight: np.ndarray, x: np.ndarray, acc: np.ndarray) -> np.ndarray:
        """weight * x + acc."""
        raise NotImplementedError

    def resample_axis(self, x: Batch, axis: int, table: AxisTaps) -> Batch:
        """y (N, C, *O, 1) from x.data (N, C, *I, 1); see the protocol."""
        first, position, weight, start = as_arrays(table, self.dtype.type)
        source = np.moveaxis(x.data, 2 + axis, -1)  # (N, C, ..., I)
        acc = np.array(np.broadcast_to(start, (*source.shape[:-1], table.output)))
        counts = np.diff(first)
        for tap in range(counts.max()):
            which = np.flatnonzero(counts > tap)  # the positions that have so many taps
            entry = first[which] + tap
            acc[..., which] = self._fused(weight[entry], source[..., position[entry]], acc[..., which])
        return x.like(np.ascontiguousarray(np.moveaxis(acc + self.dtype.type(0), -1, 2 + axis)))
