"""Operations whose kernels serve networks of any size, to be prepared, not run, with a machine's first ones, so that
the next network, whatever it is, waits for few.
"""

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.geometry import window

_EPS, _RATE = 1e-5, 0.1


def usual(backend: Backend) -> None:
    """What most networks do: compiled before the first step of any."""
    x = Batch(backend.zeros((1, 1, 2, 2, backend.lanes)), 1, backend)
    c = backend.zeros((1,))
    mean, var = backend.batch_norm_moving_statistics(x, c, c, _RATE)
    y = backend.batch_norm(x, mean, var, c, c, _EPS, relu=True)
    backend.batch_norm_relu_gradient(x, y, x, mean, var, c, c, _EPS, c, c)
    backend.batch_norm_gradient(x, x, mean, var, c, _EPS, c, c)
    y = backend.batch_norm_add(x, mean, var, c, c, _EPS, x, True)
    backend.batch_norm_add_gradient(x, y, x, mean, var, c, _EPS, c, c)
    backend.sgd(c, c, c, c, momentum=_RATE, weight_decay=_RATE, nesterov=False)
    _convolve(backend, 4, 4)
    # A dense layer's on few images, such as the last of an epoch.
    x = Batch(backend.zeros((1, 1, 1, 1, backend.lanes)), 1, backend)
    backend.conv(x, backend.zeros((1, 1, 1, 1)), None, window((1, 1), (1, 1)))


def other(backend: Backend) -> None:
    """What many do: compiled while nobody waits for it."""
    x = Batch(backend.zeros((1, 1, 2, 2, backend.lanes)), 1, backend)
    c = backend.zeros((1,))
    backend.global_avg_pool_gradient(backend.global_avg_pool(x), (2, 2))
    halved = window((2, 2), 2, stride=2)
    pooled, kept = backend.max_pool(x, halved)
    backend.max_pool_gradient(pooled, kept, halved)
    pooled, kept = backend.batch_norm_max_pool(x, c, c, c, c, _EPS, halved)
    backend.batch_norm_max_pool_gradient(pooled, kept, x, c, c, c, c, _EPS, halved, c, c)
    _convolve(backend, 4, 1)
    _convolve(backend, 1, 1)


def _convolve(backend: Backend, outputs: int, channels: int) -> None:
    """Many and few channels take kernels of their own."""
    taps = window((4, 4), (1, 1))
    x = Batch(backend.zeros((1, channels, 4, 4, backend.lanes)), 1, backend)
    w = backend.zeros((outputs, channels, 1, 1))
    y = backend.conv(x, w, None, taps)
    backend.conv_weight_gradient(y, x, taps, 1, w)
    backend.conv_max_pool(x, w, None, taps, 1, window((4, 4), 2, stride=2))
    backend.dense_weight_gradient(y.reshape(-1), x.reshape(-1), backend.zeros((16 * outputs, 16 * channels)))
