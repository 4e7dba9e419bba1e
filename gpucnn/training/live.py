"""Parts of a step that are array code of the user's: a recording, which repeats kernels only, calls them anew.

They may keep what they are given, so that is a copy. What they return is copied to where the recording looks for it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Array
from gpucnn.layers.own import check_batch, copied
from gpucnn.losses import Loss, checked
from gpucnn.models.model import Model
from gpucnn.optimizers import Optimizer
from gpucnn.recordable import Recordable, is_recordable


class OwnAugmentation(Recordable):
    """`augment(images, rng)` of the user's. `number` is the step's."""

    live = ("__call__",)
    number = 0

    def __init__(self, augment: Callable, seed: int):
        self._augment, self._seed = augment, seed

    def __call__(self, images: Batch) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, self.number], np.uint64)))
        changed = self._augment(images, rng)
        check_batch("augment", "", changed, images.shape[1:], images.images)
        return changed


def loss_of(loss: Loss, outputs: Batch, targets: Any, *totals: Array) -> tuple[Array, Batch]:
    """The loss (1,) and its gradient, which no later call changes. Raises what `checked` does."""
    if is_recordable(loss):
        return checked(loss, loss(outputs, targets, *totals), outputs)
    if not outputs.backend.is_recording:
        value, gradient = checked(loss, loss(outputs, targets, *totals), outputs)
        return value, gradient.like(gradient.data.copy())
    _ = outputs.data  # stored before, if it was not
    kept: list[Any] = []

    def run() -> None:
        given, wanted = copied(outputs), _copy(targets)
        value, gradient = checked(loss, loss(given, wanted, *totals), given)
        outputs.data[...] = given.data
        _data(targets)[...] = _data(wanted)
        if kept:
            kept[0][...], kept[1].data[...] = value, gradient.data
        else:
            kept[:] = outputs.backend.array(value), copied(gradient)

    outputs.backend.between(run)
    return kept[0], kept[1]


def augmented(augmentation: OwnAugmentation, images: Batch) -> Batch:
    if not images.backend.is_recording:
        return augmentation(images)
    kept: list[Batch] = []

    def run() -> None:
        changed = augmentation(copied(images))
        if kept:
            kept[0].data[...] = changed.data
        else:
            kept[:] = [copied(changed)]

    images.backend.between(run)
    return kept[0]


def update(optimizer: Optimizer, model: Model) -> None:
    """A step of the optimizer."""

    def run() -> None:
        optimizer.step(model.values, model.grads)

    if is_recordable(optimizer) or not model.backend.is_recording:
        run()
    else:
        model.backend.between(run)


def _copy(targets: Any) -> Any:
    return copied(targets) if isinstance(targets, Batch) else targets.copy()


def _data(targets: Any) -> Array:
    return targets.data if isinstance(targets, Batch) else targets
