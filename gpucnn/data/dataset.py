"""Images with their labels, checked once where they enter."""

from dataclasses import dataclass

import numpy as np

from gpucnn.arguments import array, sequence, text, unique
from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError

_SOME = 0.05  # of the images


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """`images` (N, C, H, W) float32, `labels` (N,) or (N, H, W) int64, each an index into `classes`; `name` for
    messages.

    Images that are mapped (gpucnn.data.Mapped) stay on the disk.

    Raises DataError if the arrays do not fit together, a value is NaN or infinite, or a label has no class.
    """

    images: np.ndarray | Mapped
    labels: np.ndarray
    classes: list[str]
    name: str

    def __post_init__(self):
        text("name", self.name)
        object.__setattr__(self, "classes", sequence("classes", self.classes, "the names of the classes", DataError))
        unique(f"{self.name}: classes", self.classes, DataError)
        mapped = isinstance(self.images, Mapped)
        images, labels = self.images if mapped else array("images", self.images), array("labels", self.labels)
        if images.ndim != 4 or 0 in images.shape:
            raise DataError(f"{self.name}: images have shape {images.shape}; expected (N, C, H, W), none of them 0")
        if images.dtype != np.float32:
            raise DataError(f"{self.name}: images are {images.dtype}; expected float32")
        if labels.shape not in (images.shape[:1], images.shape[:1] + images.shape[2:]):
            raise DataError(
                f"{self.name}: {len(images)} images, but labels of shape {labels.shape}; expected one label an image, "
                "or one a pixel"
            )
        if labels.dtype.kind not in "iu":
            raise DataError(f"{self.name}: labels are {labels.dtype}; expected integers, each the number of a class")
        if isinstance(images, Mapped):
            if (first := images.first_not_finite()) is not None:
                raise DataError(f"{self.name}: image {first} holds NaN or infinity; remove or repair it")
        elif (bad := np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))).size:
            raise DataError(
                f"{self.name}: {bad.size} of {len(images)} images hold NaN, infinity or values beyond float32, "
                f"the first is image {bad[0]}; remove or repair them"
            )
        wrong = np.argwhere((labels < 0) | (labels >= len(self.classes)))
        if wrong.size:
            raise DataError(
                f"{self.name}: the label of image {wrong[0][0]} is {labels[tuple(wrong[0])]}; with {len(self.classes)} "
                f"classes labels run from 0 to {len(self.classes) - 1}"
            )
        if not isinstance(images, Mapped):
            images = np.ascontiguousarray(images)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int64))

    def __repr__(self) -> str:
        """One line, as a notebook shows what its cell ends with."""
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"<Dataset {self.name}: {len(self.images):,} images of {shape}, {len(self.classes)} classes>"


def require_every_class(dataset: Dataset) -> None:
    """Raise DataError naming the classes of which a training set has no image: they could not be learned; also where
    there is one class only, as a table's has that begins with a pixel, not with the label.
    """
    if len(dataset.classes) == 1:
        raise DataError(f"{dataset.name}: each image is of class {dataset.classes[0]}; at least 2 classes are needed")
    if missing := without_images(dataset):
        largest, maps = int(dataset.labels.max()), ""
        if dataset.labels.ndim > 1 and len(np.unique(dataset.labels)) <= largest:
            maps = (
                f"; numpy.unique(labels, return_inverse=True)[1] numbers those that occur. If {largest} are pixels "
                f"that do not count, give a Trainer the arrays and loss=SoftmaxCrossEntropy(ignore_index={largest})"
            )
        raise DataError(
            f"{dataset.name}: no image of class {missing}; labels must run from 0 to the number of classes less one, "
            f"with at least one training image each{maps}"
        )


def without_images(dataset: Dataset) -> str:
    """The names of the classes that have no image, the first of them; "" where each has one."""
    counts = np.bincount(dataset.labels.reshape(-1), minlength=len(dataset.classes))
    return some([name for name, count in zip(dataset.classes, counts, strict=True) if count == 0])


def some(names: list[str]) -> str:
    """Names for a sentence, the first of them."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def shown_before(train: np.ndarray | Mapped, images: np.ndarray | Mapped, what: str) -> str | None:
    """Where many `images`, to measure by, are training images too, to the bit. Some are in sets that many use."""
    if isinstance(train, Mapped) or isinstance(images, Mapped):  # to read all from the disk takes long
        return None
    known = {hash(image.tobytes()) for image in train}
    count = sum(hash(image.tobytes()) in known for image in images)
    if count <= _SOME * len(images):
        return None
    return (
        f"{count:,} of the {len(images):,} {what} images are training images too, so they say too little about new ones"
    )


def every_fifth(
    images: np.ndarray | Mapped, labels: np.ndarray, classes: list[str], name: str
) -> tuple[Dataset, Dataset]:
    """(train, test): image i is a test image where i % 5 == 4, for sets that bring no test images of their own. Where
    that would leave a class without training images, as labels that repeat 0 to 9 do, images are counted class by
    class, without those that are the only one of theirs.
    """
    if len(labels) != len(images):
        raise DataError(f"{name}: {len(images)} images, but {len(labels)} labels; expected one label an image")
    if not isinstance(images, Mapped):  # of those the parts are looked at, so that they are read once
        whole = Dataset(images, labels, classes, name)
        images, labels = whole.images, whole.labels
    test = np.arange(len(images)) % 5 == 4
    if labels.ndim == 1 and set(labels[test]) - set(labels[~test]):
        order, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
        test[:] = False
        test[order[counts[labels[order]] > 1][4::5]] = True
    if not test.any():
        raise DataError(
            f"{name}: {len(images)} images; at least 5 are needed, of classes with more than one image, of which every "
            "fifth is for testing"
        )
    pick = images.select if isinstance(images, Mapped) else images.__getitem__
    return (
        Dataset(pick(~test), labels[~test], classes, f"{name} (training part)"),
        Dataset(pick(test), labels[test], classes, f"{name} (test part)"),
    )
