"""Batch normalisation."""

import math

from gpucnn.backends.batch import Batch
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import Window
from gpucnn.layers.activation import check_activation, finish
from gpucnn.layers.base import Backward, Layer, Parameter, Shape, Statistic, label


class BatchNorm(Layer):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta for each channel of (N, C) or (N, C, *spatial).

    Ioffe and Szegedy 2015. In training, mean and variance are those of the batch, over images and positions, and the
    running ones move towards them: `running += momentum * (batch - running)`, the variance unbiased, as PyTorch does
    it. In inference they are the running ones, taken as constants: dx, dgamma and dbeta are those of an affine map.
    `activation` is None, "relu" (fused), "tanh" or "sigmoid".

    Training on one value a channel raises ShapeError: its variance is zero and its output would be beta whatever x is.
    """

    capturable = True

    def __init__(self, momentum: float = 0.1, eps: float = 1e-5, activation: str | None = None):
        if not 0 <= momentum <= 1:
            raise ConfigurationError(f"momentum is {momentum!r}; give a number from 0 to 1")
        if not eps > 0:
            raise ConfigurationError(f"eps is {eps!r}; give a number above 0")
        self.momentum, self.eps = float(momentum), float(eps)
        self.activation = check_activation(activation)

    def build(self, shape: Shape) -> Shape:
        if not shape:
            raise ShapeError("needs values of shape (C,) or (C, *spatial), not ()")
        self.gamma, self.beta = Parameter(shape[:1], 1.0), Parameter(shape[:1], 0.0)
        self.running_mean, self.running_var = Statistic(shape[:1], 0.0), Statistic(shape[:1], 1.0)
        return shape

    def __call__(self, x: Batch) -> tuple[Batch, Backward]:
        self.check(x)
        backend, gamma, beta = x.backend, self.gamma, self.beta
        training = self.mode.training
        mean, var = self._batch_statistics(x) if training else (self.running_mean.value, self.running_var.value)
        rectified = self.activation == "relu"
        y = backend.batch_norm(x, mean, var, gamma.value, beta.value, self.eps, relu=rectified)
        y, activation_backward = finish(y, self.activation)

        def training_backward_of_relu(dy: Batch) -> Batch:
            given = dy, y, x, mean, var, gamma.value, beta.value, self.eps
            return backend.batch_norm_relu_gradient(*given, gamma.grad, beta.grad)

        if training and rectified:
            return y, training_backward_of_relu

        def backward(dy: Batch) -> Batch:
            dy = activation_backward(dy)
            dx = backend.batch_norm_gradient(dy, x, mean, var, gamma.value, self.eps, gamma.grad, beta.grad)
            # With constant statistics gamma's and beta's gradients are the same sums, but dx has no part through them.
            return dx if training else backend.batch_norm_input_gradient(dy, var, gamma.value, self.eps)

        return y, backward

    def with_max_pool(self, x: Batch, pool: Window) -> tuple[Batch, Backward]:
        """This layer, its activation being ReLU, and a max pooling after it; in training one operation of the backend."""
        backend = x.backend
        if not self.mode.training:
            y, own_backward = self(x)
            y, where = backend.max_pool(y, pool)
            return y, lambda dy: own_backward(backend.max_pool_gradient(dy, where, pool))
        self.check(x)
        mean, var = self._batch_statistics(x)
        settings = x, mean, var, self.gamma.value, self.beta.value, self.eps, pool
        y, kept = backend.batch_norm_max_pool(*settings)
        return y, lambda dy: backend.batch_norm_max_pool_gradient(dy, kept, *settings, self.gamma.grad, self.beta.grad)

    def _batch_statistics(self, x: Batch):
        if x.images * math.prod(x.spatial) < 2:
            raise ShapeError(
                f"{label(self)} cannot train on one value a channel: this batch holds {x.images} image of "
                f"{math.prod(x.spatial)} position; choose a batch size that leaves no single image over"
            )
        mean, var, unbiased = x.backend.batch_norm_statistics(x)
        x.backend.update_running(self.running_mean.value, mean, self.momentum)
        x.backend.update_running(self.running_var.value, unbiased, self.momentum)
        return mean, var
