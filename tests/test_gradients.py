"""Every gradient of the functions against central differences, by the public gpucnn.check_gradients (tested in
test_check_gradients.py): float64 on numpy's fast math.

Kinks are kept away: inputs of ReLU keep off 0, inputs of max pooling keep off one another, by much more than a step.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn import check_gradients
from gpucnn.backends import get_backend
from tests.float64 import functional

H = 2.0**-13  # the largest step of the differences

ENGINE = get_backend("numpy", "fast", dtype=np.float64)
some = settings(deadline=None, max_examples=25, derandomize=True)
SEED = st.integers(0, 2**32 - 1)


def check(f, gradients, arrays, seed, dy=None):
    """`gradients(dy)` gives the gradients of sum(dy * f(*arrays)), one for each array; `dy` where only one will do."""

    def function(*moved):
        y = np.asarray(f(*moved))
        if dy is None:
            return y, gradients
        return np.asarray((dy * y).sum()), lambda d: [d * gradient for gradient in gradients(dy)]

    report = check_gradients(function, *arrays, directions=1, seed=seed)
    assert report.passed, str(report)


def normal(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for shape in shapes]


def apart(seed, shape):
    """Values in random order, each at least 0.01 from every other and from 0."""
    size = int(np.prod(shape))
    values = (np.arange(size) - size // 2 + 0.5) * 0.05
    jitter = np.random.default_rng(seed).uniform(-0.02, 0.02, size)
    return np.random.default_rng(seed + 1).permutation(values + jitter).reshape(shape)


def engine(operation, *arguments):
    """An operation of one batch on plain arrays."""
    return lambda x: ENGINE.unpack(getattr(ENGINE, operation)(ENGINE.pack(x), *arguments))


AXIS = st.tuples(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(0, 3),
)


@some
@given(
    axes=st.lists(AXIS, min_size=1, max_size=3),
    images=st.integers(1, 3),
    channels=st.integers(1, 2),
    filters=st.integers(1, 2),
    groups=st.integers(1, 2),
    seed=SEED,
)
def test_conv(axes, images, channels, filters, groups, seed):
    kernel, stride, dilation, padding, extra = zip(*axes)
    image = [max(1, d * (k - 1) + 1 - sum(p)) + e for k, d, p, e in zip(kernel, dilation, padding, extra)]
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    x, w, b = normal(seed, (images, groups * channels, *image), (groups * filters, channels, *kernel), groups * filters)
    check(
        lambda x, w, b: functional.conv(x, w, b, **options),
        lambda dy: functional.conv_backward(dy, x, w, **options),
        [x, w, b],
        seed,
    )


@some
@given(images=st.integers(1, 5), inputs=st.integers(1, 8), outputs=st.integers(1, 8), seed=SEED)
def test_dense(images, inputs, outputs, seed):
    x, w, b = normal(seed, (images, inputs), (outputs, inputs), outputs)
    check(functional.dense, lambda dy: functional.dense_backward(dy, x, w), [x, w, b], seed)


POOL = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=3
)


def pool_case(axes):
    size, stride, padded, extra = zip(*axes)
    padding = tuple(k // 2 if p else 0 for k, p in zip(size, padded))
    return size, dict(stride=stride, padding=padding), [k + e for k, e in zip(size, extra)]


@some
@given(axes=POOL, images=st.integers(1, 3), seed=SEED)
def test_max_pool(axes, images, seed):
    size, options, image = pool_case(axes)
    x = apart(seed, (images, 2, *image))
    check(
        lambda x: functional.max_pool(x, size, **options),
        lambda dy: [functional.max_pool_backward(dy, x, size, **options)],
        [x],
        seed,
    )


@some
@given(axes=POOL, images=st.integers(1, 3), include=st.booleans(), seed=SEED)
def test_avg_pool(axes, images, include, seed):
    size, options, image = pool_case(axes)
    options["count_include_pad"] = include
    (x,) = normal(seed, (images, 2, *image))
    check(
        lambda x: functional.avg_pool(x, size, **options),
        lambda dy: [functional.avg_pool_backward(dy, x, size, **options)],
        [x],
        seed,
    )


@pytest.mark.parametrize("spatial", [(5,), (3, 4), (2, 3, 2)])
def test_global_avg_pool(spatial):
    (x,) = normal(1, (3, 2, *spatial))
    check(engine("global_avg_pool"), lambda dy: [engine("global_avg_pool_gradient", spatial)(dy)], [x], 2)


@pytest.mark.parametrize("operation", ["relu", "tanh", "sigmoid"])
def test_elementwise(operation):
    x = apart(3, (4, 3, 5, 2))

    def forward(x):
        return ENGINE.unpack(ENGINE.elementwise(operation, ENGINE.pack(x)))

    def backward(dy):
        return [ENGINE.unpack(ENGINE.elementwise_gradient(operation, ENGINE.pack(dy), y))]

    y = ENGINE.pack(forward(x))
    check(forward, backward, [x], 4)


@pytest.mark.parametrize("relu", [False, True])
def test_add(relu):
    a, b = apart(5, (3, 2, 4, 4)), apart(6, (3, 2, 4, 4))
    a += 0.0123  # sums are multiples of 0.05 give or take twice the jitter; none is within 0.001 of 0
    assert np.abs(a + b).min() > 10 * H

    def backward(dy):
        y = ENGINE.add(ENGINE.pack(a), ENGINE.pack(b), relu)
        dx = ENGINE.unpack(ENGINE.elementwise_gradient("relu", ENGINE.pack(dy), y)) if relu else dy
        return [dx, dx]

    check(lambda a, b: ENGINE.unpack(ENGINE.add(ENGINE.pack(a), ENGINE.pack(b), relu)), backward, [a, b], 7)


def test_dropout_is_its_own_gradient():
    (x,) = normal(8, (5, 3, 4, 4))
    drop = engine("dropout", 0.4, 123, np.array([7], np.uint32), 2)
    assert 0 < np.count_nonzero(drop(x)) < x.size
    check(drop, lambda dy: [drop(dy)], [x], 9)


@some
@given(images=st.integers(2, 6), spatial=st.lists(st.integers(1, 3), max_size=3).map(tuple), seed=SEED)
def test_batch_norm(images, spatial, seed):
    (x,) = normal(seed, (images, 2, *spatial))
    x += np.arange(images).reshape(-1, *(1 for _ in x.shape[1:]))  # a variance of 0 would leave no third derivative
    gamma, beta = normal(seed + 1, 2, 2)
    eps = 0.5
    check(
        lambda x, gamma, beta: functional.batch_norm(x, gamma, beta, eps=eps)[0],
        lambda dy: functional.batch_norm_backward(dy, x, gamma, eps=eps),
        [x, gamma, beta],
        seed,
    )


@some
@given(
    images=st.integers(1, 4),
    groups=st.integers(1, 3),
    channels=st.integers(1, 2),
    spatial=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    seed=SEED,
)
def test_group_norm_and_layer_norm(images, groups, channels, spatial, seed):
    shape = (images, groups * channels, *spatial)
    x, gamma, beta, gammas, betas = normal(seed, shape, shape[1], shape[1], shape[1:], shape[1:])
    eps = 0.5  # a line of one value has variance 0
    check(
        lambda x, gamma, beta: functional.group_norm(x, groups, gamma, beta, eps=eps)[0],
        lambda dy: functional.group_norm_backward(dy, x, groups, gamma, eps=eps),
        [x, gamma, beta],
        seed,
    )
    check(
        lambda x, gamma, beta: functional.layer_norm(x, gamma, beta, eps=eps)[0],
        lambda dy: functional.layer_norm_backward(dy, x, gammas, eps=eps),
        [x, gammas, betas],
        seed,
    )


def test_batch_norm_with_constant_statistics():
    x, mean, gamma, beta = normal(10, (4, 3, 2, 2), 3, 3, 3)
    var = np.random.default_rng(11).uniform(0.5, 2, 3)
    check(
        engine("batch_norm", mean, var, gamma, beta, 1e-5),
        lambda dy: [engine("batch_norm_input_gradient", var, gamma, 1e-5)(dy)],
        [x],
        12,
    )


@some
@given(images=st.integers(1, 6), classes=st.integers(1, 8), seed=SEED)
def test_softmax_cross_entropy(images, classes, seed):
    (logits,) = normal(seed, (images, classes))
    labels = np.random.default_rng(seed).integers(0, classes, images)
    check(
        lambda z: functional.softmax_cross_entropy(z, labels)[0],
        lambda dy: [functional.softmax_cross_entropy(logits, labels)[1]],
        [logits],
        seed,
        dy=np.ones(()),
    )


@pytest.mark.parametrize("broken", [1e-3, -1e-3])
def test_the_check_itself_finds_a_gradient_that_is_off_by_a_thousandth(broken):
    x, w = normal(13, (2, 5), (4, 5))
    b = np.zeros(4)

    def wrong(dy):
        dx, dw, db = functional.dense_backward(dy, x, w)
        return dx, dw * (1 + broken), db

    with pytest.raises(AssertionError, match="argument 1 .*WRONG"):
        check(functional.dense, wrong, [x, w, b], 14)
