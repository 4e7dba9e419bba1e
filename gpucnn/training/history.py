"""What was measured, epoch by epoch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gpucnn.arguments import number, shown
from gpucnn.errors import ConfigurationError


@dataclass(repr=False)
class History:
    """`epochs` holds one dictionary an epoch, the same as a line of metrics.jsonl:

    epoch and step (how many are done), loss (the mean) and accuracy (0 to 1; not for a loss of values) of training,
    measured while the weights change; the trainer's metrics by name; validation_loss, validation_accuracy and metrics
    likewise if there were such images;
    learning_rate of the last step; seconds, and images_per_second of training alone, without first steps, which may
    compile kernels.
    """

    epochs: list[dict] = field(default_factory=list)
    smaller: set[str] = field(default_factory=lambda: {"loss"})  # what is better the smaller it is

    def __getitem__(self, key: str) -> list:
        """One column: history["loss"] is a value an epoch, None where it was not measured. Raises ConfigurationError
        for a name that no epoch has, but for losses and accuracies.
        """
        if not isinstance(key, str):
            raise ConfigurationError(
                f'history[{shown(key)}]: give the name of what was measured, such as history["loss"]; an epoch is one '
                "of history.epochs"
            )
        if self.epochs and key not in self and key.removeprefix("validation_") not in ("loss", "accuracy"):
            raise ConfigurationError(f"history[{shown(key)}]: no epoch has it; the last one has {', '.join(self.last)}")
        return self.column(key)

    def column(self, key: str) -> list:
        """The same of whatever name: None where it was not measured."""
        return [epoch.get(key) for epoch in self.epochs]

    def __iter__(self) -> Iterator[dict]:
        """The epochs: without it Python would ask for history[0], history[1] and so on, for ever."""
        return iter(self.epochs)

    def __contains__(self, key: str) -> bool:
        """Whether some epoch has measured it: "validation_loss" in history."""
        return any(key in epoch for epoch in self.epochs)

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        """One line, as a notebook shows what its cell ends with: the values of every epoch are in `epochs`."""
        aside = ("learning_rate", "seconds", "images_per_second")
        last = self.last.items() if self.epochs else ()
        measured = "".join(f", {k} {v:.4g}" for k, v in last if isinstance(v, float) and k not in aside)
        return f"<History of {len(self)} epoch{'s' * (len(self) != 1)}{measured}>"

    def add(self, measured: dict, record: dict) -> ConfigurationError | None:
        """Add an epoch as a file will hold it, NumPy's numbers as Python's: `measured`, and what callbacks made of it,
        `record`. Measured values stay, and what JSON has not is left out; the error for either is returned, to be
        raised once the epoch is kept.
        """
        error = None
        self.epochs.append({})
        for key, value in {**record, **measured}.items():
            if key in measured and record.get(key) is not value:
                error = ConfigurationError(
                    f"a callback made {shown(record.get(key))} of {key} in the epoch's record, which is "
                    f"{shown(value)}; add numbers of your own under other names"
                )
            try:
                self.last[str(key)] = json.loads(json.dumps(value, allow_nan=False, default=_item))
            except (TypeError, ValueError, RecursionError):
                error = ConfigurationError(
                    f"the epoch's record has {key} = {shown(value)}, which JSON has not; give numbers, text or lists"
                )
        return error

    @property
    def last(self) -> dict:
        """The newest epoch."""
        return self.epochs[-1]

    def best_epoch(self, monitor: str = "loss") -> int | None:
        """The epoch (from 1) with the smallest validation loss or the largest accuracy or metric, the first of equal
        ones.

        None where nothing was validated. Raises ConfigurationError for a metric that is not a number.
        """
        sign, name = 1 if monitor in self.smaller else -1, f"validation_{monitor}"
        column = enumerate(self.column(name), 1)
        values = [(sign * number(name, value), epoch) for epoch, value in column if value is not None]
        return min(values)[1] if values else None

    @property
    def seconds(self) -> float:
        """Of all epochs together."""
        return sum(self["seconds"])

    @property
    def images_per_second(self) -> float:
        """The median over the epochs."""
        rates = sorted(self["images_per_second"])
        return (rates[len(rates) // 2] + rates[(len(rates) - 1) // 2]) / 2


def _item(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError
