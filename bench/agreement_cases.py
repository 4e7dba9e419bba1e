"""Random configurations of operations: this project's results, and PyTorch's in float64 with an error bound.

PyTorch's operation is run three times on float64: on the float32 values, which gives the reference; on their
magnitudes, which gives sum|x||w| for the output and each gradient; and on ones, which counts the terms of each sum.
That count is the k of the bound: no product of a sum of k meets more than k roundings, however the sum is split. (A
chain of n fused multiply-adds from 0 rounds n times; adding m partial sums that are not 0 rounds at most m - 1 times
more.) If the contract has another number, the operation's docstring says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from agreement_bounds import Normalized, chain, dbeta, dgamma, rounded_once, running
from gpucnn import functional
from gpucnn.backends import get_backend
from gpucnn.layers import BatchNorm
from gpucnn.models import Model

IMAGES = (1, 2, 3, 5, 16, 17, 31, 33)
LARGEST = {1: 70, 2: 11, 3: 5}  # pixels per axis, by the number of axes; bands of the weight gradient have 64 positions
Results = dict[str, np.ndarray]


class Expected(NamedTuple):
    """PyTorch's value in float64 and the error bound of ours, of the same shape."""

    value: np.ndarray
    bound: np.ndarray


@dataclass(frozen=True)
class Case:
    """One configuration with random `settings`; `ours(backend)` and `expected()` return results by the same names."""

    operation: str
    settings: dict
    ours: Callable[[str], Results]
    expected: Callable[[], dict[str, Expected]]


def draw(number: int, seed: int) -> Case:
    """Configuration `number` of `seed`, independent of all others."""
    operation = CYCLE[number % len(CYCLE)]
    _, maker = OPERATIONS[operation]
    return maker(operation, np.random.default_rng((seed, number)))


# ---- convolution -----------------------------------------------------------------------------------------------------


def convolution(operation: str, random: np.random.Generator, mode: str) -> Case:
    """Any of the padding modes; padding symmetric, "same", "valid", or different before and after."""
    axes = int(random.integers(1, 4))
    kernel, dilation = _each(random, axes, 1, 4), _dilation(random, axes)
    stride = _each(random, axes, 1, 3)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    kind = random.choice(["both sides", "before and after", "same", "valid"], p=[0.35, 0.4, 0.15, 0.1])
    pads = [(0, 0)] * axes
    if kind == "same":
        stride = (1,) * axes  # PyTorch requires it
        pads = [((e - 1) // 2, e - 1 - (e - 1) // 2) for e in extent]
    elif kind != "valid":
        pads = [_before_and_after(random, 3) for _ in range(axes)]
        pads = [(before, before) if kind == "both sides" else (before, after) for before, after in pads]
    least = [max(1, e - sum(p), max(p) + (mode == "reflect")) for e, p in zip(extent, pads)]
    size = tuple(int(random.integers(i, max(i + 1, LARGEST[axes]) + 1)) for i in least)
    groups, channels, filters = _channels(random)
    images = int(random.choice(IMAGES))
    x = _normal(random, (images, groups * channels, *size))
    w = _normal(random, (groups * filters, channels, *kernel))
    b = _normal(random, (groups * filters,)) if random.random() < 0.8 else None
    value = int(random.integers(-16, 17)) / 8 if mode == "constant" else 0.0  # the same in both formats
    word = str(kind) if kind in ("same", "valid") else None
    settings = {
        "stride": stride,
        "padding": word or tuple(pads),
        "dilation": dilation,
        "groups": groups,
        "padding_mode": mode,
        "padding_value": value,
    }

    def theirs(value: float):
        def f(x, w, b):
            options = {"stride": stride, "dilation": dilation, "groups": groups}
            slide = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
            if mode == "zeros" and (word or all(before == after for before, after in pads)):
                return slide(x, w, b, padding=word or tuple(before for before, _ in pads), **options)
            return slide(_padded(x, pads, mode, value), w, b, **options)

        return f

    fs = theirs(value), theirs(abs(value)), theirs(float(value != 0))
    return _convolution(operation, random, (x, w, b), settings, ("conv", "conv_backward"), fs)


def transposed(operation: str, random: np.random.Generator) -> Case:
    """Output padding, dilation, groups; padding that differs before and after is cropped from PyTorch's output."""
    axes = int(random.integers(1, 4))
    kernel, dilation = _each(random, axes, 1, 4), _dilation(random, axes)
    stride = _each(random, axes, 1, 3)
    extra = tuple(int(random.integers(0, max(s, d))) for s, d in zip(stride, dilation))
    size = tuple(int(random.integers(1, max(2, LARGEST[axes] * 3 // 4) + 1)) for _ in range(axes))
    full = [(i - 1) * s + d * (k - 1) + 1 + e for i, s, k, d, e in zip(size, stride, kernel, dilation, extra)]
    pads = [_before_and_after(random, 3) for _ in range(axes)]
    if random.random() < 0.6:
        pads = [(before, before) for before, _ in pads]
    pads = [pair if sum(pair) < f else (0, 0) for pair, f in zip(pads, full)]
    groups, channels, filters = _channels(random)
    images = int(random.choice(IMAGES))
    x = _normal(random, (images, groups * channels, *size))
    w = _normal(random, (groups * channels, filters, *kernel))
    b = _normal(random, (groups * filters,)) if random.random() < 0.8 else None
    settings = {
        "stride": stride,
        "padding": tuple(pads),
        "output_padding": extra,
        "dilation": dilation,
        "groups": groups,
    }

    def theirs(x, w, b):
        options = {"stride": stride, "output_padding": extra, "dilation": dilation, "groups": groups}
        slide = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        if all(before == after for before, after in pads):
            return slide(x, w, b, padding=tuple(before for before, _ in pads), **options)
        y = slide(x, w, b, **options)
        inside = (slice(before, p - after) for (before, after), p in zip(pads, y.shape[2:]))
        return y[(slice(None), slice(None), *inside)]

    names = ("conv_transpose", "conv_transpose_backward")
    return _convolution(operation, random, (x, w, b), settings, names, (theirs, theirs, theirs))


def _convolution(operation, random, arrays, settings, names, theirs) -> Case:
    """`theirs` are PyTorch's functions of values, of magnitudes and of ones. db is summed in float64, rounded once."""
    x, w, b = arrays
    f, of_magnitudes, of_ones = theirs
    with torch.no_grad():
        dy = _normal(random, tuple(f(*_tensors(arrays)).shape))

    def ours(backend: str) -> Results:
        y, backward = (getattr(functional, name) for name in names)
        options = {**settings, "backend": backend, "math": "exact"}
        gradients = backward(dy, x, w, **options)
        return dict(zip(("y", "dx", "dw", "db"), (y(x, w, b, **options), *gradients)))

    def expected() -> dict[str, Expected]:
        arrays = [x, w, np.zeros(dy.shape[1], np.float32) if b is None else b]
        values = _run(f, arrays, dy)
        sizes = _run(of_magnitudes, [np.abs(a) for a in arrays], np.abs(dy))
        ones = [np.ones_like(x), np.ones_like(w), np.full(dy.shape[1], float(b is not None), np.float32)]
        terms = _run(of_ones, ones, np.ones_like(dy))
        bounds = [chain(k, size) for k, size in zip(terms, sizes)]
        bounds[3] = rounded_once(values[3], terms[3], sizes[3])
        return dict(zip(("y", "dx", "dw", "db"), map(Expected, values, bounds)))

    shapes = {"x": x.shape, "w": w.shape, "bias": b is not None}
    return Case(operation, {**shapes, **settings}, ours, expected)


# ---- pooling ---------------------------------------------------------------------------------------------------------


def pooling(operation: str, random: np.random.Generator, kind: str) -> Case:
    """Windows that overlap or leave gaps, padding (different before and after if PyTorch's means the same), ceil mode.

    A maximum is exact. A mean of k pixels rounds k - 1 sums and a division. A pixel adds the gradients of m windows:
    m - 1 sums, and for means a division; m is at most prod(ceil(K / S)).
    """
    axes = int(random.integers(1, 4))
    window, stride = _each(random, axes, 1, 4), _each(random, axes, 1, 4)
    ceil, include = random.random() < 0.4, random.random() < 0.5
    pads = [(int(p), int(p)) for p in (random.integers(0, k // 2 + 1) for k in window)]
    if not ceil and (kind == "max" or include) and random.random() < 0.5:
        pads = [_before_and_after(random, k // 2) for k in window]
    # PyTorch's averages of volumes need a window that fits without its padding.
    least = [max(1, k - sum(p) * ((kind, axes) != ("avg", 3))) for k, p in zip(window, pads)]
    x = _pixels(
        random, tuple(int(random.integers(i, max(i + 1, LARGEST[axes]) + 1)) for i in least), ties=kind == "max"
    )
    settings = {"size": window, "stride": stride, "padding": tuple(pads), "ceil_mode": ceil}
    more = {} if kind == "max" else {"count_include_pad": include}

    def theirs(x):
        pool = getattr(F, f"{kind}_pool{axes}d")
        options = {"kernel_size": window, "stride": stride, "ceil_mode": ceil, **more}
        if all(before == after for before, after in pads):
            return pool(x, padding=tuple(before for before, _ in pads), **options)
        return pool(_padded(x, pads, "constant", -math.inf if kind == "max" else 0.0), **options)

    meets = math.prod(-(-k // s) for k, s in zip(window, stride))
    roundings = (0, meets - 1) if kind == "max" else (math.prod(window), meets)
    return _pool(operation, random, x, f"{kind}_pool", {**settings, **more}, theirs, roundings)


def adaptive(operation: str, random: np.random.Generator, kind: str) -> Case:
    """Outputs smaller and larger than the input.

    Means where every O divides its I are average pooling whose windows do not overlap. Others are weighted sums
    along one axis after the other: one rounding per tap and one for the weight, along each axis that changes. A
    pixel of the gradient meets as many taps along an axis as windows contain it. Maxima are exact; a pixel adds the
    gradients of its windows.
    """
    axes = int(random.integers(1, 4))
    size = tuple(int(random.integers(1, LARGEST[axes] // (3 if axes == 1 else 1) + 1)) for _ in range(axes))
    output = tuple(int(random.integers(1, i + 3)) for i in size)
    if random.random() < 0.3:
        output = tuple(int(random.choice([o for o in range(1, i + 1) if i % o == 0])) for i in size)
    x = _pixels(random, size, ties=kind == "max")
    windows = [[(p * i // o, -(-(p + 1) * i // o)) for p in range(o)] for i, o in zip(size, output)]
    largest = [max(stop - first for first, stop in each) for each in windows]
    meets = [max(sum(first <= at < stop for first, stop in each) for at in range(i)) for each, i in zip(windows, size)]
    if kind == "max":
        roundings = (0, math.prod(meets) - 1)
    elif all(i % o == 0 for i, o in zip(size, output)):
        roundings = (math.prod(largest), 1)
    else:
        changed = [axis for axis in range(axes) if size[axis] != output[axis]]
        roundings = sum(largest[axis] + 1 for axis in changed), sum(meets[axis] + 1 for axis in changed)
    pool = getattr(F, f"adaptive_{kind}_pool{axes}d")
    name = f"adaptive_{kind}_pool"
    return _pool(operation, random, x, name, {"output_size": output}, lambda x: pool(x, output), roundings)


def overall(operation: str, random: np.random.Generator, kind: str) -> Case:
    """One value per map. The mean is summed in float64 and rounded once; its gradient is one division."""
    axes = int(random.integers(1, 4))
    size = tuple(int(random.integers(1, LARGEST[axes] + 1)) for _ in range(axes))
    x = _pixels(random, size, ties=kind == "max")

    def theirs(x):
        return (
            (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1](x, size).flatten(1)
            if kind == "max"
            else (x.mean(tuple(range(2, x.ndim))))
        )

    once = math.prod(size) if kind == "avg" else None
    return _pool(operation, random, x, f"global_{kind}_pool", {}, theirs, (0, int(kind == "avg")), once)


def _pool(operation, random, x, name, settings, theirs, roundings, once: int | None = None) -> Case:
    """`roundings`: of a value of y and of dx; `once`: y is the mean of so many, rounded once."""
    with torch.no_grad():
        dy = _normal(random, tuple(theirs(*_tensors([x])).shape))
    positional = [settings[key] for key in ("size", "output_size") if key in settings]
    options = {key: value for key, value in settings.items() if key not in ("size", "output_size")}
    chosen = "max" in name  # which pixel wins must not depend on magnitudes

    def ours(backend: str) -> Results:
        forward, backward = getattr(functional, name), getattr(functional, f"{name}_backward")
        how = {**options, "backend": backend, "math": "exact"}
        return {"y": forward(x, *positional, **how), "dx": backward(dy, x, *positional, **how)}

    def expected() -> dict[str, Expected]:
        y, dx = _run(theirs, [x], dy)
        sizes = _run(theirs, [x if chosen else np.abs(x)], np.abs(dy))
        bounds = [chain(k, np.abs(size)) for k, size in zip(roundings, sizes)]
        if once:
            bounds[0] = rounded_once(y, once, sizes[0])
        return {"y": Expected(y, bounds[0]), "dx": Expected(dx, bounds[1])}

    return Case(operation, {"x": x.shape, **settings}, ours, expected)


# ---- norms -----------------------------------------------------------------------------------------------------------


def batch_norm(operation: str, random: np.random.Generator, training: bool) -> Case:
    """The layer, with its running statistics: their values after a training step,
    or the results of inference with them.
    """
    spatial = _map(random)
    images, channels = int(random.choice(IMAGES)), int(random.integers(1, 9))
    terms = images * math.prod(spatial)
    if terms < 2:
        images = terms = 2
    x, dy = _around(random, (images, channels, *spatial), terms), _normal(random, (images, channels, *spatial))
    state = {
        "gamma": _normal(random, (channels,)),
        "beta": _normal(random, (channels,)),
        "running_mean": _normal(random, (channels,)),
        "running_var": random.uniform(0.1, 2, channels).astype(np.float32),
    }
    eps, momentum = _eps(random), float(random.choice([0.1, 0.5, 1.0, round(random.random(), 3)]))

    def ours(backend: str) -> Results:
        engine = get_backend(backend, "exact")
        model = Model(BatchNorm(momentum, eps), x.shape[1:]).place(engine)
        model.load_state_dict(state)
        model.mode.training = training
        y, backward = model(x)
        dx = backward(engine.pack(dy))
        assert dx is not None
        gradients = model.split(engine.host(model.grads))
        after = {name: value for name, value in model.state_dict().items() if name.startswith("running")}
        results = {"y": engine.unpack(y), "dx": engine.unpack(dx)}
        results |= {"dgamma": gradients["gamma"], "dbeta": gradients["beta"]}
        return {name: np.array(value) for name, value in (results | after).items()}

    def expected() -> dict[str, Expected]:
        mean, var = (torch.tensor(state[f"running_{name}"], dtype=torch.float64) for name in ("mean", "var"))

        def theirs(x, gamma, beta):
            return F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps)

        values = _run(theirs, [x, state["gamma"], state["beta"]], dy)
        axes = (0, *range(2, x.ndim))
        gamma, beta, *before = (_along(value, x) for value in state.values())
        line = Normalized(x, axes, eps, None if training else tuple(before))
        dx = line.dx(dy, gamma, gamma_first=False) if training else line.dx_of_constants(dy, gamma)
        bounds = [line.y(gamma, beta), dx, dgamma(dy, line.xhat, line.error, axes), dbeta(dy, axes)]
        values += [mean.numpy(), var.numpy()]
        if training:
            x64 = x.astype(np.float64)
            size, batch = np.abs(x64).mean(axes), (x64.mean(axes), x64.var(axes, ddof=1))
            bounds += [
                running(state["running_mean"].astype(np.float64), batch[0], momentum, terms, size),
                running(state["running_var"].astype(np.float64), batch[1], momentum, terms, batch[1]),
            ]
        else:
            bounds += [np.zeros(channels), np.zeros(channels)]  # inference does not change them
        names = ("y", "dx", "dgamma", "dbeta", "running_mean", "running_var")
        return dict(zip(names, map(Expected, values, bounds)))

    return Case(operation, {"x": x.shape, "eps": eps, "momentum": momentum}, ours, expected)


def image_norm(operation: str, random: np.random.Generator, kind: str) -> Case:
    """Group norm, instance norm as its largest number of groups,
    and layer norm with gamma and beta of an image's shape.
    """
    spatial = _map(random)
    groups = int(random.integers(1, 5)) if kind == "group" else 1
    channels = groups * int(random.integers(1, 4))
    terms = channels // groups * math.prod(spatial)
    if terms < 2:
        channels, terms = 2 * groups, 2
    shape = (int(random.choice(IMAGES)), channels, *spatial)
    x, dy, eps = _around(random, shape, terms), _normal(random, shape), _eps(random)
    each = shape[1:2] if kind == "group" else shape[1:]
    gamma, beta = _normal(random, each), _normal(random, each)
    split = (groups,) if kind == "group" else ()

    def ours(backend: str) -> Results:
        how = {"eps": eps, "backend": backend, "math": "exact"}
        forward, backward = (getattr(functional, f"{kind}_norm{end}") for end in ("", "_backward"))
        y = forward(x, *split, gamma, beta, **how)[0]
        return dict(zip(("y", "dx", "dgamma", "dbeta"), (y, *backward(dy, x, *split, gamma, **how)), strict=True))

    def expected() -> dict[str, Expected]:
        def theirs(x, gamma, beta):
            if kind == "group":
                return F.group_norm(x, groups, gamma, beta, eps)
            return F.layer_norm(x, shape[1:], gamma, beta, eps)

        values = _run(theirs, [x, gamma, beta], dy)
        # As lines (N, groups, values of a group), the last axis being normalized.
        lines = (shape[0], groups, -1)
        scale, offset = (
            np.broadcast_to(_along(v, x) if kind == "group" else v, shape).astype(np.float64).reshape(lines)
            for v in (gamma, beta)
        )
        line, dy_lines = Normalized(x.reshape(lines), (2,), eps), dy.astype(np.float64).reshape(lines)
        bounds = [line.y(scale, offset), line.dx(dy_lines, scale, gamma_first=True)]
        bounds = [bound.reshape(shape) for bound in bounds]
        # gamma's and beta's gradients are sums over the axes they are broadcast to.
        axes = (0, *range(2, x.ndim)) if kind == "group" else (0,)
        bounds += [dgamma(dy, line.xhat.reshape(shape), line.error.reshape(shape), axes), dbeta(dy, axes)]
        return dict(zip(("y", "dx", "dgamma", "dbeta"), map(Expected, values, bounds)))

    return Case(operation, {"x": shape, "groups": groups, "eps": eps}, ours, expected)


def _along(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One value per channel, shaped to broadcast to x."""
    return values.astype(np.float64).reshape(1, -1, *(1 for _ in x.shape[2:]))


# ---- PyTorch, and random numbers -------------------------------------------------------------------------------------


def _tensors(arrays) -> list:
    return [None if a is None else torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]


def _run(f: Callable, arrays, dy: np.ndarray) -> list[np.ndarray]:
    """f's value, then the gradients of all arrays, in float64."""
    tensors = _tensors(arrays)
    y = f(*tensors)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def _padded(x, pads, mode: str, value: float):
    """PyTorch's pad, which takes the last axis first and has another name for zeros."""
    turned = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, turned, value=value) if mode in ("zeros", "constant") else F.pad(x, turned, mode)


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_normal(shape, np.float32)


def _around(random: np.random.Generator, shape: tuple[int, ...], terms: int) -> np.ndarray:
    """Values around 0, or far from it if there are enough for a variance that float64 can resolve."""
    offset = float(random.choice([0.0, 3.0, -100.0])) if terms >= 8 else 0.0
    return _normal(random, shape) + np.float32(offset)


def _pixels(random: np.random.Generator, size: tuple[int, ...], *, ties: bool) -> np.ndarray:
    """Images of one to four channels; with `ties`, half of all draws have many equal values,
    of which the first wins.
    """
    x = _normal(random, (int(random.choice(IMAGES)), int(random.integers(1, 5)), *size))
    return np.round(2 * x) / 2 + np.float32(0) if ties and random.random() < 0.5 else x


def _each(random: np.random.Generator, axes: int, least: int, most: int) -> tuple[int, ...]:
    return tuple(int(n) for n in random.integers(least, most + 1, axes))


def _dilation(random: np.random.Generator, axes: int) -> tuple[int, ...]:
    return _each(random, axes, 1, 3) if random.random() < 0.4 else (1,) * axes


def _channels(random: np.random.Generator) -> tuple[int, int, int]:
    """(groups, channels of a group, filters of a group): one group, some, or depthwise; sometimes many filters."""
    kind = random.choice(["one", "many", "groups", "depthwise"], p=[0.4, 0.15, 0.25, 0.2])
    if kind == "many":
        return 1, int(random.integers(8, 33)), int(random.integers(8, 41))
    if kind == "depthwise":
        return int(random.integers(2, 9)), 1, int(random.integers(1, 3))
    groups = 1 if kind == "one" else int(random.integers(2, 4))
    return groups, int(random.integers(1, 6)), int(random.integers(1, 7))


def _before_and_after(random: np.random.Generator, most: int) -> tuple[int, int]:
    """The padding of an axis."""
    before, after = random.integers(0, most + 1, 2)
    return int(before), int(after)


def _map(random: np.random.Generator) -> tuple[int, ...]:
    """The spatial sizes of the normalized array: none (N, C), or one to three."""
    axes = int(random.integers(0, 4))
    return tuple(int(random.integers(1, LARGEST[axes] + 1)) for _ in range(axes))


def _eps(random: np.random.Generator) -> float:
    return float(random.choice([1e-5, 1e-3, 0.1]))


# (how many of 30 configurations, the function that draws one)
OPERATIONS: dict[str, tuple[int, Callable[[str, np.random.Generator], Case]]] = {
    "convolution, zeros": (5, partial(convolution, mode="zeros")),
    "convolution, constant": (1, partial(convolution, mode="constant")),
    "convolution, reflect": (2, partial(convolution, mode="reflect")),
    "convolution, replicate": (2, partial(convolution, mode="replicate")),
    "convolution, circular": (2, partial(convolution, mode="circular")),
    "transposed convolution": (5, transposed),
    "max pooling": (2, partial(pooling, kind="max")),
    "average pooling": (2, partial(pooling, kind="avg")),
    "adaptive max pooling": (1, partial(adaptive, kind="max")),
    "adaptive average pooling": (1, partial(adaptive, kind="avg")),
    "global max pooling": (1, partial(overall, kind="max")),
    "global average pooling": (1, partial(overall, kind="avg")),
    "batch norm, training": (2, partial(batch_norm, training=True)),
    "batch norm, inference": (1, partial(batch_norm, training=False)),
    "group norm": (1, partial(image_norm, kind="group")),
    "layer norm": (1, partial(image_norm, kind="layer")),
}
# Configuration i is of operation CYCLE[i % 30].
CYCLE = [name for name, (count, _) in OPERATIONS.items() for _ in range(count)]
