"""The .cu files, emulated, give every operation's bits; in any order of threads, between guard pages, whatever the
tile."""

import math

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.batch import Batch
from gpucnn.backends.cuda import group_norm, images, map_loss
from gpucnn.backends.cuda.layout import ceil_div, grid_of_blocks, line_levels
from gpucnn.check.cases import all_cases
from gpucnn.errors import BackendError
from gpucnn.geometry import pool_window, window
from tests.cuda.emulated import backend, differing, needs_emulation, with_garbage

pytestmark = needs_emulation
CASES = list(all_cases())


@pytest.fixture(scope="module")
def expected():
    """Every case's results by the specification."""
    specification = get_backend("numpy", "exact")
    return [case.run(specification) for case in CASES]


@pytest.mark.parametrize(("order", "guard"), [("forward", "end"), ("reversed", "front"), (12345, "end")])
def test_every_operation_gives_the_specified_bits(expected, order, guard):
    emulated = backend(order, guard)
    for case, want in zip(CASES, expected, strict=True):
        assert differing(want, case.run(emulated)) == [], str(case)


def _geometries():
    """Twelve random convolutions; fixed, because each shape is a kernel to compile."""
    rng = np.random.default_rng(3)
    for n in (1, 31, 32, 33) * 3:
        axes = int(rng.choice([1, 2, 2, 2, 3]))
        kernel, stride, dilation = (tuple(map(int, rng.integers(1, top, axes))) for top in (4, 4, 3))
        pads = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (axes, 2)))
        least = [max(d * (k - 1) + 1 - sum(p), 1) for d, k, p in zip(dilation, kernel, pads, strict=True)]
        size = tuple(int(low + rng.integers(0, 9)) for low in least)
        groups = int(rng.choice([1, 1, 2, 3]))
        channels, outputs = int(rng.integers(1, 4)) * groups, int(rng.integers(1, 6)) * groups
        yield n, channels, outputs, groups, window(size, kernel, stride=stride, padding=pads, dilation=dilation)


def _convolution(b, n, c, o, groups, win, poison=False):
    rng = np.random.default_rng([n, c, o])
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    x, dy = b.pack(draw(n, c, *win.input)), b.pack(draw(n, o, *win.output))
    if poison:
        x, dy = with_garbage(x), with_garbage(dy)
    w, bias = b.array(draw(o, c // groups, *win.kernel)), b.array(draw(o))
    dw, db = b.zeros(w.shape), b.zeros(bias.shape)
    b.conv_weight_gradient(dy, x, win, groups, dw)
    b.bias_gradient(dy, db)
    y, dx = b.conv(x, w, bias, win, groups), b.conv_input_gradient(dy, w, win, groups)
    return {"y": y.numpy(), "dx": dx.numpy(), "dw": b.host(dw), "db": b.host(db)}


@pytest.mark.parametrize("geometry", list(_geometries()), ids=str)
def test_random_convolutions(geometry):
    want = _convolution(get_backend("numpy", "exact"), *geometry)
    assert differing(want, _convolution(backend(), *geometry)) == []


@pytest.mark.parametrize("n", [1, 17, 33])
def test_lanes_that_only_fill_up_change_nothing(n):
    geometry = n, 2, 3, 1, window((6, 5), 3, padding=1)
    point = n, 4, 5, 1, window((3, 3), 3)
    emulated, specification = backend(), get_backend("numpy", "exact")
    for sizes in (geometry, point):
        assert differing(_convolution(specification, *sizes), _convolution(emulated, *sizes, poison=True)) == []

    def others(b, poison=lambda batch: batch):
        rng = np.random.default_rng(n)
        x = poison(b.pack(rng.standard_normal((n, 3, 5, 4)).astype(np.float32)))
        dy = poison(b.pack(rng.standard_normal((n, 3, 5, 4)).astype(np.float32)))
        z = poison(b.pack(rng.standard_normal((n, 7)).astype(np.float32)))
        gamma, dgamma, dbeta = b.array(np.array([1, 2, -3], np.float32)), b.zeros((3,)), b.zeros((3,))
        mean, var, unbiased = b.batch_norm_statistics(x)
        dx = b.batch_norm_gradient(dy, x, mean, var, gamma, 1e-5, dgamma, dbeta)
        loss, dz = b.softmax_cross_entropy(z, b.pack_labels(np.arange(n) % 7))
        arrays = {"mean": mean, "var": var, "unbiased": unbiased, "dgamma": dgamma, "dbeta": dbeta, "loss": loss}
        return {"dx": dx.numpy(), "dz": dz.numpy(), **{name: b.host(array) for name, array in arrays.items()}}

    assert differing(others(specification), others(emulated, with_garbage)) == []


@pytest.mark.parametrize("processors", [1, 132])
def test_tiles_change_no_bit(processors, monkeypatch):
    """Tiles for a tiny GPU are large, those for a large one small; groups of bands differ too."""
    emulated, specification = backend(), get_backend("numpy", "exact")
    monkeypatch.setattr(emulated.launcher, "processors", processors)
    for geometry in [
        (40, 4, 17, 1, window((12, 11), 3, padding=1)),
        (3, 2, 8, 1, window((21, 33), 5, padding=2)),
        (33, 4, 6, 2, window((9, 9), 3, stride=2, padding=1)),
    ]:
        assert differing(_convolution(specification, *geometry), _convolution(emulated, *geometry)) == []


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_weight_gradients_fetched_early(stride):
    """However many positions ahead, in rows that rounds of the ring of pixels divide, and in others."""
    b, specification = backend(), get_backend("numpy", "exact")
    for width in (4 * stride, 5 * stride + 2):
        geometry = 33, 3, 4, 1, window((5, width), (3, 2), stride=(1, stride), padding=1, dilation=(1, 2))
        expected = _convolution(specification, *geometry)
        b.tiles.requested.clear()
        _convolution(b, *geometry)
        (request,) = (request for request in b.tiles.requested if request.kernel == "weight gradient")
        first = {tile[4]: tile for tile in reversed(request.candidates)}  # the best for each distance
        assert set(first) == {1, 2, 4}
        for tile in first.values():
            with b.tiles.trial(request, tile):
                assert differing(expected, _convolution(b, *geometry, poison=True)) == [], tile


@pytest.mark.parametrize(("n", "inputs", "outputs"), [(70, 150, 33), (600, 70, 40)])
def test_large_dense_layers(n, inputs, outputs, monkeypatch):
    """More inputs than shared memory holds at once, more blocks than a tree's first level, wide tiles."""

    def run(b):
        rng = np.random.default_rng(0)
        x, dy = (b.pack(rng.standard_normal((n, size)).astype(np.float32)) for size in (inputs, outputs))
        w, dw = b.array(rng.standard_normal((outputs, inputs)).astype(np.float32)), b.zeros((outputs, inputs))
        b.dense_weight_gradient(dy, x, dw)
        return {"y": b.dense(x, w, None, True).numpy(), "dx": b.dense_input_gradient(dy, w).numpy(), "dw": b.host(dw)}

    monkeypatch.setattr(backend().launcher, "processors", 1)
    assert differing(run(get_backend("numpy", "exact")), run(backend())) == []


def test_a_loss_over_many_blocks():
    """More blocks than the last block of threads has threads."""
    z, labels = np.random.default_rng(0).standard_normal((2100, 3)).astype(np.float32), np.arange(2100) % 3

    def run(b):
        totals = b.zeros((2,), np.float64)
        loss, _ = b.softmax_cross_entropy(b.pack(z), b.pack_labels(labels), totals)
        return {"loss": b.host(loss), "totals": b.host(totals)}

    assert differing(run(get_backend("numpy", "exact")), run(backend())) == []


@pytest.mark.parametrize(("levels", "size"), [(2, (32, 32)), (16, (25, 52))], ids=str)
def test_long_lines(levels, size, monkeypatch):
    """Eight warps take 2**(levels - 1) bands of 64 values each at most: 1024 with two. 21 bands are four for five warps
    and one for another. Large numbers cancel, so that a mean shows the order of its sum.
    """
    for module in (group_norm, map_loss):
        monkeypatch.setattr(module, "line_levels", lambda length: levels)

    def run(b):
        rng = np.random.default_rng(0)
        values = rng.permuted(np.resize([2.0**50, 0.3, -(2.0**50), 0.7], (3, 2, math.prod(size))), axis=2)
        x, dy = (b.pack(a.reshape(3, 2, *size).astype(np.float32)) for a in (values, rng.standard_normal(values.shape)))
        labels = b.pack(rng.integers(0, 3, (3, 1, *size)).astype(np.float32))
        mean, var = b.group_norm_statistics(x, 2)
        dx = b.group_norm_gradient(dy, x, mean, var, None, 1e-5, None, None)
        loss, dp = b.dice(b.softmax(x), labels, 1.0)
        return {"mean": mean.numpy(), "var": var.numpy(), "dx": dx.numpy(), "loss": b.host(loss), "dp": dp.numpy()}

    assert differing(run(get_backend("numpy", "exact")), run(backend())) == []


@pytest.mark.parametrize("length", [1, 2**24, 2**24 + 1, 2**31 - 1])
def test_the_levels_of_a_line_are_enough(length):
    assert 2 ** (line_levels(length) - 1) * 8 * 64 >= length


def test_more_images_than_a_grid_has_blocks_along_an_axis(monkeypatch):
    """65535 blocks of 32 images; here two, and one more than there are images for."""
    assert [grid_of_blocks(7, blocks) for blocks in (1, 65535, 65536)] == [(7, 1, 1), (7, 65535, 1), (7, 65535, 2)]
    monkeypatch.setattr(images, "grid_of_blocks", lambda columns, blocks: (columns, 2, ceil_div(blocks, 2)))

    def run(b):
        x = np.random.default_rng(0).standard_normal((75, 2, 5, 7)).astype(np.float32)
        resting, labels, order = b.array(x), b.array(np.arange(75, dtype=np.int32)), b.array(np.arange(75)[::-1].copy())
        step, cut = b.array(np.array([5], np.uint32)), Augmentation(1, (4, 6), flip=True)
        cropped, found = b.load_batch(resting, labels, order, 75, cut, seed=3, step=step)
        return {"x": b.pack(x).numpy(), "cropped": cropped.numpy(), "labels": b.host(found).reshape(-1)[:75]}

    assert differing(run(get_backend("numpy", "exact")), run(backend())) == []


def test_convolutions_of_maps_whose_values_an_int_does_not_count(tmp_path):
    """More than 2**31 in 32 lanes, in a file of zeros that takes no room; the windows are the first and last row."""
    rows = 2**23 + 8
    b, win = backend(), window((rows, 8), 1, stride=(rows - 1, 1))
    x = Batch(np.memmap(tmp_path / "x", np.float32, "w+", shape=(1, 1, rows, 8, 32)), 1, b)
    ends = np.arange(1, 17, dtype=np.float32).reshape(2, 8)
    x.data[0, 0, 0, :, 0], x.data[0, 0, -1, :, 0] = ends
    y, dw = b.conv(x, b.array(np.ones((1, 1, 1, 1), np.float32)), None, win), b.zeros((1, 1, 1, 1))
    assert y.numpy().tolist() == [[ends.tolist()]]
    b.conv_weight_gradient(b.pack(np.ones((1, 1, 2, 8), np.float32)), x, win, 1, dw)
    assert b.host(dw) == ends.sum()


def test_a_grid_that_no_gpu_has_is_refused():
    b, groups = backend(), 65536
    x, w = b.pack(np.zeros((1, groups, 2), np.float32)), b.zeros((groups, 1, 1))
    with pytest.raises(
        BackendError, match=r"kernel conv needs a grid of 1 x 65536 blocks.* at most 65535 .*: use smaller"
    ):
        b.conv(x, w, None, window((2,), 1), groups)


@pytest.mark.parametrize("fused", [False, True])
def test_relu_of_zeros_and_of_what_is_no_number(fused):
    special = np.array([[-0.0, 0.0, np.nan, -np.nan, -np.inf, np.inf, -1e-45, 1e-45]], np.float32)
    b = backend()
    x, zeros = b.pack(special), b.pack(np.full_like(special, -0.0))
    y = b.add(x, zeros, relu=True) if fused else b.elementwise("relu", x)
    assert y.numpy().tobytes() == np.array([[0, 0, 0, 0, 0, np.inf, 0, 1e-45]], np.float32).tobytes()


@pytest.mark.parametrize("settings", [{"size": 2}, {"size": 3, "stride": 2, "padding": 1}, {"size": 17}], ids=str)
def test_maxima_among_what_is_no_number(settings):
    """The first tap wins, whatever it is, until a greater one comes: NaN is greater than nothing, nothing than NaN."""
    win = pool_window((18, 17), **settings)

    def run(b):
        rng = np.random.default_rng(0)
        values = np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1.0], np.float32)
        x = rng.choice(values, (3, 2, 18, 17), p=[0.4, 0.3, 0.1, 0.05, 0.05, 0.1])
        x[0], x[1] = np.nan, -np.inf
        y, where = b.max_pool(b.pack(x), win)
        dy = b.pack(rng.standard_normal(y.shape).astype(np.float32))
        return {"y": y.numpy(), "dx": b.max_pool_gradient(dy, where, win).numpy()}

    assert differing(run(get_backend("numpy", "exact")), run(backend())) == []


def test_a_captured_step_repeats_on_the_same_arrays():
    b = backend()
    x = b.pack(np.full((3, 4), 2, np.float32))
    w, total = b.array(np.eye(4, dtype=np.float32)), b.zeros((4,))
    momentum = 0.5

    def step():
        db = b.zeros((4,))
        b.bias_gradient(b.dense(x, w, None), db)
        b.update_running(total, db, momentum)

    repeat = b.capture(step)
    assert b.host(total).tolist() == [3.0] * 4
    b.assign(w, 2 * np.eye(4, dtype=np.float32))
    repeat()
    assert b.host(total).tolist() == [7.5] * 4
