"""Operations whose kernels serve networks of any size: compiled with a machine's first ones, so that the next network,
whatever it is, waits for fewer.
"""

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.geometry import window

_EPS, _RATE = 1e-5, 0.1
# Of the commonest convolution, 3x3 on maps of 16x16.
_CHANNELS, _SIZE, _IMAGES = 32, 16, 32


def operations(backend: Backend) -> None:
    """What common networks do beside LeNet: to be prepared, not run."""
    x = Batch(backend.zeros((1, 1, 2, 2, backend.lanes)), 1, backend)
    c = backend.zeros((1,))
    mean, var = backend.batch_norm_moving_statistics(x, c, c, _RATE)
    y = backend.batch_norm(x, mean, var, c, c, _EPS, relu=True)
    backend.batch_norm_relu_gradient(x, y, x, mean, var, c, c, _EPS, c, c)
    backend.batch_norm_gradient(x, x, mean, var, c, _EPS, c, c)
    halved = window((2, 2), 2, stride=2)
    pooled, kept = backend.batch_norm_max_pool(x, mean, var, c, c, _EPS, halved)
    backend.batch_norm_max_pool_gradient(pooled, kept, x, mean, var, c, c, _EPS, halved, c, c)
    y = backend.batch_norm_add(x, mean, var, c, c, _EPS, x, True)
    backend.batch_norm_add_gradient(x, y, x, mean, var, c, _EPS, c, c)
    backend.global_avg_pool_gradient(backend.global_avg_pool(x), (2, 2))
    x = Batch(backend.zeros((_IMAGES // backend.lanes, _CHANNELS, _SIZE, _SIZE, backend.lanes)), _IMAGES, backend)
    w, taps = backend.zeros((_CHANNELS, _CHANNELS, 3, 3)), window((_SIZE, _SIZE), 3, padding=1)
    backend.conv(x, w, None, taps)
    backend.conv_weight_gradient(x, x, taps, 1, w)
    backend.sgd(c, c, c, c, momentum=_RATE, weight_decay=_RATE, nesterov=False)
