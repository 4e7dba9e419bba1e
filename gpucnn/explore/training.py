"""Training a network for the page, in a process of its own: python -m gpucnn.explore.training FOLDER

It is what `gpucnn train --shift 4 --validation 0.1` does, with `--resume` later too, and the page watches it like any
other run; beside it, in snapshots/, are the weights after each epoch.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from gpucnn.cli.settings import DEFAULTS, OPTIMIZERS, make_optimizer, make_schedule
from gpucnn.errors import ConfigurationError
from gpucnn.models import lenet5
from gpucnn.models.files import save
from gpucnn.storage import first_line
from gpucnn.training import Callback, Trainer

SNAPSHOTS = "snapshots"
EPOCHS = 30


class Snapshots(Callback):
    """Keeps the weights after each epoch in the run's folder."""

    def on_epoch_end(self, trainer: Any, record: dict) -> None:
        folder = Path(trainer.run) / SNAPSHOTS
        folder.mkdir(exist_ok=True)
        save(trainer.model, folder / f"{record['epoch']:04}.safetensors")


def train(folder: Path, epochs: int = EPOCHS) -> None:
    """LeNet-5 on the digits, each moved by up to 4 pixels at random, into the run folder."""
    from gpucnn.data import load

    settings: dict[str, Any] = {
        **DEFAULTS,
        **OPTIMIZERS[DEFAULTS["optimizer"]],
        "epochs": epochs,
        "shift": 4,
        "validation": 0.1,
    }
    digits, _ = load(settings["data"])
    model = lenet5(digits.images.shape[1:], len(digits.classes))
    model.class_names = digits.classes
    trainer = Trainer(
        model,
        optimizer=make_optimizer(settings),
        schedule=make_schedule(settings),
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        shift=settings["shift"],
        run=folder,
        threads=1,
        progress=False,
        about={"train": {**settings, "math": "exact"}},
        callbacks=[Snapshots()],
    )
    trainer.fit(digits.images, digits.labels, epochs, validation=settings["validation"])


class TrainingProcess:
    """At most one training process at a time."""

    def __init__(self):
        self.folder: Path | None = None
        self._process: subprocess.Popen | None = None

    def trains(self, folder: Path) -> bool | None:
        """Whether it is training in this folder now; None of a folder that is not its own."""
        return None if self._process is None or folder != self.folder else self._process.poll() is None

    def start(self, folder: Path) -> None:
        """Begin; raises ConfigurationError while another run is being trained, and where no process can be started."""
        if self.folder is not None and self.trains(self.folder):
            raise ConfigurationError("a network is being trained already; wait for it, or stop it")
        command = [sys.executable, "-m", "gpucnn.explore.training", str(folder)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise ConfigurationError(
                f"the system refuses to start a training ({first_line(error)}); end other programs first"
            ) from None
        self.folder = folder

    def stop(self) -> None:
        """End it; what it has written stays, and can be resumed."""
        process = self._process  # another one may begin as soon as it has ended
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait(10)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
