"""Dense layers on the readable GPU backend."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.numba_cuda.base import NumbaCudaBase
from gpucnn.backends.protocol import Array
from gpucnn.kernels.numba_cuda import dense, sums


class NumbaCudaDense(NumbaCudaBase):
    """See the protocol for what each method does."""

    def dense(self, x: Batch, w: Array, bias: Array | None, relu: bool = False) -> Batch:
        y = self._maps(x, len(w), ())
        bias = self.zeros((len(w),)) if bias is None else bias
        self._run(dense.dense, y.data.size, self._data(x), w, bias, y.data, relu)
        return y

    def dense_input_gradient(self, dy: Batch, w: Array) -> Batch:
        dx = self._maps(dy, w.shape[1], ())
        self._run(dense.dense_input_gradient, dx.data.size, self._data(dy), w, dx.data)
        return dx

    def dense_weight_gradient(self, dy: Batch, x: Batch, out: Array) -> None:
        part = self._part(dy, 1, out.size, np.float32)
        self._run(dense.dense_weight_gradient, part.size, self._data(dy), self._data(x), part, dy.images)
        self._run(sums.weight_total, out.size, part, out.reshape(-1), 1)
