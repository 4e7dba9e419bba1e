"""Activations and losses as functions: central differences, PyTorch where it is installed, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn import errors
from gpucnn.backends import get_backend
from tests.float64 import functional
from tests.test_gradients import SEED, apart, check, normal

some = settings(deadline=None, max_examples=25, derandomize=True)
SHAPES = st.tuples(st.sampled_from([1, 3, 16, 17, 33]), st.integers(1, 5)).flatmap(
    lambda two: st.lists(st.integers(1, 4), max_size=3).map(lambda more: (*two, *more))
)
VALUE_LOSSES = ["mean_squared", "mean_absolute", "huber", "binary_cross_entropy"]
EXACT_BACKENDS = ["numpy", "numba"]

# ---- gradients, in float64 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["leaky_relu", "gelu", "silu", "softmax"])
@pytest.mark.parametrize("scale", [1, 5])
def test_activation_gradients(operation, scale):
    x = apart(3, (4, 3, 5, 2)) * scale
    forward, backward = getattr(functional, operation), getattr(functional, f"{operation}_backward")
    check(forward, lambda dy: [backward(dy, x)], [x], 4)


@some
@given(
    n=st.integers(1, 6),
    classes=st.integers(1, 6),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    weighted=st.booleans(),
    seed=SEED,
)
def test_cross_entropy_gradient(n, classes, smoothing, weighted, seed):
    (z,) = normal(seed, (n, classes))
    rng = np.random.default_rng(seed)
    labels, weights = rng.integers(0, classes, n), rng.uniform(0.2, 3, classes) if weighted else None

    def f(z):
        return functional.softmax_cross_entropy(z, labels, label_smoothing=smoothing, class_weights=weights)

    check(lambda z: f(z)[0], lambda dy: [f(z)[1]], [z], seed, dy=np.ones(()))


@some
@given(shape=SHAPES, loss=st.sampled_from(VALUE_LOSSES), seed=SEED)
def test_value_loss_gradients(shape, loss, seed):
    rng, (t,) = np.random.default_rng(seed), normal(seed, shape)
    # Kinks at differences of 0 and of Huber's delta, here 1: differences of 0.2 to 0.8, or 1.2 to 1.8, of either sign.
    x = t + rng.choice([-1, 1], shape) * (rng.integers(0, 2, shape) + rng.uniform(0.2, 0.8, shape))
    if loss == "binary_cross_entropy":
        t = rng.uniform(0, 1, shape)
    f = getattr(functional, loss)
    check(lambda x: f(x, t)[0], lambda dy: [f(x, t)[1]], [x], seed, dy=np.ones(()))


@pytest.mark.parametrize("loss", VALUE_LOSSES)
@pytest.mark.filterwarnings("error")
def test_values_near_the_largest_say_nothing(loss):
    """A training that diverges is told so in a sentence, not in NumPy's warnings."""
    x, t = np.float32([[3e38, -3e38]]), np.float32([[0, 1]] if loss == "binary_cross_entropy" else [[-3e38, 1]])
    one, other = (getattr(functional, loss)(x, t, backend=name, math="exact") for name in EXACT_BACKENDS)
    assert [np.asarray(part).tobytes() for part in one] == [np.asarray(part).tobytes() for part in other]


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def by_torch(function, *arrays):
    """(value, gradient of the first array) in float64."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(np.asarray(arrays[0], np.float64), requires_grad=True)
    y = function(torch.nn.functional, x, *(torch.tensor(np.asarray(a)) for a in arrays[1:]))
    y.sum().backward()
    return y.detach().numpy(), x.grad.numpy()


@pytest.mark.pytorch
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), [("numpy", np.float64, 1e-13), ("numba", np.float32, 2e-6)])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("leaky_relu", lambda F, x: F.leaky_relu(x)),
        ("gelu", lambda F, x: F.gelu(x)),
        ("silu", lambda F, x: F.silu(x)),
        ("softmax", lambda F, x: F.softmax(x, 1) * (1 + x.detach())),
    ],
)
def test_activations_are_pytorchs(name, function, backend, dtype, tolerance):
    x = (np.random.default_rng(0).standard_normal((7, 5, 3)) * 3).astype(dtype)
    y, dx = by_torch(function, x)
    weight = 1 + x if name == "softmax" else np.ones_like(x)
    got = getattr(functional, name)(x, backend=backend)
    assert np.allclose(got * weight, y, rtol=tolerance, atol=tolerance)
    got = getattr(functional, f"{name}_backward")(weight, x, backend=backend)
    assert np.allclose(got, dx, rtol=tolerance, atol=tolerance)


@pytest.mark.pytorch
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), [("numpy", np.float64, 1e-13), ("numba", np.float32, 2e-6)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_pytorchs(smoothing, weighted, backend, dtype, tolerance):
    rng = np.random.default_rng(1)
    z, labels = (rng.standard_normal((37, 6)) * 4).astype(dtype), rng.integers(0, 6, 37)
    weights = rng.uniform(0.2, 3, 6).astype(np.float32).astype(np.float64) if weighted else None

    def theirs(F, z, labels, *weights):
        return F.cross_entropy(z, labels, *weights, label_smoothing=smoothing)

    loss, dz = by_torch(theirs, z, labels, *([weights] if weighted else []))
    got, gradient = functional.softmax_cross_entropy(
        z, labels, label_smoothing=smoothing, class_weights=weights, backend=backend
    )
    assert np.isclose(got, loss, rtol=tolerance)
    assert np.allclose(gradient, dz, rtol=tolerance, atol=tolerance)


@pytest.mark.pytorch
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), [("numpy", np.float64, 1e-13), ("numba", np.float32, 2e-6)])
@pytest.mark.parametrize(
    ("name", "function", "settings"),
    [
        ("mean_squared", lambda F, x, t: F.mse_loss(x, t), {}),
        ("mean_absolute", lambda F, x, t: F.l1_loss(x, t), {}),
        ("huber", lambda F, x, t: F.huber_loss(x, t, delta=0.75), {"delta": 0.75}),
        ("binary_cross_entropy", lambda F, x, t: F.binary_cross_entropy_with_logits(x, t), {}),
    ],
)
def test_value_losses_are_pytorchs(name, function, settings, backend, dtype, tolerance):
    rng = np.random.default_rng(2)
    x, t = (rng.standard_normal((19, 3, 4)) * 4).astype(dtype), rng.uniform(0, 1, (19, 3, 4)).astype(dtype)
    loss, dx = by_torch(function, x, t.astype(np.float64))
    got, gradient = getattr(functional, name)(x, t, backend=backend, **settings)
    assert np.isclose(got, loss, rtol=tolerance)
    assert np.allclose(gradient, dx, rtol=tolerance, atol=tolerance)


@pytest.mark.pytorch
def test_gradient_clipping_is_pytorchs():
    torch = pytest.importorskip("torch")
    g = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    p = torch.nn.Parameter(torch.zeros(5000))
    for limit in (0.5, 1000.0):
        p.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([p], limit)
        for backend in EXACT_BACKENDS:
            b = get_backend(backend, "exact")
            ours = b.array(g)
            b.clip_norm(ours, limit)
            assert np.allclose(b.host(ours), p.grad.numpy(), rtol=3e-6, atol=1e-9)  # torch divides by norm + 1e-6


# ---- the fast math of float32, shapes, refusals ----------------------------------------------------------------------


@some
@given(shape=SHAPES, scale=st.sampled_from([1, 20]), seed=SEED)
def test_fast_float32_is_near_float64(shape, scale, seed):
    (x,), (dy,) = normal(seed, shape), normal(seed + 1, shape)
    x32, dy32 = (x * scale).astype(np.float32), dy.astype(np.float32)
    for name in ("leaky_relu", "gelu", "silu", "softmax"):
        for function, arrays in ((name, (x32,)), (f"{name}_backward", (dy32, x32))):
            function = getattr(functional, function)
            fast, wide = function(*arrays, math="fast"), function(*(a.astype(np.float64) for a in arrays), math="fast")
            assert fast.dtype == np.float32
            # A dozen roundings of values whose size is at most 1 + |x|, times dy.
            assert np.all(np.abs(fast - wide) <= 2.0**-19 * (1 + np.abs(dy).max()) * (1 + np.abs(x32)))


def test_activations_take_any_shape():
    for shape in [(), (3,), (2, 3, 4, 5, 6, 2)]:
        x = np.full(shape, -1.0, np.float32)
        assert functional.gelu(x).shape == functional.silu_backward(x, x).shape == shape
        assert np.allclose(functional.leaky_relu(x, negative_slope=0.5), -0.5)


X, Z, T = np.ones((2, 3, 4), np.float32), np.ones((3, 4), np.float32), np.full((3, 4), 0.5, np.float32)
REFUSALS = {
    "slope nan": (lambda f: f.leaky_relu(X, negative_slope=np.nan), errors.ConfigurationError, "finite"),
    "slope text": (lambda f: f.leaky_relu(X, negative_slope="0.1"), errors.ConfigurationError, "finite"),
    "dy shape": (lambda f: f.gelu_backward(Z, X), errors.ShapeError, r"expected \(2, 3, 4\)"),
    "softmax rank": (lambda f: f.softmax(X[0, 0]), errors.ShapeError, r"\(N, C\)"),
    "softmax dy": (lambda f: f.softmax_backward(Z, X), errors.ShapeError, "expected"),
    "smoothing 1": (
        lambda f: f.softmax_cross_entropy(Z, [0, 1, 2], label_smoothing=1.0),
        errors.ConfigurationError,
        "0 up to",
    ),
    "smoothing text": (
        lambda f: f.softmax_cross_entropy(Z, [0, 1, 2], label_smoothing="a"),
        errors.ConfigurationError,
        "'a'",
    ),
    "smoothing negative": (
        lambda f: f.softmax_cross_entropy(Z, [0, 1, 2], label_smoothing=-0.1),
        errors.ConfigurationError,
        "-0.1",
    ),
    "weights few": (
        lambda f: f.softmax_cross_entropy(Z, [0, 1, 2], class_weights=[1, 2]),
        errors.ConfigurationError,
        "2 numbers",
    ),
    "weights zero": (
        lambda f: f.softmax_cross_entropy(Z, [0, 1, 2], class_weights=[1, 2, 0, 1]),
        errors.ConfigurationError,
        "above 0",
    ),
    "weights text": (
        lambda f: f.softmax_cross_entropy(Z, [0, 1, 2], class_weights="heavy"),
        errors.ConfigurationError,
        "above 0",
    ),
    "targets shape": (lambda f: f.mean_squared(Z, T[:2]), errors.ShapeError, r"\(3, 4\)"),
    "targets type": (lambda f: f.mean_squared(Z, T.astype(np.float64)), errors.DTypeError, "float64"),
    "targets nan": (lambda f: f.mean_absolute(Z, T * np.float32(np.nan)), errors.DataError, "image 0"),
    "delta": (lambda f: f.huber(Z, T, delta=0), errors.ConfigurationError, "above 0"),
    "probability": (lambda f: f.binary_cross_entropy(Z, T * 3), errors.DataError, "0 to 1"),
    "rank": (lambda f: f.mean_squared(Z[0], T[0]), errors.ShapeError, r"\(N, C\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    call, error, words = REFUSALS[case]
    with pytest.raises(error, match=words):
        call(functional)
