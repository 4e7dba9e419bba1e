"""What numpy's fast math does besides gpucnn.functional: fused ReLU, running statistics, optimizers."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.geometry import window

ENGINE = get_backend("numpy", "fast", dtype=np.float64)
CLOSE = dict(rtol=1e-13, atol=1e-13)  # float64: a few dozen of its roundings, and far below what a wrong formula does


def normal(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for shape in shapes]


def test_relu_fused_with_an_operation_is_the_operation_then_relu():
    x, w, b, d, c = normal(1, (3, 4, 6, 6), (5, 4, 3, 3), 5, (5, 144), 4)
    fit, x = window((6, 6), 3), ENGINE.pack(x)
    flat = x.reshape(144)
    var = np.abs(c) + 1
    for operation in (
        lambda relu: ENGINE.conv(x, w, b, fit, relu=relu),
        lambda relu: ENGINE.dense(flat, d, b, relu=relu),
        lambda relu: ENGINE.batch_norm(x, c, var, c, c, 1e-5, relu=relu),
        lambda relu: ENGINE.add(x, x, relu=relu),
    ):
        plain = operation(False)
        assert (plain.data < 0).any()
        assert np.array_equal(operation(True).numpy(), np.maximum(plain.numpy(), 0))


def test_images_in_chunks_give_what_images_one_by_one_give(monkeypatch):
    x, w = normal(2, (5, 4, 6, 6), (6, 2, 3, 3))
    fit = window((6, 6), 3, padding=1)
    dy = ENGINE.conv(ENGINE.pack(x), w, None, fit, 2)

    def all_three():
        dw = np.zeros(w.shape)
        ENGINE.conv_weight_gradient(dy, ENGINE.pack(x), fit, 2, dw)
        y = ENGINE.conv(ENGINE.pack(x), w, None, fit, 2)
        return y.numpy(), ENGINE.conv_input_gradient(dy, w, fit, 2).numpy(), dw

    whole = all_three()
    monkeypatch.setattr("gpucnn.backends.numpy.fast.conv.CHUNK", 2 * 4 * 9 * 36)  # two images at a time, then one
    for a, b in zip(whole, all_three(), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_softmax_and_totals_of_the_loss():
    (z,) = normal(3, (7, 5))
    labels = np.array([0, 1, 2, 3, 4, 0, 1])
    e = np.exp(z)
    p = e / e.sum(1, keepdims=True)
    np.testing.assert_allclose(ENGINE.softmax(ENGINE.pack(z)).numpy(), p, **CLOSE)
    totals = np.array([1.0, 10.0])
    loss, _ = ENGINE.softmax_cross_entropy(ENGINE.pack(z), ENGINE.pack_labels(labels), totals)
    losses = -np.log(p[np.arange(7), labels])
    np.testing.assert_allclose(loss, [losses.mean()], **CLOSE)
    np.testing.assert_allclose(totals, [1 + losses.sum(), 10 + (p.argmax(1) == labels).sum()], **CLOSE)


def test_running_statistics():
    (x,) = normal(4, (6, 3, 2, 2))
    mean, var, unbiased = ENGINE.batch_norm_statistics(ENGINE.pack(x))
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), **CLOSE)
    np.testing.assert_allclose(var, x.var((0, 2, 3)), **CLOSE)
    np.testing.assert_allclose(unbiased, x.var((0, 2, 3), ddof=1), **CLOSE)
    running = np.ones(3)
    ENGINE.update_running(running, mean, 0.1)
    np.testing.assert_allclose(running, 0.9 + 0.1 * mean, **CLOSE)


def test_the_variance_of_a_single_value_is_zero():
    _, var, unbiased = ENGINE.batch_norm_statistics(ENGINE.pack(np.ones((1, 2))))
    assert not var.any() and not unbiased.any()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(nesterov, decay, momentum):
    """Sutskever et al., "On the importance of initialization and momentum", in PyTorch's form."""
    w, g, v = normal(5, 20, 20, 20)
    rate = np.float32(0.1)
    step = g + decay * w
    velocity = momentum * v + step
    expected = w - rate * (step + momentum * velocity if nesterov else velocity)
    ENGINE.sgd(w, g, v, np.array([rate]), momentum=momentum, weight_decay=decay, nesterov=nesterov)
    np.testing.assert_allclose(v, velocity, **CLOSE)
    np.testing.assert_allclose(w, expected, **CLOSE)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(decoupled):
    """Kingma and Ba, algorithm 1, with L2 regularization or with Loshchilov and Hutter's decoupled decay."""
    w, g, m, v = normal(6, 20, 20, 20, 20)
    v = np.abs(v)
    rate, c1, c2, decay = np.float32([0.01, 0.1, 0.2, 0.001])
    first, gradient = (w - decay * w, g) if decoupled else (w, g + 0.1 * w)
    mean, square = 0.9 * m + (1 - 0.9) * gradient, 0.999 * v + (1 - 0.999) * gradient**2
    expected = first - rate * (mean / c1) / (np.sqrt(square / c2) + 1e-8)
    ENGINE.adam(
        w,
        g,
        m,
        v,
        np.array([rate, c1, c2, decay]),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.1,
        decoupled=decoupled,
    )
    np.testing.assert_allclose(m, mean, **CLOSE)
    np.testing.assert_allclose(v, square, **CLOSE)
    np.testing.assert_allclose(w, expected, **CLOSE)


def test_float32_stays_float32():
    engine = get_backend("numpy", "fast")
    w, g, m, v = (a.astype(np.float32) for a in normal(7, 20, 20, 20, 20))
    hyper = np.float32([0.01, 0.1, 0.2, 0.001])
    engine.adam(w, g, m, np.abs(v), hyper, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1, decoupled=True)
    engine.sgd(w, g, v, hyper[:1], momentum=0.9, weight_decay=0.1, nesterov=True)
    x = engine.pack(np.ones((2, 3, 4, 4), np.float32))
    for name, operation in ELEMENTWISE.items():
        slope = (0.1,) * len(operation.settings)
        y, dx = engine.elementwise(name, x, *slope), engine.elementwise_gradient(name, x, x, *slope)
        assert y.data.dtype == dx.data.dtype == np.float32, name
    for y in (engine.global_avg_pool(x), engine.softmax(x.reshape(48))):
        assert y.data.dtype == np.float32
    assert all(s.dtype == np.float32 for s in engine.batch_norm_statistics(x))
