"""Learning rate schedules: for every step a factor of the optimizer's own rate.

A schedule is called as `schedule(step, steps, epoch)`: the step's number and the epoch's, both from 0, and how many
steps the whole run has. It returns a float64 factor; the device gets the optimizer's rate times that, rounded once to
float32. All of it is computed on the host from integers with operations that round the same everywhere (the
cosine is `arithmetic.cos64`), so every backend sees the same rates.
"""

import dis
import math
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpucnn import arithmetic
from gpucnn.arguments import Checked, instance, integer, number

_ratio = partial(number, least=0, most=1)


def _reads_steps(call: Any) -> bool:
    """Whether the function reads its third argument."""
    code = getattr(call, "__code__", None)
    if code is None or code.co_argcount < 3:
        return False
    name = code.co_varnames[2]
    read = [step.argval for step in dis.get_instructions(code) if "LOAD_FAST" in step.opname]
    return name in code.co_cellvars or any(name == one or (isinstance(one, tuple) and name in one) for one in read)


class Schedule(Checked):
    """Base of all schedules. `uses_steps`: rates depend on how long the whole run is, so a run cannot be extended. Of a
    class that does not declare it, it is whether its `__call__` reads `steps`.
    """

    uses_steps = False

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        if "__call__" in vars(cls) and "uses_steps" not in vars(cls):
            cls.uses_steps = _reads_steps(vars(cls)["__call__"])

    def __call__(self, step: int, steps: int, epoch: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(step, steps, epoch) that returns a factor")

    def remark(self, steps: int) -> str | None:
        """A sentence for the user if this schedule is unsuited to a run of so many steps."""
        return None

    def settings(self) -> dict:
        """Name and settings, for checkpoints."""
        return {"name": type(self).__name__, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}


def factor_of(schedule: Schedule, step: int, steps: int, epoch: int) -> float:
    """What the schedule returns; raises ConfigurationError for what is no factor."""
    factor = schedule(step, steps, epoch)
    if type(factor) is not float or not 0 <= factor < math.inf:
        number(f"the factor that {type(schedule).__name__} returned", factor, least=0)
    return factor


class Constant(Schedule):
    """A constant rate."""

    def __call__(self, step: int, steps: int, epoch: int) -> float:
        return 1.0


class Step(Schedule):
    """The rate times `factor` after every `every` epochs."""

    _checks: ClassVar = {"every": integer, "factor": _ratio}

    def __init__(self, every: int, factor: float = 0.1):
        self.every, self.factor = every, factor

    def __call__(self, step: int, steps: int, epoch: int) -> float:
        rate = 1.0
        for _ in range(epoch // self.every):  # repeated multiplication: pow differs between C libraries
            rate *= self.factor
        return rate


class Cosine(Schedule):
    """From the full rate to `final` of it along half a cosine (Loshchilov and Hutter 2017, without restarts).

    At step t of T: final + (1 - final) * (1 + cos(pi * t / T)) / 2.
    """

    uses_steps = True
    _checks: ClassVar = {"final": _ratio}

    def __init__(self, final: float = 0.0):
        self.final = final

    def __call__(self, step: int, steps: int, epoch: int) -> float:
        return _cosine(1.0, self.final, step / steps)


class OneCycle(Schedule):
    """Up from `start` to the full rate in the first `rise` of the run, then down to `final`, both along half a cosine.

    Smith and Topin 2018; the defaults are PyTorch's: 1/25, 0.3, and 1/250,000 of the full rate.
    """

    uses_steps = True
    _checks: ClassVar = {"rise": _ratio, "start": _ratio, "final": _ratio}

    def __init__(self, rise: float = 0.3, start: float = 1 / 25, final: float = 4e-6):
        self.rise, self.start, self.final = rise, start, final

    def __call__(self, step: int, steps: int, epoch: int) -> float:
        turn = self.rise * steps
        if step < turn:
            return _cosine(self.start, 1.0, step / turn)
        return _cosine(1.0, self.final, (step - turn) / (steps - turn))


class WarmUp(Schedule):
    """The first `steps` steps get 1/(steps+1), 2/(steps+1) ... of the rate of `then`, the later ones all of it.

    `then` counts its steps from the run's first, warm-up included.
    """

    _checks: ClassVar = {"steps": integer}

    def __init__(self, steps: int, then: Schedule | None = None):
        self.steps = steps
        self.then = instance("then", then, Schedule, "a schedule, such as Cosine()", optional=True) or Constant()
        self.uses_steps = self.then.uses_steps

    def __call__(self, step: int, steps: int, epoch: int) -> float:
        return self.then(step, steps, epoch) * min((step + 1) / (self.steps + 1), 1.0)

    def remark(self, steps: int) -> str | None:
        if self.steps < steps:
            return self.then.remark(steps)
        return (
            f"the warm-up of {self.steps} steps is as long as the whole run of {steps} or longer, so the learning rate "
            "never reaches its full value"
        )

    def settings(self) -> dict:
        settings = super().settings() | {"then": self.then.settings()}
        del settings["uses_steps"]  # follows from `then`
        return settings


def _cosine(first: float, last: float, part: float) -> float:
    """From `first` at part 0 to `last` at part 1 along half a cosine."""
    return last + (first - last) * ((1.0 + float(arithmetic.cos64(np.float64(math.pi * part)))) / 2.0)
