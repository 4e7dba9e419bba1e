"""Whether layers and losses of one's own compute the same wherever a backend keeps images: one to a block, or 16."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.errors import BackendError, ConfigurationError
from gpucnn.layers.base import image_mask
from gpucnn.losses import Loss, checked
from gpucnn.models.model import Model
from gpucnn.recordable import is_recordable

_IMAGES = 19  # a block of 16 and one that is not full
_GARBAGE = np.float32(3)  # what lanes without an image hold is undefined
# Parts of the largest value of an array, and of all: sums in another order are far below, mixed-up images far above.
_TOLERANCE, _FLOOR = 1e-3, 1e-5

Results = dict[str, np.ndarray]


def of_model(model: Model, x: np.ndarray, dy: np.ndarray) -> str | None:
    """What numba computes otherwise than numpy, in words; None where it is nothing, or all layers use operations only.

    The images x and the gradients of the outputs dy are repeated until they fill more than a block. Raises
    ConfigurationError where the layers change these in place.
    """

    def results(backend: Backend) -> Results:
        there = Model(copy.deepcopy(model.layer), model.input_shape)
        there.load_state_dict({name: np.asarray(value, np.float32) for name, value in model.state_dict().items()})
        there.place(backend).mode.training = model.mode.training
        given, gradient = _in_lanes(backend, x), _in_lanes(backend, dy)
        kept = given.data.copy(), gradient.data.copy()
        y, step = there(given)
        result = y.numpy()
        dx = step(gradient)
        for what, batch, before in zip(("x", "dy"), (given, gradient), kept):
            if not np.array_equal(batch.data, before):
                raise ConfigurationError(
                    f"{what}.data is changed in place, and other layers need it; make a new array: {what}.like(...)"
                )
        found = {"the output": result} | ({} if dx is None else {"the input's gradient": dx.numpy()})
        return found | {f"the gradient of {part.name}": np.array(part.grad) for part in there.parameters}

    return _difference(results, [*model.layer.walk()])


def of_loss(loss: Loss, outputs: np.ndarray, targets: np.ndarray) -> str | None:
    """The same of a loss."""

    def results(backend: Backend) -> Results:
        there, x, wanted = copy.deepcopy(loss), _in_lanes(backend, outputs), _repeated(targets)
        there.place(backend, outputs.shape[1])
        packed = backend.pack_labels(wanted) if wanted.ndim == 1 else backend.pack(wanted.astype(np.float32))
        value, gradient = checked(there, there(x, packed), x)
        return {"the loss": np.array(value), "the gradient": gradient.numpy()}

    return _difference(results, [loss])


def _difference(results: Callable[[Backend], Results], parts: list[Any]) -> str | None:
    if all(map(is_recordable, parts)):
        return None
    try:
        backends = get_backend("numpy"), get_backend("numba")
    except BackendError:
        return None
    with np.errstate(all="ignore"):  # what lanes without an image hold, and values that overflow on both
        try:
            expected = results(backends[0])
        except ConfigurationError:
            raise
        except Exception:  # what takes so many images only, or was built once, cannot be tried
            return None
        found = results(backends[1])
        sizes = {name: float(np.abs(value).max()) for name, value in expected.items()}
        for name, value in expected.items():
            allowed = max(_TOLERANCE * sizes[name], _FLOOR * max(sizes.values()))
            same = (found[name] == value) | (np.isnan(found[name]) & np.isnan(value))
            if not np.where(same, 0, np.abs(found[name] - value)).max() <= allowed:
                return (
                    f"{name} is not what numpy gives: blocks, the first axis, hold up to 16 images there, in lanes, "
                    "the last axis; sums over images take both axes and image_mask, other operations neither"
                )
    return None


def _in_lanes(backend: Backend, values: np.ndarray) -> Batch:
    batch = backend.pack(_repeated(values).astype(np.float32))
    return batch.like(np.where(image_mask(batch), batch.data, _GARBAGE))


def _repeated(values: np.ndarray) -> np.ndarray:
    return np.resize(values, (_IMAGES, *values.shape[1:]))
