"""Operations whose kernels serve networks of any size: compiled with a machine's first ones, so that the next network,
whatever it is, waits for few. What fewer do is left to their own first steps: the machine's first one waits for all.
"""

from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.geometry import window

_EPS, _RATE = 1e-5, 0.1


def operations(backend: Backend) -> None:
    """What common networks do: to be prepared, not run, before any kernel is compiled."""
    x = Batch(backend.zeros((1, 1, 2, 2, backend.lanes)), 1, backend)
    c = backend.zeros((1,))
    mean, var = backend.batch_norm_moving_statistics(x, c, c, _RATE)
    y = backend.batch_norm(x, mean, var, c, c, _EPS, relu=True)
    backend.batch_norm_relu_gradient(x, y, x, mean, var, c, c, _EPS, c, c)
    backend.batch_norm_gradient(x, x, mean, var, c, _EPS, c, c)
    y = backend.batch_norm_add(x, mean, var, c, c, _EPS, x, True)
    backend.batch_norm_add_gradient(x, y, x, mean, var, c, _EPS, c, c)
    backend.global_avg_pool_gradient(backend.global_avg_pool(x), (2, 2))
    halved = window((2, 2), 2, stride=2)
    pooled, kept = backend.max_pool(x, halved)
    backend.max_pool_gradient(pooled, kept, halved)
    taps = window((4, 4), (1, 1))
    # Of many and of few channels.
    for outputs, channels in ((4, 4), (4, 1), (1, 1)):
        x = Batch(backend.zeros((1, channels, 4, 4, backend.lanes)), 1, backend)
        w = backend.zeros((outputs, channels, 1, 1))
        y = backend.conv(x, w, None, taps)
        backend.conv_weight_gradient(y, x, taps, 1, w)
    backend.sgd(c, c, c, c, momentum=_RATE, weight_decay=_RATE, nesterov=False)
