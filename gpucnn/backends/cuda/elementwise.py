"""Activations and residual addition as launches of kernels/cuda/elementwise.cu."""

from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda.layout import ceil_div, f32, i32, i64


class CudaElementwise:
    """See the protocol for what each method does."""

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return self._map(_expression("forward", name, settings), [x], *map(f32, settings))

    def elementwise_gradient(self, name: str, dy: Batch, saved: Batch, *settings: float) -> Batch:
        return self._map(_expression("gradient", name, settings), [dy, saved], *map(f32, settings))

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        return self._map("add_batches", [a, b], i32(relu))

    def _map(self, kernel: str, inputs: list[Batch], *settings) -> Batch:
        y = self._like(inputs[0])
        quads = y.data.size // 4
        arrays = *map(self._data, inputs), y.data
        self._run("elementwise.cu", kernel, (ceil_div(quads, 256),), (256,), *arrays, i64(quads), *settings)
        return y


def _expression(kernel: str, name: str, settings: tuple[float, ...]) -> str:
    return f"{kernel}<{', '.join([f'operations::{name}', *['float'] * len(settings)])}>"
