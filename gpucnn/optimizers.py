"""Optimizers: one kernel over the flat buffers of the whole model (contract rule 9).

An optimizer holds its settings and, once training starts, what `place` puts on the device: `state`, flat arrays as long
as the weights, and `hyper`, the few float32 numbers that change from step to step. They are read from the device so
that a recorded step can be repeated with new values.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from gpucnn.arguments import a_kind, instance, integer, number, refuse_attribute, refuse_frozen, signature, truth
from gpucnn.backends.memory import unshared
from gpucnn.backends.protocol import Backend
from gpucnn.backends.step_end import StepEnd
from gpucnn.errors import ConfigurationError
from gpucnn.recordable import Recordable, is_recordable

_PLACED = ("backend", "hyper", "state")

Piece = tuple[int, int, float]  # of the flat weights: start, stop, factor of the learning rate


class Optimizer(Recordable):
    """Base of all optimizers. `lr` is the learning rate, which a schedule multiplies by its factor. `weight_decay` is
    of all weights that are not frozen, biases and those of normalizations too, as in PyTorch without parameter groups.

    `states` names the flat arrays that update keeps, `hypers` is how many numbers `rates` returns. Your own
    optimizer has an `update`; its state is in `self.state`, and `self.hyper[0]` is the learning rate.
    """

    live = ("update",)
    states: tuple[str, ...] = ()
    hypers = 1
    # Whether `rates` depends on its arguments alone, and `update` takes a StepEnd and does it.
    ends_step = False
    _checks: ClassVar = {"lr": partial(number, least=0)}
    backend: Any
    hyper: Any
    state: dict[str, Any]
    _hypers: dict[float, Any]

    def __new__(cls, *_: Any, **__: Any) -> Self:
        refuse_frozen(cls)
        optimizer = super().__new__(cls)  # also where a class of the user's has an __init__ of its own
        vars(optimizer).update(backend=None, hyper=None, state={}, _pieces=(), _hypers={}, _size=0, _rated=[False])
        return optimizer

    def __init__(self, lr: float):
        self.lr = lr

    def __setattr__(self, name: str, value: Any) -> None:
        known = signature(type(self)).parameters
        if name not in known and name not in _PLACED:
            refuse_attribute(self, name, f"it has {', '.join(known)}")
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, hyper=unshared(state["hyper"]))
        self.state.update({name: unshared(array) for name, array in self.state.items()})  # a trainer has it too
        # joblib makes two arrays of one in two places.
        self._hypers = {f: self.hyper if f == 1.0 else unshared(array) for f, array in self._hypers.items()}

    def settings(self) -> dict:
        """Name and settings, for checkpoints."""
        settings = {k: v for k, v in vars(self).items() if k not in _PLACED and not k.startswith("_")}
        return {"name": type(self).__name__, **settings}

    def place(self, backend: Backend, size: int) -> None:
        """Start over on `backend` for `size` weights, with the state zero as before the first step."""
        instance("backend", backend, Backend, 'a backend, such as gpucnn.get_backend("numba")')
        if not hasattr(self, "lr"):
            raise ConfigurationError(f"{type(self).__name__} has no lr; call super().__init__(lr) in its __init__")
        # Whether rates were set: changed in place, so that no recording takes it for a setting.
        self.backend, self._size, self._rated = backend, size, [False]
        self.hyper = backend.zeros((self.hypers,), np.float32)
        self.state = {name: backend.zeros((size,)) for name in self.states}
        self.divide([(0, size, 1.0)])

    def divide(self, pieces: "Sequence[Piece]") -> None:
        """From now on `step` changes these pieces of the weights only, each with its factor of the learning rate."""
        self._check_placed()
        self._pieces = tuple(pieces)
        factors = {factor for _, _, factor in pieces} - {1.0}
        self._hypers = {1.0: self.hyper} | {f: self.backend.zeros((self.hypers,), np.float32) for f in factors}

    def state_dict(self) -> dict[str, Any]:
        """The state's flat device arrays by name."""
        return dict(self.state)

    def set_rates(self, factor: float, step: int) -> float:
        """Put the rates of step `step` (from 1) with a schedule's `factor` on the device; returns the learning rate."""
        self._check_placed()
        integer("step", step)
        self._rated[0] = True
        rates = {piece: self.rates(self.lr * factor * piece, step) for piece in self._hypers}
        for piece, hyper in self._hypers.items():
            self.backend.assign(hyper, np.array(rates[piece], np.float32))  # float64 until here: rounded once
        return float(np.float32(rates[1.0][0]))

    def rates_at(self, factor: float, step: int) -> np.ndarray:
        """`hyper` of step `step` (from 1) with a schedule's `factor`, as the device takes it."""
        self._rated[0] = True
        return np.array(self.rates(self.lr * factor, step), np.float32)

    def is_whole(self, size: int) -> bool:
        """Whether a step changes all of `size` weights, at one rate."""
        return self._pieces == ((0, size, 1.0),)

    def rates(self, lr: float, step: int) -> tuple[float, ...]:
        """The contents of `hyper` at step `step` (from 1), in float64."""
        return (lr,)

    def step(self, weights, gradients) -> None:
        """`update` of each piece (`divide`), with the parts of the weights, gradients and states that belong to it.

        Raises ConfigurationError before `place`, and for arrays of other sizes than it was told; kernels look at none.
        """
        self._check_arrays(weights, gradients)
        update: Callable[..., Any] = self.update  # of the user's it may return something
        own, state, hyper = vars(self), self.state, self.hyper
        counted = _numbers(own)
        for start, stop, factor in self._pieces:
            if (start, stop, factor) == (0, weights.size, 1.0):
                self._updated(update(weights, gradients))
                continue
            # Not by setattr, which would make every recording look for changed settings.
            parts = {name: array[start:stop] for name, array in state.items()}
            for name in _numbers(own).keys() - counted.keys():
                del own[name]
            # So what an update of the user's counts, it counts once a step.
            own.update(counted, state=dict(parts), hyper=self._hypers[factor])
            try:
                self._updated(update(weights[start:stop], gradients[start:stop]))
                for name, part in parts.items():
                    if self.state[name] is not part:  # an update that made a new array
                        part[...] = self.state[name]
            finally:
                own.update(state=state, hyper=hyper)

    def _check_placed(self) -> None:
        if self.backend is None:
            raise ConfigurationError("the optimizer is not placed; call optimizer.place(backend, model.values.size)")

    def _check_arrays(self, weights, gradients) -> None:
        self._check_placed()
        if not self._rated[0] and type(self).set_rates is Optimizer.set_rates:
            raise ConfigurationError("the rates are not set; call optimizer.set_rates(1.0, step) first, from step 1 on")
        for name, array in (("weights", weights), ("gradients", gradients)):
            self._check_array(f"{name} are", array, "give model.values and model.grads")
        self._check_state()

    def _check_state(self) -> None:
        """Raises ConfigurationError for an array that was put in a state's place and that kernels would read beyond."""
        for name, array in self.state.items() if is_recordable(self) else ():
            self._check_array(f"state[{name!r}] is", array, f"copy into the one there, state[{name!r}][...] = array")

    def _check_array(self, what: str, array: Any, instead: str) -> None:
        expected, found = (self._size,), getattr(array, "shape", None)
        if found != expected or array.dtype != self.backend.dtype or not array.flags.c_contiguous:
            gaps = ", with gaps" if found == expected and not array.flags.c_contiguous else ""
            arrived = f"{array.dtype} of shape {found}{gaps}" if found else f"a {type(array).__name__}"
            raise ConfigurationError(
                f"{what} {arrived}; the optimizer was placed for {np.dtype(self.backend.dtype)} of shape {expected}: "
                f"{instead}"
            )

    def _updated(self, result: Any) -> None:
        """Look at what an `update` of the user's may get wrong in silence."""
        kind = type(self).__name__
        if result is not None:
            raise ConfigurationError(
                f"{kind}.update returned {a_kind(result)}, and nothing uses it; change the weights in place, "
                "weights -= ..., and return nothing"
            )
        if unnamed := sorted(self.state.keys() - set(self.states)):
            raise ConfigurationError(
                f"{kind} keeps {unnamed[0]!r} in self.state, which a resumed run would not have; name it in the class, "
                f"states = ({', '.join(map(repr, [*self.states, *unnamed]))},), and it is there, zero, from the start"
            )

    def update(self, weights, gradients) -> None:
        """One step, in place on the flat buffers."""
        raise NotImplementedError(f"{type(self).__name__} has no update(weights, gradients)")

    def _update(self, kind: str, *arrays, end: StepEnd | None, **settings) -> None:
        """The backend's update `kind`, with what ends the step if that is given."""
        if end is None:
            getattr(self.backend, kind)(*arrays, **settings)
        else:
            self.backend.optimize(kind, *arrays, end=end, **settings)


def _numbers(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if isinstance(value, (int, float))}


class SGD(Optimizer):
    """Stochastic gradient descent with momentum as in PyTorch (dampening 0); weight decay is added to the gradient.

    v = momentum * v + g; w -= lr * v, or with `nesterov` w -= lr * (momentum * v + g).
    """

    recordable = ends_step = True
    between_steps = ("lr",)  # `hyper` has it on the device
    states = ("velocity",)
    _checks: ClassVar = {
        **Optimizer._checks,
        "momentum": partial(number, least=0, below=1),
        "weight_decay": partial(number, least=0),
        "nesterov": truth,
    }

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False):
        super().__init__(lr)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        if self.nesterov and self.momentum == 0:
            raise ConfigurationError("nesterov needs a momentum above 0")

    def update(self, weights, gradients, end: StepEnd | None = None) -> None:
        settings = {"momentum": self.momentum, "weight_decay": self.weight_decay, "nesterov": self.nesterov}
        self._update("sgd", weights, gradients, self.state["velocity"], self.hyper, end=end, **settings)


class Adam(Optimizer):
    """Kingma and Ba 2015; weight decay is added to the gradient."""

    recordable = ends_step = True
    between_steps = ("lr",)
    states = ("mean", "square")
    hypers = 4
    _decoupled = False
    _checks: ClassVar = {
        **Optimizer._checks,
        "beta1": partial(number, least=0, below=1),
        "beta2": partial(number, least=0, below=1),
        "eps": partial(number, above=0),  # before any nonzero gradient 0 would give 0 / 0
        "weight_decay": partial(number, least=0),
    }

    def __init__(
        self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
    ):
        super().__init__(lr)
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        # Step, beta1 ** step, beta2 ** step, the betas; changed in place, so that no recording takes it for a setting.
        self._powers: list[Any] = [0, 1.0, 1.0, ()]

    def rates(self, lr: float, step: int) -> tuple[float, ...]:
        """(lr, 1 - beta1**step, 1 - beta2**step, lr * weight_decay); powers by repeated float64 multiplication."""
        (done, power1, power2, of), betas = self._powers, (self.beta1, self.beta2)
        if done > step or of != betas:
            done, power1, power2 = 0, 1.0, 1.0
        for _ in range(step - done):
            power1, power2 = power1 * self.beta1, power2 * self.beta2
        self._powers[:] = step, power1, power2, betas
        return lr, 1.0 - power1, 1.0 - power2, lr * self.weight_decay

    def update(self, weights, gradients, end: StepEnd | None = None) -> None:
        settings = {name: getattr(self, name) for name in ("beta1", "beta2", "eps", "weight_decay")}
        arrays = weights, gradients, self.state["mean"], self.state["square"], self.hyper
        self._update("adam", *arrays, end=end, decoupled=self._decoupled, **settings)


class AdamW(Adam):
    """Adam with decoupled weight decay: w -= lr * weight_decay * w first (Loshchilov and Hutter 2019)."""

    _decoupled = True

    def __init__(
        self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
    ):
        super().__init__(lr, beta1, beta2, eps, weight_decay)
