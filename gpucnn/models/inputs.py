"""Checking a model's images."""

import math
from collections.abc import Iterable

import numpy as np

from gpucnn.arguments import array, converted, refuse
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError, DTypeError, ShapeError


def check_images(images, input_shape: tuple[int, ...], dtype=np.float32, *, finite: bool = True) -> np.ndarray | Mapped:
    """`images` as a C-contiguous (N, *input_shape) array of `dtype`, if they fit and are finite; Mapped ones
    unchanged. With `finite` False the caller looks for NaNs and infinities.

    Any type whose values `dtype` can all represent exactly is accepted: for float32 also float16 and 16-bit integers.
    Raises DTypeError for another type, ShapeError for another shape or no image, DataError for a NaN or infinity.
    """
    fits = type(images) is np.ndarray and images.dtype == dtype and images.shape[1:] == input_shape and len(images)
    if fits and not finite and images.flags.c_contiguous:
        return images  # at once: small networks predict an image in ten microseconds
    given = images
    images = images if isinstance(images, Mapped) else array("images", images)
    if images.dtype.kind not in "fiu" or not np.can_cast(images.dtype, dtype, "safe"):
        if images.dtype.kind in "OSUV":
            hint = ""
            if images.dtype == object and images.ndim:
                hint = ", such as numpy.stack(images) makes of a column of arrays"
            elif images.dtype == object and isinstance(given, Iterable):
                hint = "; batches are for Trainer.fit_batches"
            raise refuse("images", given, f"a NumPy array of numpy.{np.dtype(dtype)}{hint}", DTypeError)
        if isinstance(images, Mapped):  # which may be larger than the memory
            raise DTypeError(f"images are {images.dtype}; those that stay in a file must be {np.dtype(dtype)} in it")
        raise DTypeError(f"images are {images.dtype}; convert them: {converted('images', given, dtype)}")
    if images.ndim != len(input_shape) + 1 or images.shape[1:] != tuple(input_shape):
        expected = ", ".join(map(str, input_shape))
        raise ShapeError(
            f"images have shape {images.shape}; this model takes (N, {expected}){_hint(images, input_shape, given)}"
        )
    if len(images) == 0:
        raise ShapeError("there are no images; give at least one")
    if isinstance(images, Mapped):
        _refuse_not_finite(images.survey(dtype)[1])
        return images
    images = np.ascontiguousarray(images, dtype)
    if not finite:
        return images
    for start in range(0, len(images), 4096):  # in parts: a mask of everything would cost a quarter of the data again
        good = np.isfinite(images[start : start + 4096])
        if not good.all():
            _refuse_not_finite(start + int(np.argmin(good.reshape(len(good), -1).all(axis=1))))
    return images


def _hint(images, input_shape: tuple[int, ...], given) -> str:
    """What was probably meant, for arrays that hold the same values in another layout; `given` as arrays or tensors."""
    name, shape, need = "images", tuple(images.shape), tuple(input_shape)
    if shape == need:
        return f": a single image is {name}[None]"
    if len(need) > 1 and shape[1:] == (*need[1:], need[0]):
        axes = ", ".join(map(str, (0, len(need), *range(1, len(need)))))
        turn = "permute" if hasattr(given, "permute") else "transpose"
        return f": the channels are last; {name}.{turn}({axes}) brings them to the front"
    if need[0] == 1 and shape[1:] == need[1:]:
        return f": the axis of the channel is missing; {name}[:, None] adds it"
    if len(shape) > 1 and math.prod(shape[1:]) == math.prod(need) and 1 in (len(shape) - 1, len(need)):
        return f": {name}.reshape(-1, {', '.join(map(str, need))}) has that shape"
    if len(shape) == len(need) + 1 and shape[1] == need[0]:
        sizes = ", ".join(map(str, shape[1:]))
        return (
            f": resize or crop them; where no weight depends on the size, gpucnn.models.at_size(model, ({sizes})) fits"
        )
    return ""


def _refuse_not_finite(image: int | None) -> None:
    if image is not None:
        raise DataError(f"image {image} holds a NaN or an infinity; clean the data first")
