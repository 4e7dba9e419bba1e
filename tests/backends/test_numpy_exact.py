"""Every operation of numpy exact against the scalar contract in scalar.py, raw bits, for 0 to 3 spatial axes."""

import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.numpy.exact import NumpyExact
from gpucnn.errors import DTypeError
from gpucnn.geometry import Window
from tests.backends import scalar

BACKEND = NumpyExact()


def values(rng, shape, kind):
    """float32 test values: ordinary ones, many powers apart so that sums cancel and round, or around the subnormals."""
    normal = rng.standard_normal(shape)
    if kind == "normal":
        return normal.astype(np.float32)
    if kind == "wide":
        x = normal * 2.0 ** rng.integers(-30, 30, shape)
        x[rng.random(shape) < 0.2] = 0
        x[rng.random(shape) < 0.05] = -0.0
        return x.astype(np.float32)
    return (normal * 2.0 ** rng.integers(-84, -60, shape)).astype(np.float32)  # products are subnormal or vanish


KINDS = ["normal", "wide", "subnormal"]


def assert_bits(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.float32 and actual.shape == expected.shape
    different = np.argwhere(actual.view(np.uint32) != expected.view(np.uint32))
    assert not len(different), (
        f"{len(different)} differ, first {different[0]}: {actual[tuple(different[0])]!r}, "
        f"expected {expected[tuple(different[0])]!r}"
    )


def pack(x):
    return BACKEND.pack(np.asarray(x))


def window(input, kernel, stride=None, padding=None, dilation=None, ceil=False):
    """The sizes by the formula; `gpucnn.geometry.window` has tests of its own."""
    axes = len(input)
    stride, dilation = stride or (1,) * axes, dilation or (1,) * axes
    padding = padding or ((0, 0),) * axes
    output = []
    for i, k, s, (before, after), d in zip(input, kernel, stride, padding, dilation, strict=True):
        room = i + before + after - (d * (k - 1) + 1)
        o = (-(-room // s) if ceil else room // s) + 1
        output.append(o - (ceil and (o - 1) * s >= i + before))
    return Window(input, kernel, stride, padding, dilation, tuple(output))


# (window, images, in-channels of a group, out-channels of a group, groups)
CONVS = {
    "no axes": (window((), ()), 3, 4, 5, 1),
    "no axes, groups": (window((), ()), 18, 2, 2, 3),
    "line": (window((9,), (3,)), 2, 2, 3, 1),
    "line of bands": (window((132,), (3,)), 3, 1, 1, 1),
    "line, all settings": (window((11,), (3,), (2,), ((2, 1),), (2,)), 2, 2, 2, 2),
    "plane": (window((5, 6), (3, 2)), 2, 2, 3, 1),
    "two bands": (window((11, 10), (2, 1)), 3, 1, 2, 1),
    "three bands": (window((5, 33), (1, 2)), 2, 1, 1, 1),
    "stride that leaves pixels": (window((8, 7), (3, 2), (3, 2)), 2, 1, 2, 1),
    "stride larger than the kernel": (window((7, 7), (2, 1), (3, 3)), 2, 1, 2, 1),
    "padding": (window((4, 3), (3, 3), None, ((1, 1), (2, 0))), 2, 1, 2, 1),
    "padding larger than the kernel": (window((3, 2), (2, 2), (2, 1), ((3, 2), (0, 4))), 2, 1, 2, 1),
    "dilation and groups": (window((7, 8), (2, 3), (1, 2), ((1, 1), (2, 2)), (3, 2)), 2, 2, 1, 2),
    "depthwise": (window((4, 4), (2, 2)), 2, 1, 1, 3),
    "one position": (window((3, 2), (3, 2)), 20, 2, 3, 1),
    "one position, groups": (window((2, 2), (3, 3), (2, 2), ((1, 0), (0, 1))), 17, 1, 2, 2),
    "three blocks": (window((3, 2), (2, 1)), 35, 1, 2, 1),
    "volume": (window((3, 4, 5), (2, 2, 3)), 2, 2, 2, 1),
    "volume of bands": (window((3, 9, 5), (1, 1, 1)), 2, 1, 2, 1),
    "volume, all settings": (window((4, 3, 5), (2, 2, 2), (2, 1, 2), ((1, 0), (0, 1), (1, 1)), (1, 2, 2)), 2, 1, 2, 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CONVS)
def test_convolution(case, kind):
    w, images, ins, outs, groups = CONVS[case]
    rng = np.random.default_rng([len(case), KINDS.index(kind)])
    x = values(rng, (images, ins * groups, *w.input), kind)
    f = values(rng, (outs * groups, ins, *w.kernel), kind)
    dy = values(rng, (images, outs * groups, *w.output), kind)
    bias = values(rng, outs * groups, kind)
    if kind == "subnormal":
        bias *= np.float32(2.0**-60)
    for relu in (False, True):
        assert_bits(BACKEND.conv(pack(x), f, bias, w, groups, relu).numpy(), scalar.conv(x, f, bias, w, groups, relu))
    assert_bits(BACKEND.conv(pack(x), f, None, w, groups).numpy(), scalar.conv(x, f, None, w, groups, False))
    assert_bits(
        BACKEND.conv_input_gradient(pack(dy), f, w, groups).numpy(), scalar.conv_input_gradient(dy, f, w, groups)
    )
    out = np.full_like(f, np.nan)
    BACKEND.conv_weight_gradient(pack(dy), pack(x), w, groups, out)
    assert_bits(out, scalar.conv_weight_gradient(dy, x, w, groups, f.shape))
    out = np.full_like(bias, np.nan)
    BACKEND.bias_gradient(pack(dy), out)
    assert_bits(out, scalar.bias_gradient(dy))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [1, 16, 19, 50])
def test_dense(images, kind):
    rng = np.random.default_rng([images, KINDS.index(kind)])
    none = window((), ())
    x, w, bias, dy = (values(rng, shape, kind) for shape in ((images, 7), (5, 7), 5, (images, 5)))
    assert_bits(BACKEND.dense(pack(x), w, bias, True).numpy(), scalar.conv(x, w, bias, none, 1, True))
    assert_bits(BACKEND.dense(pack(x), w, None).numpy(), scalar.conv(x, w, None, none, 1, False))
    assert_bits(BACKEND.dense_input_gradient(pack(dy), w).numpy(), scalar.conv_input_gradient(dy, w, none, 1))
    out = np.full_like(w, np.nan)
    BACKEND.dense_weight_gradient(pack(dy), pack(x), out)
    assert_bits(out, scalar.conv_weight_gradient(dy, x, none, 1, w.shape))


def test_chunks_do_not_show(monkeypatch):
    w, _images, ins, outs, groups = CONVS["dilation and groups"]
    rng = np.random.default_rng(0)
    x, f = values(rng, (21, ins * groups, *w.input), "wide"), values(rng, (outs * groups, ins, *w.kernel), "wide")
    dy = values(rng, (21, outs * groups, *w.output), "wide")
    results = []
    for chunk in (1, 37, 1 << 14):
        monkeypatch.setattr("gpucnn.backends.numpy.exact.conv.CHUNK", chunk)
        out = np.zeros_like(f)
        BACKEND.conv_weight_gradient(pack(dy), pack(x), w, groups, out)
        results.append(
            (
                BACKEND.conv(pack(x), f, None, w, groups).numpy(),
                out,
                BACKEND.conv_input_gradient(pack(dy), f, w, groups).numpy(),
            )
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_bits(a, b)


def test_padding_images_add_nothing():
    """The gradients of 19 images are those of 32 whose last 13 are zero."""
    w, _, ins, outs, groups = CONVS["two bands"]
    rng = np.random.default_rng(1)
    x, dy = values(rng, (19, ins, *w.input), "wide"), values(rng, (19, outs, *w.output), "wide")
    full_x, full_dy = np.zeros((32, *x.shape[1:]), np.float32), np.zeros((32, *dy.shape[1:]), np.float32)
    full_x[:19], full_dy[:19] = x, dy
    few, many = np.zeros((2, outs, ins, *w.kernel), np.float32)
    BACKEND.conv_weight_gradient(pack(dy), pack(x), w, groups, few)
    BACKEND.conv_weight_gradient(pack(full_dy), pack(full_x), w, groups, many)
    assert_bits(few, many)


@pytest.mark.parametrize("name", ["normal", "subnormal"])
def test_sums_between_two_float32_are_rounded_once(name):
    """c * 1 + a * b with the exact sum so near the middle between two float32 numbers that float64 cannot tell."""
    if name == "normal":
        a, b, c = 1 + 2.0**-23, 2.0**-24 * (1 - 2.0**-23), 1 + 2.0**-23
    else:
        a, b, c = 2.0**-75 * (1 + 2.0**-23), 2.0**-75 * (1 - 2.0**-23), 2.0**-149 * (2**22 + 1)
    assert scalar.fma(a, b, c) == c and scalar.f32(a * b + c) != c, "rounded twice, it would go up to even"
    left, right = np.array([[c, a]], np.float32), np.array([[1, b]], np.float32)
    assert_bits(BACKEND.dense(pack(left), right, None).numpy(), np.array([[c]], np.float32))
    assert_bits(BACKEND.dense_input_gradient(pack(left), right.T.copy()).numpy(), np.array([[c]], np.float32))
    out = np.zeros((1, 1), np.float32)
    BACKEND.dense_weight_gradient(pack(left.T), pack(right.T), out)
    assert_bits(out, np.array([[c]], np.float32))
    out = np.zeros((1, 1, 1), np.float32)
    BACKEND.conv_weight_gradient(pack(left[None]), pack(right[None]), window((2,), (1,)), 1, out)
    assert_bits(out, np.array([[[c]]], np.float32))


def test_never_negative_zero():
    x, w = np.full((1, 1), -(2.0**-100), np.float32), np.full((1, 1), 2.0**-100, np.float32)
    y = BACKEND.dense(pack(x), w, np.full(1, -0.0, np.float32)).numpy()
    dw = np.ones_like(w)
    BACKEND.dense_weight_gradient(pack(x), pack(w), dw)
    for result in (y, BACKEND.dense_input_gradient(pack(x), w).numpy(), dw):
        assert result == 0 and not np.signbit(result)


POOLS = {
    "no axes": window((), ()),
    "line": window((7,), (2,), (2,)),
    "usual": window((6, 4), (2, 2), (2, 2)),
    "overlapping": window((5, 6), (3, 2), (1, 1)),
    "overlapping, padded": window((6, 7), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "ceil": window((6, 7), (3, 2), (2, 2), ceil=True),
    "ceil, padded": window((6, 5), (3, 3), (2, 2), ((1, 1), (0, 1)), ceil=True),
    "dilated": window((7, 6), (2, 3), (1, 2), ((1, 1), (1, 0)), (2, 2)),
    "gaps": window((7, 8), (2, 1), (3, 3)),
    "volume": window((3, 4, 5), (2, 2, 3), (1, 2, 2), ((1, 0), (0, 0), (1, 1))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", POOLS)
def test_pooling(case, kind):
    w, rng = POOLS[case], np.random.default_rng(len(case))
    x, dy = values(rng, (2, 2, *w.input), kind), values(rng, (2, 2, *w.output), kind)
    if kind == "wide":
        x = np.round(x)  # equal maxima, and both zeros
    if kind == "subnormal":
        x, dy = x * np.float32(2.0**-65), dy * np.float32(2.0**-65)
    y, winner = scalar.max_pool(x, w)
    result, where = BACKEND.max_pool(pack(x), w)
    assert_bits(result.numpy(), y)
    assert_bits(BACKEND.max_pool_gradient(pack(dy), where, w).numpy(), scalar.max_pool_gradient(dy, winner, w))
    for include in (True, False):
        assert_bits(BACKEND.avg_pool(pack(x), w, include).numpy(), scalar.avg_pool(x, w, include))
        assert_bits(BACKEND.avg_pool_gradient(pack(dy), w, include).numpy(), scalar.avg_pool_gradient(dy, w, include))


@pytest.mark.parametrize("fill", [np.nan, -np.inf, np.inf])
def test_max_pooling_of_non_finite_images_stays_inside(fill):
    w = POOLS["overlapping, padded"]
    x = np.full((1, 1, *w.input), fill, np.float32)
    y, where = BACKEND.max_pool(pack(x), w)
    assert np.array_equal(y.numpy(), np.full(y.shape, fill, np.float32), equal_nan=True)
    dx = BACKEND.max_pool_gradient(pack(np.ones(y.shape, np.float32)), where, w)
    assert dx.numpy().sum() == y.numpy().size, "every gradient must have arrived in the image"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(), (70,), (3, 3), (11, 10), (3, 9, 5)])
def test_global_average(sizes, kind):
    x = values(np.random.default_rng(len(sizes)), (2, 3, *sizes), kind)
    if kind == "subnormal":
        x *= np.float32(2.0**-70)
    y = BACKEND.global_avg_pool(pack(x))
    assert_bits(y.numpy(), scalar.global_avg_pool(x))
    dx = BACKEND.global_avg_pool_gradient(y, sizes).numpy()
    share = (y.numpy() / np.float32(max(1, np.prod(sizes, dtype=int)))).reshape(2, 3, *(1,) * len(sizes))
    assert_bits(dx, np.broadcast_to(share, x.shape))


@pytest.mark.parametrize("kind", ["normal", "wide"])
@pytest.mark.parametrize("shape", [(1, 2), (35, 2), (3, 2, 70), (18, 2, 2, 2), (3, 2, 11, 10), (2, 1, 3, 9, 5)])
def test_batch_norm(shape, kind):
    rng = np.random.default_rng(len(shape))
    x, dy = values(rng, shape, kind), values(rng, shape, kind)
    gamma, beta = values(rng, shape[1], "normal"), values(rng, shape[1], "normal")
    eps = 1e-5
    mean, var, unbiased = BACKEND.batch_norm_statistics(pack(x))
    for actual, expected in zip((mean, var, unbiased), scalar.batch_norm_statistics(x), strict=True):
        assert_bits(actual, expected)
    for relu in (False, True):
        y = BACKEND.batch_norm(pack(x), mean, var, gamma, beta, eps, relu).numpy()
        assert_bits(y, scalar.batch_norm(x, mean, var, gamma, beta, eps, relu))
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    dx = BACKEND.batch_norm_gradient(pack(dy), pack(x), mean, var, gamma, eps, dgamma, dbeta).numpy()
    everything = scalar.batch_norm_gradient(dy, x, mean, var, gamma, eps)
    for actual, expected in zip((dx, dgamma, dbeta), everything, strict=True):
        assert_bits(actual, expected)
    dx = BACKEND.batch_norm_input_gradient(pack(dy), var, gamma, eps).numpy()
    scale = [scalar.f32(float(g) * scalar.inverse(v, eps)) for g, v in zip(gamma, var, strict=True)]
    expected = [scalar.f32(float(dy[i]) * scale[i[1]]) for i in np.ndindex(shape)]
    assert_bits(dx, np.array(expected, np.float32).reshape(shape))
    running = values(rng, shape[1], "normal")
    steps = [scalar.f32(float(m) - float(r)) for m, r in zip(mean, running, strict=True)]
    expected = [scalar.fma(scalar.f32(0.1), s, r) for s, r in zip(steps, running, strict=True)]
    BACKEND.update_running(running, mean, 0.1)
    assert_bits(running, np.array(expected, np.float32))


def test_elementwise():
    rng = np.random.default_rng(4)
    x, dy = values(rng, (3, 2, 4, 5), "wide"), values(rng, (3, 2, 4, 5), "wide")
    flat = list(zip(x.ravel().tolist(), dy.ravel().tolist(), strict=True))

    def expect(batch, function):
        assert_bits(batch.numpy().ravel(), np.array([function(v, g) for v, g in flat], np.float32))

    f32, fma = scalar.f32, scalar.fma
    expect(BACKEND.elementwise("relu", pack(x)), lambda v, g: v if v > 0 else 0.0)
    expect(
        BACKEND.elementwise_gradient("relu", pack(dy), BACKEND.elementwise("relu", pack(x))),
        lambda v, g: g if v > 0 else 0.0,
    )
    expect(BACKEND.add(pack(x), pack(dy)), lambda v, g: f32(v + g))
    expect(BACKEND.add(pack(x), pack(dy), relu=True), lambda v, g: f32(v + g) if v + g > 0 else 0.0)
    expect(BACKEND.elementwise_gradient("tanh", pack(dy), pack(x)), lambda v, g: f32(g * fma(-v, v, 1.0)))
    expect(BACKEND.elementwise_gradient("sigmoid", pack(dy), pack(x)), lambda v, g: f32(g * f32(v * f32(1 - v))))
    assert_bits(
        BACKEND.elementwise("tanh", pack(x)).numpy(), arithmetic.tanh(x)
    )  # tested against decimals in tests/arithmetic
    assert_bits(BACKEND.elementwise("sigmoid", pack(x)).numpy(), arithmetic.sigmoid(x))
    nan = pack(np.full((1, 1), np.nan, np.float32))
    assert_bits(BACKEND.elementwise("relu", nan).numpy(), np.zeros((1, 1), np.float32))


def test_dropout():
    seed, step, layer, rate = 2**40 + 3, np.array([9], np.uint32), 5, 0.3
    x = values(np.random.default_rng(5), (4, 3, 2, 5), "normal")
    y = BACKEND.dropout(pack(x), rate, seed, step, layer).numpy()
    scale = scalar.f32(1 / (1 - rate))
    expected = []
    for i, v in enumerate(x.ravel().tolist()):
        u = (scalar.philox_word(seed, i, 9, 3, layer) >> 8) * 2.0**-24
        expected.append(0.0 if u < scalar.f32(rate) else scalar.f32(v * scale))
    assert_bits(y.ravel(), np.array(expected, np.float32))
    assert 0 < np.count_nonzero(y) < y.size


@pytest.mark.parametrize("kind", ["normal", "wide"])
@pytest.mark.parametrize("images", [1, 16, 19, 50])
def test_softmax_cross_entropy(images, kind):
    rng = np.random.default_rng(images)
    z = values(rng, (images, 10), kind) * np.float32(3)
    z[0, 4:6] = z[0].max()  # two largest: the first counts
    labels = rng.integers(0, 10, images)
    labels[0] = 5
    totals = np.array([100.0, 7.0])
    loss, dz = BACKEND.softmax_cross_entropy(pack(z), BACKEND.pack_labels(labels), totals)
    expected_loss, expected_dz, total, hits = scalar.softmax_cross_entropy(z, labels)
    assert_bits(loss, np.array([expected_loss], np.float32))
    assert_bits(dz.numpy(), expected_dz)
    assert totals.tolist() == [100.0 + total, 7.0 + hits]
    p = np.array([scalar.softmax_parts(row)[0] for row in z.tolist()], np.float32)
    assert_bits(BACKEND.softmax(pack(z)).numpy(), p)
    maps = np.ascontiguousarray(z.T[None].repeat(2, 0))  # (2, 10, images): along the channels, at each position
    assert_bits(BACKEND.softmax(pack(maps)).numpy(), p.T[None].repeat(2, 0))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 1e-4), (0.0, 0.0)])
def test_sgd(momentum, decay, nesterov):
    rng, fma, f32 = np.random.default_rng(6), scalar.fma, scalar.f32
    w, g, v = (values(rng, 60, "wide") for _ in range(3))
    hyper, before = np.array([0.05], np.float32), g.copy()
    expected = []
    for a, b, c in zip(w.tolist(), g.tolist(), v.tolist(), strict=True):
        b = fma(f32(decay), a, b)
        c = fma(f32(momentum), c, b)
        along = fma(f32(momentum), c, b) if nesterov else c
        expected.append((fma(-f32(0.05), along, a), c))
    BACKEND.sgd(w, g, v, hyper, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    assert_bits(np.stack([w, v], 1), np.array(expected, np.float32))
    assert_bits(g, before)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(decoupled):
    rng, fma, f32 = np.random.default_rng(7), scalar.fma, scalar.f32
    w, g, m = (values(rng, 60, "normal") for _ in range(3))
    v = values(rng, 60, "normal") ** 2
    b1, b2, eps, decay = 0.9, 0.999, 1e-8, 0.01
    hyper = np.array([0.002, 1 - b1 * b1, 1 - b2 * b2, 0.002 * decay], np.float32)
    lr, c1, c2, shrink = hyper.tolist()
    expected = []
    for a, b, c, d in zip(w.tolist(), g.tolist(), m.tolist(), v.tolist(), strict=True):
        if decoupled:
            a = fma(-shrink, a, a)
        else:
            b = fma(f32(decay), a, b)
        c = fma(f32(b1), c, f32(f32(1 - b1) * b))
        d = fma(f32(b2), d, f32(f32(f32(1 - b2) * b) * b))
        root = f32(f32(np.sqrt(f32(d / c2))) + f32(eps))
        expected.append((fma(-lr, f32(f32(c / c1) / root), a), c, d))
    BACKEND.adam(w, g, m, v, hyper, beta1=b1, beta2=b2, eps=eps, weight_decay=decay, decoupled=decoupled)
    assert_bits(np.stack([w, m, v], 1), np.array(expected, np.float32))


@pytest.mark.parametrize("sizes", [(7,), (5, 6), (2, 3, 4)])
def test_load_images_with_shift(sizes):
    rng, seed, step, shift = np.random.default_rng(8), 77, np.array([12], np.uint32), 2
    images, chosen = values(rng, (9, 2, *sizes), "normal"), np.array([3, 3, 0, 8, 1], np.int64)
    result = BACKEND.load_images(images, chosen, 4, Augmentation(shift=shift), seed=seed, step=step).numpy()
    expected = np.zeros((4, 2, *sizes), np.float32)
    for i in range(4):
        offsets = []
        for axis in range(len(sizes)):
            word = scalar.philox_word(seed, i * len(sizes) + axis, 12, 4)
            offsets.append((((word >> 8) * (2 * shift + 1)) >> 24) - shift)
        for p in scalar.indices(sizes):
            source = tuple(a - b for a, b in zip(p, offsets, strict=True))
            if all(0 <= s < size for s, size in zip(source, sizes, strict=True)):
                expected[(i, slice(None), *p)] = images[(chosen[i], slice(None), *source)]
    assert_bits(result, expected)
    assert_bits(BACKEND.load_images(images, chosen, 4).numpy(), images[chosen[:4]])


def test_memory():
    x = values(np.random.default_rng(9), (3, 2, 4), "normal")
    batch = BACKEND.pack(x)
    assert batch.shape == (3, 2, 4) and batch.data.shape == (3, 2, 4, 1)
    x[...] = 0
    assert batch.numpy().any(), "a batch is a copy"
    labels = BACKEND.array(np.array([4, 5, 6], np.int32))
    assert BACKEND.load_labels(labels, np.array([2, 0, 1]), 2).tolist() == [[6], [4]]
    assert BACKEND.pack_labels(np.array([1, 2])).dtype == np.int32
    device = BACKEND.zeros((2, 3))
    assert device.dtype == np.float32
    BACKEND.assign(device, np.ones((2, 3), np.float32))
    host = BACKEND.host(device)
    host[...] = 5
    assert device.sum() == 6
    with pytest.raises(DTypeError, match="float64"):
        BACKEND.pack(np.ones((1, 1)))


def test_capture_runs_once_and_again():
    calls = []
    replay = BACKEND.capture(lambda: calls.append(1))
    assert len(calls) == 1
    replay()
    assert len(calls) == 2


def test_watch_keeps_the_first_step():
    status, one, step = np.array([-1]), np.ones(1, np.float32), np.array([3], np.uint32)
    BACKEND.watch(status, step, one, one)
    assert status == -1
    BACKEND.watch(status, step, one, np.array([np.nan], np.float32))
    assert status == 3
    BACKEND.watch(status, np.array([4], np.uint32), np.array([np.inf], np.float32), one)
    assert status == 3
