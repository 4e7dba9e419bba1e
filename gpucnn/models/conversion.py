"""Dense layers as convolutions and convolutions as dense layers, and classifiers that slide over larger images.

A dense layer over a flattened (C, H, W) map is a convolution with kernels of (H, W), one position, and the same weights
in the same order. A convolution over an image of fixed size is a dense layer whose weight matrix is zero outside each
filter's reach and repeats the filter's weights inside: 81 weights for a 3x3 image and a 3x3 map, 9 of them different.
"""

import copy
import math
from typing import Any

import numpy as np

from gpucnn.arguments import image_shape
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import Field, Window
from gpucnn.layers import Convolution, Dense, Flatten, Layer, Sequential
from gpucnn.layers.base import Shape
from gpucnn.layers.own import label
from gpucnn.models.model import Model, a_model
from gpucnn.recordable import declaration


def dense_to_conv(layer: Dense, shape: tuple[int, ...]) -> Model:
    """A Dense layer over a flattened map of `shape` (C, *spatial) as a model of one convolution with kernels of
    *spatial.

    `layer` is part of a model, which stays unchanged; its weights are copied. For images of `shape` the convolution
    makes (units, 1, ..., 1): the dense layer's outputs, bit for bit in exact math mode. For larger images build
    another: `fully_convolutional` does that for whole classifiers.

    Raises ShapeError unless the map has as many values as the layer has inputs, ConfigurationError for another layer.
    """
    if not isinstance(layer, Dense) or not declaration(layer, "sliding"):
        raise ConfigurationError(f"dense_to_conv takes a Dense layer, not {layer!r}")
    weight, bias = _values(layer)
    shape = tuple(shape)
    if math.prod(shape) != weight.shape[1]:
        raise ShapeError(
            f"{label(layer)} has {weight.shape[1]} inputs, but a map of {shape} has {math.prod(shape)} values; "
            "give the shape (C, *spatial) of the map before it was flattened"
        )
    model = Model(layer.sliding(shape[1:]), shape)
    _fill(model, [weight, bias])
    return model


def conv_to_dense(layer: Convolution) -> Model:
    """A convolution as a model of Flatten and one Dense layer, for images of the size that the layer was built for.

    `layer` is part of a model, which stays unchanged. The dense layer makes the convolution's (O, *P) as O * prod(P)
    outputs, row-major, bit for bit in exact math mode: its weights are (O * prod(P), C * prod(I)), those of the
    output's filter within its reach and 0 elsewhere, and rule 2 of the contract adds both in the same order.

    Raises ConfigurationError unless the layer is a convolution padded with zeros.
    """
    if not isinstance(layer, Convolution) or not declaration(layer, "local"):
        raise ConfigurationError(f"conv_to_dense takes a convolution, not {layer!r}")
    if layer.padding_mode != "zeros":
        mode = f'padding_mode="{layer.padding_mode}"'
        raise ConfigurationError(f"conv_to_dense takes a convolution padded with zeros, not {mode}")
    weight, bias = _values(layer)
    shape, outputs = layer.input_shape, layer.output_shape
    dense = Dense(math.prod(outputs), bias=bias is not None, activation=layer.activation, initializer=layer.initializer)
    model = Model(Sequential(Flatten(), dense), shape)
    positions = math.prod(outputs[1:])
    _fill(
        model,
        [_matrix(weight, shape, layer.groups, layer.window), None if bias is None else np.repeat(bias, positions)],
    )
    return model


def fully_convolutional(model: Model, input_shape: tuple[int, ...]) -> Model:
    """A classifier, or regressor, as a model that slides over larger images and makes a map of class scores.

    `model` ends in Flatten and Dense layers, or in a global pooling; of images (C, H, W) it makes (classes,). The
    result has the same weights and normalization, takes images of `input_shape` (C, H', W'), at least as large, and
    makes (classes, P, Q). The value at (p, q) is the classifier's for the crop of H x W pixels whose first is
    (p * S, q * S), S being the product of its strides: `sliding_window` gives crop, step and map. Each convolution is
    computed once for the whole image, not once per crop.

    Equal bit for bit in exact math mode, with batch norm in inference mode, if nothing pads (nor pools in ceil mode):
    beyond the crop's edge a padded convolution sees padding, but in the larger image the neighboring pixels. So
    `lenet5` for 32x32 pixels slides exactly; for 28x28 (padding 2) it does not, nor does `vgg_small`, and their scores
    only resemble those of the crops. A global average becomes a float32 mean: equal up to rounding.

    The model stays unchanged; the result is on the same backend. Raises ShapeError for images that are too small, and
    ConfigurationError for layers between Flatten and Dense, or in the maps, that cannot slide.
    """
    pairs = _sliding_layers(a_model(model))
    input_shape = _larger(model, input_shape)
    result = Model(Sequential(*(new for new, _ in pairs)), input_shape, head=model.head)
    state = {}
    for layers in pairs:
        for new, old in zip(*map(_tensors, layers), strict=True):
            state[new.name] = old.name, new.shape
    if model.initialized:
        values = model.state_dict()
        result.load_state_dict({name: values[old].reshape(shape) for name, (old, shape) in state.items()})
    result.class_names, result.mean, result.std = model.class_names, model.mean, model.std
    return result if model.backend is None else result.place(model.backend)


def sliding_window(model: Model, input_shape: tuple[int, ...]) -> Window:
    """How `fully_convolutional(model, input_shape)` slides: the classifier as one window over images of `input_shape`.

    `kernel` is the classifier's own input size, `stride` the pixels between neighboring scores, `output` the map's
    size: score (p, q) belongs to the crop image[:, p * stride[0] : p * stride[0] + kernel[0], q * stride[1] : ...]. If
    the classifier leaves pixels at the end of its own image unused, the last crop may reach that far past the larger
    image.
    """
    input_shape = _larger(a_model(model), input_shape)
    slid = Model(Sequential(*(new for new, _ in _sliding_layers(model))), input_shape)
    output = slid.output_shape[1:]
    axes = len(output)
    step = slid.layer.receptive_field(Field.pixel(axes), input_shape[1:]).jump
    return Window(input_shape[1:], model.input_shape[1:], step, ((0, 0),) * axes, (1,) * axes, output)


def _larger(model: Model, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """`input_shape` if the model can slide over images of that shape."""
    shape, own = image_shape("input_shape", input_shape), model.input_shape
    if len(shape) != len(own) or shape[0] != own[0] or any(size < least for size, least in zip(shape[1:], own[1:])):
        raise ShapeError(
            f"{model.name} for images of {own} cannot slide over images of {shape}; give {own[0]} channel(s) and at "
            f"least {' x '.join(map(str, own[1:]))} pixels"
        )
    return shape


def _sliding_layers(model: Model) -> list[tuple[Layer, Layer]]:
    """New layers, not yet built, that compute what the model's do for maps of any size, each with the one that has its
    weights. One in several places stays one, but for a Dense whose places need kernels of different sizes.
    """
    layers: list[tuple[Layer, Layer]] = []
    copies: dict[int, Any] = {}
    slides: dict[tuple[int, Shape], Layer] = {}
    flattened: tuple[int, ...] = ()  # the map's size, between Flatten and Dense
    for layer in model.layer.leaves():
        shape = layer.input_shape
        if type(layer) is Flatten:
            flattened = shape[1:] or flattened
        elif slide := declaration(layer, "sliding"):
            size = flattened or shape[1:] or (1,) * (len(model.input_shape) - 1)
            layers.append((slides.setdefault((id(layer), size), slide(size)), layer))
            flattened = ()
        elif _is_local(layer) and (not flattened or declaration(layer, "elementwise")):
            layers.append((copy.deepcopy(layer, copies), layer))
        else:
            raise ConfigurationError(
                f"{label(layer)} on {shape} cannot slide: what slides is convolutions, pooling, batch norm, "
                "activations, dropout, Residual and Concat of these, then Flatten and dense layers"
            )
    return layers


def _tensors(layer: Layer) -> list[Any]:
    """The parameters and statistics of a layer and all below it."""
    return [part for one in layer.walk() for _, part in (*one.parameters(), *one.statistics())]


def _is_local(layer: Layer) -> bool:
    """Whether a layer does the same at each position of a larger map."""
    if declaration(layer, "split"):
        return all(_is_local(leaf) for _, child in layer.children() for leaf in child.leaves())
    return declaration(layer, "local") is True


def _values(layer: Layer) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias on the host; raises ConfigurationError for a layer outside any model."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if weight is None or weight.value is None:
        raise ConfigurationError(f"{layer!r} is part of no model, so it has no weights; make a Model of it first")
    return _host(weight.value), None if bias is None else _host(bias.value)


def _host(array) -> np.ndarray:
    return array.get() if hasattr(array, "get") else np.array(array)  # CuPy's arrays do not convert by themselves


def _fill(model: Model, values: list[np.ndarray | None]) -> None:
    """Set the model's parameters, in order, to these values; None is skipped."""
    parameters = zip(model.parameters, (value for value in values if value is not None), strict=True)
    model.load_state_dict({p.name: value.reshape(p.shape) for p, value in parameters})


def _matrix(weight: np.ndarray, shape: tuple[int, ...], groups: int, window: Window) -> np.ndarray:
    """A convolution's weights (O, C/groups, *K) for images of `shape` (C, *I) as a matrix (O * prod(P), C *
    prod(I)).
    """
    outputs, channels = weight.shape[:2]
    matrix = np.zeros((outputs, math.prod(window.output), shape[0], math.prod(window.input)), weight.dtype)
    for number, position in enumerate(np.ndindex(window.output)):
        for tap in np.ndindex(window.kernel):
            pixel = [
                p * s + r * d - before
                for p, s, r, d, (before, _) in zip(position, window.stride, tap, window.dilation, window.padding)
            ]
            if any(not 0 <= i < size for i, size in zip(pixel, window.input)):
                continue
            at = np.ravel_multi_index(pixel, window.input)
            for group in range(groups):
                rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
                matrix[rows, number, group * channels : (group + 1) * channels, at] = weight[(rows, slice(None), *tap)]
    return matrix.reshape(outputs * math.prod(window.output), -1)
