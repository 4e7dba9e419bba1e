"""Random small networks: layers of all kinds with settings that fit, for up to three axes."""

import numpy as np

from gpucnn import layers as L
from gpucnn.errors import GpucnnError
from gpucnn.models import Model
from tests.inference.kinds import settle

_CONV = {1: L.Conv1d, 2: L.Conv2d, 3: L.Conv3d}
_TRANSPOSED = {1: L.ConvTranspose1d, 2: L.ConvTranspose2d, 3: L.ConvTranspose3d}
_MAX = {1: L.MaxPool1d, 2: L.MaxPool2d, 3: L.MaxPool3d}
_AVG = {1: L.AvgPool1d, 2: L.AvgPool2d, 3: L.AvgPool3d}
_ADAPTIVE = {1: (L.AdaptiveAvgPool1d, L.AdaptiveMaxPool1d), 2: (L.AdaptiveAvgPool2d, L.AdaptiveMaxPool2d)}
_ADAPTIVE[3] = (L.AdaptiveAvgPool3d, L.AdaptiveMaxPool3d)
_ACTIVATIONS = (None, "relu", "relu", "tanh", "sigmoid", "leaky_relu", "gelu", "silu")


def random_network(seed: int) -> Model:
    """The same for the same seed."""
    random = np.random.default_rng(1000 + seed)
    axes = int(random.integers(1, 4))
    size = {1: 40, 2: 11, 3: 6}[axes]
    shape = (int(random.integers(1, 20)), *(int(n) for n in random.integers(size // 2, size + 1, axes)))
    layers, here = [], shape
    for _ in range(int(random.integers(2, 7))):
        layer, here = _fitting(random, here, axes)
        layers.append(layer)
    if random.integers(2):
        layers += [L.Flatten(), L.Dense(int(random.integers(1, 40)), activation=_any(random, _ACTIVATIONS)), L.Dense(5)]
    return settle(Model(L.Sequential(*layers), shape, head="regressor"), seed)


def random_flat_network(seed: int) -> Model:
    """The same of flat values."""
    random = np.random.default_rng(2000 + seed)
    here = inputs = int(random.integers(1, 300))
    layers: list[L.Layer] = []
    for _ in range(int(random.integers(1, 6))):
        layer, here = _flat_layer(random, here)
        layers.append(layer)
    return settle(Model(L.Sequential(*layers), (inputs,), head="regressor"), seed)


def _flat_layer(random, inputs: int) -> tuple[L.Layer, int]:
    """A layer for so many flat values, and how many it makes."""
    units, kind = int(random.integers(1, 90)), int(random.integers(7))
    dense = L.Dense(units, bias=bool(random.integers(2)), activation=_any(random, _ACTIVATIONS))
    if kind == 0:
        return L.BatchNorm(activation=_any(random, (None, "relu", "silu"))), inputs
    if kind == 1:
        groups = _any(random, [g for g in range(1, inputs + 1) if inputs % g == 0])
        return L.GroupNorm(groups, affine=bool(random.integers(2))), inputs
    if kind == 2:
        return _any(random, (L.ReLU, L.GELU, L.Tanh, L.Softmax))(), inputs
    if kind == 3:
        return L.Residual(L.Sequential(L.BatchNorm(), L.Dense(inputs)), activation=_any(random, (None, "relu"))), inputs
    if kind == 4:
        return L.Concat(L.Sequential(), L.Sequential(dense)), inputs + units
    return dense, units


def _any(random, choices):
    return choices[int(random.integers(len(choices)))]


def _fitting(random, shape, axes: int):
    """A layer for values of `shape`, and the shape that it makes."""
    while True:
        state = random.bit_generator.state["state"]["state"] % 2**32
        layer = _layer(np.random.default_rng(state), shape, axes)
        random.integers(2)
        try:
            made = _layer(np.random.default_rng(state), shape, axes)
            result = Model(L.Sequential(layer), shape, head="regressor").output_shape
        except GpucnnError:
            continue
        if np.prod(result) < 6000:
            return made, result


def _layer(random, shape, axes: int) -> L.Layer:
    channels, kind = shape[0], int(random.integers(11))
    if kind <= 3:
        groups = _any(
            random, [1, 1, 1, channels, _any(random, [g for g in range(1, channels + 1) if channels % g == 0])]
        )
        filters = groups * int(random.integers(1, 20 if groups == 1 else 4))
        return _CONV[axes](
            filters,
            tuple(int(k) for k in random.integers(1, 4, axes)),
            stride=tuple(int(k) for k in random.integers(1, 3, axes)),
            padding=tuple((int(a), int(b)) for a, b in random.integers(0, 3, (axes, 2))),
            dilation=tuple(int(k) for k in random.integers(1, 3, axes)),
            groups=groups,
            bias=bool(random.integers(2)),
            activation=_any(random, _ACTIVATIONS),
        )
    if kind == 4:
        groups = _any(random, [g for g in range(1, channels + 1) if channels % g == 0])
        return _TRANSPOSED[axes](
            groups * int(random.integers(1, 5)),
            int(random.integers(1, 4)),
            stride=int(random.integers(1, 4)),
            padding=int(random.integers(0, 2)),
            groups=groups,
            bias=bool(random.integers(2)),
            activation=_any(random, _ACTIVATIONS),
        )
    if kind == 5:
        kernel, stride = int(random.integers(1, 4)), int(random.integers(1, 4))
        return _MAX[axes](
            kernel, stride=stride, padding=kernel // 2 * int(random.integers(2)), ceil_mode=bool(random.integers(2))
        )
    if kind == 6:
        return _any(random, [_MAX, _AVG])[axes](2)
    if kind == 7:
        kernel = int(random.integers(1, 4))
        include = bool(random.integers(2))
        return _AVG[axes](kernel, stride=int(random.integers(1, 3)), padding=kernel // 2, count_include_pad=include)
    if kind == 8:
        return _any(random, [L.BatchNorm(activation="relu"), L.BatchNorm(), L.GroupNorm(1), L.LayerNorm(), L.ReLU()])
    if kind == 9:
        filters = int(random.integers(1, 20))
        body = L.Sequential(_CONV[axes](channels, 3, padding=1, bias=False), L.BatchNorm())
        return _any(
            random,
            [
                L.Residual(body, activation=_any(random, (None, "relu", "tanh"))),
                L.Residual(L.Sequential(), _CONV[axes](channels, 1)),
                L.Concat(L.Sequential(), _CONV[axes](filters, 1), L.ReLU()),
                L.Concat(_CONV[axes](16, 1), L.Sequential(L.ReLU(), L.BatchNorm())),
            ],
        )
    return _any(
        random,
        [
            L.Upsample(2, mode=_any(random, ["nearest", "linear"])),
            L.Pad(1, mode=_any(random, ["zeros", "replicate", "constant"])),
            _any(random, _ADAPTIVE[axes])(int(random.integers(1, 5))),
            L.Softmax(),
        ],
    )
