"""What predictions compute otherwise than training does: a layer with what follows it, and plans of whole networks."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn import layers as L
from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, RANDOM, Case, Numbers, Results, describe
from gpucnn.check.device_memory import unwatched
from gpucnn.geometry import window
from gpucnn.models import Model
from gpucnn.models.heads import REGRESSOR

# N, C, input, O, groups, kernel, the convolution's settings, the kinds of numbers in the simulator
_CONVOLUTIONS: list[tuple] = [
    (17, 3, (8, 9), 5, 1, 3, {"padding": 1}, NEVER),
    (3, 4, (7, 6), 4, 2, (3, 2), {"stride": (2, 1)}, NEVER),
    (2, 2, (10,), 3, 1, 3, {}, RANDOM),
    (18, 2, (3, 3), 7, 1, 3, {}, NEVER),
]
# What follows a layer: batch norm, an addition, ReLU, max pooling
_ENDS = {
    "batch norm": (True, False, False, False),
    "batch norm and relu": (True, False, True, False),
    "batch norm, sum and relu": (True, True, True, False),
    "sum": (False, True, False, False),
    "relu and max pool": (False, False, True, True),
    "batch norm, relu and max pool": (True, False, True, True),
    "sum and max pool": (False, True, False, True),
}


def _small() -> list[L.Layer]:
    return [L.Conv2d(2, 3, padding=1), L.BatchNorm(activation="relu"), L.MaxPool2d(2), L.Flatten(), L.Dense(3)]


def _residual() -> list[L.Layer]:
    first = [L.Conv2d(18, 3, padding=1, bias=False), L.BatchNorm(activation="relu")]
    second = [L.Conv2d(18, 3, padding=1, groups=18), L.BatchNorm()]
    body = L.Sequential(L.Conv2d(18, 3, padding=1), L.BatchNorm(activation="relu"), *second)
    last = [L.Conv2d(6, 2, stride=2, activation="relu"), L.Flatten(), L.Dense(17, activation="relu"), L.Dense(20)]
    return [*first, L.MaxPool2d(2), L.Residual(body), *last]


def _other_layers() -> list[L.Layer]:
    branches = L.Concat(L.Conv2d(3, 1, activation="gelu"), L.MaxPool2d(3, stride=1, padding=1), L.Sequential())
    normed = [L.Conv2d(4, 3, groups=2), L.GroupNorm(2, activation="relu"), branches]
    last = [L.ConvTranspose2d(4, 3, stride=2, padding=1), L.Tanh(), L.AvgPool2d(2)]
    return [*normed, L.Upsample(2), *last]


# The layers, the images' shape, the kinds of numbers in the simulator
_NETWORKS = {
    "small": (_small, (1, 4, 4), RANDOM),
    "residual": (_residual, (2, 9, 8), NEVER),
    "other layers": (_other_layers, (2, 5, 6), NEVER),
}


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from _layers(numbers)
    yield from _networks(numbers)


def _layers(numbers: Numbers) -> Iterator[Case]:
    """A convolution, and batch norm, with each of _ENDS."""
    for n, c, size, o, groups, kernel, settings, simulated in _CONVOLUTIONS:
        win = window(size, kernel, **settings)
        pool = window(win.output, 2, stride=2) if min(win.output) > 1 else None

        def run(b: Backend, n=n, c=c, size=size, o=o, groups=groups, win=win, pool=pool) -> Results:
            x = b.pack(numbers(n, c, *size))
            before, other = (b.pack(numbers(n, o, *win.output, seed=seed)) for seed in (1, 2))
            w, bias = b.array(numbers(o, c // groups, *win.kernel, seed=3)), b.array(numbers(o, seed=4))
            mean, gamma, beta = (b.array(numbers(o, seed=seed)) for seed in (5, 6, 7))
            norm = mean, b.array(np.abs(numbers(o, seed=8))), gamma, beta, 1e-5
            results = {}
            for label, (normed, added, relu, pooled) in _ENDS.items():
                if pooled and pool is None:
                    continue
                ends: dict[str, Any] = {
                    "other": other if added else None,
                    "relu": relu,
                    "pool": pool if pooled else None,
                }
                y = b.conv_inference(x, w, bias, win, groups, norm=norm if normed else None, **ends)
                results[f"convolution, {label}"] = y.numpy()
                if normed:
                    results[label] = b.batch_norm_inference(before, *norm, **ends).numpy()
            return results

        about = f"{describe(n, c, size)}, {o} filters, kernel {win.kernel}, {settings}"
        yield Case("layers of predictions", about, run, (), numbers.kind, numbers.kind in simulated)


def _networks(numbers: Numbers) -> Iterator[Case]:
    """Model.predict: the plan that a backend makes of a network."""
    for name, (layers, shape, simulated) in _NETWORKS.items():

        def run(b: Backend, layers=layers, shape=shape) -> Results:
            model = Model(L.Sequential(*layers()), shape, head=REGRESSOR).initialize(0).place(unwatched(b))
            state = model.state_dict()
            for seed, (key, value) in enumerate(state.items()):
                drawn = numbers(*value.shape, seed=seed)
                state[key] = np.abs(drawn) if key.endswith("running_var") else drawn
            model.load_state_dict(state)
            images = numbers(18, *shape)
            return {f"{count} images": model.predict(images[:count]) for count in (1, 3, 18)}

        yield Case("predictions of a network", name, run, (), numbers.kind, numbers.kind in simulated)
