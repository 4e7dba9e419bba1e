"""gpucnn.functional on every CPU backend against the float64 oracle, over random sizes; and what it refuses."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpucnn import errors, functional
from gpucnn.backends import get_backend
from tests import oracle
from tests.oracle import assert_within

BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
on_every_backend = pytest.mark.parametrize(("backend", "math"), BACKENDS, ids=["-".join(b) for b in BACKENDS])
some = settings(deadline=None, max_examples=20, derandomize=True)

IMAGES = st.sampled_from([1, 2, 15, 17, 33])
SEED = st.integers(0, 2**32 - 1)
FEATURES = st.sampled_from([1, 2, 7, 40])  # few, as the Numba backend compiles a kernel for every tile that suits them


@st.composite
def convolutions(draw):
    """Arguments of a convolution that fits: 1 to 3 axes, single channels and one-pixel images among them."""
    axes = draw(st.integers(1, 3))
    groups, channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    most = (5, 3, 2)[axes - 1]  # the oracle walks every tap of every window in Python

    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    kernel, stride, dilation = each(1, most), each(1, 3), each(1, 2)
    padding = tuple(zip(each(0, 2), each(0, 2)))
    image = tuple(
        max(1, d * (k - 1) + 1 - sum(p)) + draw(st.integers(0, most + 1)) for k, d, p in zip(kernel, dilation, padding)
    )
    x = (draw(IMAGES), groups * channels, *image)
    w = (groups * filters, channels, *kernel)
    return x, w, dict(stride=stride, padding=padding, dilation=dilation, groups=groups)


@st.composite
def pools(draw):
    axes = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    size = each(1, 4 - axes // 2)
    stride = each(1, 3)
    padding = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in size)
    image = tuple(max(1, k - sum(p)) + draw(st.integers(0, 3)) for k, p in zip(size, padding))
    return (draw(IMAGES), draw(st.integers(1, 3)), *image), size, dict(stride=stride, padding=padding)


def normal(seed, *shapes):
    """Float32 arrays of normal deviates."""
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def same_bits(a, b):
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@on_every_backend
@some
@given(case=convolutions(), seed=SEED, biased=st.booleans())
@example(
    case=((1, 1, 1, 1), (1, 1, 1, 1), dict(stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1), groups=1)),
    seed=0,
    biased=True,
)
@example(
    case=((33, 2, 1, 1), (4, 1, 3, 3), dict(stride=(2, 1), padding=((1, 1),) * 2, dilation=(1, 1), groups=2)),
    seed=1,
    biased=False,
)
@example(
    case=((17, 1, 12, 70), (2, 1, 3, 3), dict(stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1), groups=1)),
    seed=2,
    biased=True,
)
def test_convolution_and_its_gradients(backend, math, case, seed, biased):
    shape, filters, sizes = case
    x, w, bias = normal(seed, shape, filters, filters[:1])
    bias = bias if biased else None
    y = functional.conv(x, w, bias, **sizes, backend=backend, math=math)
    assert y.dtype == np.float32
    assert_within(y, oracle.conv(x, w, bias, **sizes))
    (dy,) = normal(seed + 1, y.shape)
    gradients = functional.conv_backward(dy, x, w, **sizes, backend=backend, math=math)
    for gradient, expected in zip(gradients, oracle.conv_backward(dy, x, w, **sizes), strict=True):
        assert gradient.dtype == np.float32
        assert_within(gradient, expected)
    if backend == "numba":  # the bits of the specification too, here where the kernels for these sizes are compiled
        specified = dict(sizes, backend="numpy", math="exact")
        assert same_bits(y, functional.conv(x, w, bias, **specified))
        for gradient, expected in zip(gradients, functional.conv_backward(dy, x, w, **specified), strict=True):
            assert same_bits(gradient, expected)


@on_every_backend
@some
@given(case=pools(), seed=SEED, ties=st.booleans())
def test_max_pool_and_its_gradient(backend, math, case, seed, ties):
    shape, size, sizes = case
    (x,) = normal(seed, shape)
    if ties:
        x = np.round(x)  # few different values, all the same sign of zero: the first of equals must win
    x = x + np.float32(0)
    y = functional.max_pool(x, size, **sizes, backend=backend, math=math)
    assert same_bits(y, oracle.max_pool(x, size, **sizes))
    (dy,) = normal(seed + 1, y.shape)
    dx = functional.max_pool_backward(dy, x, size, **sizes, backend=backend, math=math)
    assert_within(dx, oracle.max_pool_backward(dy, x, size, **sizes))


@on_every_backend
@some
@given(case=pools(), seed=SEED, count_include_pad=st.booleans())
def test_avg_pool_and_its_gradient(backend, math, case, seed, count_include_pad):
    shape, size, sizes = case
    sizes = dict(sizes, count_include_pad=count_include_pad)
    (x,) = normal(seed, shape)
    y = functional.avg_pool(x, size, **sizes, backend=backend, math=math)
    assert_within(y, oracle.avg_pool(x, size, **sizes))
    (dy,) = normal(seed + 1, y.shape)
    dx = functional.avg_pool_backward(dy, x, size, **sizes, backend=backend, math=math)
    assert_within(dx, oracle.avg_pool_backward(dy, x, size, **sizes))


@on_every_backend
@some
@given(images=IMAGES, inputs=FEATURES, outputs=FEATURES, seed=SEED, biased=st.booleans())
def test_dense_and_its_gradients(backend, math, images, inputs, outputs, seed, biased):
    x, w, bias, dy = normal(seed, (images, inputs), (outputs, inputs), (outputs,), (images, outputs))
    bias = bias if biased else None
    assert_within(functional.dense(x, w, bias, backend=backend, math=math), oracle.dense(x, w, bias))
    gradients = functional.dense_backward(dy, x, w, backend=backend, math=math)
    for gradient, expected in zip(gradients, oracle.dense_backward(dy, x, w), strict=True):
        assert_within(gradient, expected)


@on_every_backend
@some
@given(
    images=IMAGES,
    channels=st.integers(1, 4),
    spatial=st.lists(st.integers(1, 5), max_size=3).map(tuple),
    offset=st.sampled_from([0.0, 3.0, -100.0]),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    seed=SEED,
)
def test_batch_norm_and_its_gradients(backend, math, images, channels, spatial, offset, eps, seed):
    shape = (images, channels, *spatial)
    x, dy, gamma, beta = normal(seed, shape, shape, (channels,), (channels,))
    x += np.float32(offset)
    results = functional.batch_norm(x, gamma, beta, eps=eps, backend=backend, math=math)
    for result, expected in zip(results, oracle.batch_norm(x, gamma, beta, eps), strict=True):
        assert result.dtype == np.float32
        assert_within(result, expected)
    gradients = functional.batch_norm_backward(dy, x, gamma, eps=eps, backend=backend, math=math)
    for gradient, expected in zip(gradients, oracle.batch_norm_backward(dy, x, gamma, eps), strict=True):
        assert_within(gradient, expected)


@on_every_backend
@some
@given(images=IMAGES, classes=st.integers(1, 12), scale=st.sampled_from([1.0, 20.0]), seed=SEED)
def test_softmax_cross_entropy(backend, math, images, classes, scale, seed):
    (logits,) = normal(seed, (images, classes))
    logits *= np.float32(scale)
    labels = np.random.default_rng(seed).integers(0, classes, images)
    results = functional.softmax_cross_entropy(logits, labels, backend=backend, math=math)
    assert isinstance(results[0], np.float32)
    for result, expected in zip(results, oracle.softmax_cross_entropy(logits, labels), strict=True):
        assert_within(result, expected)


@on_every_backend
@some
@given(shape=st.lists(st.integers(1, 9), max_size=4).map(tuple), scale=st.sampled_from([1e-6, 1.0, 30.0]), seed=SEED)
def test_elementwise_on_any_shape(backend, math, shape, scale, seed):
    (x,) = normal(seed, shape)
    x = np.asarray(x * np.float32(scale))
    assert same_bits(functional.relu(x, backend=backend, math=math), oracle.relu(x))
    assert_within(functional.tanh(x, backend=backend, math=math), oracle.tanh(x))
    assert_within(functional.sigmoid(x, backend=backend, math=math), oracle.sigmoid(x))


@on_every_backend
def test_elementwise_at_the_edges(backend, math):
    x = np.float32([-3e38, -200, -100, -88, -1e-40, -0.0, 0.0, 1e-40, 88, 100, 200, 3e38])
    assert_within(functional.tanh(x, backend=backend, math=math), oracle.tanh(x))
    values = functional.sigmoid(x, backend=backend, math=math)
    assert (np.diff(values) >= 0).all() and values[0] == 0 and values[-1] == 1 and values[5] == 0.5
    y = functional.relu(x, backend=backend, math=math)
    assert same_bits(y, np.maximum(x, 0) + np.float32(0))


# ---- what comes in and goes out --------------------------------------------------------------------------------------


@on_every_backend
def test_a_result_does_not_depend_on_the_arrays_layout(backend, math):
    x, w = normal(5, (3, 4, 7, 6), (2, 4, 3, 3))
    expected = functional.conv(x, w, padding=1, backend=backend, math=math)
    strided = np.empty((3, 4, 7, 12), np.float32)[..., ::2]
    strided[...] = x
    for other in (np.asfortranarray(x), x[::-1].copy()[::-1], strided):
        assert same_bits(functional.conv(other, w, padding=1, backend=backend, math=math), expected)


@on_every_backend
def test_arguments_are_left_as_they_were_and_results_are_new(backend, math):
    x, w, gamma = normal(6, (2, 3, 4, 4), (3, 3, 1, 1), (3,))
    arrays = [x, w, gamma]
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    options = dict(backend=backend, math=math)
    results = [
        functional.conv(x, w, gamma, **options),
        *functional.conv_backward(x, x, w, **options),
        functional.max_pool(x, 1, **options),
        functional.max_pool_backward(x, x, 1, **options),
        functional.avg_pool(x, 1, **options),
        functional.avg_pool_backward(x, x, 1, **options),
        functional.relu(x, **options),
        *functional.batch_norm(x, gamma, gamma, **options),
        *functional.batch_norm_backward(x, x, gamma, **options),
    ]
    assert all(np.array_equal(a, c) for a, c in zip(arrays, copies, strict=True))
    for result in results:
        assert not any(np.shares_memory(result, a) for a in arrays)
        assert result.flags.writeable and result.flags.c_contiguous


class Dlpack:
    """An array known by __dlpack__ alone, as a foreign library's is."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class ArrayLike:
    """An array known by __array__ alone."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype)


@pytest.mark.parametrize("foreign", [Dlpack, ArrayLike])
def test_foreign_arrays(foreign):
    x, w, bias, logits = normal(7, (2, 3, 5, 5), (4, 3, 3, 3), (4,), (4, 6))
    labels = np.array([0, 5, 2, 3])
    assert same_bits(functional.conv(foreign(x), foreign(w), foreign(bias)), functional.conv(x, w, bias))
    loss, _ = functional.softmax_cross_entropy(foreign(logits), foreign(labels))
    assert loss == functional.softmax_cross_entropy(logits, labels)[0]


@pytest.mark.pytorch
def test_torch_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is optional: its tensors are only one kind of foreign array")
    x, w = normal(8, (2, 3, 5, 5), (4, 3, 3, 3))
    y = functional.conv(torch.from_numpy(x), torch.from_numpy(w))
    assert type(y) is np.ndarray and same_bits(y, functional.conv(x, w))
    with pytest.raises(errors.DTypeError, match="detached"):
        functional.relu(torch.from_numpy(x).requires_grad_())


def test_float64_is_for_numpys_fast_math_alone():
    x, w, gamma = (a.astype(np.float64) for a in normal(9, (2, 3, 5, 5), (4, 3, 3, 3), (3,)))
    fast = {"backend": "numpy", "math": "fast"}
    y = functional.conv(x, w, **fast)
    assert y.dtype == np.float64
    expected = oracle.conv(x, w, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert (np.abs(y - expected.value) <= expected.bound * 2.0**-29).all()  # u of float64 is 2**-29 of float32's
    assert all(g.dtype == np.float64 for g in functional.conv_backward(y, x, w, **fast))
    assert all(r.dtype == np.float64 for r in functional.batch_norm(x, gamma, gamma, **fast))
    assert functional.softmax_cross_entropy(x[:, :, 0, 0], np.array([0, 2]), **fast)[0].dtype == np.float64
    for backend, math in [("numpy", "exact"), ("numpy", None), ("numba", "exact"), (None, None)]:
        with pytest.raises(errors.DTypeError, match="float64.*float32"):
            functional.conv(x, w, backend=backend, math=math)
    with pytest.raises(errors.DTypeError, match="w is float32 but x is float64"):
        functional.conv(x, w.astype(np.float32))


@on_every_backend
def test_nan_and_infinity_are_computed_with(backend, math):
    x, w, dy = normal(10, (2, 1, 4, 4), (1, 1, 2, 2), (2, 1, 2, 2))
    x[0, 0, 0, 0], x[1] = np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        y = functional.conv(x, w, backend=backend, math=math)
    assert np.isnan(y[0, 0, 0, 0]) and np.isfinite(y[0, 0, 1:, 1:]).all()
    dx = functional.max_pool_backward(dy, x, 2, backend=backend, math=math)
    assert np.count_nonzero(dx) == dy.size  # whatever the values, each window has one winner inside the image
    assert np.array_equal(dx[1, 0, ::2, ::2], dy[1, 0])  # and among equals it is the first


def test_the_default_is_the_fastest_in_exact_math():
    x, w = normal(11, (2, 3, 5, 5), (4, 3, 3, 3))
    assert same_bits(functional.conv(x, w), functional.conv(x, w, backend="numpy", math="exact"))
    assert same_bits(functional.conv(x, w), functional.conv(x, w, backend=get_backend().name, math="exact"))


# ---- refusals --------------------------------------------------------------------------------------------------------

F4 = np.float32
X, W, B = np.ones((2, 4, 6, 6), F4), np.ones((6, 4, 3, 3), F4), np.ones(6, F4)
Y = np.ones((2, 6, 4, 4), F4)
V, D, M = np.ones((3, 5), F4), np.ones((7, 5), F4), np.ones(4, F4)
Z = np.ones((3, 10), F4)

REFUSALS = {
    "rank 2 images": (lambda f, o: f.conv(V, W, **o), errors.ShapeError, "x has shape .*1 to 3 spatial axes"),
    "rank 6 images": (lambda f, o: f.conv(np.ones((1,) * 6, F4), W, **o), errors.ShapeError, "1 to 3 spatial axes"),
    "rank of filters": (lambda f, o: f.conv(X, W[0], **o), errors.ShapeError, "w has shape .*expected 4 axes"),
    "channels": (
        lambda f, o: f.conv(X, W[:, :3], **o),
        errors.ShapeError,
        r"w has shape \(6, 3, 3, 3\); expected \(6, 4, 3, 3\), .*4 channels",
    ),
    "channels in groups": (
        lambda f, o: f.conv(X, W, groups=2, **o),
        errors.ShapeError,
        r"expected \(6, 2, 3, 3\), .*4 channels in 2 group",
    ),
    "groups divide": (lambda f, o: f.conv(X, W, groups=4, **o), errors.ShapeError, "4 groups do not divide 4 .*and 6"),
    "groups zero": (lambda f, o: f.conv(X, W, groups=0, **o), errors.ConfigurationError, "groups is 0"),
    "groups float": (lambda f, o: f.conv(X, W, groups=1.0, **o), errors.ConfigurationError, "groups is 1.0"),
    "groups bool": (lambda f, o: f.conv(X, W, groups=True, **o), errors.ConfigurationError, "groups is True"),
    "bias shape": (lambda f, o: f.conv(X, W, B[:5], **o), errors.ShapeError, r"bias has shape \(5,\); expected \(6,\)"),
    "bias rank": (lambda f, o: f.conv(X, W, B[:, None], **o), errors.ShapeError, "bias has shape"),
    "kernel too large": (lambda f, o: f.conv(X[:, :, :2], W, **o), errors.ShapeError, "larger than the padded input"),
    "stride zero": (lambda f, o: f.conv(X, W, stride=0, **o), errors.ConfigurationError, "stride is 0"),
    "negative padding": (lambda f, o: f.conv(X, W, padding=-1, **o), errors.ConfigurationError, "padding is -1"),
    "padding word": (lambda f, o: f.conv(X, W, padding="half", **o), errors.ConfigurationError, "valid"),
    "stride per axis": (lambda f, o: f.conv(X, W, stride=(1, 1, 1), **o), errors.ShapeError, "3 entries for 2"),
    "empty batch": (lambda f, o: f.conv(X[:0], W, **o), errors.ShapeError, "empty batch"),
    "no channels": (lambda f, o: f.conv(X[:, :0], W[:, :0], **o), errors.ShapeError, "empty axis"),
    "no pixels": (lambda f, o: f.relu(X[..., :0], **o), errors.ShapeError, "empty axis"),
    "half": (lambda f, o: f.conv(X.astype(np.float16), W, **o), errors.DTypeError, "x is float16"),
    "integers": (lambda f, o: f.relu(X.astype(int), **o), errors.DTypeError, "x is int64"),
    "complex": (lambda f, o: f.tanh(X.astype(np.complex64), **o), errors.DTypeError, "x is complex64"),
    "other byte order": (lambda f, o: f.relu(X.astype(">f4"), **o), errors.DTypeError, "x is >f4"),
    "mixed": (lambda f, o: f.conv(X, W.astype(float), **o), errors.DTypeError, "w is float64 but x is float32"),
    "not an array": (lambda f, o: f.relu("x", **o), errors.DTypeError, "x is"),
    "ragged": (lambda f, o: f.relu([[1.0], [1.0, 2.0]], **o), errors.DTypeError, "cannot be read"),
    "none": (lambda f, o: f.conv(X, None, **o), errors.DTypeError, "w is"),
    "dy of conv": (lambda f, o: f.conv_backward(X, X, W, **o), errors.ShapeError, r"dy .*expected \(2, 6, 4, 4\)"),
    "dy's batch": (lambda f, o: f.conv_backward(Y[:1], X, W, **o), errors.ShapeError, "dy has shape"),
    "pool rank": (lambda f, o: f.max_pool(V, 2, **o), errors.ShapeError, "1 to 3 spatial axes"),
    "pool padding": (lambda f, o: f.max_pool(X, 2, padding=2, **o), errors.ShapeError, "more than half"),
    "pool too large": (lambda f, o: f.avg_pool(X, 7, **o), errors.ShapeError, "larger than the padded input"),
    "pool size": (lambda f, o: f.avg_pool(X, (2, 2, 2), **o), errors.ShapeError, "3 entries for 2"),
    "dy of max_pool": (lambda f, o: f.max_pool_backward(X, X, 2, **o), errors.ShapeError, "max_pool's output"),
    "dy of avg_pool": (lambda f, o: f.avg_pool_backward(X, X, 2, **o), errors.ShapeError, "avg_pool's output"),
    "count": (lambda f, o: f.avg_pool(X, 2, count_include_pad=1, **o), errors.ConfigurationError, "True or False"),
    "dense rank": (lambda f, o: f.dense(X, D, **o), errors.ShapeError, "flatten"),
    "dense features": (lambda f, o: f.dense(V, D[:, :4], **o), errors.ShapeError, r"expected \(out, 5\)"),
    "dense bias": (lambda f, o: f.dense(V, D, B, **o), errors.ShapeError, r"bias .*expected \(7,\)"),
    "dy of dense": (lambda f, o: f.dense_backward(V, V, D, **o), errors.ShapeError, r"dy .*expected \(3, 7\)"),
    "norm rank": (lambda f, o: f.batch_norm(M, M, M, **o), errors.ShapeError, r"expected \(N, C\)"),
    "gamma": (lambda f, o: f.batch_norm(X, B, M, **o), errors.ShapeError, r"gamma .*expected \(4,\)"),
    "beta": (lambda f, o: f.batch_norm(X, M, B, **o), errors.ShapeError, r"beta .*expected \(4,\)"),
    "negative eps": (lambda f, o: f.batch_norm(X, M, M, eps=-1, **o), errors.ConfigurationError, "eps is -1"),
    "eps nan": (lambda f, o: f.batch_norm(X, M, M, eps=float("nan"), **o), errors.ConfigurationError, "eps is nan"),
    "eps word": (lambda f, o: f.batch_norm(X, M, M, eps="0", **o), errors.ConfigurationError, "eps is '0'"),
    "dy of norm": (lambda f, o: f.batch_norm_backward(Y, X, M, **o), errors.ShapeError, "dy has shape"),
    "logits rank": (
        lambda f, o: f.softmax_cross_entropy(X, [0, 1], **o),
        errors.ShapeError,
        r"end the model with Flatten",
    ),
    "labels float": (lambda f, o: f.softmax_cross_entropy(Z, M[:3], **o), errors.DTypeError, "labels are float32"),
    "labels bool": (lambda f, o: f.softmax_cross_entropy(Z, M[:3] > 0, **o), errors.DTypeError, "labels are bool"),
    "labels shape": (lambda f, o: f.softmax_cross_entropy(Z, [0, 1], **o), errors.ShapeError, r"need shape \(3,\)"),
    "labels rank": (lambda f, o: f.softmax_cross_entropy(Z, [[0], [1], [2]], **o), errors.ShapeError, "labels have"),
    "label large": (lambda f, o: f.softmax_cross_entropy(Z, [0, 10, 1], **o), errors.DataError, "label 10 of image 1"),
    "label negative": (lambda f, o: f.softmax_cross_entropy(Z, [0, 1, -1], **o), errors.DataError, "label -1 of"),
    "label huge": (
        lambda f, o: f.softmax_cross_entropy(Z, np.uint64([2**63, 0, 0]), **o),
        errors.DataError,
        "out of range",
    ),
}


@on_every_backend
@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(backend, math, case):
    call, error, message = REFUSALS[case]
    with pytest.raises(error, match=message) as caught:
        call(functional, dict(backend=backend, math=math))
    assert isinstance(caught.value, errors.GpucnnError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tpu"}, "tpu.*numpy"),
        ({"math": "sloppy"}, "sloppy.*exact"),
        ({"backend": "numba", "math": "fast"}, "fast"),
    ],
)
def test_unknown_backends_and_maths(options, message):
    with pytest.raises(errors.BackendError, match=message):
        functional.relu(X, **options)
