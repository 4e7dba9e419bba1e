"""User code that runs during training: `Trainer(model, callbacks=[...])`."""

from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction
from typing import Any

from gpucnn.arguments import signature
from gpucnn.errors import ConfigurationError

# A call of such a function runs none of its lines.
_LAZY = iscoroutinefunction, isgeneratorfunction, isasyncgenfunction


class Callback:
    """Base of all callbacks; each method does nothing unless overridden.

    They get the trainer. What they change of the settings of its optimizer, schedule, loss and layers, and which layers
    are frozen, takes effect in the next step; to assign an attribute of the trainer is refused while it trains. A
    resumed run has these changes too, as far as they are numbers or text.
    `trainer.stop_training()` ends training after the current epoch. A class with another method whose name begins with
    "on_" is refused: nothing would call it.
    """

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        moments = {name: signature(method) for name, method in vars(Callback).items() if name.startswith("on_")}
        for name, method in vars(cls).items():
            if name.startswith("on_") and name not in moments:
                raise ConfigurationError(
                    f"{cls.__name__} has a method {name}, which nothing calls; use one of {', '.join(moments)}"
                )
            if name in moments and any(is_lazy(method) for is_lazy in _LAZY):
                raise ConfigurationError(
                    f"{cls.__name__}'s {name} is a generator or async, whose lines no call runs; write a plain function"
                )
            if name in moments and isfunction(method):
                given = moments[name].parameters
                try:
                    signature(method, follow_wrapped=False).bind(*given)
                except TypeError:  # else only after an epoch, or after all training
                    raise ConfigurationError(
                        f"{cls.__name__} has {name}{signature(method)}; write def {name}({', '.join(given)})"
                    ) from None

    def on_train_begin(self, trainer: Any) -> None:
        """Before the first step of a `fit`."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Before epoch `epoch`, counted from 1."""

    def on_train_batch_begin(self, trainer: Any, step: int) -> None:
        """Before step `step`, counted from 1 over all epochs."""

    def on_train_batch_end(self, trainer: Any, step: int) -> None:
        """After a step was launched; on a GPU it may be running still."""

    def on_epoch_end(self, trainer: Any, record: dict) -> None:
        """After an epoch, its validation included, before the run folder is written; `record` is its entry in the
        history (gpucnn.training.history), to which numbers may be added; what is there may not be changed."""

    def on_train_end(self, trainer: Any, history: Any) -> None:
        """After the last epoch; not after an error or an interruption."""
