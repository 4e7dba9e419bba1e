"""What training makes small."""

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.errors import DataError, DTypeError, ShapeError


def check_labels(labels, images: int, classes: int) -> np.ndarray:
    """`labels` as int32 (N,), if they are one integer in [0, classes) for each image.

    Raises DTypeError for what are not integers, ShapeError for another number of them, DataError for one out of range.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"labels are {labels.dtype}; give integers, such as labels.astype(numpy.int64)")
    if labels.shape != (images,):
        raise ShapeError(f"labels have shape {labels.shape}; {images} images need shape ({images},)")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"label {labels[wrong[0]]} of image {wrong[0]} is out of range: a model of {classes} classes takes "
            f"0 to {classes - 1}"
        )
    return labels.astype(np.int32)


def softmax_cross_entropy(logits: Batch, labels, totals=None):
    """(loss, dlogits): the mean over the images of -log(softmax(logits)[label]), and its gradient.

    logits is (N, classes); labels are integers (N,) on the host, or what `backend.pack_labels` or `load_labels` made of
    them, (block, lane), which nobody checks again. loss is a device array (1,). `totals`, float64 (2,) on the device,
    gains the sum of the losses and the number of images whose first largest logit is the label's.
    """
    if logits.spatial:
        raise ShapeError(f"softmax cross-entropy takes logits (N, classes), not {logits.shape}; end with a Dense layer")
    if np.ndim(labels) == 1:
        labels = logits.backend.pack_labels(check_labels(labels, logits.images, logits.channels))
    return logits.backend.softmax_cross_entropy(logits, labels, totals)
