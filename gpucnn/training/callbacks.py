"""User code that runs during training: `Trainer(model, callbacks=[...])`."""

from typing import Any


class Callback:
    """Base of all callbacks; each method does nothing unless overridden.

    They get the trainer, with its `model`, `optimizer`, `loss` and `schedule`; changes to these take effect in the next
    step. `trainer.stop_training()` ends training after the current epoch.
    """

    def on_train_begin(self, trainer: Any) -> None:
        """Before the first step of a `fit`."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Before epoch `epoch`, counted from 1."""

    def on_epoch_end(self, trainer: Any, record: dict) -> None:
        """After an epoch, its validation included, before the run folder is written; `record` is its entry in the
        history (gpucnn.training.history), to which numbers may be added."""

    def on_train_end(self, trainer: Any, history: Any) -> None:
        """After the last epoch; not after an error or an interruption."""
