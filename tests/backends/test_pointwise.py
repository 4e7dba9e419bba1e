"""Activations, losses and clipping: numpy exact against the scalar contract, numba against numpy, bit by bit."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn.backends import get_backend
from gpucnn.backends.numpy.exact import NumpyExact
from tests.backends import scalar_pointwise as scalar
from tests.backends.guarded import assert_bits, guarded, numbers

EXACT = NumpyExact()
KINDS = ["random", "subnormal", "cancelling"]
LOSSES = ["mean_squared", "mean_absolute", "huber", "binary_cross_entropy"]
some = settings(deadline=None, max_examples=25, derandomize=True)


@functools.cache
def numba(threads=2):
    """Fresh memory is NaN between canaries, lanes without an image hold garbage."""
    return guarded()(threads)


# ---- the specification against plain loops ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [0.01, 0.3, 0.0, -0.5])
def test_leaky_relu(kind, slope):
    x, dy = numbers(kind, 3, 40), numbers(kind, 3, 40, seed=1)
    assert_bits(EXACT.elementwise("leaky_relu", EXACT.pack(x), slope).numpy(), scalar.leaky_relu(x, slope))
    dx = EXACT.elementwise_gradient("leaky_relu", EXACT.pack(dy), EXACT.pack(x), slope)
    assert_bits(dx.numpy(), scalar.leaky_relu_gradient(dy, x, slope))


@pytest.mark.parametrize("kind", KINDS)
def test_softmax_gradient(kind):
    y = EXACT.softmax(EXACT.pack(numbers(kind, 5, 7) * np.float32(3)))
    dy = numbers(kind, 5, 7, seed=1)
    assert_bits(EXACT.softmax_gradient(EXACT.pack(dy), y).numpy(), scalar.softmax_gradient(dy, y.numpy()))


@pytest.mark.parametrize(("n", "classes", "smoothing"), [(1, 1, 0.1), (17, 4, 0.0), (35, 3, 0.25), (20, 10, 0.1)])
def test_weighted_cross_entropy(n, classes, smoothing):
    z, labels, totals = numbers("random", n, classes) * np.float32(6), np.arange(n) * 7 % classes, np.zeros(3)
    weights = np.abs(numbers("random", classes, seed=1)) + np.float32(0.1)
    loss, dz = EXACT.weighted_cross_entropy(EXACT.pack(z), EXACT.pack_labels(labels), weights, smoothing, totals)
    expected = scalar.weighted_cross_entropy(z, labels, weights, smoothing)
    assert_bits(loss, np.array([expected[0]], np.float32))
    assert_bits(dz.numpy(), expected[1])
    assert totals.tolist() == list(expected[2])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 1), (17, 3), (33, 1), (18, 2, 7, 9), (2, 200)])
def test_value_losses(loss, shape):
    x, t, totals = numbers("random", *shape) * np.float32(2), numbers("random", *shape, seed=1), np.zeros(1)
    x.flat[0] = t.flat[0]  # a difference of 0
    t = np.clip(np.abs(t), 0, 1) if loss == "binary_cross_entropy" else t
    mean, dx = EXACT.value_loss(loss, EXACT.pack(x), EXACT.pack(t), 0.7, totals)
    expected, gradient, total = scalar.value_loss(loss, x, t, 0.7)
    assert_bits(mean, np.array([expected], np.float32))
    assert_bits(dx.numpy(), gradient)
    if loss == "binary_cross_entropy":  # exp and log of another library: the last bits of each term
        assert abs(totals[0] - total) <= x.size * 2.0**-50
    else:
        assert totals[0] == total


@pytest.mark.parametrize("kind", [*KINDS, "annihilating"])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 1024, 1025, 2500])
def test_clip_norm(kind, size):
    g = numbers(kind, size)
    for limit in (0.5 * float(np.abs(g).max()) or 1.0, 1e30):
        clipped = g.copy()
        EXACT.clip_norm(clipped, limit)
        assert_bits(clipped, scalar.clip_norm(g, limit))


# ---- numba against the specification ---------------------------------------------------------------------------------


def everything(b, n, channels, spatial, kind):
    """All operations of this family on one shape."""
    shape = (n, channels, *spatial)
    x, dy, results = b.pack(numbers(kind, *shape) * np.float32(4)), b.pack(numbers(kind, *shape, seed=1)), {}
    for name, slope in (("leaky_relu", (0.2,)), ("gelu", ()), ("silu", ())):
        results[name] = b.elementwise(name, x, *slope).numpy()
        results[f"{name} gradient"] = b.elementwise_gradient(name, dy, x, *slope).numpy()
    y = b.softmax(x)
    results |= {"softmax": y.numpy(), "softmax gradient": b.softmax_gradient(dy, y).numpy()}
    flat = x.reshape(-1)
    totals, weights = b.zeros((3,), np.float64), b.array(np.abs(numbers("random", flat.channels)) + np.float32(0.5))
    labels = b.pack_labels(np.arange(n) % flat.channels)
    loss, dz = b.weighted_cross_entropy(flat, labels, weights, 0.2, totals)
    results |= {"loss": b.host(loss), "dz": dz.numpy(), "totals": b.host(totals)}
    targets = b.pack(np.clip(np.abs(numbers(kind, *shape, seed=2)), 0, 1))
    for kind_of_loss in LOSSES:
        total = b.zeros((1,), np.float64)
        loss, dx = b.value_loss(kind_of_loss, x, targets, 0.5, total)
        results |= {kind_of_loss: b.host(loss), f"{kind_of_loss} dx": dx.numpy(), f"{kind_of_loss} sum": b.host(total)}
    return results


@some
@given(
    n=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 70]),
    channels=st.integers(1, 6),
    spatial=st.lists(st.integers(1, 9), max_size=3),
    kind=st.sampled_from(KINDS),
    threads=st.sampled_from([1, 2]),
)
def test_numba_gives_the_specified_bits(n, channels, spatial, kind, threads):
    want, got = everything(EXACT, n, channels, spatial, kind), everything(numba(threads), n, channels, spatial, kind)
    for name, values in want.items():
        assert_bits(got[name], values, name)
    numba(threads).verify()


@some
@given(size=st.integers(1, 5000), kind=st.sampled_from([*KINDS, "annihilating"]), part=st.floats(0.01, 2))
def test_numba_clips_as_specified(size, kind, part):
    g, b = numbers(kind, size), numba()
    limit = part * float(np.linalg.norm(g.astype(np.float64))) or 1.0
    for name in ("clip_norm", "clip_value"):
        want, got = g.copy(), b.array(g)
        getattr(EXACT, name)(want, limit)
        getattr(b, name)(got, limit)
        assert_bits(b.host(got), want, name)
    b.verify()


# ---- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_weights_of_one_and_no_smoothing_are_the_plain_loss(backend):
    b = get_backend(backend, "exact")
    z, labels = b.pack(numbers("random", 37, 5) * np.float32(4)), b.pack_labels(np.arange(37) % 5)
    plain, weighted = b.zeros((2,), np.float64), b.zeros((3,), np.float64)
    loss, dz = b.softmax_cross_entropy(z, labels, plain)
    same, same_dz = b.weighted_cross_entropy(z, labels, b.array(np.ones(5, np.float32)), 0.0, weighted)
    assert_bits(b.host(same), b.host(loss))
    assert_bits(same_dz.numpy(), dz.numpy())
    assert b.host(weighted).tolist() == [*b.host(plain).tolist(), 37]


@some
@given(size=st.integers(1, 3000), limit=st.floats(1e-3, 1e3))
def test_clipping_keeps_what_it_promises(size, limit):
    g = numbers("random", size)
    norm = np.linalg.norm(g.astype(np.float64))
    clipped = g.copy()
    EXACT.clip_norm(clipped, limit)
    if norm <= np.float32(limit):
        assert_bits(clipped, g)
    else:
        assert np.isclose(np.linalg.norm(clipped.astype(np.float64)), limit, rtol=1e-6)
        assert np.allclose(clipped * (norm / limit), g, rtol=1e-6)
    by_value = g.copy()
    EXACT.clip_value(by_value, limit)
    assert_bits(by_value, np.clip(g, -np.float32(limit), np.float32(limit)))


@pytest.mark.parametrize("math", ["exact", "fast"])
def test_extreme_logits_have_a_finite_loss(math):
    b = get_backend("numpy", math)
    x = np.array([[1e30, -1e30, 200, -200]], np.float32)
    for t in (np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)):
        loss, dx = b.value_loss("binary_cross_entropy", b.pack(x), b.pack(t))
        assert np.isfinite(loss).all() and np.abs(dx.numpy()).max() <= 0.25


def test_a_gradient_that_is_not_finite_stays_so():
    """Clipping must not hide it: the weights become NaN, which `watch` detects."""
    for backend in (EXACT, numba()):
        for bad in (np.nan, np.inf):
            g = backend.array(np.array([1, bad, 2], np.float32))
            with np.errstate(invalid="ignore"):
                backend.clip_norm(g, 1.0)
            assert np.isnan(backend.host(g)).any()


def stepped(b):
    """Totals and a clipped gradient after a captured step, and after its repetition with other images and labels."""
    source = b.array(numbers("random", 40, 3))
    targets, labels = b.array(numbers("random", 40, 3, seed=1)), b.array(np.arange(40, dtype=np.int32) % 3)
    indices, weights = b.array(np.arange(20)), b.array(np.array([1, 2, 3], np.float32))
    totals, sums, g = b.zeros((3,), np.float64), b.zeros((1,), np.float64), b.zeros((3,))

    def step():
        x = b.elementwise("gelu", b.load_images(source, indices, 20))
        _, dx = b.weighted_cross_entropy(x, b.load_labels(labels, indices, 20), weights, 0.1, totals)
        _, dt = b.value_loss("huber", x, b.load_images(targets, indices, 20), 0.5, sums)
        b.bias_gradient(b.add(dx, dt), g)
        b.clip_norm(g, 0.01)

    repeat, found = b.capture(step), []
    found += [b.host(a) for a in (totals, sums, g)]
    b.assign(indices, np.arange(20, 40))
    repeat()
    return [*found, *(b.host(a) for a in (totals, sums, g))]


def test_a_captured_step_repeats_on_new_data():
    want, got = stepped(EXACT), stepped(get_backend("numba"))
    assert not np.array_equal(want[2], want[5]) and want[3][2] > want[0][2]
    assert np.isclose(np.linalg.norm(want[5].astype(np.float64)), 0.01)
    for values, expected in zip(got, want, strict=True):
        assert_bits(values, expected)
