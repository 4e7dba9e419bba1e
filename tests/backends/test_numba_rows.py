"""The CPU kernels that work by whole kernel rows: each tile, the image's borders, strips in parts; and when they are
used.

Like test_numba_tiles.py slow where nothing is compiled yet: each tile and border is a kernel of its own.
"""

import copy
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucnn.backends import get_backend
from gpucnn.backends.numba import backend as numba_backend
from gpucnn.backends.numba import tiles
from gpucnn.geometry import window
from gpucnn.layers import Conv2d, Dense, GlobalAvgPool2d, MaxPool2d, Sequential
from gpucnn.models import Model
from tests.backends.guarded import KINDS, assert_bits, guarded, numbers

pytestmark = pytest.mark.slow

EXACT = get_backend("numpy", "exact")
GUARDED = {threads: guarded()(threads) for threads in (1, 2)}
# (kernel width, padding before, padding after): none, alike, uneven, as far as it goes.
BORDERS = [(3, 0, 0), (3, 1, 1), (5, 2, 2), (5, 4, 4), (3, 0, 2), (5, 1, 3)]


@pytest.fixture
def used(monkeypatch):
    """The names of the kernels that were launched."""
    names = set()
    run = numba_backend.NumbaBackend._run

    def note(self, kernel, *arguments):
        names.add(kernel.name)
        return run(self, kernel, *arguments)

    monkeypatch.setattr(numba_backend.NumbaBackend, "_run", note)
    return names


def convolve(
    b, win, images: int, ins: int, outs: int, groups: int = 1, kind: str = "random", relu: bool = False
) -> dict:
    x = b.pack(numbers(kind, images, ins * groups, *win.input))
    dy = b.pack(numbers(kind, images, outs * groups, *win.output, seed=1))
    w = b.array(numbers(kind, outs * groups, ins, *win.kernel, seed=2))
    bias = b.array(numbers(kind, outs * groups, seed=3))
    dw = b.array(np.full(w.shape, np.nan, np.float32))
    b.conv_weight_gradient(dy, x, win, groups, dw)
    return {
        "y": b.unpack(b.conv(x, w, bias, win, groups, relu)),
        "dx": b.unpack(b.conv_input_gradient(dy, w, win, groups)),
        "dx + x": b.unpack(b.conv_input_gradient_add(dy, w, win, groups, x)),
        "dw": b.host(dw),
    }


def compare(b, *problem) -> None:
    expected = convolve(EXACT, *problem)
    for name, value in convolve(b, *problem).items():
        assert_bits(value, expected[name], name)
    b.verify()


@pytest.mark.parametrize(
    ("registers", "number", "tile"),
    [(registers, *numbered) for registers, every in tiles._ROWS.items() for numbered in enumerate(every)],
    indirect=["registers"],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("images", [17, 7])
def test_forward_tile(registers, number, tile, count, images, monkeypatch, used):
    """Each tile alone in a row, at both of its ends, and in the middle; of channels and, for few images, of pairs."""
    monkeypatch.setattr(tiles, "row_tile", lambda *sizes: tile)
    (ob, qb), pairs = tile, images <= 8
    borders = [border for border in BORDERS if max(border[1:]) <= qb]
    width, before, after = borders[(number + 2 * count) % len(borders)]
    outs = 2 * ob * (1 + pairs) + 1
    win = window((4, count * qb + width - 1 - before - after), (3, width), padding=((1, 1), (before, after)))
    b = GUARDED[2]
    w, bias = (b.array(numbers("cancelling", *shape)) for shape in ((outs, 2, *win.kernel), (outs,)))
    x = numbers("random", images, 2, *win.input)
    expected = EXACT.conv(EXACT.pack(x), w, bias, win).numpy()
    assert_bits(b.unpack(b.conv(b.pack(x), w, bias, win)), expected)
    b.verify()
    (name,) = (name for name in used if name.startswith(f"conv rows {ob}x{qb}, kernel width {width}"))
    assert name.endswith("pairs") == pairs


def _gradient_tiles():
    """A stride and pairs of channels change how rows are copied, whatever the tile: of those one tile a width, the
    others among the long.
    """
    for images, stride in ((17, 1), (7, 1), (17, 2)):
        for registers, widths in tiles._GRADIENT_ROWS.items():
            for width, choices in widths.items():
                for number, tile in enumerate(choices):
                    again = (stride > 1 or images == 7) and number != len(choices) // 2
                    yield pytest.param(registers, width, tile, images, stride, marks=[pytest.mark.long] * again)


@pytest.mark.parametrize(
    ("registers", "width", "tile", "images", "stride"), list(_gradient_tiles()), indirect=["registers"], ids=str
)
def test_weight_gradient_tile(registers, width, tile, images, stride, monkeypatch, used):
    number = tiles._GRADIENT_ROWS[registers][width].index(tile)
    choices = [border for border in BORDERS if border[0] == width] or [(width, width // 2, 0)]
    _, before, after = choices[number % len(choices)]
    monkeypatch.setattr(tiles, "gradient_row_tile", lambda *sizes: tile)
    ob, cb = tile
    win = window((9, 20), (2, width), stride=stride, padding=((1, 0), (before, after)))
    b, pairs = GUARDED[2], images <= 8
    dw = b.zeros((4 * ob - 2 if pairs else 2 * ob - 1, 2 * cb - 1, *win.kernel))
    x, dy = numbers("random", images, dw.shape[1], *win.input), numbers("random", images, len(dw), *win.output)
    expected = np.zeros(dw.shape, np.float32)
    EXACT.conv_weight_gradient(EXACT.pack(dy), EXACT.pack(x), win, 1, expected)
    b.conv_weight_gradient(b.pack(dy), b.pack(x), win, 1, dw)
    assert_bits(dw, expected)
    b.verify()
    (name,) = (name for name in used if name.startswith(f"weight gradient rows {ob}x{cb}, kernel width {width}"))
    assert f"stride {stride}{', pairs' * pairs}" in name and ("halves" in name) == (registers < 24)


@pytest.mark.parametrize(
    ("registers", "images"),
    [*((tiles.accumulators(), images) for images in range(1, 34)), *((6, images) for images in (1, 8, 9, 17))],
    indirect=["registers"],
)
def test_any_number_of_images(registers, images, used):
    """Up to 8, two output channels share a vector, an odd last one with its neighbor; beyond, none do."""
    for outs in (5, 6):
        used.clear()
        compare(GUARDED[2], window((5, 8), 3, padding=1), images, 3, outs, 1, "cancelling", outs == 6)
        assert any(name.endswith("pairs") for name in used) == (images <= 8)


# (input, kernel, stride, padding): tiles alone and side by side, odd rows, rows past the last window, every phase.
STRIDED = [
    ((8, 8), 3, 1, 1),
    ((4, 4), 3, 1, 1),
    ((16, 16), 3, 2, 1),
    ((9, 8), 3, 2, 1),
    ((7, 10), 3, 2, 0),
    ((12, 12), 5, 1, 2),
    ((9, 16), 5, 2, 2),
    ((8, 8), 1, 1, 0),
    ((8, 16), 1, 2, 0),
]


# (images, channels, outputs, groups): depthwise, in groups, and of all channels.
SHARES = [(18, 1, 1, 3), (5, 1, 2, 2), (17, 3, 4, 1), (7, 3, 4, 1)]


def _strided():
    """Every problem with two of the four, every two of these with some; the others among the long."""
    for number, problem in enumerate(STRIDED):
        for place, share in enumerate(SHARES):
            marks = [] if (place - number) % 4 in (0, 1) else [pytest.mark.long]
            yield pytest.param(problem, *share, marks=marks)


@pytest.mark.parametrize(("problem", "images", "ins", "outs", "groups"), list(_strided()), ids=str)
def test_strides_and_depthwise(problem, images, ins, outs, groups, used):
    size, kernel, stride, padding = problem
    compare(GUARDED[2], window(size, kernel, stride=stride, padding=padding), images, ins, outs, groups)
    assert any(name.startswith("conv rows") for name in used)
    by_maps = groups > 1 and tiles.fits_registers(kernel**2)
    assert any(name.startswith("weight gradient of maps") for name in used) == by_maps
    by_rows = any(name.startswith("weight gradient rows") and f"stride {stride}" in name for name in used)
    assert by_rows == (not by_maps and kernel >= stride)


@pytest.mark.parametrize("registers", [6], indirect=True)
@pytest.mark.parametrize("images", [7, 17])
@pytest.mark.parametrize("win", [window((150,), 7, padding=3), window((6, 5, 7), 3, padding=1, stride=2)], ids=str)
def test_few_registers(registers, win, images, used):
    """Lines and volumes in halves of vectors; a volume's few images fill one."""
    compare(GUARDED[2], win, images, 3, 4)
    (gradient,) = (name for name in used if "weight gradient" in name)
    assert f", {1 if images <= 8 and len(win.input) == 3 else 2} of 2 halves" in gradient


@pytest.mark.parametrize("registers", [6, 24], indirect=True)
@pytest.mark.parametrize("images", [1, 3, 17])
def test_predictions_with_so_many_registers(registers, images):
    head = [MaxPool2d(2), Conv2d(40, 3, padding=1), Conv2d(20, 1, activation="relu"), GlobalAvgPool2d(), Dense(5)]
    model = Model(Sequential(Conv2d(20, 3, padding=1, activation="relu"), *head), (3, 10, 14)).initialize(0)
    x = numbers("random", images, 3, 10, 14)
    expected = model.place(EXACT).predict(x)
    assert_bits(model.place(get_backend("numba", threads=2)).predict(x), expected)


@pytest.mark.parametrize("length", [32, 64, 65, 128, 150])
@pytest.mark.parametrize(("width", "padding"), [(3, 0), (3, 1), (5, 2), (7, (5, 2))])
@pytest.mark.parametrize("images", [pytest.param(7, marks=pytest.mark.long), 17])
def test_lines(length, width, padding, images, used):
    """Images of one axis: a band of 64 positions at most is a row; longer ones are cut into bands."""
    win = window((length,), width, padding=(padding,))
    compare(GUARDED[2], win, images, 3, 4)
    has_rows = width in tiles._GRADIENT_ROWS[tiles.accumulators()]
    assert any(name.startswith("weight gradient lines") for name in used) == (win.output[0] > 64 or not has_rows)


# Wide kernels in tiles of their taps, strides by phases, dilation tap by tap; the last reads nothing but padding.
WIDE = [(9, 1, 1), (16, 4, 1), (11, 2, 1), (3, 4, 1), (3, 1, 8), (4, 3, 2), (2, 1, 150)]


@pytest.mark.parametrize(("width", "stride", "dilation"), WIDE)
@pytest.mark.parametrize(
    ("images", "ins", "outs", "groups", "length"),
    [
        pytest.param(7, 3, 4, 1, 30, marks=pytest.mark.long),
        (17, 3, 5, 1, 30),
        (7, 3, 4, 1, 300),
        pytest.param(17, 3, 5, 1, 300, marks=pytest.mark.long),
        (5, 1, 3, 2, 300),
    ],
)
def test_lines_of_any_window(width, stride, dilation, images, ins, outs, groups, length, used):
    padding = ((dilation * (width - 1), dilation // 2),)  # causal, and a little more
    win = window((length,), width, stride=stride, dilation=dilation, padding=padding)
    compare(GUARDED[2], win, images, ins, outs, groups)
    assert any(name.startswith("weight gradient lines") for name in used)


@pytest.mark.parametrize("settings", [{"width": 2, "dilation": 512}, {"width": 1, "stride": 16}])
def test_lines_are_not_copied_for_few_taps_far_apart(settings, used):
    """Copying them took up to seven times as long as reading them where they are."""
    width, stride, dilation = (settings.get(name, 1) for name in ("width", "stride", "dilation"))
    compare(GUARDED[2], window((1100,), width, stride=stride, dilation=dilation), 17, 2, 4)
    assert any(name.startswith("conv weight gradient") for name in used)


@pytest.mark.parametrize("size", [(8,), (151,), (6, 8), (7, 9), (70, 4), (4, 6, 8), (5, 7, 8)], ids=str)
@pytest.mark.parametrize("images", [1, 17])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_pooling_side_by_side(size, images, kind, used):
    """Max pooling in windows of two pixels an axis, its gradient, and that with ReLU and bias."""
    pool = window(size, 2, stride=2)

    def run(b):
        x, dy = b.pack(numbers(kind, images, 3, *size)), b.pack(numbers(kind, images, 3, *pool.output, seed=1))
        y, where = b.max_pool(x, pool)
        db = b.zeros((3,))
        dz = b.conv_max_pool_gradient(dy, y, where, pool, db)
        dx = b.max_pool_gradient(dy, where, pool)
        return {"y": b.unpack(y), "dx": b.unpack(dx), "dz": b.unpack(dz), "db": b.host(db)}

    expected = run(EXACT)
    for name, value in run(GUARDED[2]).items():
        assert_bits(value, expected[name], name)
    GUARDED[2].verify()
    assert any(name.startswith("max pool") and "side by side" in name for name in used)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    threads=st.sampled_from([1, 2]),
    kind=st.sampled_from(sorted(KINDS)),
    images=st.sampled_from([1, 16, 17, 33]),
    height=st.sampled_from([1, 2, 5, 13]),
    columns=st.sampled_from([8, 16, 24]),
    taps=st.sampled_from([1, 2, 3]),
    above=st.integers(0, 2),
    below=st.integers(0, 4),
    stride=st.sampled_from([(1, 1), (1, 1), (2, 2), (3, 2), (3, 1)]),
    ins=st.integers(1, 3),
    outs=st.sampled_from([1, 4, 7]),
    groups=st.sampled_from([1, 2]),
    strip=st.sampled_from([0, 20_000, 1 << 20]),
    relu=st.booleans(),
)
def test_any_sizes(threads, kind, images, height, columns, taps, above, below, stride, ins, outs, groups, strip, relu):
    """Rows far in the padding, strips of one row or all, groups, few channels;
    one line of 3 taps with a border of one.
    """
    taps = min(taps, height + above + below)
    win = window((height, columns), (taps, 3), stride=stride, padding=((above, below), (1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_STRIP_BYTES", strip)
        patch.setattr(tiles, "_BAND_STRIP_BYTES", strip)
        compare(GUARDED[threads], win, images, ins, outs, groups, kind, relu)


@pytest.mark.parametrize("images", [3, 12, 40])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (28, 28), (20, 7)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_few_blocks_are_divided(images, size, threads):
    """Among threads: by output channels where an image fits in a strip, the weight gradient by bands."""
    compare(GUARDED[threads], window(size, 3, padding=1), images, 3, 34)


def test_common_layers_work_by_rows(used):
    """The 3x3 convolutions of VGG and ResNet, both gradients, and LeNet's."""
    b = get_backend("numba", threads=2)
    for size, ins, outs, kernel, padding in ((8, 4, 8, 3, 1), (16, 4, 4, 3, 1), (14, 6, 16, 5, 0)):
        used.clear()
        convolve(b, window((size, size), kernel, padding=padding), 2, ins, outs)
        assert any(name.startswith("weight gradient rows") for name in used), used
        assert any(name.startswith("conv rows") for name in used), used
        assert "add" not in used, "what is added to an input gradient is added in its tiles"


@pytest.mark.parametrize("settings", [{"stride": 3}, {"dilation": 2}])
def test_other_windows_do_not(settings, used):
    convolve(get_backend("numba", threads=1), window((9, 9), 3, padding=1, **settings), 2, 2, 4)
    assert used and not any("rows" in name.split(",")[0] for name in used)


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (9, 7), (3, 16), (70, 5), (5, 130)], ids=str)
@pytest.mark.parametrize("images", [1, 17])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_batch_norm_with_max_pool(size, images, kind):
    """Fused, against the specification's three operations; odd rows and columns are part of the statistics alone."""
    pool = window(size, 2, stride=2)

    def run(b):
        x, dy = b.pack(numbers(kind, images, 3, *size)), b.pack(numbers(kind, images, 3, *pool.output, seed=1))
        gamma, beta = b.array(numbers("random", 3, seed=2)), b.array(numbers("random", 3, seed=3))
        mean, var, _ = b.batch_norm_statistics(x)
        y, kept = b.batch_norm_max_pool(x, mean, var, gamma, beta, 1e-5, pool)
        dgamma, dbeta = b.zeros((3,)), b.zeros((3,))
        dx = b.batch_norm_max_pool_gradient(dy, kept, x, mean, var, gamma, beta, 1e-5, pool, dgamma, dbeta)
        return {"y": b.unpack(y), "dx": b.unpack(dx), "dgamma": b.host(dgamma), "dbeta": b.host(dbeta)}

    expected = run(EXACT)
    for b in GUARDED.values():
        for name, value in run(b).items():
            assert_bits(value, expected[name], name)
        b.verify()


# (channels, outputs, size, kernel, stride, groups): row by row alone and in pairs, depthwise, along a line, and those
# of other kernels, which take the values stored.
READERS = [
    (3, 8, (8, 8), 1, 1, 1),
    (2, 4, (9, 8), 3, 1, 1),
    (3, 3, (8, 8), 3, 1, 3),
    (3, 3, (16, 16), 3, 2, 3),
    (2, 4, (150,), 3, 1, 1),
    (2, 2, (9, 7), 5, 2, 2),
    (3, 2, (1, 1), 1, 1, 1),
]


@pytest.mark.parametrize("images", [18, 7])
@pytest.mark.parametrize("case", READERS, ids=str)
def test_normalized_where_it_is_read(case, images):
    """Convolutions of training's batch norm with ReLU, with gamma and beta as they were: the step changes them."""
    channels, outputs, size, kernel, stride, groups = case
    win = window(size, kernel, stride=stride, padding=kernel // 2)

    def run(b):
        x, dy = (
            b.pack(numbers("random", images, channels, *size)),
            b.pack(numbers("random", images, outputs, *win.output)),
        )
        gamma, beta, running = (b.array(numbers("random", channels, seed=seed)) for seed in (1, 2, 3))
        y, _, _ = b.batch_norm_training(x, running, b.zeros((channels,)), 0.1, gamma, beta, 1e-5, None, True)
        assert y.shape == x.shape and y.channels == channels and y.spatial == size
        b.assign(gamma, np.zeros(channels, np.float32))
        b.assign(beta, np.ones(channels, np.float32))
        w = b.array(numbers("random", outputs, channels // groups, *win.kernel, seed=4))
        z, dw = b.conv(y, w, None, win, groups), b.zeros(w.shape)
        b.conv_weight_gradient(dy, y, win, groups, dw)
        return y, {"z": b.unpack(z), "dw": b.host(dw), "y": b.unpack(y)}

    _, expected = run(EXACT)
    for b in GUARDED.values():
        _, results = run(b)
        for name, value in results.items():
            assert_bits(value, expected[name], name)
        b.verify()


@pytest.mark.parametrize("case", READERS[:5], ids=str)
def test_what_is_normalized_is_not_stored(case):
    channels, outputs, size, kernel, stride, groups = case
    b, win = GUARDED[2], window(size, kernel, stride=stride, padding=kernel // 2)
    x, (mean, var, c) = b.pack(numbers("random", 18, channels, *size)), (b.zeros((channels,)) for _ in range(3))
    y, _, _ = b.batch_norm_training(x, mean, var, 0.1, c, c, 1e-5, None, True)
    dw = b.zeros((outputs, channels // groups, *win.kernel))
    b.conv_weight_gradient(b.conv(y, dw, None, win, groups), y, win, groups, dw)
    assert not y.is_stored
    assert not y.numpy().any() and y.is_stored


@pytest.mark.parametrize(
    "win",
    [
        window((8, 8), 3, padding=1, stride=2),
        window((16, 15), 3, padding=((0, 1), (2, 0)), stride=2),
        window((9, 7), 5, padding=2, stride=2),
        window((9, 10), (3, 2), stride=(3, 1)),
        window((9, 10), 2, stride=3),  # some pixels see no output
        window((31,), 5, padding=2, stride=2),
    ],
    ids=lambda win: f"{win.kernel} {win.stride} {win.input}",
)
@pytest.mark.parametrize("images", [18, 7])
def test_depthwise_input_gradient(win, images, used):
    w, dy = numbers("cancelling", 3, 1, *win.kernel), numbers("random", images, 3, *win.output)
    expected = EXACT.conv_input_gradient(EXACT.pack(dy), w, win, 3).numpy()
    for b in GUARDED.values():
        assert_bits(b.unpack(b.conv_input_gradient(b.pack(dy), b.array(w), win, 3)), expected)
        b.verify()
    assert [name for name in used if name.startswith("input gradient of maps")] and len(used) == 1


def test_strips_stay_small():
    """As many rows as fit, at least one, and a few units of work for each thread."""
    assert tiles.strip_depth(3, 32, 3, 32, 100, 2) == 32
    assert tiles.strip_depth(64, 32, 3, 32, 100, 2) * 64 * 32 * 64 <= tiles._STRIP_BYTES
    assert tiles.strip_depth(10**6, 32, 3, 32, 100, 2) == 1
    assert math.ceil(32 / tiles.strip_depth(3, 32, 3, 32, 1, 2)) >= 8
    assert tiles.strip_rows(3, 32, 34, 4) == 34 and tiles.strip_rows(10**6, 32, 34, 4) == 4
    assert tiles.strip_rows(32, 32, 10, 4) * 32 * 32 * 64 <= tiles._BAND_STRIP_BYTES


@pytest.mark.parametrize(("bands", "parts", "together"), [(16, 1, 16), (16, 8, 2), (10, 4, 2), (10, 1, 10), (3, 8, 1)])
def test_bands_are_summed_in_nodes_of_the_tree(bands, parts, together):
    assert tiles.bands_together(bands, parts) == together


def test_batch_norm_that_is_not_stored_can_be_changed_and_copied():
    """As the batches of other operations can, in a layer of one's own."""
    b = get_backend("numba", threads=2)
    x, (mean, var, c) = b.pack(numbers("random", 3, 4, 5, 5)), (b.zeros((4,)) for _ in range(3))
    c[...] = 1

    def rectified():
        return b.batch_norm_training(x, mean, var, 0.1, c, c, 1e-5, None, True)[0]

    values = rectified().numpy()
    doubled, replaced = rectified(), rectified()
    doubled.data *= np.float32(2)
    assert doubled.numpy().tobytes() == (2 * values).tobytes()
    replaced.data = x.data[:, :2]
    assert replaced.shape == (3, 2, 5, 5) and replaced.channels == 2
    assert replaced.numpy().tobytes() == x.numpy()[:, :2].tobytes()
    assert copy.copy(rectified()).numpy().tobytes() == values.tobytes()
    weights = np.ones((1, 4, 1, 1), np.float32)
    around = window((5, 5), 1)
    results = [b.conv(batch, weights, None, around).numpy() for batch in (doubled, b.pack(2 * values))]
    assert results[0].tobytes() == results[1].tobytes()
