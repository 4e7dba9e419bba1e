"""What people see while training runs; always on stderr.

Anything with the methods of `Quiet` can take its place: `Trainer(..., progress=...)`.
"""

import contextlib
import sys
from typing import Any

from gpucnn import terminal
from gpucnn.arguments import refuse

_VALIDATION = "validation_"
_SHOWN = ("loss", "accuracy", "learning_rate", "seconds", "images_per_second", "validation_loss", "validation_accuracy")


class Quiet:
    """Says nothing. The trainer calls `update` every `interval` seconds at most, since it makes the device wait."""

    interval = float("inf")

    def begin(self, title: str, epochs: int, images: int, done: int) -> None:
        """Training starts: `epochs` in all, `done` of them before, of so many images each. `title`: what and where."""

    def compiling(self, left: int) -> None:
        """Training waits for kernels to be compiled; so many are left."""

    def update(self, epoch: int, images: int, measured: dict) -> None:
        """Epoch `epoch` (from 1) has seen so many images; `measured`: loss, accuracy, metrics, images_per_second."""

    def end_epoch(self, record: dict) -> None:
        """An epoch is over; `record` is its entry in the history."""

    def say(self, text: str) -> None:
        """A sentence that the user should see, such as why training stopped early."""

    def close(self) -> None:
        """Training is over, by whatever cause."""


class Lines(Quiet):
    """A line an epoch, and one every 15 seconds within long epochs: for files and pipes."""

    interval = 15.0

    def begin(self, title: str, epochs: int, images: int, done: int) -> None:
        self._epochs, self._images = epochs, images
        self._print(title)

    def update(self, epoch: int, images: int, measured: dict) -> None:
        left = (self._epochs - epoch + 1) * self._images - images
        self._print(
            f"epoch {epoch}/{self._epochs}  {images / self._images:.0%}  {_describe(measured)}  "
            f"{_clock(left / measured['images_per_second'])} left"
        )

    def end_epoch(self, record: dict) -> None:
        # From this epoch's speed, which leaves out the steps that compiled kernels.
        left = (self._epochs - record["epoch"]) * self._images / record["images_per_second"]
        self._print(f"epoch {record['epoch']}/{self._epochs}  {_describe(record)}  {_clock(left)} left")

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # nobody is there to be told; training goes on
                print(text, file=sys.stderr, flush=True)


class Bar(Quiet):
    """A bar over all epochs with a line for each epoch above it: for terminals."""

    interval = 0.1
    _progress: Any = None  # while training runs

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, which draws a bar of its own."""
        return {name: value for name, value in vars(self).items() if name != "_progress"}

    def begin(self, title: str, epochs: int, images: int, done: int) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._epochs, self._images = epochs, images
        console = terminal.console(highlight=False)
        console.print(title, markup=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[measured]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(
            f"epoch {done + 1}/{epochs}", total=epochs * images, completed=done * images, measured=""
        )
        self._progress.start()

    def compiling(self, left: int) -> None:
        self._progress.update(self._task, measured=f"{left} kernels to compile" if left else "")

    def update(self, epoch: int, images: int, measured: dict) -> None:
        self._progress.update(
            self._task,
            completed=(epoch - 1) * self._images + images,
            measured=_describe(measured),
            description=f"epoch {epoch}/{self._epochs}",
        )

    def end_epoch(self, record: dict) -> None:
        # All that fits beside a bar.
        training = {key: value for key, value in record.items() if not key.startswith("validation_")}
        self.update(record["epoch"], self._images, training)
        self._progress.console.print(f"epoch {record['epoch']}/{self._epochs}  {_describe(record)}", markup=False)

    def say(self, text: str) -> None:
        console = self._progress.console if self._progress else terminal.console(highlight=False)
        console.print(text, markup=False)

    def close(self) -> None:
        if self._progress:  # else an error came before the bar
            self._progress.stop()
        self._progress = None


def default_progress() -> Quiet:
    """A bar where stderr is a terminal, lines where it is not."""
    return Bar() if terminal.is_watched() else Lines()


def _describe(measured: dict) -> str:
    parts = [f"loss {measured['loss']:.4f}"]
    if measured.get("accuracy") is not None:
        parts.append(f"accuracy {measured['accuracy']:.2%}")
    more = {key: value for key, value in measured.items() if isinstance(value, float) and key not in _SHOWN}
    parts += [f"{key} {value:.4f}" for key, value in more.items() if not key.startswith(_VALIDATION)]
    if measured.get("validation_loss") is not None:
        parts.append(f"validation {measured['validation_loss']:.4f}")
        if measured.get("validation_accuracy") is not None:
            parts[-1] += f", {measured['validation_accuracy']:.2%}"
        for key, value in more.items():
            if key.startswith(_VALIDATION):
                parts[-1] += f", {key.removeprefix(_VALIDATION)} {value:.4f}"
    return "  ".join([*parts, f"{measured['images_per_second']:,.0f} images/s"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def progress_of(progress: Any) -> Quiet:
    """The object that Trainer's argument stands for."""
    if progress is None or isinstance(progress, bool):
        return Quiet() if progress is False else default_progress()
    if isinstance(progress, type) or not all(hasattr(progress, name) for name in vars(Quiet) if name[0] != "_"):
        raise refuse("progress", progress, "an object with the methods of gpucnn.training.Quiet, or False")
    return progress
