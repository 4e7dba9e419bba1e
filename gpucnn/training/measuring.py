"""What metrics see of the steps: outputs and targets of each batch, on the host."""

import copy
from typing import Any

from gpucnn.backends.batch import Batch
from gpucnn.losses import Loss
from gpucnn.metrics import Metric
from gpucnn.training.recording import RecordedStep


class Measuring:
    """`metrics` over the batches of one kind of steps. A step calls `keep`, whoever runs it `run`."""

    def __init__(self, loss: Loss, metrics: list[Metric]):
        self._loss, self._metrics = loss, copy.deepcopy(metrics)  # training and validation count apart
        self._newest: dict[int, tuple[Batch, Any]] = {}
        self.reset()

    def reset(self) -> None:
        for metric in self._metrics:
            metric.reset()

    def keep(self, count: int, outputs: Batch, targets: Any) -> None:
        """The step on so many images that is running now has these outputs and targets."""
        if self._metrics:
            self._newest[count] = outputs, targets

    def run(self, steps: RecordedStep, count: int) -> None:
        """One step, and what it gave."""
        before = self._newest.get(count)
        steps.step(count)
        if not self._metrics:
            return
        if before is not None and steps.repeats(count):
            self._newest[count] = before  # the proof ran the step once more, but repetitions write to the recording's
        outputs, targets = self._newest[count]
        predictions, truth = self._loss.predict(outputs).numpy(), self._loss.truth(targets, outputs)
        for metric in self._metrics:
            metric.update(predictions, truth)

    def results(self, *, running: bool = False) -> dict[str, Any]:
        """By name; with `running` only those that are cheap."""
        return {metric.name: metric.result() for metric in self._metrics if metric.running or not running}
