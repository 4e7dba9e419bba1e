"""Normalization over the batch, over groups of channels of each image, over each image."""

import numpy as np

from gpucnn.functional.arrays import Name, backend_for, built, channeled, expect
from gpucnn.layers import BatchNorm, GroupNorm, LayerNorm

__all__ = ["batch_norm", "batch_norm_backward", "group_norm", "group_norm_backward", "layer_norm"]
__all__ += ["layer_norm_backward"]


Three = tuple[np.ndarray, np.ndarray, np.ndarray]


def batch_norm(x, gamma, beta, *, eps: float = 1e-5, backend: Name = None, math: Name = None) -> Three:
    """(y, mean, var): x normalized by the batch's own statistics, y = gamma * (x - mean) / sqrt(var + eps) + beta.

    x is (N, C) or (N, C, *spatial); gamma, beta, mean and var are (C,), over images and positions. var is the biased
    variance (divided by the count), as it is used. eps is above 0.
    """
    x, gamma, beta = channeled(x=x, gamma=gamma, beta=beta)
    layer = _checked(BatchNorm(eps=eps), x, gamma=gamma, beta=beta)
    engine = backend_for(x, backend, math)
    lanes = engine.pack(x)
    mean, var, _ = engine.batch_norm_statistics(lanes)
    y = engine.batch_norm(lanes, mean, var, engine.array(gamma), engine.array(beta), layer.eps)
    return engine.unpack(y), engine.host(mean), engine.host(var)


def batch_norm_backward(dy, x, gamma, *, eps: float = 1e-5, backend: Name = None, math: Name = None) -> Three:
    """(dx, dgamma, dbeta) of `batch_norm` with the same eps, through the batch's own statistics. dy has x's shape."""
    dy, x, gamma = channeled(dy=dy, x=x, gamma=gamma)
    layer = _checked(BatchNorm(eps=eps), x, dy, gamma=gamma)
    engine = backend_for(x, backend, math)
    lanes, dgamma, dbeta = engine.pack(x), engine.zeros(gamma.shape), engine.zeros(gamma.shape)
    mean, var, _ = engine.batch_norm_statistics(lanes)
    dx = engine.batch_norm_gradient(engine.pack(dy), lanes, mean, var, engine.array(gamma), layer.eps, dgamma, dbeta)
    return engine.unpack(dx), engine.host(dgamma), engine.host(dbeta)


def group_norm(x, groups: int, gamma, beta, *, eps: float = 1e-5, backend: Name = None, math: Name = None) -> Three:
    """(y, mean, var): each image's groups of channels normalized, y = gamma * (x - mean) / sqrt(var + eps) + beta.

    x is (N, C) or (N, C, *spatial), groups divides C, gamma and beta are (C,); mean and var (biased) are (N, groups),
    over the channels of a group and all positions. eps is above 0. With groups=C it is instance norm.
    """
    x, gamma, beta = channeled(x=x, gamma=gamma, beta=beta)
    layer = _checked(GroupNorm(groups, eps), x, gamma=gamma, beta=beta)
    engine = backend_for(x, backend, math)
    lanes = engine.pack(x)
    mean, var = engine.group_norm_statistics(lanes, layer.groups)
    y = engine.group_norm(lanes, mean, var, engine.array(gamma), engine.array(beta), layer.eps)
    return engine.unpack(y), engine.unpack(mean), engine.unpack(var)


def group_norm_backward(dy, x, groups, gamma, *, eps=1e-5, backend=None, math=None) -> Three:
    """(dx, dgamma, dbeta) of `group_norm` with the same groups and eps, through the statistics. dy has x's shape."""
    dy, x, gamma = channeled(dy=dy, x=x, gamma=gamma)
    layer = _checked(GroupNorm(groups, eps), x, dy, gamma=gamma)
    engine = backend_for(x, backend, math)
    lanes, dgamma, dbeta = engine.pack(x), engine.zeros(gamma.shape), engine.zeros(gamma.shape)
    mean, var = engine.group_norm_statistics(lanes, layer.groups)
    dx = engine.group_norm_gradient(engine.pack(dy), lanes, mean, var, engine.array(gamma), layer.eps, dgamma, dbeta)
    return engine.unpack(dx), engine.host(dgamma), engine.host(dbeta)


def layer_norm(x, gamma, beta, *, eps: float = 1e-5, backend: Name = None, math: Name = None) -> Three:
    """(y, mean, var): each image normalized as a whole, y = gamma * (x - mean) / sqrt(var + eps) + beta.

    x is (N, C) or (N, C, *spatial), gamma and beta have the shape of one image; mean and var (biased) are (N,). eps is
    above 0.
    """
    x, gamma, beta = channeled(x=x, gamma=gamma, beta=beta)
    _checked(LayerNorm(eps), x, gamma=gamma, beta=beta)
    flat, gamma, beta = x.reshape(len(x), -1), gamma.reshape(-1), beta.reshape(-1)
    y, mean, var = group_norm(flat, 1, gamma, beta, eps=eps, backend=backend, math=math)
    return y.reshape(x.shape), mean[:, 0], var[:, 0]


def layer_norm_backward(dy, x, gamma, *, eps: float = 1e-5, backend: Name = None, math: Name = None) -> Three:
    """(dx, dgamma, dbeta) of `layer_norm` with the same eps, through the statistics. dy has x's shape."""
    dy, x, gamma = channeled(dy=dy, x=x, gamma=gamma)
    _checked(LayerNorm(eps), x, dy, gamma=gamma)
    flat, flat_dy = (array.reshape(len(x), -1) for array in (x, dy))
    dx, dgamma, dbeta = group_norm_backward(flat_dy, flat, 1, gamma.reshape(-1), eps=eps, backend=backend, math=math)
    return dx.reshape(x.shape), dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


def _checked(layer, x: np.ndarray, dy: np.ndarray | None = None, **parameters: np.ndarray):
    """The layer, built for x; raises ShapeError unless dy has x's shape and the parameters have the layer's."""
    built(layer, x)
    what = "the shape of one image" if isinstance(layer, LayerNorm) else "one value per channel"
    for name, array in parameters.items():
        expect(name, array, getattr(layer, name).shape, what)
    if dy is not None:
        expect("dy", dy, x.shape, "the shape of x")
    return layer
