"""Shared by all functions: checking arrays, and running a layer on them."""

from typing import Any

import numpy as np

from gpucnn import arguments
from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import DTypeError, ShapeError
from gpucnn.layers.base import Layer

Name = str | None  # of a backend or its math mode
IMAGES = "images (N, C, *spatial) with 1 to 3 spatial axes"


def floats(**named: Any) -> tuple[Any, ...]:
    """The arrays in order, contiguous, without an empty axis, all float32 or all float64; a bias may be None."""
    arrays: dict[str, Any] = {
        name: None if value is None and name == "bias" else arguments.array(name, value)
        for name, value in named.items()
    }
    first = None
    for name, array in arrays.items():
        if array is None:
            continue
        if array.dtype not in (np.float32, np.float64):
            raise DTypeError(f"{name} is {array.dtype}; expected float32 (or float64): use .astype(np.float32)")
        if first is not None and array.dtype != arrays[first].dtype:
            raise DTypeError(
                f"{name} is {array.dtype} but {first} is {arrays[first].dtype}; convert one: all must have one type"
            )
        if array.size == 0:
            what = "an empty batch" if array.ndim and array.shape[0] == 0 else "an array with an empty axis"
            raise ShapeError(f"{name} has shape {array.shape}, {what}; every axis needs at least one entry")
        first = first or name
    return tuple(None if array is None else np.asarray(array, order="C") for array in arrays.values())


def images(**named: Any) -> tuple[Any, ...]:
    """The arrays as `floats` returns them; raises ShapeError unless x is (N, C, *I)."""
    arrays = floats(**named)
    x = arrays[list(named).index("x")]
    if not 3 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected {IMAGES}")
    return arrays


def channeled(**named: Any) -> tuple[Any, ...]:
    """The arrays as `floats` returns them; raises ShapeError unless x is (N, C) or (N, C, *I)."""
    arrays = floats(**named)
    x = arrays[list(named).index("x")]
    if not 2 <= x.ndim <= 5:
        raise ShapeError(f"x has shape {x.shape}; expected (N, C) or {IMAGES}")
    return arrays


def expect(name: str, array: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """Raises ShapeError unless the array has this shape, which `what` explains."""
    if array.shape != shape:
        raise ShapeError(f"{name} has shape {array.shape}; expected {shape}, {what}")


def backend_for(array: np.ndarray, backend: Name, math: Name) -> Backend:
    """The backend that computes in the array's type; float64 needs numpy's fast math mode."""
    engine = get_backend(backend, math)
    if engine.dtype == array.dtype:
        return engine
    if (engine.name, engine.math) == ("numpy", "fast"):
        return get_backend(backend, math, dtype=array.dtype)
    raise DTypeError(
        f"the arrays are {array.dtype}, but {engine.math} math on {engine.name} takes {engine.dtype}; convert them "
        f'with .astype(np.float32), or use backend="numpy", math="fast" for {array.dtype}'
    )


def built(layer: Layer, x: np.ndarray) -> Any:
    """The layer, built for x."""
    layer.input_shape = x.shape[1:]
    layer.output_shape = layer.build(layer.input_shape)
    return layer


def forward(layer: Layer, backend: Name, math: Name, x: np.ndarray, **parameters: np.ndarray | None) -> np.ndarray:
    """The output of a built layer for x, with these arrays, whose shapes were checked, as its parameters."""
    engine = backend_for(x, backend, math)
    _set_parameters(layer, engine, parameters)
    return engine.unpack(layer(engine.pack(x))[0])


def backward(
    layer: Layer, backend: Name, math: Name, dy: np.ndarray, x: np.ndarray | None = None, **parameters: np.ndarray
) -> Any:
    """(dx, then the gradient of each of the layer's parameters); x is None if only its shape matters."""
    engine = backend_for(dy, backend, math)
    _set_parameters(layer, engine, parameters)
    dx: Any = layer.gradients(engine.pack(dy), None if x is None else engine.pack(x))
    return engine.unpack(dx), *(engine.host(parameter.grad) for _, parameter in layer.parameters())


def forward_on_images(layer: Layer, backend: Name, math: Name, x: Any) -> np.ndarray:
    """The output of a layer without parameters for images."""
    (x,) = images(x=x)
    return forward(built(layer, x), backend, math, x)


def backward_on_images(
    function: str, layer: Layer, backend: Name, math: Name, dy: Any, x: Any, *, only_shape: bool = False
) -> np.ndarray:
    """Its dx; with `only_shape` the values of x do not matter."""
    dy, x = images(dy=dy, x=x)
    expect_output(built(layer, x), dy, x, function)
    return backward(layer, backend, math, dy, None if only_shape else x)[0]


def expect_output(layer: Layer, dy: np.ndarray, x: np.ndarray, function: str) -> None:
    """Raises ShapeError unless dy has the shape of the built layer's output for x."""
    expect("dy", dy, (len(x), *layer.output_shape), f"the shape of {function}'s output")


def _set_parameters(layer: Layer, engine: Backend, arrays: dict[str, Any]) -> None:
    for name, parameter in layer.parameters():
        parameter.grad = engine.zeros(parameter.shape)
        if name in arrays:
            parameter.value = engine.array(arrays[name])
