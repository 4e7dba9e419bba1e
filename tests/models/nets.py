"""The ready-made networks with weights and statistics as after training, and the error bounds of layers."""

import math

import numpy as np

from gpucnn.layers import AvgPool2d, BatchNorm, Conv2d, Dense, GlobalAvgPool2d, Residual, Sequential
from gpucnn.models import MODELS, Model, build_model

UNIT = 2.0**-24

# Those that take images (C, H, W) of any size and give a value per class.
OF_IMAGES = [name for name in MODELS if name not in ("signal_small", "volume_small", "unet_small")]

NETWORKS = {
    "lenet5 28x28": ("lenet5", (1, 28, 28), {}),
    "lenet5 3x19x17": ("lenet5", (3, 19, 17), {"classes": 3}),
    "lenet5 of 1998": ("lenet5", (1, 32, 32), {"variant": "1998"}),
    "vgg_small": ("vgg_small", (3, 17, 16), {}),
    "resnet20": ("resnet20", (3, 16, 13), {}),
    "mlp": ("mlp", (1, 9, 9), {"hidden": (30, 20)}),
    "mlp regressor": ("mlp", (7,), {"outputs": 2, "hidden": (5,)}),
}


def network(name: str) -> Model:
    kind, shape, options = NETWORKS[name]
    return randomized(build_model(kind, shape, **options))


def randomized(model: Model, seed=0) -> Model:
    """`model` with random biases, scales and statistics: the initial 0 and 1 would hide mix-ups."""
    rng = np.random.default_rng(seed)
    state = model.initialize(3).state_dict()
    for name, value in state.items():
        if value.ndim == 1:
            low, high = (0.5, 1.5) if name.endswith(("gamma", "var")) else (-0.3, 0.3)
            state[name] = rng.uniform(low, high, value.shape).astype(np.float32)
    model.load_state_dict(state)
    return model


def images(model: Model, count: int, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *model.input_shape)).astype(np.float32)


def leaves(layer, x):
    """(layer, its input) of every layer without children, in the order of an inference pass; y at the end.

    A Residual's addition is listed as (residual, (body's output, shortcut's output)).
    """
    if isinstance(layer, Sequential):
        for part in layer.layers:
            x = yield from leaves(part, x)
        return x
    if isinstance(layer, Residual):
        main = yield from leaves(layer.body, x)
        short = (yield from leaves(layer.shortcut, x)) if layer.shortcut else x
        yield layer, (main, short)
        return layer(x)[0]
    yield layer, x
    return layer(x)[0]


def bound(layer, x) -> np.ndarray:
    """The bound per position on the difference of two float32 results of `layer`: twice k * 2**-24 * sum(|x||w|).

    k counts the roundings that a term goes through, whatever the order; an activation multiplies a difference by
    its slope, 1.13 at most, and adds its own roundings. Layers that choose or move values must agree exactly: 0.
    """
    if getattr(layer, "activation", None) not in (None, "relu"):
        return 1.13 * _bound(layer, x) + 8 * UNIT
    return _bound(layer, x)


def _bound(layer, x) -> np.ndarray:
    """Before the activation."""
    if isinstance(layer, Residual):
        return 2 * UNIT * (np.abs(x[0].numpy()) + np.abs(x[1].numpy()))
    x = np.abs(x.numpy().astype(np.float64))
    if isinstance(layer, (Conv2d, Dense)):
        w, b = np.abs(layer.weight.value), 0 if layer.bias is None else np.abs(layer.bias.value)
        k = math.prod(w.shape[1:]) + 1
        if isinstance(layer, Dense):
            return 2 * k * UNIT * (x @ w.T.astype(np.float64) + b)
        return 2 * k * UNIT * _conv(x, w.astype(np.float64), b, layer)
    if isinstance(layer, BatchNorm):
        over = [slice(None), *[None] * (x.ndim - 2)]
        mean, var, gamma, beta = (
            p.value.astype(np.float64)[tuple(over)]
            for p in (layer.running_mean, layer.running_var, layer.gamma, layer.beta)
        )
        # x - mean, var + eps, the root, a quotient or reciprocal, two products, the sum: in any order, folded or not
        return 2 * 8 * UNIT * (np.abs(gamma) / np.sqrt(var + layer.eps) * (x + np.abs(mean)) + np.abs(beta))
    if isinstance(layer, GlobalAvgPool2d):
        k = math.prod(x.shape[2:]) + 1
        return 2 * k * UNIT * x.mean(axis=(2, 3))
    if isinstance(layer, AvgPool2d):
        (r, s), (p, q) = layer.window.kernel, layer.window.output
        assert layer.window.stride == (r, s) and layer.window.padding == ((0, 0), (0, 0))
        means = x[:, :, : p * r, : q * s].reshape(*x.shape[:2], p, r, q, s).mean(axis=(3, 5))
        return 2 * (r * s + 1) * UNIT * means
    return np.zeros(())


def _conv(x, w, b, layer) -> np.ndarray:
    """The convolution in float64, without groups or dilation."""
    assert layer.groups == 1 and set(layer.window.dilation) == {1}
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), *layer.window.padding)), w.shape[2:], axis=(2, 3)
    )
    (sh, sw) = layer.window.stride
    b = b[:, None, None] if np.ndim(b) else b
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::sh, ::sw], w, optimize=True) + b
