"""Normalization: over the batch, over groups of channels of each image, over each image."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpucnn.arguments import integer, number, truth
from gpucnn.backends import shares
from gpucnn.backends.batch import Batch
from gpucnn.errors import ShapeError
from gpucnn.geometry import Window
from gpucnn.layers.activation import check_activation, finish, onnx_activation, torch_activation
from gpucnn.layers.base import Backward, Layer, Parameter, Shape, Statistic
from gpucnn.layers.counterparts import Graph, TorchModule
from gpucnn.layers.own import label


def _torch_norm(layer: Any, kind: str, settings: dict, **statistics: Statistic) -> list[TorchModule]:
    """PyTorch's norm, which calls gamma and beta weight and bias."""
    pairs = {"weight": layer.gamma, "bias": layer.beta, **statistics}
    tensors = {name: tensor for name, tensor in pairs.items() if tensor is not None}
    return [TorchModule(kind, {**settings, "eps": layer.eps}, tensors), *torch_activation(layer.activation)]


class BatchNorm(Layer):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta for each channel of (N, C) or (N, C, *spatial).

    Ioffe and Szegedy 2015. In training, mean and variance are those of the batch, over images and positions, and the
    running ones move toward them: `running += momentum * (batch - running)`, the variance unbiased, as in PyTorch.
    In inference, and in a frozen layer (`trainable`), they are the running ones, taken as constants: dx, dgamma and
    dbeta are those of an affine map.
    `activation` is None, "relu" (fused), "tanh", "sigmoid", "leaky_relu", "gelu" or "silu".

    Training on one value per channel raises ShapeError: its variance is zero, its output would be beta for any x.
    """

    recordable = local = True
    _checks: ClassVar = {
        "momentum": partial(number, least=0, most=1),
        "eps": partial(number, above=0),
        "activation": check_activation,
    }

    def __init__(self, momentum: float = 0.1, eps: float = 1e-5, activation: str | None = None):
        self.momentum, self.eps, self.activation = momentum, eps, activation

    def build(self, shape: Shape) -> Shape:
        self.check_axes(shape)
        self.gamma, self.beta = Parameter(shape[:1], 1.0), Parameter(shape[:1], 0.0)
        self.running_mean, self.running_var = Statistic(shape[:1], 0.0), Statistic(shape[:1], 1.0)
        return shape

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend, gamma, beta = x.backend, self.gamma, self.beta
        training, rectified = self._uses_batch(), self.activation == "relu"
        if training:
            y, mean, var = self._with_batch_statistics(x, None, rectified)
        else:
            mean, var = self._running()
            y = backend.batch_norm(x, mean, var, gamma.value, beta.value, self.eps, relu=rectified)
        y, activation_backward = finish(y, self.activation)

        def training_backward_of_relu(dy: Batch) -> Batch:
            inputs = dy, y, x, mean, var, gamma.value, beta.value, self.eps
            return backend.batch_norm_relu_gradient(*inputs, gamma.grad, beta.grad)

        if training and rectified:
            return y, training_backward_of_relu

        def backward(dy: Batch) -> Batch:
            dy = activation_backward(dy)
            if not self._trainable:
                return backend.batch_norm_input_gradient(dy, var, gamma.value, self.eps)
            dx = backend.batch_norm_gradient(dy, x, mean, var, gamma.value, self.eps, gamma.grad, beta.grad)
            # With constant statistics gamma's and beta's gradients are the same sums, but dx has no term through them.
            return dx if training else backend.batch_norm_input_gradient(dy, var, gamma.value, self.eps)

        return y, backward

    def with_max_pool(self, x: Batch, pool: Window) -> tuple[Batch, Backward]:
        """This layer, whose activation is ReLU, and the max pooling after it; in
        training one operation of the backend.
        """
        backend = x.backend
        if not self._uses_batch():
            y, own_backward = self(x)
            y, where = backend.max_pool(y, pool)
            return y, lambda dy: own_backward(backend.max_pool_gradient(dy, where, pool))
        self.check(x)
        self.check_count(shares.whole(x))
        mean, var = backend.batch_norm_moving_statistics(x, *self._running(), self.momentum)
        settings = x, mean, var, self.gamma.value, self.beta.value, self.eps, pool
        y, kept = backend.batch_norm_max_pool(*settings)
        return y, lambda dy: backend.batch_norm_max_pool_gradient(dy, kept, *settings, self.gamma.grad, self.beta.grad)

    def with_addition(self, x: Batch, other: Batch, relu: bool) -> tuple[Batch, Callable[[Batch], tuple[Batch, Batch]]]:
        """This layer in training, without an activation, plus `other`, as one operation of the backend; with `relu`
        followed by ReLU. Its backward returns the gradients of x and of `other`.
        """
        self.check(x)
        backend = x.backend
        y, mean, var = self._with_batch_statistics(x, other, relu)

        def backward(dy: Batch) -> tuple[Batch, Batch]:
            inputs = dy, y if relu else None, x, mean, var, self.gamma.value, self.eps
            return backend.batch_norm_add_gradient(*inputs, self.gamma.grad, self.beta.grad)

        return y, backward

    def _uses_batch(self) -> bool:
        """Whether mean and variance are the batch's own."""
        return self.mode.training and self._trainable

    def check_axes(self, shape: Shape) -> None:
        """Raises ShapeError for an unsupported shape."""
        if not shape:
            raise ShapeError("needs values of shape (C,) or (C, *spatial), not ()")

    def _with_batch_statistics(self, x: Batch, other: Batch | None, relu: bool) -> tuple[Batch, Any, Any]:
        """(y, mean, var) by the batch's own statistics, plus `other` if there is one; the running ones move."""
        self.check_count(shares.whole(x))
        settings = *self._running(), self.momentum, self.gamma.value, self.beta.value, self.eps
        return x.backend.batch_norm_training(x, *settings, other, relu)

    def _running(self) -> tuple[Any, Any]:
        return self.running_mean.value, self.running_var.value

    def check_count(self, images: int) -> None:
        """Raises ShapeError for a batch of so few images that training cannot do with it."""
        if images * math.prod(self.input_shape[1:]) < 2:
            raise ShapeError(
                f"{label(self)} cannot train on one value per channel, which a batch of {images} image of 1 position "
                "has; choose a batch size that leaves no single image over"
            )

    def onnx(self, graph: Graph, x: str) -> str:
        parts: list[Parameter | Statistic] = [self.gamma, self.beta, self.running_mean, self.running_var]
        y = graph.node("BatchNormalization", x, *map(graph.tensor, parts), epsilon=self.eps)
        return onnx_activation(graph, y, self.activation)

    def pytorch(self) -> list[TorchModule]:
        kind = f"BatchNorm{max(len(self.input_shape) - 1, 1)}d"
        settings = {"num_features": self.input_shape[0], "momentum": self.momentum}
        return _torch_norm(self, kind, settings, running_mean=self.running_mean, running_var=self.running_var)


class BatchNorm1d(BatchNorm):
    """BatchNorm for (N, C) or (N, C, L) only."""

    def check_axes(self, shape: Shape) -> None:
        if len(shape) not in (1, 2):
            raise ShapeError(f"needs values of shape (C,) or (C, L), not {tuple(shape)}; BatchNorm takes any")


class BatchNorm2d(BatchNorm):
    """BatchNorm for images (N, C, H, W) only."""

    def check_axes(self, shape: Shape) -> None:
        if len(shape) != 3:
            raise ShapeError(f"needs images of shape (C, H, W), not {tuple(shape)}; BatchNorm takes any")


class BatchNorm3d(BatchNorm):
    """BatchNorm for volumes (N, C, D, H, W) only."""

    def check_axes(self, shape: Shape) -> None:
        if len(shape) != 4:
            raise ShapeError(f"needs volumes of shape (C, D, H, W), not {tuple(shape)}; BatchNorm takes any")


class _ImageNorm(Layer):
    """Normalization within each image: the same in training and in inference, whatever the batch."""

    recordable = True
    groups = 1
    _checks: ClassVar = {"eps": partial(number, above=0), "activation": check_activation}

    def __init__(self, eps: float = 1e-5, *, affine: bool = True, activation: str | None = None):
        self.eps, self.affine, self.activation = eps, truth("affine", affine), activation

    def _parameters(self, shape: Shape) -> None:
        self.gamma = Parameter(shape, 1.0) if self.affine else None
        self.beta = Parameter(shape, 0.0) if self.affine else None

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend, shape, x = x.backend, x.shape[1:], self._seen(x)
        gamma, beta = (p and p.value.reshape(-1) for p in (self.gamma, self.beta))
        mean, var = backend.group_norm_statistics(x, self.groups)
        y = backend.group_norm(x, mean, var, gamma, beta, self.eps, relu=self.activation == "relu")
        y, activation_backward = finish(y, self.activation)

        def backward(dy: Batch) -> Batch:
            dy = activation_backward(self._seen(dy))
            dgamma, dbeta = (p and p.grad.reshape(-1) for p in (self.gamma, self.beta))
            return backend.group_norm_gradient(dy, x, mean, var, gamma, self.eps, dgamma, dbeta).reshape(*shape)

        return y.reshape(*shape), backward

    def _seen(self, x: Batch) -> Batch:
        """The batch as the backend's group norm takes it."""
        return x


class GroupNorm(_ImageNorm):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, mean and variance being those of a group of channels of one
    image.

    Wu and He 2018. (N, C) or (N, C, *spatial) in and out; `groups` divides C, and gamma and beta are (C,), absent with
    affine=False. `groups=C` is instance norm. The variance is the biased one. `activation` is None, "relu" (fused),
    "tanh", "sigmoid", "leaky_relu", "gelu" or "silu". Training and inference do the same, whatever the batch.
    """

    def __init__(self, groups: int, eps: float = 1e-5, *, affine: bool = True, activation: str | None = None):
        self.groups = integer("groups", groups)
        super().__init__(eps, affine=affine, activation=activation)

    def build(self, shape: Shape) -> Shape:
        if not shape:
            raise ShapeError("needs values of shape (C,) or (C, *spatial), not ()")
        if shape[0] % self.groups:
            fitting = [d for d in range(1, shape[0] + 1) if shape[0] % d == 0]
            raise ShapeError(f"{self.groups} groups do not divide {shape[0]} channels; use one of {fitting}")
        self._parameters(shape[:1])
        return shape

    def onnx(self, graph: Graph, x: str) -> str:
        """As an instance norm of the groups: before opset 21, ONNX's GroupNormalization scales groups, not channels."""
        shapes = {"groups": [0, self.groups, -1], "shape": [-1, *self.input_shape]}
        groups, shape = (graph.constant(name, sizes) for name, sizes in shapes.items())
        ones, zeros = (graph.constant(name, np.full(self.groups, v)) for name, v in (("ones", 1.0), ("zeros", 0.0)))
        y = graph.node("InstanceNormalization", graph.node("Reshape", x, groups), ones, zeros, epsilon=self.eps)
        y = graph.node("Reshape", y, shape)
        if self.gamma and self.beta:
            over = (-1, *[1] * (len(self.input_shape) - 1))
            y = graph.node("Mul", y, graph.tensor(self.gamma, over))
            y = graph.node("Add", y, graph.tensor(self.beta, over))
        return onnx_activation(graph, y, self.activation)

    def pytorch(self) -> list[TorchModule]:
        settings = {"num_groups": self.groups, "num_channels": self.input_shape[0], "affine": self.affine}
        return _torch_norm(self, "GroupNorm", settings)


class LayerNorm(_ImageNorm):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, mean and variance being those of all values of one image.

    Ba, Kiros and Hinton 2016. (N, C) or (N, C, *spatial) in and out; gamma and beta have the shape of an image, (C,
    *spatial), as in PyTorch's LayerNorm(normalized_shape=x.shape[1:]), absent with affine=False. `activation` as in
    GroupNorm.
    """

    recordable = True

    def build(self, shape: Shape) -> Shape:
        if not shape:
            raise ShapeError("needs values of shape (C,) or (C, *spatial), not ()")
        self._parameters(shape)
        return shape

    def _seen(self, x: Batch) -> Batch:
        return x.reshape(math.prod(x.shape[1:]))

    def onnx(self, graph: Graph, x: str) -> str:
        parts = [graph.tensor(part) for _, part in self.parameters()]
        parts = parts or [graph.constant("ones", np.ones(self.input_shape))]
        y = graph.node("LayerNormalization", x, *parts, axis=1, epsilon=self.eps)
        return onnx_activation(graph, y, self.activation)

    def pytorch(self) -> list[TorchModule]:
        settings = {"normalized_shape": self.input_shape, "elementwise_affine": self.affine}
        return _torch_norm(self, "LayerNorm", settings)
