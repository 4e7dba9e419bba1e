"""Training steps on batches that the caller chooses: what `Trainer.train_step` does."""

from typing import Any

import numpy as np

from gpucnn.training.steps import TrainingSteps


class OwnLoop:
    """Steps on batches of at most as many images as the first one had, written into the same device arrays."""

    def __init__(self, steps: TrainingSteps):
        self._steps, self._weights = steps, steps.model._weights

    def fits(self, images: np.ndarray, labels: np.ndarray) -> bool:
        """Whether this batch fits the arrays, and the model is still where the steps were made for."""
        data, model = self._steps.data, self._steps.model
        assert data.labels is not None, "training has labels"
        return (
            model._weights is self._weights
            and len(images) <= data.batch_size
            and images.shape[1:] == data.images.shape[1:]
            and labels.shape[1:] == data.labels.shape[1:]
        )

    def step(self, images: np.ndarray, labels: np.ndarray, step: int, factor: float) -> dict[str, float]:
        """Step number `step` (from 0); what was measured, and whether it was `good`: finite."""
        steps, data, model = self._steps, self._steps.data, self._steps.model
        both: Any = ((data.images, images), (data.labels, labels))
        for array, batch in both:
            host = np.zeros(array.shape, array.dtype)
            host[: len(batch)] = batch
            steps.backend.assign(array, host)
        model.layer.need_input_gradient(False)
        try:
            steps.start_epoch()
            rate = steps.run(np.arange(len(images)), step, factor)
            measured = steps.measure()
        finally:
            model.mode.training = False
            model.layer.need_input_gradient(True)
        del measured["images_per_second"]
        good = steps.bad_step() < 0
        if not good:
            steps.forget_bad_step()  # the caller may go on from weights of before
        return {"step": step + 1, **measured, "learning_rate": rate, "good": good}
