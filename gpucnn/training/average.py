"""An exponential moving average of the weights (Polyak and Juditsky 1992), kept beside those that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn.arguments import number
from gpucnn.backends.memory import unshared
from gpucnn.recordable import Recordable


class Average(Recordable):
    """After each step `a = decay * a + (1 - decay) * w` of every weight and running statistic (contract rule 9).

    It starts as the weights before the first step. A decay of 0.99 remembers about the last 100 steps.
    """

    recordable = True

    def __init__(self, decay: float):
        self.decay = number("ema", decay, above=0, below=1)
        self.values: Any = None  # as long as the model's values and statistics, on its backend
        self.statistics: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: unshared(value) for name, value in state.items()})

    def place(self, model: Any) -> None:
        """Start over from the model's weights, where it is."""
        backend = model.backend
        self.values, self.statistics = (backend.array(backend.host(a)) for a in (model.values, model.statistics))

    def update(self, model: Any) -> None:
        """Take in the model's weights after a step."""
        model.backend.update_running(self.values, model.values, 1 - self.decay)
        if self.statistics.size:
            model.backend.update_running(self.statistics, model.statistics, 1 - self.decay)

    def state_dict(self, model: Any) -> dict[str, np.ndarray]:
        """The averages on the host, named as in the model's own state_dict."""
        return model.named(*map(model.backend.host, (self.values, self.statistics)))

    def load_state_dict(self, model: Any, state: dict[str, np.ndarray]) -> None:
        """Set the averages."""
        for array, host in zip((self.values, self.statistics), model.flat(state), strict=True):
            model.backend.assign(array, host)


def judged_state(model: Any, average: Average | None) -> dict[str, np.ndarray]:
    """The weights that validation is about: the average, if there is one."""
    return average.state_dict(model) if average else model.state_dict()


@contextmanager
def judged(model: Any, average: Average | None) -> Iterator[None]:
    """Within it the model has those weights."""
    if average is None:
        yield
        return
    own = model.state_dict()
    model._write(average.state_dict(model))
    try:
        yield
    finally:
        model._write(own)
