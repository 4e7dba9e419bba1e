"""What a sweep tries."""

import itertools
from dataclasses import asdict, dataclass

from gpucnn.errors import ConfigurationError


@dataclass(frozen=True)
class Plan:
    """Every combination of `models`, `rates` and `seeds`; `arguments` are options of `gpucnn train`, the same for all.

    With `rates` (low, high) and a number of `trials`, Optuna chooses rates between them, on a logarithmic scale.
    """

    models: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    arguments: tuple[str, ...] = ()
    trials: int | None = None

    def __post_init__(self):
        for name, values in (("models", self.models), ("rates", self.rates), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ConfigurationError(f"{name} are {values}; give one or more, each once")
        if self.trials is not None and (len(self.rates) != 2 or not 0 < self.rates[0] < self.rates[1]):
            raise ConfigurationError(
                f"with --trials the rates are a range above 0, such as 1e-4,1e-2; not {self.rates}"
            )

    def grid(self) -> list[dict]:
        """Every combination; none where Optuna chooses."""
        if self.trials is not None:
            return []
        combinations = itertools.product(self.models, self.rates, self.seeds)
        return [dict(zip(("model", "lr", "seed"), combination)) for combination in combinations]

    def size(self) -> int:
        """The number of trainings."""
        return len(self.grid()) if self.trials is None else self.trials

    def suggest(self, trial) -> dict:
        """The settings of an Optuna trial."""
        if self.trials is None:
            lr = trial.suggest_categorical("lr", self.rates)
        else:
            lr = trial.suggest_float("lr", *self.rates, log=True)
        model = trial.suggest_categorical("model", self.models)
        return {"model": model, "lr": lr, "seed": trial.suggest_categorical("seed", self.seeds)}

    def settings(self) -> dict:
        """For the journal: as JSON gives it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
