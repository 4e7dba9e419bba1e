"""Sizes, against windows that are placed and counted one by one."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn.errors import ConfigurationError, GpucnnError, ShapeError
from gpucnn.geometry import (
    Field,
    Window,
    conv_multiply_adds,
    conv_parameters,
    dense_multiply_adds,
    dense_parameters,
    pixel_use,
    pool_counts,
    pool_window,
    window,
)

AXIS = st.fixed_dictionaries(
    {
        "input": st.integers(1, 12),
        "kernel": st.integers(1, 5),
        "stride": st.integers(1, 4),
        "dilation": st.integers(1, 3),
        "padding": st.tuples(st.integers(0, 5), st.integers(0, 5)),
    }
)


def starts(axis):
    """Where windows start on one axis, in pixels, placed one after the other while they fit inside the padding."""
    before, after = axis["padding"]
    extent = axis["dilation"] * (axis["kernel"] - 1) + 1
    at, found = -before, []
    while at + extent <= axis["input"] + after:
        found.append(at)
        at += axis["stride"]
    return found


def make(axes, **options):
    names = ("input", "kernel", "stride", "padding", "dilation")
    sizes = {name: tuple(axis[name] for axis in axes) for name in names}
    return window(sizes.pop("input"), sizes.pop("kernel"), **sizes, **options)


@settings(deadline=None, max_examples=150)
@given(st.lists(AXIS, min_size=0, max_size=3))
def test_output_size_is_the_number_of_windows_that_fit(axes):
    counts = tuple(len(starts(axis)) for axis in axes)
    if 0 in counts:
        with pytest.raises(ShapeError, match="larger than the padded input"):
            make(axes)
        return
    fit = make(axes)
    assert fit.output == counts
    assert hash(fit) == hash(make(axes)) and fit == make(axes)


@settings(deadline=None, max_examples=150)
@given(AXIS)
def test_strict_accepts_exactly_what_leaves_no_pixel_and_names_what_would(axis):
    found = starts(axis)
    if not found:
        return
    extent = axis["dilation"] * (axis["kernel"] - 1) + 1
    left = axis["input"] + axis["padding"][1] - (found[-1] + extent)
    if left == 0:
        assert make([axis], strict=True).output == (len(found),)
        return
    with pytest.raises(ShapeError) as caught:
        make([axis], strict=True)
    advice = str(caught.value).split(";")[1]
    pair = re.search(r"padding \((\d+), (\d+)\)", advice)
    alike = re.search(r"padding (\d+)", advice)
    fitting = (int(pair[1]), int(pair[2])) if pair else (int(alike[1]), int(alike[1]))
    make([{**axis, "padding": fitting}], strict=True)
    strides = re.search(r"stride ([\d or]+) would", advice)[1].split(" or ")
    for stride in strides:
        make([{**axis, "stride": int(stride)}], strict=True)


@settings(deadline=None, max_examples=150)
@given(AXIS)
def test_the_padding_that_a_refusal_names_fits(axis):
    if starts(axis):
        return
    with pytest.raises(ShapeError) as caught:
        make([axis])
    padding = int(re.search(r"a padding of (\d+)", str(caught.value))[1])
    make([{**axis, "padding": (padding, padding)}])
    if padding:
        with pytest.raises(ShapeError):
            make([{**axis, "padding": (padding - 1, padding - 1)}])


@settings(deadline=None, max_examples=100)
@given(AXIS)
def test_same_padding_gives_ceil_of_input_over_stride_with_the_odd_pixel_after(axis):
    fit = window((axis["input"],), axis["kernel"], stride=axis["stride"], dilation=axis["dilation"], padding="same")
    assert fit.output == (-(-axis["input"] // axis["stride"]),)
    ((before, after),) = fit.padding
    assert after - before in (0, 1)


@settings(deadline=None, max_examples=150)
@given(AXIS)
def test_ceil_adds_the_last_window_if_it_starts_inside(axis):
    before, after = axis["padding"]
    extent = axis["dilation"] * (axis["kernel"] - 1) + 1
    if not starts(axis) or after >= extent:
        return
    windows = [-before]
    while windows[-1] + extent < axis["input"] + after and windows[-1] + axis["stride"] < axis["input"]:
        windows.append(windows[-1] + axis["stride"])
    assert make([axis], ceil=True).output == (len(windows),)


@settings(deadline=None, max_examples=60)
@given(st.lists(AXIS, min_size=0, max_size=2))
def test_pixel_use_and_pool_counts_agree_with_counting(axes):
    if any(not starts(axis) for axis in axes):
        return
    fit = make(axes)
    use, inside = np.zeros(fit.input, int), np.zeros(fit.output, int)
    for corner in itertools.product(*(enumerate(starts(axis)) for axis in axes)):
        position = tuple(p for p, _ in corner)
        for tap in itertools.product(*(range(axis["kernel"]) for axis in axes)):
            pixel = tuple(start + t * axis["dilation"] for (_, start), t, axis in zip(corner, tap, axes))
            if all(0 <= p < axis["input"] for p, axis in zip(pixel, axes)):
                use[pixel] += 1
                inside[position] += 1
    assert np.array_equal(pixel_use(fit), use)
    assert np.array_equal(pool_counts(fit, count_include_pad=False), inside)
    assert np.array_equal(pool_counts(fit), np.full(fit.output, np.prod(fit.kernel, dtype=int)))


def test_pool_counts_in_ceil_mode_leave_out_what_lies_beyond_the_padding():
    fit = window((4,), 3, stride=2, padding=1, ceil=True)  # windows at -1, 1 and 3, the last to pixel 5
    assert fit.output == (3,)
    assert pool_counts(fit).tolist() == [3, 3, 2]
    assert pool_counts(fit, count_include_pad=False).tolist() == [2, 3, 1]


def test_forms_of_padding():
    def pads(padding):
        return window((8, 8), 3, padding=padding).padding

    assert pads("valid") == pads(0) == ((0, 0), (0, 0))
    assert pads(2) == pads((2, 2)) == pads([[2, 2], [2, 2]]) == pads(np.int64(2)) == ((2, 2), (2, 2))
    assert pads((1, 2)) == ((1, 1), (2, 2))
    assert pads(((1, 2), 3)) == ((1, 2), (3, 3))
    assert pads("same") == ((1, 1), (1, 1))
    assert window((8, 8), 2, padding="same").padding == ((0, 1), (0, 1))
    assert window((), ()) == Window((), (), (), (), (), ())
    assert window((), 3, padding="same") == Window((), (), (), (), (), ())


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (((7,), 3), {"stride": 3, "strict": True}, ShapeError, "3 does not divide 4 .* padding 1 or stride 2 or 4"),
        (((3, 3), 5), {}, ShapeError, "kernel of 5 .* padded input of 3 on spatial axis 0 .* padding of 1"),
        (((4, 4), 3), {"dilation": (1, 3)}, ShapeError, r"dilated: 7.* axis 1 .* padding of 2"),
        (((8, 8), (3, 3, 3)), {}, ShapeError, "3 entries for 2 spatial axes"),
        (((8, 8), 3), {"stride": (1,)}, ShapeError, "stride .* 1 entries for 2"),
        (((8, 8), 3), {"padding": (1, 2, 3)}, ShapeError, "3 entries for 2"),
        (((8,), 3), {"padding": (1, 2)}, ShapeError, "2 entries for 1"),
        (((8,), 3), {"padding": ((1, 2, 3),)}, ShapeError, "before, after"),
        (((8, 8), 3), {"padding": "full"}, ConfigurationError, '"valid", "same"'),
        (((8, 8), 3), {"padding": -1}, ConfigurationError, "padding is -1; give an integer of 0 or more"),
        (((8, 8), 3), {"padding": 0.5}, ConfigurationError, "float"),
        (((8, 8), 3), {"padding": ("1", 1)}, ConfigurationError, "padding is '1'"),
        (((8, 8), 2.0), {}, ConfigurationError, "kernel is 2.0 of type float"),
        (((8, 8), True), {}, ConfigurationError, "a boolean"),
        (((8, 8), np.True_), {}, ConfigurationError, "a boolean"),
        (((8, 8), 0), {}, ConfigurationError, "kernel is 0; give a positive"),
        (((8, 8), 3), {"stride": 0}, ConfigurationError, "stride is 0"),
        (((8, 8), 3), {"dilation": -2}, ConfigurationError, "dilation is -2"),
        (((8, 8), None), {}, ConfigurationError, "kernel is None"),
        (((0, 8), 1), {}, ConfigurationError, "input is 0"),
        ((8, 3), {}, ConfigurationError, "one size per spatial axis"),
        (((8, 8), 3), {"strict": True, "ceil": True}, ConfigurationError, "exclude"),
    ],
)
def test_refusals_say_what_arrived_and_what_would_do(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        window(*arguments, **options)
    assert isinstance(caught.value, GpucnnError) and "\n" not in str(caught.value)


def test_pool_windows():
    assert pool_window((6, 7), 2).output == (3, 3)
    assert pool_window((6, 7), 2).stride == (2, 2)
    assert pool_window((6, 6), 3, stride=1, padding=1).output == (6, 6)
    assert pool_window((5, 5), 2, padding="same").output == (3, 3)
    with pytest.raises(ShapeError, match="more than half the window of 3.*at most 1"):
        pool_window((6, 6), 3, padding=2)
    with pytest.raises(ShapeError, match="larger than the padded input"):
        pool_window((2, 2), 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=4))
def test_receptive_field_is_what_a_value_depends_on(layers):
    field, size, windows = Field.pixel(1), 1, []
    for kernel, stride, dilation in reversed(layers):
        size = (size - 1) * stride + dilation * (kernel - 1) + 1  # how much input gives `size` outputs, back to front
    pixels = size
    for kernel, stride, dilation in layers:
        windows.append(window((pixels,), kernel, stride=stride, dilation=dilation))
        pixels = windows[-1].output[0]
        field = field.after(windows[-1])
    assert pixels == 1 and field.size == (size,)
    assert field.jump == (int(np.prod([stride for _, stride, _ in layers])),)


def test_counts():
    assert conv_parameters(3, 10, (5, 5)) == 760
    assert conv_parameters(4, 6, (3,), groups=2, bias=False) == 6 * 2 * 3
    assert conv_parameters(2, 2, (3, 3, 3)) == 2 * (2 * 27 + 1)
    assert dense_parameters(400, 120) == 48_120
    assert dense_parameters(9, 9, bias=False) == 81
    assert dense_multiply_adds(9, 9) == 81
    assert conv_multiply_adds(1, 6, window((32, 32), 5)) == 6 * 28 * 28 * 25
    assert conv_multiply_adds(4, 6, window((9,), 3), groups=2) == 6 * 7 * 2 * 3
