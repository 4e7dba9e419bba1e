"""Labels and values that a model is trained towards: checked, and as the losses store them."""

import numpy as np

from gpucnn import arguments
from gpucnn.errors import DataError, DTypeError, ShapeError

# What a refusal advises for labels that are classes of other numbers.
_NUMBERED = "numpy.unique(labels, return_inverse=True)[1]"


def check_labels(labels, images: int, classes: int) -> np.ndarray:
    """`labels` as int32 (N,), if they are one integer in [0, classes) for each image.

    Raises DTypeError unless they are integers, ShapeError for the wrong number, DataError for one out of range.
    """
    given, labels = labels, _one_each("labels", labels)
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and np.array_equal(labels, np.round(labels)))
    if labels.ndim == 2 and len(labels) == images and whole:
        hint = "numpy.ravel(labels)" if labels.shape[1] == 1 else "of one-hot rows numpy.argmax(labels, axis=1)"
        raise ShapeError(f"labels have shape {labels.shape}; {images} images need shape ({images},): {hint} has it")
    if labels.dtype.kind == "f" and not whole:
        raise DTypeError(
            f"labels are {labels.dtype} of shape {labels.shape}, not all whole numbers; give the number of a class for "
            'each image. For values make a regressor, with outputs= or head="regressor"; for probabilities write a '
            "loss (docs/your-own.md)"
        )
    if labels.dtype.kind not in "iu":
        instead = arguments.numbered("labels", given, labels.dtype)
        raise DTypeError(f"labels are {labels.dtype}; give integers, such as {instead}")
    if labels.shape != (images,):
        raise ShapeError(f"labels have shape {labels.shape}; {images} images need shape ({images},)")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        label = labels[wrong[0]]
        instead = f"; SoftmaxCrossEntropy(ignore_index={label}) ignores such labels" if label < 0 else ""
        if (labels.min(), labels.max()) == (1, classes):
            instead = "; these count from 1: give labels - 1"
        elif label >= 0 and len(np.unique(labels)) == classes:
            instead = f"; {_NUMBERED} numbers the {classes} values that occur"
        if classes == 1:
            instead = (
                "; give it an output for each class, or one, as a regressor, with BinaryCrossEntropy: the softmax of a "
                "single one is always 1"
            )
        instead = _two_greys(labels) or instead
        raise DataError(
            f"label {label} of image {wrong[0]} is out of range: a model of {classes} classes takes 0 to {classes - 1}"
            f"{instead}"
        )
    return labels.astype(np.int32)


def check_label_maps(labels, images: int, output_shape: tuple[int, ...], ignore_index: int | None) -> np.ndarray:
    """`labels` (N, *spatial) as float32 (N, 1, *spatial): class + 1, or 0 where they are `ignore_index`.

    `output_shape` is the model's, (classes, *spatial). So stored, labels move as images do, and what moves in from
    outside is ignored. Raises what check_labels does.
    """
    given, labels, (classes, *spatial) = labels, _one_each("labels", labels), output_shape
    if labels.dtype.kind not in "iu":
        instead = arguments.numbered("labels", given, labels.dtype)
        raise DTypeError(f"labels are {labels.dtype}; give integers, such as {instead}")
    if labels.shape != (images, *spatial):
        sizes = ", ".join(map(str, (images, *spatial)))
        shorter = _without_axis(labels, (images, *spatial))
        if spatial and labels.ndim == 1:
            shorter = "; for one label an image end the model with Flatten() and Dense(classes)"
        raise ShapeError(
            f"labels have shape {labels.shape}; the model's output is {tuple(output_shape)} per image, which takes a "
            f"class for each position, ({sizes}{',' * (not spatial)}){shorter}"
        )
    ignored = labels == ignore_index if ignore_index is not None else np.zeros(labels.shape, bool)
    wrong = np.argwhere(((labels < 0) | (labels >= classes)) & ~ignored)
    if len(wrong):
        image, *position = wrong[0].tolist()
        where, label = f" at {tuple(position)}" if position else "", labels[tuple(wrong[0])]
        raise DataError(
            f"label {label} of image {image}{where} is out of range: a model of {classes} classes takes 0 to "
            f"{classes - 1}{_two_greys(labels) or _numbering(labels, ignored, label, classes, ignore_index)}"
        )
    return np.where(ignored, 0, labels.astype(np.float32) + 1).astype(np.float32)[:, None]


def _one_each(name: str, given) -> np.ndarray:
    """What was given as an array of some axes, which neither a generator nor a set makes."""
    found = arguments.array(name, given)
    if found.ndim == 0:
        raise arguments.refuse(name, given, "an array or a list with an entry for each image", DTypeError)
    return found


def _without_axis(labels: np.ndarray, need: tuple[int, ...]) -> str:
    """What to do with maps that have an axis of channels beside those of `need`; "" for others."""
    for axis, shape in ((1, (*labels.shape[:1], *labels.shape[2:])), (-1, labels.shape[:-1])):
        if shape == need:
            if labels.shape[axis] == 1:
                return f": numpy.squeeze(labels, {axis}) has it"
            if (labels >= 0).all() and (labels.sum(axis=axis) == 1).all():
                return f": of one-hot values numpy.argmax(labels, {axis}) has it"
    return ""


def _numbering(labels: np.ndarray, ignored: np.ndarray, label: int, classes: int, ignore_index: int | None) -> str:
    """What to do with maps that hold `label`: one may be no class, or all may be classes of other numbers."""
    found = np.unique(labels[~ignored])
    if (found[0], found[-1]) == (1, classes):
        moved = f", and ignore_index={ignore_index - 1}" if ignore_index is not None and ignored.any() else ""
        return f"; these count from 1: give labels - 1{moved}"
    if ignore_index is not None:
        return f"; {ignore_index} alone is ignored: give such a position {ignore_index} or the number of a class"
    ignoring = f"ignore_index={label} ignores such labels"
    if label < 0 or len(found) != classes:
        return f"; {ignoring}"
    return f"; if the {classes} values that occur are the classes, {_NUMBERED} numbers them, and if not, {ignoring}"


def _two_greys(labels: np.ndarray) -> str:
    """What to do with labels that are black and white, as image files have masks; "" for others. To ignore 255 would
    leave one class.
    """
    found = labels.max() == 255 and ((labels == 0) | (labels == 255)).all()
    return "; 0 and 255 stand for two classes: give labels // 255" if found else ""


def check_classes(labels, images: int, output_shape: tuple[int, ...], ignore_index: int | None = None) -> np.ndarray:
    """The labels of a model whose outputs are `output_shape` an image, by check_labels or check_label_maps."""
    if len(output_shape) > 1 or ignore_index is not None:
        return check_label_maps(labels, images, output_shape, ignore_index)
    shape = _one_each("labels", labels).shape
    if len(shape) > 2:
        raise ShapeError(
            f"labels have shape {shape}, but the model gives one class an image, ({images},); for a "
            "class a pixel take a network that ends with maps, such as gpucnn.models.unet_small"
        )
    return check_labels(labels, images, output_shape[0])


def check_values(values, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The targets, contiguous, if they are `dtype` of `shape` (N, outputs) and finite.

    Raises DTypeError, ShapeError or DataError, as check_labels does.
    """
    given, values = values, _one_each("targets", values)
    if values.dtype != dtype:
        raise DTypeError(f"targets are {values.dtype}; convert them: {arguments.converted('targets', given, dtype)}")
    if values.shape != shape:
        raise ShapeError(f"targets have shape {values.shape}; these images and this model need {shape}")
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        raise DataError(f"the targets of image {wrong[0][0]} hold {values[tuple(wrong[0])]}; all must be finite")
    return np.ascontiguousarray(values)
