"""What metrics see of the steps: outputs and targets of each batch, on the host."""

import copy
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError
from gpucnn.losses import Loss
from gpucnn.metrics import Metric
from gpucnn.parallel import Division, Processes
from gpucnn.training.recording import RecordedStep


class Measuring:
    """`metrics` over the batches of one kind of steps. A step calls `keep`, whoever runs it `run`."""

    def __init__(self, loss: Loss, metrics: list[Metric], processes: Processes):
        self._loss, self._metrics = loss, [*map(_copy, metrics)]  # training and validation count apart
        self._processes = processes
        self._newest: dict[int, list[tuple[Batch, Any]]] = {}
        self.reset()

    def reset(self) -> None:
        for metric in self._metrics:
            metric.reset()

    def keep(self, count: int, outputs: Batch, targets: Any) -> None:
        """The step on `count` images that is running now, or its next piece, has these outputs and targets."""
        if self._metrics:
            self._newest.setdefault(count, []).append((outputs, targets))

    def forget(self, count: int) -> None:
        """Drop what the last step on so many images gave: to record it, its memory must be free again."""
        self._newest.pop(count, None)

    def run(self, steps: RecordedStep, count: int, division: Division) -> None:
        """One step, and what it gave; in several processes, what all of them gave."""
        before, recording = self._newest.get(count), steps.recording(count)
        steps.step(count)
        if not self._metrics:
            return
        if before is not None and recording is not None and steps.recording(count) is recording:
            self._newest[count] = before  # the proof ran the step once more, but repetitions write to the recording's
        pieces = [
            (self._loss.predict(outputs).numpy(), self._loss.truth(targets, outputs))
            for outputs, targets in self._newest[count]
        ]
        if self._processes.size > 1:
            everyone = self._processes.everyone(pieces)[: division.nodes(count)]
            pieces = [piece for part in everyone for piece in part]
        predictions, truth = (np.concatenate(parts) for parts in zip(*pieces))
        predictions.flags.writeable = truth.flags.writeable = False  # all metrics see the same arrays
        for metric in self._metrics:
            metric.update(predictions, truth)

    def results(self, *, running: bool = False) -> dict[str, Any]:
        """By name; with `running` only those that are cheap."""
        return {metric.name: metric.result() for metric in self._metrics if metric.running or not running}


def _copy(metric: Metric) -> Metric:
    try:
        return copy.deepcopy(metric)
    except Exception as error:
        raise ConfigurationError(
            f"the metric {metric.name} cannot be copied ({error}); it is, to count training and validation apart: "
            "keep outside it what cannot be"
        ) from error
