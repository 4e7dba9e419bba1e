"""NumPy's `.npz` archives; nothing is unpickled."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from gpucnn.data.dataset import Dataset, every_fifth
from gpucnn.errors import DataError

_SPLIT, _WHOLE = ("x_train", "y_train", "x_test", "y_test"), ("images", "labels")


def load(file: Path) -> tuple[Dataset, Dataset]:
    """(train, test) from the arrays x_train, y_train, x_test, y_test; or images, labels with every fifth for testing.

    Images (N, H, W) or (N, C, H, W): bytes become value / 255, floats are taken as they are, in float32. Labels (N,)
    integers. An optional `classes` array of strings names the classes. Raises DataError.
    """
    arrays = _read(file)
    keys = _SPLIT if all(key in arrays for key in _SPLIT) else _WHOLE
    if not all(key in arrays for key in keys):
        raise DataError(
            f"{file}: holds {', '.join(sorted(arrays)) or 'nothing'}; "
            f"expected {', '.join(_SPLIT)}, or {', '.join(_WHOLE)}"
        )
    images = [_images(arrays[key], f"{file}: {key}") for key in keys[::2]]
    labels = [_labels(arrays[key], f"{file}: {key}") for key in keys[1::2]]
    if "classes" in arrays:
        classes = [str(name) for name in arrays["classes"].ravel()]
    else:
        classes = [str(label) for label in range(int(labels[0].max(initial=0)) + 1)]
    if len(images) == 1:
        return every_fifth(images[0], labels[0], classes, str(file))
    return tuple(
        Dataset(x, y, classes, f"{file} ({part})")
        for x, y, part in zip(images, labels, ("training part", "test part"), strict=True)
    )


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{file}: not a whole .npz archive but a single .npy array")
        with archive:
            wanted = (*_SPLIT, *_WHOLE, "classes")
            return {key: archive[key] if key in wanted else np.empty(0) for key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: not a whole .npz archive of plain arrays ({_first_line(error)})") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def _images(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        array = array / np.float32(255)
    elif array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which Dataset refuses
            array = array.astype(np.float32)
    else:
        raise DataError(f"{name} is {array.dtype}; expected uint8 (0 to 255) or floats")
    if array.ndim == 3:
        array = array[:, None]  # (N, H, W) -> (N, 1, H, W)
    if array.ndim != 4:
        raise DataError(f"{name} has shape {array.shape}; expected (N, H, W) or (N, C, H, W)")
    if array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        raise DataError(
            f"{name} has shape {array.shape}, which looks like (N, H, W, C); expected (N, C, H, W): "
            "save it again after images.transpose(0, 3, 1, 2)"
        )
    return array


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name} is {array.dtype} of shape {array.shape}; expected integers of shape (N,)")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 1_000_000:
        raise DataError(f"{name} runs from {array.min()} to {array.max()}; labels count classes from 0")
    return array.astype(np.int64)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
