"""Looking into a model: its convolutions by name, and what each layer makes of an image."""

from dataclasses import dataclass

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError
from gpucnn.layers import Conv2d, Flatten, Layer, Sequential
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model


def convolutions(model: Model) -> dict[str, Layer]:
    """The model's convolutions by their names, in order."""
    return {layer.name: layer for layer in model.layer.walk() if isinstance(layer, Conv2d)}


def convolution(model: Model, name: str | None) -> Layer:
    """The convolution called `name`, None for the first; an error lists the right names."""
    found = convolutions(model)
    if not found:
        raise ConfigurationError(f"{model.name} has no convolution, so there are no filters to show")
    if name is None:
        return next(iter(found.values()))
    if name not in found:
        raise ConfigurationError(f"{model.name} has no convolution called {name!r}; it has {', '.join(found)}")
    return found[name]


@dataclass(frozen=True)
class Step:
    """One layer's `values` for one image, (C, *spatial), with its `name`, '' for the image itself, and `kind`."""

    name: str
    kind: str
    values: np.ndarray


def steps(model: Model, image: np.ndarray, backend: Backend | None = None) -> tuple[list[Step], np.ndarray]:
    """(what each layer makes of `image` (C, H, W), the softmax of the last values), in inference mode.

    The layers of a Sequential come one by one, those inside a Residual together; Flatten, which changes no value, is
    left out. `backend` None is the one the model is on, or the fastest.
    """
    backend = backend or model.backend or get_backend()
    images = check_images(np.asarray(image)[None], model.input_shape, backend.dtype)
    model.place(backend)
    model.mode.training = False
    found = [Step("", "image", images[0])]
    x = backend.pack(images)
    for layer in _leaves(model.layer):
        x, _ = layer(x)
        if not isinstance(layer, Flatten):
            found.append(Step(layer.name, _kind(layer), backend.unpack(x)[0]))
    return found, backend.unpack(backend.softmax(x))[0]


def _leaves(layer: Layer):
    if type(layer) is Sequential:
        for child in layer.layers:
            yield from _leaves(child)
    else:
        yield layer


def _kind(layer: Layer) -> str:
    activation = getattr(layer, "activation", None)
    kind = type(layer).__name__
    return f"{kind} + {'ReLU' if activation == 'relu' else activation}" if activation else kind
