"""Activations and residual addition as launches of kernels/cuda/elementwise.cu."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.base import CudaBase
from gpucnn.backends.cuda.layout import ceil_div, i32, i64


class CudaElementwise(CudaBase):
    """See LaneBackend for what each method does."""

    def _forward(self, name: str, x: Batch, y: Batch, settings: tuple) -> None:
        self._over_values(_expression("forward", name, settings), x, y, settings=settings)

    def _gradient(self, name: str, dy: Batch, saved: Batch, dx: Batch, settings: tuple) -> None:
        self._over_values(_expression("gradient", name, settings), dy, saved, dx, settings=settings)

    def _add(self, a: Batch, b: Batch, y: Batch, relu: bool) -> None:
        self._over_values("add_batches", a, b, y, settings=(i32(relu),))

    def _over_values(self, kernel: str, *batches: Batch, settings: tuple) -> None:
        quads = batches[0].data.size // 4
        arrays = map(self._data, batches)
        self._run("elementwise.cu", kernel, (ceil_div(quads, 256),), (256,), *arrays, i64(quads), *settings)


def _expression(kernel: str, name: str, settings: tuple) -> str:
    return f"{kernel}<{', '.join([f'operations::{name}', *['float'] * len(settings)])}>"
