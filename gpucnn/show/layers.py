"""Inspecting a model: its convolutions by name, and what each layer computes from an image."""

from dataclasses import dataclass

import numpy as np

from gpucnn.arguments import instance
from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError
from gpucnn.layers import Conv2d, Flatten, Layer
from gpucnn.models.heads import CLASSIFIER
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model


def choose(model: Model, backend: str | Backend | None = None, math: str | None = None) -> Backend:
    """`backend` itself, or the one with that name; if None, the one that the model is on, or the fastest."""
    if isinstance(backend, Backend):
        return backend
    if backend is None and math is None and model.backend is not None:
        return model.backend
    return get_backend(backend, math)


def convolutions(model: Model) -> dict[str, Layer]:
    """The model's convolutions by name, in order."""
    return {layer.name: layer for layer in model.layer.walk() if layer.filter_weights}


def convolution(model: Model, name: str | None) -> Layer:
    """The convolution called `name`, None for the first; the error lists the names."""
    by_name = convolutions(model)
    if not by_name:
        raise ConfigurationError(f"{model.name} has no convolution, so there are no filters to show")
    if name is None:
        return next(iter(by_name.values()))
    if instance("layer", name, str, "its name, which is text") not in by_name:
        raise ConfigurationError(f"{model.name} has no convolution called {name!r}; it has {', '.join(by_name)}")
    return by_name[name]


def filters_of(model: Model, layer: Layer) -> np.ndarray:
    """The weights of one of the model's convolutions as (O, C/groups, *K), a transposed one's too."""
    assert layer.filter_weights is not None, f"{layer.name} is no convolution"
    return layer.filter_weights(model.state_dict())


def image_filters(model: Model, name: str | None) -> Layer:
    """The two-dimensional convolution called `name`, whose input must be the image itself; the error names that one."""
    first = next(model.layer.leaves())
    layer = convolution(model, name)
    if layer is not first or not isinstance(layer, Conv2d):
        which = f"those of layer {first.name} do" if isinstance(first, Conv2d) else "none of its layers does"
        raise ConfigurationError(
            f"the filters of layer {layer.name} look at the maps of the layers before it, not at an image; {which}"
        )
    return layer


@dataclass(frozen=True, eq=False)
class Step:
    """One layer's `values` for one image, (C, *spatial), with its `name`, '' for the image itself, and `kind`."""

    name: str
    kind: str
    values: np.ndarray


def steps(model: Model, image: np.ndarray, backend: Backend) -> tuple[list[Step], np.ndarray]:
    """(the steps from `image`, of the model's `image_shape`; what `predict` returns for it), in inference mode.

    The first step is the input image, before it is cropped or normalized. The layers of a Sequential come one by
    one, those inside a Residual together; Flatten, which changes no value, is left out.
    """
    images = check_images(np.asarray(image)[None], model.image_shape, backend.dtype)
    model.check_initialized()
    model.place(backend)
    training, model.mode.training = model.mode.training, False
    result = [Step("", "image", images[0])]
    try:
        x = model.batch(images)
        for layer in model.layer.leaves():
            x, _ = layer(x)
            if not isinstance(layer, Flatten):
                result.append(Step(layer.name, _kind(layer), backend.unpack(x)[0]))
    finally:
        model.mode.training = training
    return result, backend.unpack(backend.softmax(x) if model.head == CLASSIFIER else x)[0]


def _kind(layer: Layer) -> str:
    activation = getattr(layer, "activation", None)
    kind = type(layer).__name__
    return f"{kind} + {'ReLU' if activation == 'relu' else activation}" if activation else kind
