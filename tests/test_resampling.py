"""Padding, upsampling, adaptive and global pooling as functions, on every CPU backend: against NumPy, PyTorch where it
is installed, and loops over pixels; their gradients; what they refuse."""

import itertools
from math import prod

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpucnn import errors
from gpucnn.backends import get_backend
from gpucnn.resampling import AxisTaps, adaptive_windows
from tests.float64 import functional
from tests.oracle import Expected, assert_within
from tests.test_gradients import apart, check, normal

BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
on_every_backend = pytest.mark.parametrize(("backend", "math"), BACKENDS, ids=["-".join(b) for b in BACKENDS])
some = settings(deadline=None, max_examples=20, derandomize=True)
few = settings(deadline=None, max_examples=12, derandomize=True)
NUMPY = {"zeros": "constant", "constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
IMAGES = st.sampled_from([1, 2, 31, 33])
SEED = st.integers(0, 2**32 - 1)
UNIT = 2.0**-24


def drawn(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@st.composite
def paddings(draw, most=4):
    """(sizes, pads, mode, value) that fit, one-pixel axes among them."""
    mode = draw(st.sampled_from(sorted(NUMPY)))
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    room = {"reflect": -1, "circular": 0}.get(mode, most)
    pads = tuple((draw(st.integers(0, min(most, i + room))), draw(st.integers(0, min(most, i + room)))) for i in sizes)
    return sizes, pads, mode, draw(st.sampled_from([-1.5, 3.0])) if mode == "constant" else 0.0


def padded(x, pads, mode, value):
    options = {"constant_values": value} if NUMPY[mode] == "constant" else {}
    return np.pad(x, ((0, 0), (0, 0), *pads), NUMPY[mode], **options)


def scattered(dy, sizes, pads, mode):
    """The gradient of padding in float64, place by place, with the number of places that each pixel is shown at."""
    numbers = np.arange(prod(sizes)).reshape(1, 1, *sizes)
    shown = padded(numbers, pads, mode, -1)[0, 0] if mode != "zeros" else padded(numbers, pads, "constant", -1)[0, 0]
    dx, size = np.zeros((*dy.shape[:2], prod(sizes))), np.zeros((*dy.shape[:2], prod(sizes)))
    for at in np.ndindex(shown.shape):
        if shown[at] >= 0:
            dx[:, :, shown[at]] += dy[:, :, *at]
            size[:, :, shown[at]] += np.abs(dy[:, :, *at])
    terms = shown.size
    return Expected(dx.reshape(*dy.shape[:2], *sizes), size.reshape(*dy.shape[:2], *sizes), terms)


@on_every_backend
@some
@given(case=paddings(), images=IMAGES, channels=st.sampled_from([1, 3]), seed=SEED)
@example(case=((1, 1), ((0, 2), (1, 0)), "replicate", 0.0), images=1, channels=1, seed=0)
@example(case=((2, 3), ((2, 2), (3, 3)), "circular", 0.0), images=33, channels=1, seed=0)
def test_padding(backend, math, case, images, channels, seed):
    sizes, pads, mode, value = case
    x = drawn(seed, images, channels, *sizes)
    y = functional.pad(x, pads, mode, value, backend=backend, math=math)
    assert same_bits(y, padded(x, pads, mode, np.float32(value)))
    dy = drawn(seed + 1, *y.shape)
    dx = functional.pad_backward(dy, x, pads, mode, value, backend=backend, math=math)
    assert_within(dx, scattered(dy, sizes, pads, mode))


def test_padding_forms():
    x = drawn(0, 1, 1, 3, 4)
    assert functional.pad(x, 1).shape == (1, 1, 5, 6)
    assert functional.pad(x, (1, 2)).shape == (1, 1, 5, 8)
    assert functional.pad(x, ((1, 0), (0, 2)), "replicate").shape == (1, 1, 4, 6)


def test_a_negative_zero_becomes_positive():
    for backend, math in BACKENDS:
        x = np.full((1, 1, 2), -0.0, np.float32)
        assert not np.signbit(functional.pad(x, 1, "reflect", backend=backend, math=math)).any()
        assert not np.signbit(functional.pad(x, 1, "constant", -1e-60, backend=backend, math=math)).any()


@on_every_backend
@few
@given(
    case=paddings(3), images=st.sampled_from([1, 17]), stride=st.integers(1, 2), dilation=st.integers(1, 2), seed=SEED
)
def test_a_padded_convolution_is_one_of_a_padded_image(backend, math, case, images, stride, dilation, seed):
    sizes, pads, mode, value = case
    kernel = tuple(
        1 if i + sum(p) < 1 + dilation else min(3, (i + sum(p) - 1) // dilation + 1) for i, p in zip(sizes, pads)
    )
    x, w = drawn(seed, images, 2, *sizes), drawn(seed + 1, 2, 1, *kernel)
    bias = drawn(seed + 2, 2)
    settings = {"stride": stride, "dilation": dilation, "groups": 2, "backend": backend, "math": math}
    modes = {"padding_mode": mode, "padding_value": value}
    y = functional.conv(x, w, bias, padding=pads, **modes, **settings)
    whole = padded(x, pads, mode, np.float32(value))
    assert same_bits(y, functional.conv(whole, w, bias, **settings))
    dy = drawn(seed + 3, *y.shape)
    dx, dw, db = functional.conv_backward(dy, x, w, padding=pads, **modes, **settings)
    whole_dx, whole_dw, whole_db = functional.conv_backward(dy, whole, w, **settings)
    assert same_bits(dw, whole_dw) and same_bits(db, whole_db)
    if mode not in ("zeros", "constant"):
        assert same_bits(dx, functional.pad_backward(whole_dx, x, pads, mode, backend=backend, math=math))
    inside = tuple(slice(before, before + i) for i, (before, _) in zip(sizes, pads))
    if mode in ("zeros", "constant"):
        assert same_bits(dx, whole_dx[:, :, *inside]) or (math == "fast" and np.allclose(dx, whole_dx[:, :, *inside]))


@on_every_backend
@pytest.mark.parametrize("padding", ["valid", "same", 1, (1, 2), ((2, 0), (0, 1))])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "constant"])
def test_every_form_of_padding_works_with_every_mode(backend, math, padding, mode):
    x, w = drawn(0, 3, 2, 5, 6), drawn(1, 2, 2, 3, 3)
    modes = {"padding_mode": mode, "padding_value": 0.5 if mode == "constant" else 0}
    y = functional.conv(x, w, padding=padding, **modes, backend=backend, math=math)
    assert y.shape == functional.conv(x, w, padding=padding).shape
    if padding == "valid":
        assert same_bits(y, functional.conv(x, w, backend=backend, math=math))


# ---- upsampling ------------------------------------------------------------------------------------------------------


def interpolated(x, output, mode, aligned):
    """What upsampling should give in float64: one value after the other from the corners around it, weighted."""
    sizes, y, magnitude = x.shape[2:], np.zeros((*x.shape[:2], *output)), np.zeros((*x.shape[:2], *output))
    for at in np.ndindex(output):
        corners = []
        for p, i, o in zip(at, sizes, output):
            if mode == "nearest":
                corners.append([(p * i // o, 1.0)])
                continue
            place = p * (i - 1) / max(o - 1, 1) if aligned else (p + 0.5) * i / o - 0.5
            place = min(max(place, 0.0), i - 1.0)
            low = min(int(place), max(i - 2, 0))
            corners.append([(low, 1 - (place - low)), (min(low + 1, i - 1), place - low)])
        for choice in itertools.product(*corners):
            pixel, weight = zip(*choice)
            y[:, :, *at] += prod(weight) * x[:, :, *pixel]
            magnitude[:, :, *at] += prod(weight) * np.abs(x[:, :, *pixel])
    # Each axis: a weight and two operations; the oracle's own places are off by some float64 roundings.
    return Expected(y, magnitude + 1e-9, 4 * len(sizes))


@on_every_backend
@some
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=3),
    images=IMAGES,
    mode=st.sampled_from([("nearest", False), ("linear", False), ("linear", True)]),
    seed=SEED,
)
@example(sizes=[(1, 3), (1, 1)], images=33, mode=("linear", False), seed=0)
def test_upsampling(backend, math, sizes, images, mode, seed):
    input, output = zip(*sizes)
    x = drawn(seed, images, 1, *input)
    options = {"size": output, "mode": mode[0], "align_corners": mode[1], "backend": backend, "math": math}
    y = functional.upsample(x, **options)
    assert_within(y, interpolated(x, output, *mode))
    if mode[0] == "nearest":
        index = np.ix_(*(np.arange(o) * i // o for i, o in sizes))
        assert same_bits(y, x[(slice(None), slice(None), *index)])


def test_a_map_without_any_tap_is_its_fill():
    x = drawn(0, 2, 1, 3)
    for backend, math in BACKENDS:
        engine = get_backend(backend, math)
        y = engine.resample_axis(engine.pack(x), 0, AxisTaps(3, ((), ()), 0.25))
        assert same_bits(y.numpy(), np.full((2, 1, 2), 0.25, np.float32))


def test_a_whole_scale_repeats_pixels():
    x = drawn(0, 2, 3, 4, 5)
    for backend, math in BACKENDS:
        y = functional.upsample(x, (2, 3), backend=backend, math=math)
        assert same_bits(y, x.repeat(2, 2).repeat(3, 3))
        sums = functional.upsample_backward(np.ones_like(y), x, (2, 3), backend=backend, math=math)
        assert same_bits(sums, np.full_like(x, 6))


@pytest.mark.pytorch
@pytest.mark.parametrize(
    ("input", "output"), [((5,), (10,)), ((4, 3), (8, 9)), ((2, 3, 2), (4, 5, 6)), ((7, 6), (3, 11))]
)
@pytest.mark.parametrize("aligned", [False, True])
def test_upsampling_and_its_gradient_agree_with_pytorch(input, output, aligned):
    torch = pytest.importorskip("torch")
    x = drawn(1, 3, 2, *input, dtype=np.float64)
    word = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(input)]
    tensor = torch.from_numpy(x).requires_grad_()
    theirs = torch.nn.functional.interpolate(tensor, size=output, mode=word, align_corners=aligned)
    options = {"size": output, "mode": "linear", "align_corners": aligned}
    ours = functional.upsample(x, **options)
    assert np.abs(ours - theirs.detach().numpy()).max() < 1e-13
    dy = drawn(2, *ours.shape, dtype=np.float64)
    theirs.backward(torch.from_numpy(dy))
    assert np.abs(functional.upsample_backward(dy, x, **options) - tensor.grad.numpy()).max() < 1e-13


@pytest.mark.pytorch
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_agrees_with_pytorch(mode, axes):
    torch = pytest.importorskip("torch")
    x, pads = drawn(1, 2, 3, *(4, 5, 3)[:axes]), ((1, 2), (0, 3), (2, 1))[:axes]
    reversed_pads = [p for pair in reversed(pads) for p in pair]  # PyTorch's order: the last axis first
    tensor = torch.from_numpy(x).requires_grad_()
    theirs = torch.nn.functional.pad(tensor, reversed_pads, mode, **({"value": 0.5} if mode == "constant" else {}))
    value = 0.5 if mode == "constant" else 0.0
    assert same_bits(functional.pad(x, pads, mode, value), theirs.detach().numpy())
    dy = drawn(2, *theirs.shape)
    theirs.backward(torch.from_numpy(dy))
    assert np.abs(functional.pad_backward(dy, x, pads, mode, value) - tensor.grad.numpy()).max() < 1e-5


# ---- adaptive and global pooling -------------------------------------------------------------------------------------

ADAPTIVE = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=3)


def over_windows(x, output):
    """(position, the window's pixels (N, C, *window), its slices) of each output position."""
    each = [adaptive_windows(i, o) for i, o in zip(x.shape[2:], output)]
    for at in np.ndindex(tuple(output)):
        slices = tuple(slice(*each[axis][p]) for axis, p in enumerate(at))
        yield at, x[(slice(None), slice(None), *slices)], slices


@on_every_backend
@some
@given(sizes=ADAPTIVE, images=IMAGES, seed=SEED)
@example(sizes=[(7, 3), (8, 5)], images=33, seed=0)
@example(sizes=[(1, 2), (6, 3)], images=1, seed=0)
def test_adaptive_pooling(backend, math, sizes, images, seed):
    input, output = zip(*sizes)
    x, chosen = drawn(seed, images, 2, *input), {"backend": backend, "math": math}
    x = np.round(x * 4) / 4 + np.float32(0)  # ties, and no -0
    dy = drawn(seed + 1, images, 2, *output)
    mean, size = np.zeros(dy.shape), np.zeros(dy.shape)
    largest = np.zeros(dy.shape, np.float32)
    d_mean, d_size, d_largest, d_largest_size = (np.zeros(x.shape) for _ in range(4))
    for at, pixels, slices in over_windows(x, output):
        count = pixels[0, 0].size
        flat = pixels.reshape(*pixels.shape[:2], -1)
        mean[:, :, *at], size[:, :, *at] = flat.mean(2, dtype=np.float64), np.abs(flat).mean(2)
        largest[:, :, *at] = flat.max(2)
        factor = dy[:, :, *at].reshape(*dy.shape[:2], *(1 for _ in output))
        d_mean[:, :, *slices] += factor.astype(np.float64) / count
        d_size[:, :, *slices] += np.abs(factor) / count
        first = np.arange(count) == flat.argmax(2)[..., None]
        d_largest[:, :, *slices] += factor * first.reshape(pixels.shape)
        d_largest_size[:, :, *slices] += np.abs(factor) * first.reshape(pixels.shape)
    terms = sum(input) + sum(output) + 3
    assert_within(functional.adaptive_avg_pool(x, output, **chosen), Expected(mean, size, terms))
    assert_within(functional.adaptive_avg_pool_backward(dy, x, output, **chosen), Expected(d_mean, d_size, terms))
    assert same_bits(functional.adaptive_max_pool(x, output, **chosen), largest)
    got = functional.adaptive_max_pool_backward(dy, x, output, **chosen)
    assert_within(got, Expected(d_largest, d_largest_size, 2 ** len(input)))


@pytest.mark.pytorch
@pytest.mark.parametrize(
    ("input", "output"), [((7,), (3,)), ((5, 8), (2, 3)), ((4, 3, 5), (3, 2, 4)), ((3, 3), (5, 2))]
)
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pooling_agrees_with_pytorch(input, output, kind):
    torch = pytest.importorskip("torch")
    x = apart(1, (3, 2, *input))
    tensor = torch.from_numpy(x).requires_grad_()
    theirs = getattr(torch.nn.functional, f"adaptive_{kind}_pool{len(input)}d")(tensor, output)
    ours = getattr(functional, f"adaptive_{kind}_pool")(x, output)
    assert np.abs(ours - theirs.detach().numpy()).max() < 1e-13
    dy = drawn(2, *ours.shape, dtype=np.float64)
    theirs.backward(torch.from_numpy(dy))
    dx = getattr(functional, f"adaptive_{kind}_pool_backward")(dy, x, output)
    assert np.abs(dx - tensor.grad.numpy()).max() < 1e-13


@on_every_backend
@pytest.mark.parametrize("sizes", [(1,), (9,), (4, 5), (1, 1), (2, 3, 4)])
def test_global_pooling(backend, math, sizes):
    x, chosen = drawn(0, 19, 2, *sizes), {"backend": backend, "math": math}
    dy, flat = drawn(1, 19, 2), x.reshape(19, 2, -1)
    assert same_bits(functional.global_max_pool(x, **chosen), flat.max(2))
    first = np.arange(flat.shape[2]) == flat.argmax(2)[..., None]
    expected = np.where(first, dy[..., None], np.float32(0)).reshape(x.shape)
    assert same_bits(functional.global_max_pool_backward(dy, x, **chosen), expected + np.float32(0))
    mean = flat.mean(2, dtype=np.float64)
    assert np.abs(functional.global_avg_pool(x, **chosen) - mean).max() <= 2 * UNIT * np.abs(x).max()
    share = np.broadcast_to((dy / np.float32(flat.shape[2]))[..., None], flat.shape)
    assert same_bits(functional.global_avg_pool_backward(dy, x, **chosen), share.reshape(x.shape).copy())


@pytest.mark.pytorch
@on_every_backend
@pytest.mark.parametrize(
    ("input", "size", "stride", "padding"), [((7,), 2, 2, 0), ((7, 8), 3, 2, 1), ((5, 4, 7), 2, 3, 0)]
)
def test_ceil_mode_agrees_with_pytorch(backend, math, input, size, stride, padding):
    torch = pytest.importorskip("torch")
    x = apart(1, (17, 2, *input)).astype(np.float32)
    options = {"stride": stride, "padding": padding, "ceil_mode": True}
    chosen = {**options, "backend": backend, "math": math}
    for kind, more in [("max", {}), ("avg", {"count_include_pad": True}), ("avg", {"count_include_pad": False})]:
        tensor = torch.from_numpy(x).requires_grad_()
        theirs = getattr(torch.nn.functional, f"{kind}_pool{len(input)}d")(tensor, size, **options, **more)
        ours = getattr(functional, f"{kind}_pool")(x, size, **chosen, **more)
        assert ours.shape == tuple(theirs.shape) and np.abs(ours - theirs.detach().numpy()).max() < 1e-5
        dy = drawn(2, *ours.shape)
        theirs.backward(torch.from_numpy(dy))
        dx = getattr(functional, f"{kind}_pool_backward")(dy, x, size, **chosen, **more)
        assert np.abs(dx - tensor.grad.numpy()).max() < 1e-5


# ---- gradients -------------------------------------------------------------------------------------------------------


@few
@given(case=paddings(), seed=SEED)
def test_gradient_of_padding(case, seed):
    sizes, *settings = case
    (x,) = normal(seed, (2, 2, *sizes))
    check(lambda x: functional.pad(x, *settings), lambda dy: [functional.pad_backward(dy, x, *settings)], [x], seed)


@few
@given(case=paddings(3), seed=SEED)
def test_gradient_of_a_padded_convolution(case, seed):
    sizes, pads, mode, value = case
    x, w, b = normal(seed, (2, 2, *sizes), (3, 2, *(min(2, i + sum(p)) for i, p in zip(sizes, pads))), 3)
    options = {"padding": pads, "padding_mode": mode, "padding_value": value}
    check(
        lambda x, w, b: functional.conv(x, w, b, **options),
        lambda dy: functional.conv_backward(dy, x, w, **options),
        [x, w, b],
        seed,
    )


@few
@given(sizes=ADAPTIVE, mode=st.sampled_from([("nearest", False), ("linear", False), ("linear", True)]), seed=SEED)
def test_gradient_of_upsampling(sizes, mode, seed):
    input, output = zip(*sizes)
    (x,) = normal(seed, (2, 2, *input))
    options = {"size": output, "mode": mode[0], "align_corners": mode[1]}
    check(
        lambda x: functional.upsample(x, **options),
        lambda dy: [functional.upsample_backward(dy, x, **options)],
        [x],
        seed,
    )


@few
@given(sizes=ADAPTIVE, kind=st.sampled_from(["avg", "max"]), seed=SEED)
def test_gradient_of_adaptive_pooling(sizes, kind, seed):
    input, output = zip(*sizes)
    x = apart(seed, (2, 2, *input))
    pool, backward = (getattr(functional, f"adaptive_{kind}_pool{end}") for end in ("", "_backward"))
    check(lambda x: pool(x, output), lambda dy: [backward(dy, x, output)], [x], seed)


# ---- refusals --------------------------------------------------------------------------------------------------------

F4 = np.float32
X, V, W, W2 = np.ones((2, 4, 6, 6), F4), np.ones((3, 5), F4), np.ones((6, 4, 3, 3), F4), np.ones((6, 4, 2, 2), F4)

REFUSALS = {
    "reflect": (lambda f, o: f.conv(X, W, padding=6, padding_mode="reflect", **o), errors.ShapeError, "at most 5"),
    "circular": (lambda f, o: f.pad(X, (0, 7), "circular", **o), errors.ShapeError, "axis 1 .*at most 6"),
    "mode": (lambda f, o: f.conv(X, W, padding_mode="edge", **o), errors.ConfigurationError, "replicate"),
    "value": (lambda f, o: f.conv(X, W, padding_value=1, **o), errors.ConfigurationError, 'use mode "constant"'),
    "backward's mode": (
        lambda f, o: f.conv_backward(X, X, W, padding_mode=3, **o),
        errors.ConfigurationError,
        "the padding mode is 3",
    ),
    "strict": (lambda f, o: f.conv(X, W2, stride=3, strict=True, **o), errors.ShapeError, "does not divide"),
    "strict word": (lambda f, o: f.conv(X, W, strict=1, **o), errors.ConfigurationError, "True or False"),
    "strict pool": (lambda f, o: f.max_pool(X, 4, stride=3, strict=True, **o), errors.ShapeError, "does not divide"),
    "both": (lambda f, o: f.avg_pool(X, 2, strict=True, ceil_mode=True, **o), errors.ConfigurationError, "exclude"),
    "ceil word": (lambda f, o: f.max_pool(X, 2, ceil_mode="x", **o), errors.ConfigurationError, "True or False"),
    "pad rank": (lambda f, o: f.pad(V, 1, **o), errors.ShapeError, "1 to 3 spatial axes"),
    "pad word": (lambda f, o: f.pad(X, "same", **o), errors.ConfigurationError, "give an integer"),
    "pad type": (lambda f, o: f.pad(X.astype(int), 1, **o), errors.DTypeError, "x is int64"),
    "dy of pad": (lambda f, o: f.pad_backward(X, X, 1, **o), errors.ShapeError, r"\(2, 4, 8, 8\), the shape of pad's"),
    "no size": (lambda f, o: f.upsample(X, **o), errors.ConfigurationError, "give one of them"),
    "scale": (lambda f, o: f.upsample(X, 2.0, **o), errors.ConfigurationError, "scale is 2.0"),
    "upsampling mode": (lambda f, o: f.upsample(X, 2, mode="cubic", **o), errors.ConfigurationError, "nearest"),
    "dy of upsample": (lambda f, o: f.upsample_backward(X, X, 2, **o), errors.ShapeError, "upsample's output"),
    "output size": (lambda f, o: f.adaptive_avg_pool(X, 0, **o), errors.ConfigurationError, "output_size is 0"),
    "output sizes": (lambda f, o: f.adaptive_max_pool(X, (1, 2, 3), **o), errors.ShapeError, "3 entries for 2"),
    "adaptive rank": (lambda f, o: f.adaptive_max_pool(V, 2, **o), errors.ShapeError, "1 to 3 spatial axes"),
    "dy of adaptive": (lambda f, o: f.adaptive_max_pool_backward(X, X, 2, **o), errors.ShapeError, "max_pool's output"),
    "dy of adaptive mean": (
        lambda f, o: f.adaptive_avg_pool_backward(X, X, 2, **o),
        errors.ShapeError,
        "avg_pool's output",
    ),
    "global rank": (lambda f, o: f.global_avg_pool(V, **o), errors.ShapeError, "1 to 3 spatial axes"),
    "dy of global": (lambda f, o: f.global_max_pool_backward(X, X, **o), errors.ShapeError, r"expected \(2, 4\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    call, error, message = REFUSALS[case]
    for backend, math in BACKENDS:
        with pytest.raises(error, match=message) as caught:
            call(functional, {"backend": backend, "math": math})
        assert "\n" not in str(caught.value)
