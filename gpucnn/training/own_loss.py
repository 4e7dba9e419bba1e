"""What a loss of the user's own reports, beside what it returned."""

import math
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.losses import Loss


def misreport(loss: Loss, totals: np.ndarray, returned: Array, outputs: Batch, targets: Any) -> str | None:
    """A sentence where what `loss` added to `totals` in its only call says another loss, or another accuracy, than that
    call was about.
    """
    kind, value = type(loss).__name__, float(outputs.backend.host(returned)[0])
    measured = loss.measure(totals, outputs.images, math.prod(outputs.shape[1:]))
    if math.isfinite(value) and not math.isclose(measured["loss"], value, rel_tol=1e-3, abs_tol=1e-6):
        return (
            f"{kind} returned a loss of {value:.4g}, but by what it added to totals it is {measured['loss']:.4g}, and "
            "the history and the best epoch go by that: add the mean times images * outputs, or define "
            "measure(totals, images, outputs)"
        )
    if "accuracy" not in measured or loss.targets != "classes":
        return None
    classes = loss.truth(targets, outputs)
    hits = (outputs.numpy().argmax(axis=1) == classes)[classes >= 0]
    if hits.size and not math.isclose(measured["accuracy"], hits.mean()):
        return (
            f"{kind} reports an accuracy of {measured['accuracy']:.2%} where it is {hits.mean():.2%}: add the number "
            'of right labels to totals[1], or make it a Loss with targets = "classes" and metrics=["accuracy"]'
        )
    return None
