"""Why a network answers as it does: gradients with respect to the input, occlusion, Grad-CAM; and what a layer makes of
images.

All compute on a copy of the model in inference mode, on the model's backend, and in exact math give the same bits on
every backend. `of` is the number of an output: a class, or a regressor's value; None is each image's largest.
"""

import copy
from typing import Any

import numpy as np

from gpucnn.arguments import array, instance, integer, number
from gpucnn.backends import get_backend
from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import window
from gpucnn.layers.base import Layer
from gpucnn.models.inputs import check_images
from gpucnn.models.model import Model, a_model
from gpucnn.resampling import upsampling_taps

__all__ = ["embeddings", "grad_cam", "input_gradient", "occlusion", "saliency"]

_AT_ONCE = 64  # images


def input_gradient(model: Model, images, of: int | None = None) -> np.ndarray:
    """How much output `of`, before any softmax, grows with each value of `images` (N, *image_shape): (N, *input_shape).

    The values are those that the first layer sees: cropped and normalized, if the model does that.
    """
    images, of, copied = *_checked(model, images, of), _copy(model)
    return np.concatenate([_unpack(_gradient(copied, part, of)) for part in _parts(images)])


def saliency(model: Model, images, of: int | None = None) -> np.ndarray:
    """The largest absolute input gradient over the channels: (N, *spatial) (Simonyan, Vedaldi and Zisserman 2014)."""
    if len(a_model(model).input_shape) < 2:
        raise ShapeError(f"a saliency map needs images (C, *spatial); the model takes {model.input_shape}")
    return np.abs(input_gradient(model, images, of)).max(axis=1)


def occlusion(
    model: Model, image, of: int | None = None, *, side: int | None = None, stride: int | None = None, fill: float = 0.0
) -> np.ndarray:
    """By how much the probability of class `of` falls when a square of `image` (C, H, W) is blanked: (P, Q).

    Zeiler and Fergus 2014. Squares have `side` pixels a side (None: an eighth of the image) and are `stride` pixels
    apart (None: half a side); blanked pixels are `fill`. Of a regressor, how much the value falls.
    """
    image = array("image", image)
    if len(a_model(model).image_shape) != 3:
        raise ShapeError(f"occlusion needs images (C, H, W); the model takes {model.image_shape}")
    images, of = _checked(model, image[None], of)
    height, width = model.image_shape[1:]
    side, stride = squares(model, side, stride)
    fill = number("fill", fill)
    rows, columns = (range(0, size - side + 1, stride) for size in (height, width))
    blanked = np.repeat(images, len(rows) * len(columns) + 1, axis=0)
    places = [(row, column) for row in rows for column in columns]
    for one, (row, column) in zip(blanked, places):
        one[:, row : row + side, column : column + side] = fill
    outputs = model.predict(blanked)
    likeliest = int(outputs[-1].argmax()) if of is None else of  # the last one is whole
    return (outputs[-1, likeliest] - outputs[:-1, likeliest]).reshape(len(rows), len(columns))


def squares(model: Model, side: int | None, stride: int | None) -> tuple[int, int]:
    """The side and the stride of occlusion's squares, where they are None their defaults."""
    shorter = min(model.image_shape[1:])
    side = min(shorter, max(2, round(shorter / 8))) if side is None else integer("side", side, 1, shorter)
    return side, max(1, side // 2) if stride is None else integer("stride", stride)


def grad_cam(model: Model, images, of: int | None = None, *, layer: str | None = None) -> np.ndarray:
    """Where the maps of `layer` speak for output `of`: (N, *spatial), the size of the model's input, none below 0.

    Selvaraju et al. 2017: relu of the sum of the layer's maps, each weighted with the mean of its gradient, enlarged
    linearly. `layer` is a name, as `print(model)` lists them; None is the last one with maps of more than one pixel.
    """
    images, of = _checked(model, images, of)
    name = _last_maps(model) if layer is None else layer
    sizes = _named(model, name).output_shape[1:]
    if not sizes:
        raise ConfigurationError(f"layer {name} gives values without positions; choose one that gives maps")
    copied = _copy(model)
    kept, backend, found = _tap(copied, name), copied.backend, []
    one = window(sizes, (1,) * len(sizes))
    enlarged = upsampling_taps(sizes, None, model.input_shape[1:], "linear", False)
    for part in _parts(images):
        kept.clear()
        _gradient(copied, part, of)
        maps, slopes = kept[-1]
        weights = _unpack(backend.global_avg_pool(slopes))
        for y, w in zip(_unpack(maps), weights, strict=True):
            kernel = backend.array(w.reshape(1, -1, *[1] * len(sizes)))
            sums = backend.conv(backend.pack(y[None]), kernel, None, one, relu=True)
            found.append(_unpack(backend.resample(sums, enlarged))[0, 0])
    return np.stack(found)


def embeddings(model: Model, images, layer: str, *, batch_size: int = 256) -> np.ndarray:
    """What the layer called `layer` gives for `images` (N, *image_shape): (N, *its output_shape).

    Names are those of `print(model)`, and of layers inside others, "4.body.0". A layer that is used several times gives
    what it gave last.
    """
    images, _ = _checked(model, images, None, any_output=True)
    copied = _copy(model)
    kept = _tap(copied, layer)
    found = []
    for part in _parts(images, integer("batch_size", batch_size)):
        kept.clear()
        copied(part)
        found.append(_unpack(kept[-1][0]))
    return np.concatenate(found)


# ---- shared ----------------------------------------------------------------------------------------------------------


def _checked(model: Model, images, of: int | None, any_output: bool = False) -> tuple[np.ndarray, int | None]:
    """The images and `of`, checked; a model that is nowhere yet goes to the fastest backend."""
    if len(a_model(model).output_shape) != 1 and not any_output:
        raise ConfigurationError(f"the model's output is {model.output_shape} per image, not (classes,)")
    if of is not None:
        of = integer("of", of, 0, model.output_shape[0] - 1)
    if model.backend is None:
        model.place(get_backend())
    return np.asarray(check_images(images, model.image_shape, model.backend.dtype)), of


def _copy(model: Model) -> Model:
    """A copy in inference mode that computes the gradient of its input, and none of its weights."""
    copied = copy.deepcopy(model)
    copied.trainable = False
    copied.mode.training = False
    copied.layer.need_input_gradient(True)
    return copied


def _parts(images: np.ndarray, size: int = _AT_ONCE):
    return (images[start : start + size] for start in range(0, len(images), size))


def _gradient(model: Model, images: np.ndarray, of: int | None) -> Any:
    y, backward = model(images)
    chosen = _unpack(y).argmax(axis=1) if of is None else of
    dy = np.zeros(y.shape, model.backend.dtype)
    dy[np.arange(len(images)), chosen] = 1
    return backward(model.backend.pack(dy))


def _unpack(batch: Batch) -> np.ndarray:
    return batch.backend.unpack(batch)


def _named(model: Model, name: str) -> Layer:
    layers = {layer.name: layer for layer in model.layer.walk() if layer.name}
    if instance("layer", name, str, "its name, which is text") not in layers:
        raise ConfigurationError(f"{model.name} has no layer called {name!r}; it has {', '.join(layers)}")
    return layers[name]


def _last_maps(model: Model) -> str:
    """The last layer, not inside another, that gives maps of more than one pixel."""
    names = [leaf.name for leaf in model.layer.leaves() if np.prod(leaf.output_shape[1:]) > 1]
    if not names:
        raise ConfigurationError(f"no layer of {model.name} gives maps, so Grad-CAM has nothing to weight")
    return names[-1]


def _tap(model: Model, name: str) -> list:
    """A list that keeps [output, its gradient] of each use of a layer of this model, which is nobody else's."""
    layer, kept = _named(model, name), []
    kind: Any = type(layer)

    def call(self, x: Batch):
        y, backward = kind.__call__(self, x)
        entry = [y, None]
        kept.append(entry)

        def kept_backward(dy: Batch):
            entry[1] = dy
            return backward(dy)

        return y, kept_backward

    # A class of its own, so that no container takes the layer for one that it may fuse with the next.
    layer.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return kept
