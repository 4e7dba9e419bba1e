"""Checking gradients: whether a backward pass is the derivative of its forward pass.

    from gpucnn import check_gradients
    report = check_gradients(MyLayer(), shape=(3, 8, 8))       # a layer and the shape of one image
    print(report)                                              # one line per tensor
    assert report.passed

For y = f(x) and random weights c of the outputs, L = sum(c * f(x)) has the gradient g = backward(c). Along a random
direction v

    D(h) = (L(x + h*v) - L(x - h*v)) / 2h  =  sum(g * v) + O(h**2)

and (4 * D(h/2) - D(h)) / 3 is off only by O(h**4) (Richardson extrapolation). All of it is float64 in numpy's fast math
mode, one tensor at a time, so that the report names the wrong gradient.

A function with kinks (ReLU at 0, a tie for a maximum) has no derivative there, and the difference quotient across one
is meaningless. A direction is skipped, and counted, where the function's own values show a kink at
every step size tried: D(h) and D(h/2) disagree, or the second difference (L(h) + L(-h) - 2 L(0)) / h does not halve
with h. The gradient plays no part in that decision, so it never excuses a wrong one.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpucnn import arguments, layouts
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, DTypeError, ShapeError
from gpucnn.layers.base import Layer
from gpucnn.losses import Loss, checked
from gpucnn.models.model import Model

__all__ = ["GradientReport", "TensorReport", "check_gradients"]

_STEPS = 2.0**-13, 2.0**-16, 2.0**-19
# A skipped direction is replaced by another; at most this many times `directions` are skipped.
_TRIES = 4
_UNIT = 2.0**-53
# L's rounding error in units of the sum of its terms' magnitudes: terms carry their layers' errors, roughly at random.
_ROUNDINGS = 64


@dataclass(frozen=True)
class TensorReport:
    """The input or one parameter: how many directions were compared, how many skipped at kinks, and the worst error.

    `error` is |sum(g * v) - D| over the magnitude of the two, infinite if the gradient is not finite. `passed`
    requires that at least one direction could be compared and that all agree. `problem` describes any other error.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    skipped: int
    error: float
    passed: bool
    problem: str = ""


@dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradients`: one report per tensor, and the relative `tolerance`; str() is a table."""

    tensors: tuple[TensorReport, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every tensor's gradient is right."""
        return all(tensor.passed for tensor in self.tensors)

    def __str__(self) -> str:
        lines = [("tensor", "shape", "directions", "at kinks", "worst error", "")]
        for t in self.tensors:
            verdict = "ok" if t.passed else f"WRONG: {t.problem or 'not the derivative of the forward pass'}"
            error = f"{t.error:.1e}" if t.checked else "-"
            lines.append((t.name, "x".join(map(str, t.shape)) or "()", str(t.checked), str(t.skipped), error, verdict))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        end = "passed" if self.passed else "FAILED"
        return "\n".join([*rows, f"{end}: relative errors up to {self.tolerance:g} are allowed"])


def check_gradients(
    subject: Layer | Model | Loss | Callable,
    *inputs,
    shape: tuple[int, ...] | None = None,
    images: int = 4,
    training: bool = True,
    directions: int = 3,
    tolerance: float = 1e-7,
    seed: int = 0,
) -> GradientReport:
    """Compare the gradients of a layer, model, loss or function with central differences along random directions.

    `subject` is one of

    - a layer, with `shape`, the shape (C, *spatial) of one image. A copy of it is built and its parameters are drawn,
      each moved a little from its initial value, so that none is exactly 0;
    - a model: a copy, with its weights and running statistics if it has any;
    - a loss, with an array of outputs (N, C, *spatial) and their targets in `inputs`;
    - a function `y, backward = f(*arrays)` of float64 arrays, where `backward(dy)` returns the gradient, or a tuple
      with one for each array; `inputs` are the arrays.

    Layers and models run on `images` random images, or on the one array in `inputs`, (N, C, *spatial); in training mode
    by default; the input and every parameter are checked. A layer may use the backend's operations or
    `x.backend.xp`; it must take float64 and give the same result for the same input. Before backward runs, the
    gradients of the parameters hold NaN: backward must write them, not add to them. Layers and losses
    that use `x.backend.xp` must also give the same on numba as on numpy, up to rounding: there images lie otherwise.

    `tolerance` is relative to the size of the derivative; a correct gradient reaches about 1e-10. Raises
    ConfigurationError for a subject of another kind, settings out of range, or results that change between calls,
    ShapeError for inputs or gradients of the wrong shape.
    """
    images, directions = arguments.integer("images", images), arguments.integer("directions", directions)
    tolerance = arguments.number("tolerance", tolerance, above=0, below=1)
    training = arguments.truth("training", training)
    rng = np.random.default_rng(arguments.seed(seed))
    if isinstance(subject, (Layer, Model)):
        model = _copied(subject, shape, rng)
        tensors, forward = _of_model(model, inputs, images, training, rng)
    elif isinstance(subject, Loss):
        tensors, forward, targets = _of_loss(subject, inputs)
    elif callable(subject):
        if shape is not None or not inputs:
            raise ConfigurationError("a function is checked on arrays: check_gradients(f, x, ...), without shape")
        tensors, forward = _of_function(subject, inputs)
    else:
        raise ConfigurationError(
            f"cannot check a {type(subject).__name__}; give a layer, a model, a loss or a function"
        )
    y, backward = forward()
    if not np.array_equal(y, forward()[0], equal_nan=True):
        raise ConfigurationError(
            "the same input gave two results: take randomness out of what is checked, or fix its seed"
        )
    if not np.isfinite(y).all():
        raise ConfigurationError("the forward pass gave NaN or infinity: choose an input for which it does not")
    weights = rng.standard_normal(y.shape)
    gradients = backward(weights)

    def loss() -> tuple[float, float]:
        """L, and the sum of its terms' magnitudes."""
        terms = weights * forward()[0]
        return float(terms.sum()), float(np.abs(terms).sum())

    reports = [
        _compared(name, array, gradient, loss, directions, tolerance, rng)
        for (name, array), gradient in zip(tensors.items(), gradients, strict=True)
    ]
    problem = None
    if isinstance(subject, (Layer, Model)):
        problem = layouts.of_model(model, tensors["input"], weights)
    elif isinstance(subject, Loss):
        problem = layouts.of_loss(subject, tensors["outputs"], targets)
    if problem:
        reports.append(TensorReport("on numba", (), 0, 0, math.inf, False, problem))
    return GradientReport(tuple(reports), tolerance)


# ---- the subject as arrays to perturb and a function without arguments -----------------------------------------------


def _copied(subject: Layer | Model, shape: tuple[int, ...] | None, rng: np.random.Generator) -> Model:
    """A float64 model that copies the subject, which stays unchanged."""
    if isinstance(subject, Model):
        if shape is not None:
            raise ConfigurationError("a model knows its shape; leave out shape")
        layer, shape = subject.layer, subject.input_shape
    elif shape is None:
        raise ConfigurationError("a layer needs the shape of one image: check_gradients(layer, shape=(3, 8, 8))")
    else:
        layer = subject
    model = Model(copy.deepcopy(layer), shape)
    if isinstance(subject, Model) and subject.initialized:
        model.load_state_dict(subject.state_dict())
        return model.place(get_backend("numpy", "fast", dtype=np.float64))
    model.initialize(0).place(get_backend("numpy", "fast", dtype=np.float64))
    for parameter in model.parameters:
        parameter.value[...] += 0.2 * rng.standard_normal(parameter.shape)
    return model


def _of_model(model: Model, inputs: tuple, images: int, training: bool, rng: np.random.Generator):
    """(tensors, forward): the input and the parameters by name; forward() gives y and its backward as plain arrays."""
    if len(inputs) > 1:
        raise ConfigurationError(f"layers and models have one input, not {len(inputs)}")
    x = _floats("the input", inputs[0]) if inputs else rng.standard_normal((images, *model.input_shape))
    if x.shape[1:] != model.input_shape or not len(x):
        raise ShapeError(f"the input has shape {x.shape}; expected (N, {', '.join(map(str, model.input_shape))})")
    model.mode.training = training
    statistics = model.statistics.copy()  # training changes them, and calls must not affect each other

    def forward():
        model.statistics[...] = statistics
        y, step = model(x)

        def backward(weights: np.ndarray) -> list[np.ndarray | None]:
            for parameter in model.parameters:
                parameter.grad[...] = np.nan
            dx = step(model.backend.pack(weights))
            return [None if dx is None else dx.numpy(), *(parameter.grad.copy() for parameter in model.parameters)]

        return y.numpy(), backward

    return {"input": x, **{parameter.name: parameter.value for parameter in model.parameters}}, forward


def _of_loss(loss: Loss, inputs: tuple):
    """(tensors, forward, targets) of a loss of its outputs."""
    kind = type(loss).__name__
    if len(inputs) != 2:
        raise ConfigurationError(
            f"a loss is checked on outputs and targets: check_gradients({kind}(), outputs, targets)"
        )
    backend, x = get_backend("numpy", "fast", dtype=np.float64), _floats("the outputs", inputs[0])
    if x.ndim < 2 or not len(x):
        raise ShapeError(f"the outputs have shape {x.shape}; expected (N, C, *spatial)")
    given = arguments.array("targets", inputs[1])
    given = loss.check(given.astype(np.float64) if given.dtype.kind == "f" else given, len(x), x.shape[1:], np.float64)
    targets = backend.pack_labels(given) if given.ndim == 1 else backend.pack(given.astype(np.float64))
    loss.place(backend, x.shape[1])

    def forward():
        outputs = backend.pack(x)
        value, gradient = checked(loss, loss(outputs, targets), outputs)
        if value.dtype != np.float64:
            raise DTypeError(
                f"{kind} returned a loss of {value.dtype}, too coarse to compare; keep the outputs' float64"
            )
        return value, lambda weight: [weight * gradient.numpy()]

    return {"outputs": x}, forward, given


def _floats(name: str, value) -> np.ndarray:
    """A float64 copy of `value`, read as an array of numbers."""
    array = arguments.array(name, value)
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{name} is {array.dtype}; give an array of numbers")
    return array.astype(np.float64)


def _of_function(function: Callable, inputs: tuple):
    """(tensors, forward) of a function of arrays."""
    arrays = [_floats(f"argument {i}", value) for i, value in enumerate(inputs)]

    def forward():
        y, step = function(*(array.copy() for array in arrays))

        def backward(weights: np.ndarray) -> list[np.ndarray | None]:
            gradients = step(weights)
            gradients = list(gradients) if isinstance(gradients, (tuple, list)) else [gradients]
            if len(gradients) != len(arrays):
                raise ShapeError(f"backward gave {len(gradients)} gradients for {len(arrays)} arrays")
            return gradients

        return np.asarray(y, np.float64), backward

    return {f"argument {i}": array for i, array in enumerate(arrays)}, forward


# ---- one tensor ------------------------------------------------------------------------------------------------------


def _compared(name, array, gradient, loss, directions, tolerance, rng) -> TensorReport:
    """Draws directions until enough were compared or too many skipped."""
    if gradient is None:
        return TensorReport(name, array.shape, 0, 0, math.inf, False, "backward gave no gradient")
    gradient = np.asarray(gradient, np.float64)
    if gradient.shape != array.shape:
        raise ShapeError(f"the gradient of {name} has shape {gradient.shape}; expected {array.shape}")
    if not np.isfinite(gradient).all():
        problem = "the gradient holds NaN or infinity; backward must write gradients whole, not add to them"
        return TensorReport(name, array.shape, 0, 0, math.inf, False, problem)
    checked, skipped, worst = 0, 0, 0.0
    while checked < directions and skipped < _TRIES * directions:
        direction = rng.standard_normal(array.shape)
        products = gradient * direction
        measured = _slope(array, direction, loss, tolerance)
        if measured is None:
            skipped += 1
            continue
        slope, floor = measured
        checked += 1
        size = max(abs(slope), math.sqrt(float((products * products).sum())), floor)
        worst = max(worst, abs(float(products.sum()) - slope) / size if size else 0.0)
    problem = "" if checked else "every direction meets a kink: choose another input"
    return TensorReport(name, array.shape, checked, skipped, worst, checked > 0 and worst <= tolerance, problem)


def _slope(array: np.ndarray, direction: np.ndarray, loss, tolerance: float) -> tuple[float, float] | None:
    """(the derivative of L along `direction`, the size below which rounding hides it); None at a kink."""
    start = array.copy()

    def at(step: float) -> float:
        array[...] = start + step * direction
        return loss()[0]

    try:
        center, size = loss()
        for step in _STEPS:
            noise = _ROUNDINGS * _UNIT * size / step
            wide, near = (at(step), at(-step)), (at(step / 2), at(-step / 2))
            coarse, fine = (wide[0] - wide[1]) / (2 * step), (near[0] - near[1]) / step
            bends = (wide[0] + wide[1] - 2 * center) / step, 2 * (near[0] + near[1] - 2 * center) / step
            allowed = tolerance * max(abs(coarse), abs(fine)) + noise
            # A kink of height j at t shows as j * t / 2h in the first or, near 0, as j * (1 - 3t / h) in the second;
            # where both are this small, its effect on the result is smaller than what is allowed.
            if abs(coarse - fine) <= allowed / 8 and abs(2 * bends[1] - bends[0]) <= allowed / 2:
                return (4 * fine - coarse) / 3, noise / tolerance
        return None
    finally:
        array[...] = start
