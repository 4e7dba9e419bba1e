"""Adding the parts of a batch on the device: gathered by the launcher, added by kernels/cuda/parts.cu."""

from typing import TYPE_CHECKING

import numpy as np

from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import ceil_div, i32, i64
from gpucnn.backends.protocol import Array
from gpucnn.backends.shared import SharedSums
from gpucnn.backends.shares import Finish
from gpucnn.parallel.joined import joined

if TYPE_CHECKING:
    from gpucnn.parallel.processes import Processes


class CudaShared(SharedSums, CudaBase):
    """See SharedSums for what each method does. Nothing here happens on the host, so a CUDA graph can hold it, unless
    some of the processes are on CPUs: then no step is recorded.
    """

    exchanges_on = "the GPU"

    def _numbers(self, kernel: str, size: int, *arguments) -> None:
        """A kernel of parts.cu, one thread per number."""
        if size:
            self._run("parts.cu", kernel, (ceil_div(size, 256),), (256,), *arguments)

    def _number(self, value: float) -> Array:
        return self._constant(("number", value), lambda: np.array([float(value)]))

    def _filled(self, count: int, value: int) -> Array:
        return self._constant(("filled", count, value), lambda: np.full(count, value, np.float32))

    def _own_totals(self, counts: int) -> Array:
        return self.zeros((counts,), np.float64)

    def packed(self, arrays: list[Array], dtype) -> Array:
        out, at = self._empty((sum(a.size for a in arrays),), dtype), 0
        for array in arrays:
            self._numbers(f"pack<{_type(out)}>", array.size, array, out, i64(at), i64(array.size))
            at += array.size
        return out

    def added(self, rows: list[Array]) -> Array:
        return rows[0] if len(rows) == 1 else self._tree(self.packed(rows, rows[0].dtype), len(rows), rows[0].size)

    def _tree(self, rows: Array, count: int, size: int) -> Array:
        out = self._empty((size,), rows.dtype)
        self._numbers(f"rows_tree<{_type(out)}>", size, rows, out, i32(count), i64(size))
        return out

    def exchanged(self, processes: "Processes", nodes: int, wide: Array, narrow: Array) -> tuple[Array, Array]:
        if processes.size == 1:
            return wide, narrow
        if processes.on_host:
            totals = joined(processes, nodes, self.host(wide), self.host(narrow))()
            return self.array(totals[0]), self.array(totals[1])
        return self._exchanged(processes, nodes, wide), self._exchanged(processes, nodes, narrow)

    def _exchanged(self, processes: "Processes", nodes: int, vector: Array) -> Array:
        if not vector.size:
            return vector
        received = self._empty((processes.size, vector.size), vector.dtype)
        self.launcher.gather(processes, vector, received)
        return self._tree(received, nodes, vector.size)

    def finish(self, total: Array, sums: list[Finish], sizes: list[int]) -> None:
        at = 0
        for one, size in zip(sums, sizes, strict=True):
            targets = one.count, one.mean64, one.mean, one.unbiased, one.rounded, one.gained
            numbers = i64(at), i64(0 if one.mean is None else one.mean.size), i64(size)
            self._numbers("finish", size, total, *targets, *numbers)
            at += size

    def spread(self, total: Array, weights: list[Array]) -> None:
        at = 0
        for array in weights:
            self._numbers("spread", array.size, total, array, i64(at), i64(array.size))
            at += array.size


def _type(array: Array) -> str:
    return "double" if array.dtype == np.float64 else "float"
