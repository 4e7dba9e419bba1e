"""Where the time of a training step goes: each operation separately, compared with its floor.

One step runs while every call of a backend operation is logged with its arguments; then each call is repeated alone,
recorded as the whole step would be. An operation's floor is the longer of the times for its multiply-adds at the peak
and for its bytes at the bandwidth, each array moved once.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.geometry import Window
from gpucnn.optimizers import SGD
from gpucnn.throughput.jobs import LEARNING_RATE, MOMENTUM, Case
from gpucnn.throughput.timing import Contender, interleave
from gpucnn.training.steps import Resident, TrainingSteps

# Methods of the protocol that are not operations of a step.
_NOT_OPERATIONS = {
    "zeros",
    "array",
    "assign",
    "host",
    "host_into",
    "staging",
    "pack",
    "unpack",
    "pack_labels",
    "capture",
    "capture_step",
    "rows",
    "synchronize",
    "elapsed",
    "arrivals",
}
# Repetitions in one recording: on a GPU they share the cost of launching it.
_REPETITIONS = 10


@dataclass(frozen=True)
class Call:
    """One call of an operation: `work` repeats it; `operations`, two per multiply-add; the `bytes` that it moves."""

    name: str
    shape: str
    work: Callable[[], Any]
    operations: int
    bytes: int


@contextlib.contextmanager
def logged(backend: Backend) -> Iterator[list[Call]]:
    """In this context, every operation that is called on `backend` from outside is appended to the list."""
    calls: list[Call] = []
    inside = False

    def watch(name: str, method: Callable) -> Callable:
        def watched(*arguments, **options):
            nonlocal inside
            if inside:  # an operation that calls another
                return method(*arguments, **options)
            inside = True
            try:
                result = method(*arguments, **options)
            finally:
                inside = False
            # Whoever passes arguments by name keeps to the protocol's order.
            every = *arguments, *options.values()
            calls.append(_describe(name, lambda: method(*arguments, **options), every, result))
            return result

        return watched

    names = [
        name for name, f in vars(Backend).items() if callable(f) and name[0] != "_" and name not in _NOT_OPERATIONS
    ]
    for name in names:
        setattr(backend, name, watch(name, getattr(backend, name)))
    try:
        yield calls
    finally:
        for name in names:
            delattr(backend, name)


def _describe(name: str, work: Callable, arguments: tuple, result) -> Call:
    if name.startswith("elementwise"):  # by the activation's name: relu, relu_gradient
        name = arguments[0] + name.removeprefix("elementwise")
    batch = next((a for a in (*arguments, result) if isinstance(a, Batch)), None)
    shape = " x ".join(map(str, batch.shape)) if batch else ""
    return Call(name, shape, work, _operations(name, arguments), _bytes((*arguments, result)))


def _operations(name: str, arguments: tuple) -> int:
    """The operations of a convolution or dense layer, taps on padding included; 0 for what only moves data."""
    if name not in _WEIGHTS:
        return 0
    position, windowed = _WEIGHTS[name]
    outputs = math.prod(next(a for a in arguments if isinstance(a, Window)).output) if windowed else 1
    passes = 1 + bool(arguments[6]) if name == "dense_gradients" else 1  # of the weights, and of the input if needed
    return 2 * passes * arguments[0].images * outputs * math.prod(arguments[position].shape)


# operation -> (which argument has the weights' shape, whether there is a Window)
_WEIGHTS = {
    "conv": (1, True),
    "conv_max_pool": (1, True),
    "conv_input_gradient": (1, True),
    "conv_input_gradient_add": (1, True),
    "conv_weight_gradient": (4, True),
    "dense": (1, False),
    "dense_input_gradient": (1, False),
    "dense_weight_gradient": (2, False),
    "dense_gradients": (3, False),
}


def _bytes(values) -> int:
    """The bytes of all arrays among the values, each counted once."""
    arrays = {}

    def collect(value) -> None:
        if isinstance(value, Batch):
            if value.is_stored:  # looking at others' data would store them
                collect(value.data)
        elif isinstance(value, tuple | list):
            for part in value:
                collect(part)
        elif hasattr(value, "nbytes") and hasattr(value, "shape") and value.shape:
            arrays[id(value)] = value.nbytes

    collect(values)
    return sum(arrays.values())


def profile(
    case: Case, backend: Backend, *, seconds: float = 0.3, peak: float | None = None, bandwidth: float | None = None
) -> list[dict]:
    """One row per operation of a training step, in its order, each timed for `seconds`.

    operation, shape (of its first batch), milliseconds and quartiles, share of the total, gflops, gigabytes_per_second,
    and with `peak` (operations per second) or `bandwidth` (bytes per second) floor_milliseconds and of_floor, the floor
    over the time.
    """
    model = case.build().place(backend)
    images, labels = case.data()
    data = Resident(backend, images, labels, case.batch)
    optimizer = SGD(LEARNING_RATE, momentum=MOMENTUM)
    optimizer.place(backend, model.values.size)
    # Not recorded: its calls would also be logged while traced and recorded, on arrays that nothing was written to.
    steps = TrainingSteps(model, optimizer, data, record=False)
    with logged(backend) as calls:
        steps.run(data.batches(np.arange(data.count))[0], 0, 1.0)
    backend.synchronize()
    contenders = {}
    for number, call in enumerate(calls):

        def repeated(work=call.work):
            for _ in range(_REPETITIONS):
                work()

        contenders[number] = Contender(backend.capture(repeated), backend.synchronize)
    timings = interleave(contenders, seconds)
    times = {number: timing.median / _REPETITIONS for number, timing in timings.items()}
    rows = []
    for number, call in enumerate(calls):
        time = times[number]
        row = {
            "operation": call.name,
            "shape": call.shape,
            "milliseconds": 1e3 * time,
            "quartiles": [1e3 * q / _REPETITIONS for q in timings[number].quartiles],
            "share": time / sum(times.values()),
            "gflops": call.operations / time / 1e9,
            "gigabytes_per_second": call.bytes / time / 1e9,
        }
        if peak or bandwidth:
            floor = max(call.operations / peak if peak else 0, call.bytes / bandwidth if bandwidth else 0)
            row |= {"floor_milliseconds": 1e3 * floor, "of_floor": floor / time}
        rows.append(row)
    return rows
