"""What a network computes, as a list of operations: found out by running its layers on values that are only shapes.

A layer that does all it does through its batch's backend runs unchanged; one that looks at values cannot be traced.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.geometry import Window
from gpucnn.inference import Unplannable
from gpucnn.inference.graph import Graph, Node
from gpucnn.resampling import AxisTaps


class _Symbol:
    """Stands in a Batch where data would be: a node's value, seen with a shape (1, C, *spatial, 1)."""

    dtype = np.dtype(np.float32)

    def __init__(self, node: Node):
        self.node = node
        self.shape = (1, *node.shape, 1)


class _Reshaping(Batch):
    """A traced batch; reshaping it is an operation."""

    def like(self, data) -> Batch:
        if not isinstance(data, _Symbol):
            raise Unplannable("a layer made values of its own")
        return _Reshaping(data, self.images, self.backend)

    def reshape(self, *shape: int) -> Batch:
        size = math.prod(self.data.node.shape)
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(size // known if n == -1 else n for n in shape)
        if math.prod(shape) != size:
            raise Unplannable("a reshape to another number of values")  # layer by layer it is refused in words
        if shape == self.data.node.shape:
            return self
        return self.backend.emit("reshape", (self,), shape, shape=shape)


class Tracer:
    """In the place of a backend: each operation adds a node.

    Raises Unplannable for everything that is not computed in inference.
    """

    is_recording = False
    # Made of the operations below.
    conv_max_pool = Backend.conv_max_pool
    resample = Backend.resample
    adaptive_avg_pool = Backend.adaptive_avg_pool
    adaptive_max_pool = Backend.adaptive_max_pool

    def __init__(self, owned: Callable[[Any], Any]):
        self._owned = owned
        self.nodes: list[Node] = []

    def __getattr__(self, name: str):
        raise Unplannable(f"backend.{name} is not traced")

    def emit(self, operation: str, inputs: tuple[Batch, ...], made: tuple[int, ...], /, **settings: Any) -> Batch:
        """The batch that an operation makes, (C, *spatial) without the images."""
        for batch in inputs:
            if not isinstance(batch, _Reshaping) or batch.backend is not self:
                raise Unplannable("a layer computes with values from elsewhere")
        for name, value in settings.items():
            if _is_array(value):
                settings[name] = self._owned(value)
                if settings[name] is None:
                    raise Unplannable(f"{name} of {operation} is no parameter or statistic of the model")
        node = Node(operation, tuple(batch.data.node for batch in inputs), tuple(made), settings)
        self.nodes.append(node)
        return _Reshaping(_Symbol(node), 1, self)

    def conv(self, x: Batch, w, bias, window: Window, groups: int = 1, relu: bool = False) -> Batch:
        settings = {"w": w, "bias": bias, "window": window, "groups": groups, "relu": relu}
        return self.emit("conv", (x,), (len(w), *window.output), **settings)

    def conv_input_gradient(self, dy: Batch, w, window: Window, groups: int = 1) -> Batch:
        shape = w.shape[1] * groups, *window.input
        return self.emit("transposed conv", (dy,), shape, w=w, window=window, groups=groups)

    def dense(self, x: Batch, w, bias, relu: bool = False) -> Batch:
        return self.emit("dense", (x,), (len(w),), w=w, bias=bias, relu=relu)

    def max_pool(self, x: Batch, window: Window) -> tuple[Batch, None]:
        return self.emit("max pool", (x,), (x.channels, *window.output), window=window), None

    def avg_pool(self, x: Batch, window: Window, count_include_pad: bool = True) -> Batch:
        shape = x.channels, *window.output
        return self.emit("average pool", (x,), shape, window=window, count_include_pad=count_include_pad)

    def global_avg_pool(self, x: Batch) -> Batch:
        return self.emit("global average pool", (x,), (x.channels,))

    def resample_axis(self, x: Batch, axis: int, taps: AxisTaps) -> Batch:
        spatial = tuple(taps.output if i == axis else size for i, size in enumerate(x.spatial))
        return self.emit("resample", (x,), (x.channels, *spatial), axis=axis, taps=taps)

    def elementwise(self, name: str, x: Batch, *settings: float) -> Batch:
        return self.emit("elementwise", (x,), x.shape[1:], name=name, numbers=settings)

    def add(self, a: Batch, b: Batch, relu: bool = False) -> Batch:
        return self.emit("add", (a, b), a.shape[1:], relu=relu)

    def add_bias(self, x: Batch, bias, relu: bool = False) -> Batch:
        return self.emit("add bias", (x,), x.shape[1:], bias=bias, relu=relu)

    def batch_norm(self, x: Batch, mean, var, gamma, beta, eps: float, relu: bool = False) -> Batch:
        arrays = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
        return self.emit("batch norm", (x,), x.shape[1:], **arrays, eps=eps, relu=relu)

    def group_norm_statistics(self, x: Batch, groups: int) -> tuple[Batch, Batch]:
        mean, var = (self.emit(f"group {what}", (x,), (groups,)) for what in ("mean", "variance"))
        return mean, var

    def group_norm(self, x: Batch, mean: Batch, var: Batch, gamma, beta, eps: float, relu: bool = False) -> Batch:
        made_of = [(batch.data.node.operation, batch.data.node.inputs) for batch in (mean, var)]
        if made_of != [("group mean", (x.data.node,)), ("group variance", (x.data.node,))]:
            raise Unplannable("group norm with statistics of other values")
        settings = {"groups": mean.channels, "gamma": gamma, "beta": beta, "eps": eps, "relu": relu}
        return self.emit("group norm", (x,), x.shape[1:], **settings)

    def concatenate(self, batches: list[Batch]) -> Batch:
        channels = sum(batch.channels for batch in batches)
        return self.emit("concatenate", tuple(batches), (channels, *batches[0].spatial))

    def take_channels(self, x: Batch, first: int, count: int) -> Batch:
        return self.emit("take channels", (x,), (count, *x.spatial), first=first, count=count)

    def softmax(self, x: Batch) -> Batch:
        return self.emit("softmax", (x,), x.shape[1:])


def _is_array(value: Any) -> bool:
    """Whether it is an array of NumPy or CuPy."""
    return isinstance(value, np.ndarray) or hasattr(value, "__cuda_array_interface__")


def trace(compute: Callable[[Batch], Batch], shape: tuple[int, ...], owned: Callable[[Any], Any]) -> Graph:
    """The operations of `compute`, a function from a batch to a batch, on images of `shape` (C, *spatial).

    `owned` gives the array that the graph has in the place of one of the model's; None for others. Raises Unplannable.
    """
    tracer = Tracer(owned)
    result = compute(tracer.emit("input", (), shape))
    if not isinstance(result, _Reshaping):
        raise Unplannable("the result is no batch")
    # What is computed for nothing is left out; a result in the middle comes last.
    needed, stack = set(), [result.data.node]
    while stack:
        node = stack.pop()
        if id(node) not in needed:
            needed.add(id(node))
            stack += node.inputs
    last = result.data.node
    ordered = [node for node in tracer.nodes if id(node) in needed and node is not last]
    return Graph([*ordered, last])
