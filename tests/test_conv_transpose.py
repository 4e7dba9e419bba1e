"""Transposed convolution: sizes, values against float64 loops and PyTorch, bits against the contract in plain loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpucnn import functional
from gpucnn.backends import get_backend
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.errors import ConfigurationError, DTypeError, GpucnnError, ShapeError
from gpucnn.geometry import transposed_window, window
from tests.backends.guarded import KINDS, assert_bits, guarded, numbers
from tests.backends.scalar import band_cuts, f32, fma, tree
from tests.oracle import Expected, assert_within

BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
on_every_backend = pytest.mark.parametrize(("backend", "math_"), BACKENDS, ids=["-".join(b) for b in BACKENDS])
some = settings(deadline=None, max_examples=20, derandomize=True)
IMAGES = st.sampled_from([1, 2, 15, 17, 31, 33])
SEED = st.integers(0, 2**32 - 1)


@st.composite
def transposed(draw, most_images=33):
    """(x's shape, w's shape, settings) that fit: 1 to 3 axes, one-pixel images and single channels among them."""
    axes = draw(st.integers(1, 3))
    most = (5, 3, 2)[axes - 1]

    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    kernel, stride, dilation, image = each(1, most), each(1, 3), each(1, 2), each(1, most + 1)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    padding = []
    for i, k, s, d, r in zip(image, kernel, stride, dilation, extra):
        room = (i - 1) * s + d * (k - 1) + r  # what may be cut off, one pixel being left
        before = draw(st.integers(0, min(3, room)))
        padding.append((before, draw(st.integers(0, min(3, room - before)))))
    groups, channels, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = (min(draw(IMAGES), most_images), groups * channels, *image)
    options = dict(stride=stride, padding=tuple(padding), output_padding=extra, dilation=dilation, groups=groups)
    return x, (groups * channels, outputs, *kernel), options


def sizes_of(x, w, options):
    return tuple(
        (i - 1) * s - before - after + d * (k - 1) + r + 1
        for i, k, s, (before, after), d, r in zip(
            x[2:], w[2:], options["stride"], options["padding"], options["dilation"], options["output_padding"]
        )
    )


def spread(x, w, options):
    """(i, k, pixel): where each value of the input adds, through each tap, to a pixel of the output."""
    output = sizes_of(x, w, options)
    for i in itertools.product(*map(range, x[2:])):
        for k in itertools.product(*map(range, w[2:])):
            pixel = tuple(
                a * s + t * d - before
                for a, t, s, d, (before, _) in zip(i, k, options["stride"], options["dilation"], options["padding"])
            )
            if all(0 <= p < size for p, size in zip(pixel, output)):
                yield i, k, pixel


def normal(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


# ---- values ----------------------------------------------------------------------------------------------------------


def scattered(x, w, bias, options) -> Expected:
    """Every value scattered over its patch, in float64."""
    x, w, groups = x.astype(np.float64), w.astype(np.float64), options["groups"]
    ins, outs = x.shape[1] // groups, w.shape[1]
    y = np.zeros((len(x), outs * groups, *sizes_of(x.shape, w.shape, options)))
    size = np.zeros_like(y)
    for i, k, pixel in spread(x.shape, w.shape, options):
        for g in range(groups):
            c, o = slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs)
            y[:, o, *pixel] += x[:, c, *i] @ w[c, :, *k]
            size[:, o, *pixel] += np.abs(x[:, c, *i]) @ np.abs(w[c, :, *k])
    shift = bias.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 2))
    return Expected(y + shift, size + np.abs(shift), ins * math.prod(w.shape[2:]) + 1)


def gathered(dy, x, w, options) -> tuple[Expected, Expected, Expected]:
    """(dx, dw, db) in float64."""
    dy, x, w, groups = dy.astype(np.float64), x.astype(np.float64), w.astype(np.float64), options["groups"]
    ins, outs = x.shape[1] // groups, w.shape[1]
    dx, dx_size, dw, dw_size = np.zeros_like(x), np.zeros_like(x), np.zeros_like(w), np.zeros_like(w)
    for i, k, pixel in spread(x.shape, w.shape, options):
        for g in range(groups):
            c, o = slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs)
            dx[:, c, *i] += dy[:, o, *pixel] @ w[c, :, *k].T
            dx_size[:, c, *i] += np.abs(dy[:, o, *pixel]) @ np.abs(w[c, :, *k]).T
            dw[c, :, *k] += x[:, c, *i].T @ dy[:, o, *pixel]
            dw_size[c, :, *k] += np.abs(x[:, c, *i]).T @ np.abs(dy[:, o, *pixel])
    axes = (0, *range(2, dy.ndim))
    return (
        Expected(dx, dx_size, outs * math.prod(w.shape[2:])),
        Expected(dw, dw_size, len(x) * math.prod(x.shape[2:])),
        Expected(dy.sum(axes), np.abs(dy).sum(axes), 1),
    )


@on_every_backend
@some
@given(sizes=transposed(), seed=SEED)
@example(
    sizes=((33, 1, 1), (1, 1, 3), dict(stride=(3,), padding=((0, 2),), output_padding=(1,), dilation=(1,), groups=1)),
    seed=0,
)
def test_values_and_gradients(backend, math_, sizes, seed):
    x_shape, w_shape, options = sizes
    outputs = w_shape[1] * options["groups"]
    shape = (x_shape[0], outputs, *sizes_of(x_shape, w_shape, options))
    x, w, bias, dy = normal(seed, x_shape, w_shape, outputs, shape)
    where = {"backend": backend, "math": math_}
    assert_within(functional.conv_transpose(x, w, bias, **options, **where), scattered(x, w, bias, options))
    results = functional.conv_transpose_backward(dy, x, w, **options, **where)
    for result, expected in zip(results, gathered(dy, x, w, options), strict=True):
        assert result.dtype == np.float32
        assert_within(result, expected)


@pytest.mark.pytorch
@on_every_backend
@some
@given(sizes=transposed(), seed=SEED)
def test_as_pytorch_has_it(backend, math_, sizes, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle here; its absence hides nothing")
    x_shape, w_shape, options = sizes
    # PyTorch pads alike on both sides; what it does not cut off is cut off here.
    whole = {**options, "padding": 0}
    outputs = w_shape[1] * options["groups"]
    x, w, bias = normal(seed, x_shape, w_shape, outputs)
    tensors = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, w, bias)]
    make = getattr(torch.nn.functional, f"conv_transpose{len(x_shape) - 2}d")
    everything = make(*tensors, **whole)
    inner = tuple(
        slice(before, size - after) for size, (before, after) in zip(everything.shape[2:], options["padding"])
    )
    expected = everything[(slice(None), slice(None), *inner)]
    where = {"backend": backend, "math": math_}
    y = functional.conv_transpose(x, w, bias, **options, **where)
    assert y.shape == tuple(expected.shape)
    (dy,) = normal(seed + 1, y.shape)
    expected.backward(torch.tensor(dy.astype(np.float64)))
    bounds = scattered(x, w, bias, options), *gathered(dy, x, w, options)
    results = y, *functional.conv_transpose_backward(dy, x, w, **options, **where)
    values = expected.detach().numpy(), *(t.grad.numpy() for t in tensors)
    for result, value, bound in zip(results, values, bounds, strict=True):
        assert_within(result, bound._replace(value=value))


def test_float64_on_numpy_fast():
    x, w, bias = (np.random.default_rng(0).standard_normal(shape) for shape in ((2, 3, 4), (3, 2, 3), 2))
    y = functional.conv_transpose(x, w, bias, stride=2, math="fast")
    expected = scattered(x, w, bias, dict(stride=(2,), padding=((0, 0),), output_padding=(0,), dilation=(1,), groups=1))
    assert y.dtype == np.float64 and np.abs(y - expected.value).max() < 1e-14


@on_every_backend
def test_it_is_the_gradient_of_a_convolution(backend, math_):
    """The definition: with the same weights, conv's dx is the transposed convolution of dy."""
    x, dy, w = normal(3, (5, 2, 9, 8), (5, 4, 4, 4), (4, 2, 3, 2))
    where = {"backend": backend, "math": math_}
    dx, _, _ = functional.conv_backward(dy, x, w, stride=2, **where)
    assert_bits(functional.conv_transpose(dy, w, stride=2, **where), dx)


# ---- bits ------------------------------------------------------------------------------------------------------------


def by_contract(x, w, bias, dy, options):
    """(y, dx, dw) by rules 2 and 3 in loops over single numbers."""
    groups = options["groups"]
    ins, outs = x.shape[1] // groups, w.shape[1]
    meets = sorted(spread(x.shape, w.shape, options))  # by input position, then tap, row-major
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    at = {pixel: [(i, k) for i, k, p in meets if p == pixel] for pixel in itertools.product(*map(range, dy.shape[2:]))}
    for n, o in itertools.product(range(len(x)), range(outs * groups)):
        for pixel, met in at.items():
            acc = 0.0
            for c in range(o // outs * ins, (o // outs + 1) * ins):
                for i, k in met:
                    acc = fma(x[(n, c, *i)], w[(c, o % outs, *k)], acc)
            y[(n, o, *pixel)] = f32(acc + float(bias[o])) + 0.0
    positions = list(itertools.product(*map(range, x.shape[2:])))
    for n, c in itertools.product(range(len(x)), range(x.shape[1])):
        for position in positions:
            acc = 0.0
            for o in range(outs):
                for i, k, pixel in meets:
                    if i == position:
                        acc = fma(dy[(n, c // ins * outs + o, *pixel)], w[(c, o, *k)], acc)
            dx[(n, c, *position)] = acc + 0.0
    for c, o in itertools.product(range(x.shape[1]), range(outs)):
        for tap in itertools.product(*map(range, w.shape[2:])):
            pixels = {i: pixel for i, k, pixel in meets if k == tap}

            def term(n, i, acc, c=c, o=o, pixels=pixels):
                return fma(x[(n, c, *i)], dy[(n, c // ins * outs + o, *pixels[i])], acc) if i in pixels else acc

            blocks = []
            for first in range(0, len(x), 16):
                images = range(first, min(first + 16, len(x)))
                if len(positions) == 1:
                    acc = 0.0
                    for n in images:
                        acc = term(n, positions[0], acc)
                    blocks.append(np.float32(acc))
                    continue
                of_bands = []
                for band in band_cuts(x.shape[2:]):  # of the input's positions
                    of_images = []
                    for n in images:
                        acc = 0.0
                        for number in band:
                            acc = term(n, positions[number], acc)
                        of_images.append(np.float32(acc))
                    of_bands.append(tree(of_images))
                blocks.append(tree(of_bands))
            dw[(c, o, *tap)] = tree(blocks) + np.float32(0)
    return {"y": y, "dx": dx, "dw": dw}


def by_backend(b, x, w, bias, dy, options):
    win = transposed_window(x.shape[2:], w.shape[2:], **{k: v for k, v in options.items() if k != "groups"})
    groups, dw = options["groups"], b.zeros(w.shape)
    x_lanes, dy_lanes, w = b.pack(x), b.pack(dy), b.array(w)
    b.conv_weight_gradient(x_lanes, dy_lanes, win, groups, dw)
    y = b.add_bias(b.conv_input_gradient(x_lanes, w, win, groups), b.array(bias))
    return {"y": b.unpack(y), "dx": b.unpack(b.conv(dy_lanes, w, None, win, groups)), "dw": b.host(dw)}


def plain(axes, **changed):
    options = dict(
        stride=(1,) * axes, padding=((0, 0),) * axes, output_padding=(0,) * axes, dilation=(1,) * axes, groups=1
    )
    return {**options, **changed}


CONTRACT_CASES = [
    ((2, 2, 3, 2), (2, 2, 2, 3), plain(2, stride=(2, 1), padding=((1, 0), (0, 1)), output_padding=(1, 0))),
    ((3, 4, 4), (4, 1, 3), plain(1, stride=(2,), dilation=(3,), output_padding=(2,), groups=2)),
    # Nine rows of nine: two bands, of the input; the output would have other ones.
    ((2, 1, 9, 9), (1, 1, 2, 1), plain(2, stride=(2, 2))),
    ((1, 1, 130), (1, 1, 2), plain(1, padding=((1, 0),))),
    ((35, 2, 1, 1), (2, 1, 2, 2), plain(2)),  # one position, three blocks
    ((2, 1, 2, 1, 2), (1, 2, 1, 2, 2), plain(3, stride=(1, 2, 3), output_padding=(0, 1, 1))),
    ((1, 1, 1), (1, 1, 1), plain(1)),
]


@pytest.mark.parametrize("kind", ["random", "subnormal", "cancelling"])
@pytest.mark.parametrize("case", CONTRACT_CASES, ids=lambda case: f"{case[0]} by {case[1]}")
def test_bits_by_the_contract(case, kind):
    x_shape, w_shape, options = case
    outputs = w_shape[1] * options["groups"]
    arrays = [
        numbers(kind, *x_shape),
        numbers(kind, *w_shape, seed=1),
        numbers(kind, outputs, seed=2),
        numbers(kind, x_shape[0], outputs, *sizes_of(x_shape, w_shape, options), seed=3),
    ]
    expected = by_contract(*arrays, options)
    b = guarded(NumbaBackend)(2)
    for name, backend in (("numpy", get_backend("numpy", "exact")), ("numba", b)):
        for what, result in by_backend(backend, *arrays, options).items():
            assert_bits(result, expected[what], f"{what} on {name}")
    b.verify()


@some
@given(sizes=transposed(), kind=st.sampled_from(sorted(KINDS)), threads=st.integers(1, 2))
def test_numba_gives_the_specified_bits(sizes, kind, threads):
    x_shape, w_shape, options = sizes
    outputs = w_shape[1] * options["groups"]
    dy_shape = (x_shape[0], outputs, *sizes_of(x_shape, w_shape, options))
    shapes = x_shape, w_shape, (outputs,), dy_shape
    arrays = [numbers(kind, *shape, seed=seed) for seed, shape in enumerate(shapes)]
    b = guarded(NumbaBackend)(threads)
    expected = by_backend(get_backend("numpy", "exact"), *arrays, options)
    for what, result in by_backend(b, *arrays, options).items():
        assert_bits(result, expected[what], what)
    b.verify()


def test_a_one_pixel_image_padded_after_only():
    """numba lays the blocks of one-pixel images side by side: no tap may read the next block's image."""
    x, w = numbers("random", 40, 2, 1, 1), numbers("random", 3, 2, 1, 2)
    options = {"padding": ((0, 0), (0, 1))}
    assert_bits(functional.conv(x, w, **options, backend="numba"), functional.conv(x, w, **options, math="exact"))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_bias_and_zeros_of_both_signs(backend):
    b = get_backend(backend, "exact")
    zeros = np.array([0.0, -0.0, 0.0, -0.0], np.float32).reshape(1, 4)
    y = b.add_bias(b.pack(zeros), b.array(np.array([0.0, 0.0, -0.0, -0.0], np.float32)))
    assert_bits(y.numpy(), np.zeros((1, 4), np.float32))
    x, bias = np.array([[-1, -1, 2, 2.0**-149]], np.float32), np.array([1, 3, -3, 0], np.float32)
    assert b.add_bias(b.pack(x), b.array(bias)).numpy().tolist() == [[0, 2, -1, 2.0**-149]]
    assert b.add_bias(b.pack(x), b.array(bias), relu=True).numpy().tolist() == [[0, 2, 0, 2.0**-149]]


# ---- sizes and refusals ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(transposed())
def test_the_size_is_that_of_the_last_patch(sizes):
    x, w, options = sizes
    win = transposed_window(x[2:], w[2:], **{k: v for k, v in options.items() if k != "groups"})
    assert win.output == x[2:] and win.input == sizes_of(x, w, options)
    for axis in range(len(win.input)):
        ends = [
            (win.output[axis] - 1) * win.stride[axis]
            + (win.kernel[axis] - 1) * win.dilation[axis]
            + options["output_padding"][axis]
            + 1
            - sum(win.padding[axis])
        ]
        assert win.input[axis] == ends[0]
        if (
            options["output_padding"][axis] < win.stride[axis]
        ):  # then a convolution over the output gives the input back
            line = {"stride": win.stride[axis], "dilation": win.dilation[axis], "padding": [win.padding[axis]]}
            extent = win.dilation[axis] * (win.kernel[axis] - 1) + 1
            if win.input[axis] + sum(win.padding[axis]) >= extent:
                assert window((win.input[axis],), win.kernel[axis], **line).output == (win.output[axis],)


@pytest.mark.parametrize(
    ("input", "kernel", "options", "output"),
    [
        (4, 3, {}, 6),
        (5, 3, {"stride": 2}, 11),  # Dumoulin and Visin: 3 over 5 with stride 2 gives 2 ...
        (3, 3, {"stride": 2, "padding": 1}, 5),  # ... and over 5 and 6, padded by 1, 3: output padding chooses
        (3, 3, {"stride": 2, "padding": 1, "output_padding": 1}, 6),
        (7, 4, {"stride": 2, "padding": 1}, 14),  # the usual doubling
        (16, 2, {"stride": 2}, 32),
        (1, 3, {"dilation": 2, "output_padding": 1}, 6),
        (5, 3, {"padding": ((2, 0),)}, 5),
    ],
)
def test_worked_sizes(input, kernel, options, output):
    assert transposed_window((input,), kernel, **options).input == (output,)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"output_padding": 1},
            ConfigurationError,
            "output_padding 1 on spatial axis 0 is neither less than the stride 1",
        ),
        ({"stride": 2, "output_padding": (1, 2)}, ConfigurationError, "on spatial axis 1 .* use at most 1"),
        ({"output_padding": -1}, ConfigurationError, "output_padding is -1; give an integer of 0 or more"),
        ({"output_padding": 0.5}, ConfigurationError, "output_padding is 0.5"),
        ({"output_padding": (0, 0, 0)}, ShapeError, "3 entries for 2 spatial axes"),
        ({"padding": "same"}, ConfigurationError, "padding is 'same'; give an integer"),
        ({"padding": 3}, ShapeError, "padding 3 on spatial axis 0 cuts off all of the 6 pixels"),
        ({"padding": (0, (1, 9))}, ShapeError, r"padding \(1, 9\) on spatial axis 1 cuts off all of the 7"),
        ({"stride": 0}, ConfigurationError, "stride is 0"),
        ({"dilation": True}, ConfigurationError, "dilation is True"),
        ({"groups": 3}, ShapeError, "3 groups do not divide 4 input channels"),
        ({"groups": 0}, ConfigurationError, "groups is 0"),
        ({"groups": True}, ConfigurationError, "groups is True"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, error, words):
    x, w = normal(0, (1, 4, 4, 5), (4, 2, 3, 3))
    for call in (
        lambda: functional.conv_transpose(x, w, **options),
        lambda: functional.conv_transpose_backward(np.zeros((1, 2, 6, 7), np.float32), x, w, **options),
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 4), (4, 2)), "images"),
        (((1, 4, 5), (4, 2, 3, 3)), "expected 3 axes"),
        (((1, 4, 5), (3, 2, 3)), r"expected 3 axes, \(4, O/groups, \*K\)"),
        (((1, 4, 5), (4, 2, 3), (3,)), "one value per output channel"),
        (((0, 4, 5), (4, 2, 3)), "empty batch"),
        (((1, 4, 5), (4, 0, 3)), "empty axis"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, words):
    with pytest.raises(ShapeError, match=words):
        functional.conv_transpose(*(np.zeros(shape, np.float32) for shape in shapes))


def test_other_types_and_a_gradient_of_another_shape_are_refused():
    x, w = normal(0, (1, 2, 4), (2, 3, 3))
    with pytest.raises(DTypeError):
        functional.conv_transpose(x.astype(np.int32), w)
    with pytest.raises(ShapeError, match="the shape of conv_transpose's output"):
        functional.conv_transpose_backward(np.zeros((1, 3, 5), np.float32), x, w)
    with pytest.raises(GpucnnError, match="input is 4"):
        transposed_window(4, 3)
