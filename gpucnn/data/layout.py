"""The arrays that `.npz` files and folders of `.npy` files hold, and what they must look like."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gpucnn.arguments import numbered
from gpucnn.errors import DataError

SPLIT, WHOLE = ("x_train", "y_train", "x_test", "y_test"), ("images", "labels")


def names_of(found: Iterable[str], source: Path, ending: str = "") -> tuple[str, ...]:
    """SPLIT or WHOLE, whichever is there; raises DataError otherwise."""
    found = list(found)
    keys = SPLIT if all(key in found for key in SPLIT) else WHOLE
    if not all(key in found for key in keys):
        shown, split, whole = (", ".join(f"{key}{ending}" for key in keys) for keys in (sorted(found), SPLIT, WHOLE))
        raise DataError(f"{source}: holds {shown or 'nothing'}; expected {split}, or {whole}")
    return keys


def layout(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """(N, C, H, W) of images of this shape; raises DataError if it is neither that nor (N, H, W)."""
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4:
        raise DataError(
            f"{name} has shape {shape}; expected (N, H, W) or (N, C, H, W); signals and volumes are trained from "
            "Python, with gpucnn.models.signal_small or volume_small"
        )
    if shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise DataError(
            f"{name} has shape {shape}, which looks like (N, H, W, C); expected (N, C, H, W): "
            "save it again after images.transpose(0, 3, 1, 2)"
        )
    return shape


def label_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Labels (N,) or, one a pixel, (N, H, W) as int64.

    Raises DataError if they are no integers that could count classes.
    """
    if array.ndim not in (1, 3) or array.dtype.kind not in "iu":
        instead = "" if array.dtype.kind in "biuf" else f", such as {numbered('labels', array, array.dtype)}"
        raise DataError(
            f"{name} is {array.dtype} of shape {array.shape}; expected integers of shape (N,) or (N, H, W){instead}"
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 1_000_000:
        raise DataError(f"{name} runs from {array.min()} to {array.max()}; labels count classes from 0")
    if array.size and array.max() == 255 and ((array == 0) | (array == 255)).all():
        raise DataError(f"{name} is 0 and 255 alone, as image files have masks; save labels // 255, for two classes")
    return array.astype(np.int64)


def class_names(array: np.ndarray | None, labels: np.ndarray) -> list[str]:
    """The names given, texts or their bytes in UTF-8, else "0" to the largest label."""
    if array is not None:
        array = np.char.decode(array, "utf-8", "backslashreplace") if array.dtype.kind == "S" else array
        return [str(name) for name in array.ravel()]
    return [str(label) for label in range(int(labels.max(initial=0)) + 1)]
