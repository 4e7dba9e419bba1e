"""A layer's counterparts: nodes of an ONNX graph, modules of PyTorch. Neither library is imported here.

A class declares its counterparts next to its `__call__`: `onnx(graph, x)` and `pytorch()`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gpucnn.errors import ConfigurationError
from gpucnn.geometry import Window
from gpucnn.layers.base import Layer, Parameter, Shape, Statistic
from gpucnn.layers.own import label
from gpucnn.recordable import declaration


class Graph(Protocol):
    """An ONNX graph under construction, as a layer's `onnx` sees it. Everything in it is referred to by name, which
    starts with the layer's.
    """

    def node(self, operation: str, *inputs: str, **attributes) -> str:
        """Add a node; returns the name of its one output. Attributes are ONNX's; None ones are left out."""

    def tensor(self, part: Parameter | Statistic, shape: Shape | None = None) -> str:
        """The name of a parameter or running statistic; reshaped to `shape` if set."""

    def constant(self, name: str, value: np.ndarray | list | float) -> str:
        """The name of a constant: int64 if it holds integers, else float32."""

    def add(self, layer: Layer, x: str) -> str:
        """Add the nodes of another layer; returns the name of its output."""


@dataclass
class TorchModule:
    """A module of PyTorch: `kind` in torch.nn, its arguments, our tensors by its names, and the parts of a
    Residual or Concat."""

    kind: str
    arguments: dict = field(default_factory=dict)
    tensors: dict[str, Parameter | Statistic] = field(default_factory=dict)
    parts: dict[str, list["TorchModule"]] = field(default_factory=dict)


def counterpart(layer: Layer, name: str, library: str) -> Callable:
    """The layer's method `name`, "onnx" or "pytorch". Raises ConfigurationError if it has none."""
    method = declaration(layer, name)
    if method is None:
        raise ConfigurationError(f"{label(layer)} has no counterpart in {library} here: {layer!r}")
    return method


def torch_modules(layer: Layer) -> list[TorchModule]:
    """The layer's modules in PyTorch, in order. Raises ConfigurationError without a counterpart."""
    return counterpart(layer, "pytorch", "PyTorch")()


def onnx_node(operation: str, **attributes) -> Callable[[Layer, Graph, str], str]:
    """An `onnx` of one node."""
    return lambda layer, graph, x: graph.node(operation, x, **attributes)


def torch_module(kind: str, **arguments) -> Callable[[Layer], list[TorchModule]]:
    """A `pytorch` of one module without tensors."""
    return lambda layer: [TorchModule(kind, arguments)]


def onnx_window(window: Window) -> dict:
    """A window as attributes of a node: `pads` is the padding before each axis, then after each."""
    pads = [before for before, _ in window.padding] + [after for _, after in window.padding]
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": pads}


def torch_window(layer: Layer, window: Window, pads: str = "pads") -> dict:
    """A window as arguments of a module. Raises ConfigurationError for padding that differs on both sides."""
    if any(before != after for before, after in window.padding):
        raise ConfigurationError(f"{label(layer)} {pads} unevenly, {window.padding}, which PyTorch's does not")
    return {
        "kernel_size": window.kernel,
        "stride": window.stride,
        "padding": tuple(before for before, _ in window.padding),
    }
