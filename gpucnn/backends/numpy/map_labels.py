"""Label maps as the two NumPy backends read them."""

import numpy as np

from gpucnn.backends.batch import Batch


def classes_of(labels: Batch, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From labels (N, 1, *spatial), class + 1 or 0: the classes (N, *spatial), -1 where ignored; whether each is a
    class; and whether it is class c, (N, classes, *spatial).
    """
    target = labels.data[:, 0, ..., 0].astype(np.int64) - 1
    numbers = np.arange(classes).reshape(-1, *(1,) * (target.ndim - 1))
    return target, target >= 0, target[:, None] == numbers
