"""Every operation of numba against numpy's exact math, raw bits, over random shapes and difficult numbers.

The backend is guarded (see guarded.py): each test also shows that no kernel writes outside its buffers, uses memory
that nobody wrote, or lets through what fills up the last block. It runs on one thread or two, as the test case says.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.numba import correlation, tiles
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.errors import BackendError, DTypeError, ShapeError
from gpucnn.geometry import window
from tests.backends import scalar
from tests.backends.guarded import KINDS, assert_bits, garbage, guarded, numbers

EXACT = get_backend("numpy", "exact")
GuardedNumba = guarded()
GUARDED = {threads: GuardedNumba(threads) for threads in (1, 2)}
IMAGES = (1, 2, 15, 16, 17, 31, 33)

backends = st.sampled_from([1, 2]).map(GUARDED.get)
kinds = st.sampled_from(sorted(KINDS))
seeds = st.integers(0, 2**16)


def examples(count: int):
    """Hypothesis for `count` examples; the first of them may compile kernels, hence no deadline."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def few_tiles():
    """Each register tile is several kernels to compile: random shapes share a few; test_numba_tiles.py takes all."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_BROADCAST", "_PRODUCT"):
            # The smallest, which fits everywhere, and the one with most accumulators.
            few = {n: (some[0], max(some, key=np.prod)) for n, some in getattr(tiles, name).items()}
            patch.setattr(tiles, name, few)
        # Whole kernel rows: a kernel for each border; test_numba_rows.py has them.
        patch.setattr(tiles, "_ROWS", {24: (), 6: ()})
        patch.setattr(tiles, "_GRADIENT_ROWS", {24: {}, 6: {}})
        patch.setattr(correlation, "WIDTHS", ())  # specialized widths are also tested there
        for choice in CHOICES:
            choice.cache_clear()
        yield
    for choice in CHOICES:
        choice.cache_clear()


CHOICES = tiles.broadcast_tile, tiles.product_tile, tiles.pooled_tile, tiles.row_tile, tiles.gradient_row_tile


def compare(backend, results: dict, expected: dict) -> None:
    """Same names, same bits, and all canaries alive."""
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        assert_bits(results[name], value, name)
    backend.verify()


# ---- convolution and dense -------------------------------------------------------------------------------------------

# (images, input, kernel, settings): from one pixel to several bands and blocks, with one to three axes.
SIZES = {1: (1, 7, 31, 150), 2: (1, 3, 6, 11), 3: (1, 2, 5)}


@st.composite
def windows(draw, kernels=(1, 2, 3, 5), pooling=False):
    axes = draw(st.sampled_from([1, 2, 2, 2, 3]))
    sizes = draw(st.tuples(*[st.sampled_from(SIZES[axes]) for _ in range(axes)]))
    parts = []
    for size in sizes:
        dilation = draw(st.sampled_from([1, 1, 2, 3]))
        # Every tap of a dilated pooling window could lie in the padding.
        most = 0 if pooling and dilation > 1 else 1 if pooling else 3
        before, after = draw(st.integers(0, most)), draw(st.integers(0, most))
        room = size + before + after
        kernel = draw(st.sampled_from([k for k in kernels if dilation * (k - 1) + 1 <= room]))
        if pooling and kernel == 1:
            before = after = 0
        parts.append((kernel, draw(st.sampled_from([1, 1, 2, 3])), (before, after), dilation))
    kernel, stride, padding, dilation = zip(*parts, strict=True)
    return window(sizes, kernel, stride=stride, padding=padding, dilation=dilation)


@st.composite
def convolutions(draw):
    """(window, images, in-channels of a group, out-channels of a group, groups); depthwise among them."""
    win = draw(windows())
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    # numpy's exact math takes time per image: use many only if they are small.
    images = draw(st.sampled_from(IMAGES if np.prod(win.output) * np.prod(win.kernel) < 300 else (1, 2, 17)))
    return win, images, draw(st.sampled_from([1, 1, 2, 5])), draw(st.sampled_from([1, 2, 3, 7])), groups


def convolve(b, problem, kind: str, seed: int, relu: bool) -> dict:
    win, images, ins, outs, groups = problem
    x = b.pack(numbers(kind, images, ins * groups, *win.input, seed=seed))
    dy = b.pack(numbers(kind, images, outs * groups, *win.output, seed=seed + 1))
    w = b.array(numbers(kind, outs * groups, ins, *win.kernel, seed=seed + 2))
    bias = b.array(numbers(kind, outs * groups, seed=seed + 3))
    dw, db = b.array(np.full(w.shape, np.nan, np.float32)), b.array(np.full(bias.shape, np.nan, np.float32))
    b.conv_weight_gradient(dy, x, win, groups, dw)
    b.bias_gradient(dy, db)
    return {
        "y": b.unpack(b.conv(x, w, bias, win, groups, relu)),
        "y without bias": b.unpack(b.conv(x, w, None, win, groups)),
        "dx": b.unpack(b.conv_input_gradient(dy, w, win, groups)),
        "dw": b.host(dw),
        "db": b.host(db),
    }


@examples(150)
@given(backends, convolutions(), kinds, seeds, st.booleans())
def test_convolution(backend, problem, kind, seed, relu):
    expected = convolve(EXACT, problem, kind, seed, relu)
    compare(backend, convolve(backend, problem, kind, seed, relu), expected)


@pytest.mark.parametrize("images", [16, 17, 33, 49])
@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (3, 2)])
def test_a_stride_over_one_pixel_steps_over_no_block(images, stride):
    """Blocks of one-pixel images are a row of pixels to the kernel, and the window's stride is none between them."""
    for groups, ins, outs in ((1, 2, 3), (2, 1, 1), (2, 2, 3), (3, 1, 2)):
        problem = window((1, 1), 1, stride=stride), images, ins, outs, groups
        for threads in (1, 2):
            expected = convolve(EXACT, problem, "random", images, False)
            compare(GUARDED[threads], convolve(GUARDED[threads], problem, "random", images, False), expected)


@st.composite
def pooled_convolutions(draw):
    """(window, pool, images, in-channels of a group, out-channels of a group, groups):
    a few that no kernel fuses too.
    """
    size = draw(st.tuples(st.integers(2, 12), st.integers(2, 12)))
    kernel, padding = draw(st.sampled_from([(1, 0), (3, 1), (3, 2), ((2, 3), 1), (5, 2)]))
    win = window(size, kernel, padding=padding)
    overlapping = draw(st.sampled_from([False] * 7 + [True]))
    pool = window(win.output, 2, stride=1 if overlapping else 2)
    images = draw(st.sampled_from((1, 15, 17)))
    return (
        win,
        pool,
        images,
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 5])),
        draw(st.sampled_from([1, 1, 2])),
    )


def convolve_and_pool(b, problem, kind: str, seed: int) -> dict:
    win, pool, images, ins, outs, groups = problem
    x, bias = (
        b.pack(numbers(kind, images, ins * groups, *win.input, seed=seed)),
        b.array(numbers(kind, outs * groups, seed=seed + 1)),
    )
    w = b.array(numbers(kind, outs * groups, ins, *win.kernel, seed=seed + 2))
    y, where = b.conv_max_pool(x, w, bias, win, groups, pool)
    dy = b.elementwise_gradient("relu", b.pack(numbers(kind, *y.shape, seed=seed + 3)), y)
    plain, _ = b.conv_max_pool(x, w, None, win, groups, pool)
    dx = b.unpack(b.max_pool_gradient(dy, where, pool))
    return {"y": b.unpack(y), "without bias": b.unpack(plain), "dx": dx}


@examples(60)
@given(backends, pooled_convolutions(), kinds, seeds)
def test_convolution_with_max_pool(backend, problem, kind, seed):
    compare(backend, convolve_and_pool(backend, problem, kind, seed), convolve_and_pool(EXACT, problem, kind, seed))


def connect(b, images: int, inputs: int, outputs: int, kind: str, seed: int) -> dict:
    x, dy = b.pack(numbers(kind, images, inputs, seed=seed)), b.pack(numbers(kind, images, outputs, seed=seed + 1))
    w, bias = b.array(numbers(kind, outputs, inputs, seed=seed + 2)), b.array(numbers(kind, outputs, seed=seed + 3))
    dw = b.array(np.full(w.shape, np.nan, np.float32))
    b.dense_weight_gradient(dy, x, dw)
    return {
        "y": b.unpack(b.dense(x, w, bias, relu=True)),
        "y without bias": b.unpack(b.dense(x, w, None)),
        "dx": b.unpack(b.dense_input_gradient(dy, w)),
        "dw": b.host(dw),
    }


@examples(60)
@given(backends, st.sampled_from([*IMAGES, 100]), st.integers(1, 40), st.integers(1, 40), kinds, seeds)
def test_dense(backend, images, inputs, outputs, kind, seed):
    expected = connect(EXACT, images, inputs, outputs, kind, seed)
    compare(backend, connect(backend, images, inputs, outputs, kind, seed), expected)


@pytest.mark.parametrize("kind", ["random", "annihilating", "vanishing"])
@pytest.mark.parametrize(
    ("problem"),
    [
        (window((5, 6), (3, 2), stride=(2, 1), padding=((1, 2), (0, 1)), dilation=(1, 2)), 18, 1, 2, 2),
        (window((3, 2), (3, 2)), 18, 2, 2, 1),
        (window((140,), 2, stride=2), 2, 1, 1, 1),
        (window((2, 3, 4), 2, padding=1), 2, 1, 2, 1),
    ],
    ids=["all settings", "one position", "bands of a line", "volume"],
)
def test_convolution_against_the_scalar_contract(problem, kind):
    """Once more without numpy's exact math in between: tests/backends/scalar.py is the contract in plain Python."""
    win, images, ins, outs, groups = problem
    x = numbers(kind, images, ins * groups, *win.input, seed=0)
    dy = numbers(kind, images, outs * groups, *win.output, seed=1)
    w = numbers(kind, outs * groups, ins, *win.kernel, seed=2)
    bias = numbers(kind, outs * groups, seed=3)
    expected = {
        "y": scalar.conv(x, w, bias, win, groups, True),
        "y without bias": scalar.conv(x, w, None, win, groups, False),
        "dx": scalar.conv_input_gradient(dy, w, win, groups),
        "dw": scalar.conv_weight_gradient(dy, x, win, groups, w.shape),
        "db": scalar.bias_gradient(dy),
    }
    compare(GUARDED[2], convolve(GUARDED[2], problem, kind, 0, relu=True), expected)


def test_never_negative_zero():
    """The final + 0: a product that vanishes below zero, plus a bias of -0."""
    b = GUARDED[1]
    x, w = numbers("random", 1, 1) * 0 - np.float32(2.0**-100), np.full((1, 1), 2.0**-100, np.float32)
    minus = np.full(1, -0.0, np.float32)
    dw = b.zeros((1, 1))
    b.dense_weight_gradient(b.pack(x), b.pack(w), dw)
    results = b.unpack(b.dense(b.pack(x), w, minus)), b.unpack(b.dense_input_gradient(b.pack(x), w)), b.host(dw)
    for result in results:
        assert_bits(result, np.zeros((1, 1), np.float32))


# ---- pooling ---------------------------------------------------------------------------------------------------------


def pool(b, win, images: int, channels: int, kind: str, seed: int) -> dict:
    x = b.pack(numbers(kind, images, channels, *win.input, seed=seed))
    dy = b.pack(numbers(kind, images, channels, *win.output, seed=seed + 1))
    y, where = b.max_pool(x, win)
    whole = b.global_avg_pool(x)
    return {
        "maximum": b.unpack(y),
        "dx of the maximum": b.unpack(b.max_pool_gradient(dy, where, win)),
        "mean": b.unpack(b.avg_pool(x, win)),
        "dx of the mean": b.unpack(b.avg_pool_gradient(dy, win)),
        "mean of pixels": b.unpack(b.avg_pool(x, win, count_include_pad=False)),
        "dx of the mean of pixels": b.unpack(b.avg_pool_gradient(dy, win, count_include_pad=False)),
        "mean of the map": b.unpack(whole),
        "dx of the map": b.unpack(b.global_avg_pool_gradient(whole, win.input)),
    }


@examples(100)
@given(backends, windows(kernels=(1, 2, 3), pooling=True), st.sampled_from(IMAGES), st.integers(1, 3), kinds, seeds)
def test_pooling(backend, win, images, channels, kind, seed):
    expected = pool(EXACT, win, images, channels, kind, seed)
    compare(backend, pool(backend, win, images, channels, kind, seed), expected)


@pytest.mark.parametrize("size", [(7, 8), (6, 7), (5, 5)])
@pytest.mark.parametrize("padding", [0, 1])
def test_pooling_with_overhang(size, padding):
    win = window(size, 3, stride=2, padding=padding, ceil=True)
    compare(GUARDED[2], pool(GUARDED[2], win, 2, 2, "cancelling", 0), pool(EXACT, win, 2, 2, "cancelling", 0))


def test_windows_of_more_pixels_than_float32_tells_apart_have_no_gradient():
    """Two pixels got what belongs to one of them."""
    whole = window((257, 257, 257), 257)
    dy, where = GUARDED[1].pack(np.ones((1, 1, 1, 1, 1), np.float32)), np.zeros((1, 1, 1, 1, 1, 16), np.float32)
    with pytest.raises(ShapeError, match=r"up to 16,777,216 .*\(257, 257, 257\) have 16,974,593; pool in two steps"):
        GUARDED[1].max_pool_gradient(dy, where, whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_max_pooling_of_non_finite_images_stays_inside(value):
    b, win = GUARDED[1], window((6, 7), 3, stride=2, padding=1)
    y, where = b.max_pool(b.pack(np.full((1, 1, 6, 7), value, np.float32)), win)
    assert np.array_equal(b.unpack(y), np.full(y.shape, value, np.float32), equal_nan=True)
    dx = b.unpack(b.max_pool_gradient(b.pack(np.ones(y.shape, np.float32)), where, win))
    assert dx.sum() == np.prod(y.shape), "every gradient must have arrived in the image"
    b.verify()


# ---- elementwise, batch norm, loss -----------------------------------------------------------------------------------

shapes = st.builds(
    lambda images, channels, spatial: (images, channels, *spatial),
    st.sampled_from(IMAGES),
    st.integers(1, 4),
    st.sampled_from([(), (1,), (70,), (130,), (1, 1), (3, 5), (9, 8), (13, 11), (2, 3, 4), (5, 1, 15)]),
)


def elementwise(b, shape, kind: str, seed: int) -> dict:
    # Up to 88 and beyond, where exp ends; small numbers stay small.
    x = b.pack(numbers(kind, *shape, seed=seed) * np.float32(30))
    z, step = b.pack(numbers(kind, *shape, seed=seed + 1)), b.array(np.array([2**31 + seed], np.uint32))
    results = {}
    for name in ("relu", "tanh", "sigmoid"):
        y = b.elementwise(name, x)
        results[name], results[name + "'"] = b.unpack(y), b.unpack(b.elementwise_gradient(name, z, y))
    results["sum"], results["rectified"] = b.unpack(b.add(x, z)), b.unpack(b.add(x, z, relu=True))
    results["dropout"] = b.unpack(b.dropout(x, 0.4, seed * 2**33 + 7, step, seed % 100))
    return results


@examples(60)
@given(backends, shapes, kinds, seeds)
def test_elementwise(backend, shape, kind, seed):
    compare(backend, elementwise(backend, shape, kind, seed), elementwise(EXACT, shape, kind, seed))


def test_exponentials_of_many_numbers():
    """tanh and sigmoid over all float32 magnitudes, 200 thousand of them, and where their formulas change."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, np.uint32).view(np.float32)
    turns = np.nextafter(np.float32([0.25, 20, 10, 100, 88.7, 0]), np.float32([[-np.inf], [0.25], [np.inf]])).ravel()
    x = np.concatenate([bits[np.isfinite(bits)], turns, -turns, rng.uniform(-90, 90, 50_000).astype(np.float32)])
    x = x[: len(x) // 7 * 7].reshape(-1, 7)
    for name in ("tanh", "sigmoid"):
        assert_bits(
            GUARDED[2].unpack(GUARDED[2].elementwise(name, GUARDED[2].pack(x))),
            EXACT.elementwise(name, EXACT.pack(x)).numpy(),
        )
    GUARDED[2].verify()


def normalize(b, shape, kind: str, seed: int) -> dict:
    x, dy = b.pack(numbers(kind, *shape, seed=seed)), b.pack(numbers(kind, *shape, seed=seed + 1))
    # The parameters as training has them; statistics of any kind of numbers.
    gamma, beta, running = (b.array(numbers("random", shape[1], seed=seed + i)) for i in (2, 3, 4))
    mean, var, unbiased = b.batch_norm_statistics(x)
    dgamma, dbeta, db = (b.array(np.full(shape[1], np.nan, np.float32)) for _ in range(3))
    dx = b.batch_norm_gradient(dy, x, mean, var, gamma, 1e-5, dgamma, dbeta)
    b.bias_gradient(dy, db)
    rectified = b.batch_norm(x, mean, var, gamma, beta, 1e-5, relu=True)
    rgamma, rbeta = (b.array(np.full(shape[1], np.nan, np.float32)) for _ in range(2))
    through_relu = b.batch_norm_relu_gradient(dy, rectified, x, mean, var, gamma, beta, 1e-5, rgamma, rbeta)
    b.update_running(running, unbiased, 0.1)
    moved = [b.array(numbers("random", shape[1], seed=seed + i)) for i in (5, 6)]
    b.batch_norm_moving_statistics(x, *moved, 0.3)
    other = b.pack(numbers(kind, *shape, seed=seed + 7))
    total = b.batch_norm_add(x, mean, var, gamma, beta, 1e-5, other, relu=True)
    tgamma, tbeta = (b.array(np.full(shape[1], np.nan, np.float32)) for _ in range(2))
    through_sum = b.batch_norm_add_gradient(dy, total, x, mean, var, gamma, 1e-5, tgamma, tbeta)
    arrays = {
        "mean": mean,
        "var": var,
        "unbiased": unbiased,
        "dgamma": dgamma,
        "dbeta": dbeta,
        "running": running,
        "moved mean": moved[0],
        "moved var": moved[1],
        "dgamma through sum": tgamma,
        "dbeta through sum": tbeta,
        "db": db,
    }
    return {
        "y": b.unpack(b.batch_norm(x, mean, var, gamma, beta, 1e-5)),
        "rectified": b.unpack(rectified),
        "dx through relu": b.unpack(through_relu),
        "sum": b.unpack(b.batch_norm_add(x, mean, var, gamma, beta, 1e-5, other)),
        "rectified sum": b.unpack(total),
        "dx through sum": b.unpack(through_sum[0]),
        "dother": b.unpack(through_sum[1]),
        "dgamma through relu": b.host(rgamma),
        "dbeta through relu": b.host(rbeta),
        "dx": b.unpack(dx),
        "dx in inference": b.unpack(b.batch_norm_input_gradient(dy, var, gamma, 1e-3)),
        **{name: b.host(array) for name, array in arrays.items()},
    }


@examples(80)
@given(backends, shapes, kinds, seeds)
def test_batch_norm(backend, shape, kind, seed):
    compare(backend, normalize(backend, shape, kind, seed), normalize(EXACT, shape, kind, seed))


@pytest.mark.parametrize("shape", [(18, 2), (2, 1, 130), (17, 1, 9, 8)])
def test_batch_norm_against_the_scalar_contract(shape):
    x, dy = numbers("annihilating", *shape, seed=0), numbers("annihilating", *shape, seed=1)
    gamma, beta = (numbers("random", shape[1], seed=i) for i in (2, 3))
    mean, var, unbiased = scalar.batch_norm_statistics(x)
    dx, dgamma, dbeta = scalar.batch_norm_gradient(dy, x, mean, var, gamma, 1e-5)
    expected = {
        "y": scalar.batch_norm(x, mean, var, gamma, beta, 1e-5, False),
        "dx": dx,
        "dgamma": dgamma,
        "dbeta": dbeta,
        "mean": mean,
        "var": var,
        "unbiased": unbiased,
        "db": scalar.bias_gradient(dy),
    }
    got = normalize(GUARDED[2], shape, "annihilating", 0)
    compare(GUARDED[2], {name: got[name] for name in expected}, expected)


def lose(b, images: int, classes: int, kind: str, seed: int) -> dict:
    z = b.pack(numbers(kind, images, classes, seed=seed) * np.float32(10))
    labels = np.random.default_rng(seed).integers(0, classes, images)
    totals = b.array(np.array([1.5, 2.0]))
    mean, dz = b.softmax_cross_entropy(z, b.pack_labels(labels), totals)
    alone, _ = b.softmax_cross_entropy(z, b.pack_labels(labels))
    softmax = b.unpack(b.softmax(z))
    return {
        "loss": b.host(mean),
        "alone": b.host(alone),
        "dz": b.unpack(dz),
        "softmax": softmax,
        "totals": b.host(totals),
    }


@examples(60)
@given(backends, st.sampled_from([*IMAGES, 129]), st.integers(1, 12), kinds, seeds)
def test_loss(backend, images, classes, kind, seed):
    compare(backend, lose(backend, images, classes, kind, seed), lose(EXACT, images, classes, kind, seed))


def test_loss_against_the_scalar_contract():
    z = numbers("cancelling", 18, 5) * np.float32(10)
    labels = np.random.default_rng(0).integers(0, 5, 18)
    mean, dz, total, hits = scalar.softmax_cross_entropy(z, labels)
    got = lose(GUARDED[2], 18, 5, "cancelling", 0)
    expected = {"loss": np.array([mean], np.float32), "dz": dz, "totals": np.array([1.5 + total, 2.0 + hits])}
    compare(GUARDED[2], {name: got[name] for name in expected}, expected)


def test_softmax_of_maps():
    z = numbers("random", 17, 4, 3, 2)
    assert_bits(GUARDED[1].unpack(GUARDED[1].softmax(GUARDED[1].pack(z))), EXACT.softmax(EXACT.pack(z)).numpy())


# ---- optimizers ------------------------------------------------------------------------------------------------------


def optimise(b, size: int, kind: str, seed: int) -> dict:
    results = {}
    w, g, m, v = (numbers(kind, size, seed=seed + i) for i in range(4))
    for nesterov in (False, True):
        arrays = [b.array(a) for a in (w, g, m)]
        b.sgd(*arrays, b.array(np.array([0.05], np.float32)), momentum=0.9, weight_decay=1e-3, nesterov=nesterov)
        results |= {f"sgd {name}, {nesterov}": b.host(a) for name, a in zip("wgv", arrays, strict=True)}
    for decoupled in (False, True):
        arrays = [b.array(a) for a in (w, g, m, np.abs(v))]
        hyper = b.array(np.array([0.01, 0.1, 0.001, 1e-4], np.float32))
        rates = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
        b.adam(*arrays, hyper, **rates, decoupled=decoupled)
        results |= {f"adam {name}, {decoupled}": b.host(a) for name, a in zip("wgmv", arrays, strict=True)}
    return results


@examples(40)
@given(backends, st.sampled_from([1, 15, 16, 17, 100, 5000]), kinds, seeds)
def test_optimisers(backend, size, kind, seed):
    compare(backend, optimise(backend, size, kind, seed), optimise(EXACT, size, kind, seed))


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_watch_finds_a_bad_weight_anywhere(size, bad):
    b = GUARDED[1]
    step, fine = b.array(np.array([7], np.uint32)), b.array(np.ones(1, np.float32))
    for at in range(size):
        w, status = b.array(np.full(size, 3e38, np.float32)), b.array(np.array([-1], np.int64))
        b.watch(status, step, fine, w)
        assert status[0] == -1
        w[at] = bad
        b.watch(status, step, fine, w)
        assert status[0] == 7, f"not found at {at} of {size}"
    b.watch(status, b.array(np.array([9], np.uint32)), b.array(np.array([bad], np.float32)), w)
    assert status[0] == 7, "the first bad step must stay"
    b.verify()


# ---- in and out ------------------------------------------------------------------------------------------------------


class Honest(GuardedNumba):
    """Guarded memory with the backend's own way in and out."""

    pack, unpack = NumbaBackend.pack, NumbaBackend.unpack


HONEST = {threads: Honest(threads) for threads in (1, 2)}
maps = st.builds(
    lambda channels, spatial: (channels, *spatial),
    st.integers(1, 3),
    st.sampled_from([(), (1,), (37,), (1, 1), (5, 4), (3, 16), (2, 33), (2, 3, 4)]),
)


@examples(40)
@given(st.sampled_from([1, 2]).map(HONEST.get), st.sampled_from(IMAGES), maps, kinds)
def test_packing_and_unpacking(backend, images, shape, kind):
    x = numbers(kind, images, *shape)
    batch = backend.pack(x)
    assert batch.shape == x.shape and batch.data.shape == (-(-images // 16), *shape, 16)
    assert_bits(backend.unpack(batch), x)
    labels = backend.pack_labels(np.arange(images) % 7)
    assert labels.dtype == np.int32
    assert labels.reshape(-1).tolist() == (np.arange(images) % 7).tolist() + [-1] * (-images % 16)
    backend.verify()


@examples(60)
@given(st.sampled_from([1, 2]).map(HONEST.get), st.sampled_from(IMAGES), maps, st.integers(0, 3), seeds)
def test_loading(backend, count, shape, shift, seed):
    results = []
    for b in (backend, EXACT):
        images, labels = b.array(numbers("random", 20, *shape)), b.array(np.arange(20, dtype=np.int32))
        indices = b.array(np.random.default_rng(seed).integers(0, 20, count + 3))
        step = b.array(np.array([seed], np.uint32))
        given_shift = shift if len(shape) > 1 else 0
        batch = b.load_images(images, indices, count, Augmentation(shift=given_shift), seed=seed + 2**63, step=step)
        results.append({"images": b.unpack(batch), "labels": b.load_labels(labels, indices, count).reshape(-1)[:count]})
    compare(backend, *results)


def test_wrong_types_are_refused():
    b = HONEST[1]
    with pytest.raises(DTypeError, match="float64"):
        b.pack(np.ones((1, 1)))
    with pytest.raises(DTypeError, match="a layer returned float64"):
        b.elementwise("relu", Batch(np.ones((1, 1, 16)), 1, b))


# ---- a captured step -------------------------------------------------------------------------------------------------


class Steps:
    """Training steps of a small network made of raw operations; `indices`, `step` and `hyper` change between them."""

    def __init__(self, b):
        self.b = b
        self.images, self.labels = b.array(numbers("random", 50, 2, 9, 8)), b.array(np.arange(50, dtype=np.int32) % 3)
        self.indices, self.step = b.array(np.zeros(19, np.int64)), b.array(np.zeros(1, np.uint32))
        self.hyper, self.totals = b.array(np.zeros(1, np.float32)), b.zeros((2,), np.float64)
        self.w, self.v = b.array(numbers("random", 54 + 3 + 3 * 12) * np.float32(0.3)), b.zeros((93,))
        self.g, self.status = b.zeros((93,)), b.array(np.array([-1], np.int64))

    def take(self) -> None:
        b, n = self.b, 19
        (kernel, bias, weights), (dkernel, dbias, dweights) = (
            (flat[:54].reshape(3, 2, 3, 3), flat[54:57], flat[57:].reshape(3, 12)) for flat in (self.w, self.g)
        )
        x = b.load_images(self.images, self.indices, n, Augmentation(shift=1), seed=5, step=self.step)
        labels = b.load_labels(self.labels, self.indices, n)
        conv_window, pool_window = window((9, 8), 3, stride=2), window((4, 3), 2, stride=1, padding=((0, 0), (0, 1)))
        y = b.conv(x, kernel, bias, conv_window, relu=True)
        pooled, where = b.max_pool(y, pool_window)
        dropped = b.dropout(pooled, 0.25, 3, self.step, 1)
        flat = b.avg_pool(dropped, window((3, 3), 2)).reshape(12)
        loss, dz = b.softmax_cross_entropy(b.dense(flat, weights, None), labels, self.totals)
        b.dense_weight_gradient(dz, flat, dweights)
        d = b.avg_pool_gradient(b.dense_input_gradient(dz, weights).reshape(3, 2, 2), window((3, 3), 2))
        d = b.max_pool_gradient(b.dropout(d, 0.25, 3, self.step, 1), where, pool_window)
        d = b.elementwise_gradient("relu", d, y)
        b.conv_weight_gradient(d, x, conv_window, 1, dkernel)
        b.bias_gradient(d, dbias)
        b.sgd(self.w, self.g, self.v, self.hyper, momentum=0.9, weight_decay=1e-3, nesterov=True)
        b.watch(self.status, self.step, loss, self.w)

    def run(self, captured: bool) -> dict:
        again, rng = None, np.random.default_rng(1)
        for step in range(4):
            self.b.assign(self.indices, rng.permutation(50)[:19])
            self.b.assign(self.step, np.array([step], np.uint32))
            self.b.assign(self.hyper, np.array([0.1 / (step + 1)], np.float32))
            if captured and again:
                again()
            elif captured:
                again = self.b.capture(self.take)
            else:
                self.take()
        self.b.synchronize()
        return {name: self.b.host(getattr(self, name)) for name in ("w", "v", "g", "totals", "status")}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_captured_step_repeats_to_the_bit(threads):
    expected = Steps(EXACT).run(captured=False)
    assert expected["totals"][0] > 0 and expected["status"] == -1
    compare(HONEST[threads], Steps(HONEST[threads]).run(captured=False), expected)
    compare(HONEST[threads], Steps(HONEST[threads]).run(captured=True), expected)


def test_a_capture_inside_a_capture_is_refused():
    b = HONEST[1]
    with pytest.raises(BackendError, match="capture inside a capture"):
        b.capture(lambda: b.capture(lambda: None))
    assert b.capture(lambda: None)() is None, "the refusal must not leave a capture open"


# ---- the guards themselves -------------------------------------------------------------------------------------------


def test_the_guards_notice():
    b = GuardedNumba(1)
    memory = b._empty((2, 16))
    assert np.isnan(memory).all() and memory.ctypes.data % 64 == 0
    b.verify()
    outside = np.lib.stride_tricks.as_strided(b._empty((16,)), (17,))
    outside[16] = 0
    with pytest.raises(AssertionError, match="after buffer 0"):
        b.verify()
    assert np.isfinite(garbage((1000,))).all()
    last = b.pack(np.zeros((3, 2), np.float32)).data[0, :, 3:]
    assert (np.abs(last) > 1e19).all()
