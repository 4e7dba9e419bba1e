"""Before anything is timed: does each contender compute correct results?

One training step on the first batch, then the class scores with the new weights. Backends with exact math must agree
bit by bit; all, PyTorch included, must be close to the same step in float64 on NumPy.
"""

import hashlib
import math

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import BackendError
from gpucnn.optimizers import SGD
from gpucnn.throughput.jobs import MOMENTUM, Case
from gpucnn.training.steps import Resident, TrainingSteps

# Large enough that the weights change visibly: the comparison has to detect wrong gradients.
RATE = 0.1
# State after the step by name, with the class scores as LOGITS.
State = dict[str, np.ndarray]
LOGITS = "class scores"


def one_step(case: Case, backend: Backend) -> State:
    """Weights and running statistics after one step of SGD on the first batch, and the class scores of that batch."""
    images, labels = case.data()
    images, labels = images[: case.batch].astype(backend.dtype), labels[: case.batch]
    model = case.build().place(backend)
    optimizer = SGD(RATE, momentum=MOMENTUM)
    optimizer.place(backend, model.values.size)
    data = Resident(backend, images, labels, case.batch)
    TrainingSteps(model, optimizer, data).run(np.arange(case.batch), 0, 1.0)
    model.mode.training = False
    logits, _ = model(backend.pack(images))
    return {**model.state_dict(), LOGITS: backend.unpack(logits)}


def tolerance(case: Case) -> float:
    """How far a step in float32 may be from one in float64, relative to the step, in the 2-norm of each parameter.

    Let u = 2**-24, with L layers and sums of at most k terms forward and K terms in weight gradients. Roundings add
    16 * L * sqrt(K) * u: they grow like sqrt(K) where they are independent (Higham 2002, section 2.8). ReLUs and maxima
    add 4 * sqrt(L * sqrt(k) * u): about the fraction L * sqrt(k) * u of them are within a rounding of the kink, may
    end up on its other side and switch a gradient on or off, and a fraction p of all terms makes a difference sqrt(p).
    """
    layers = [layer for layer in case.build().layer.walk() if layer.multiply_adds()]
    outer = case.batch * max(math.prod(layer.output_shape[1:]) for layer in layers)
    inner = max(math.prod(layer.weight.shape[1:]) for layer in layers)
    unit = 2.0**-24
    return 16 * len(layers) * math.sqrt(outer) * unit + 4 * math.sqrt(len(layers) * math.sqrt(inner) * unit)


class Referee:
    """Judges each contender's step on one case's model and batch."""

    def __init__(self, case: Case):
        self.case, self.tolerance = case, tolerance(case)
        self._start = case.build().state_dict()
        self._expected = one_step(case, get_backend("numpy", "fast", dtype=np.float64))
        self._exact: tuple[str, str] | None = None

    def error(self, state: State) -> float:
        """The largest distance of any parameter from the float64 step, relative to the step."""
        return max(self._errors(state).values())

    def _errors(self, state: State) -> dict[str, float]:
        errors = {}
        for name, expected in self._expected.items():
            moved = float(np.linalg.norm(expected - self._start.get(name, np.float64(0))))
            distance = float(np.linalg.norm(state[name].astype(np.float64) - expected))
            # A bias before a batch norm has no gradient but rounding errors: nothing moves there.
            errors[name] = distance / max(moved, 1e-12) if math.isfinite(distance) else math.inf
        return errors

    def judge(self, who: str, state: State, exact: bool) -> float:
        """The error of `state`; raises BackendError if it is too large, or if exact bits differ from those before."""
        errors = self._errors(state)
        worst = max(errors, key=lambda name: errors[name])
        if not errors[worst] <= self.tolerance:
            raise BackendError(
                f"{who} computes {self.case.model} wrongly: after one step with batch {self.case.batch}, {worst} is "
                f"{errors[worst]:.2g} of the step away from float64, more than {self.tolerance:.2g}; nothing was timed."
                " See gpucnn check"
            )
        if exact:
            digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in state.values())).hexdigest()
            if self._exact and self._exact[1] != digest:
                raise BackendError(
                    f"{who} and {self._exact[0]} differ in their bits after one step of {self.case.model} with batch "
                    f"{self.case.batch}, though both have exact math; nothing was timed. See gpucnn check"
                )
            self._exact = self._exact or (who, digest)
        return errors[worst]
