"""Taps of maps along an axis, against NumPy's own padding and against positions in exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import pads_of, pool_window, window
from gpucnn.resampling import (
    AxisTaps,
    adaptive_average,
    adaptive_field,
    adaptive_maximum,
    adaptive_windows,
    as_arrays,
    check_padding_mode,
    check_upsampling,
    padding_taps,
    unpadded_window,
    upsampling_taps,
)

some = settings(deadline=None, max_examples=150, derandomize=True)
NUMPY = {"zeros": "constant", "constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def matrix(table):
    """The map as a dense matrix (O, I), row by row."""
    rows = np.zeros((table.output, table.input))
    for p, taps in enumerate(table.taps):
        for i, weight in taps:
            rows[p, i] += weight
    return rows


@some
@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from(sorted(NUMPY)))
def test_padding_shows_what_numpy_pads(i, before, after, mode):
    most = {"reflect": i - 1, "circular": i}.get(mode, 99)
    value = 2.5 if mode == "constant" else 0.0
    if max(before, after) > most:
        with pytest.raises(ShapeError, match=f'"{mode}" padding of {max(before, after)}.* there are {i}; .*replicate'):
            padding_taps((i,), ((before, after),), mode, value)
        return
    (table,) = padding_taps((i,), ((before, after),), mode, value)
    pixels = np.arange(10.0, 10.0 + i)
    options = {"constant_values": value} if NUMPY[mode] == "constant" else {}
    expected = np.pad(pixels, (before, after), NUMPY[mode], **options)
    if table is None:
        assert before == after == 0
        return
    shown = [pixels[taps[0][0]] if taps else table.fill for taps in table.taps]
    assert shown == expected.tolist()
    assert all(len(taps) <= 1 and all(weight == 1 for _, weight in taps) for taps in table.taps)


def test_an_error_names_the_axis():
    with pytest.raises(ShapeError, match="spatial axis 1"):
        padding_taps((9, 3), ((3, 3), (3, 3)), "reflect")


@some
@given(st.integers(1, 12), st.integers(1, 30))
def test_nearest_and_linear_places(i, o):
    """Each row's center of mass is the place of p, clipped to the pixels; rows sum to 1."""
    (nearest,) = upsampling_taps((i,), None, (o,), "nearest", False)
    if i == o:
        assert nearest is None and upsampling_taps((i,), None, o, "linear", True) == (None,)
        return
    assert list(nearest.taps) == [((math.floor(Fraction(p * i, o)), 1.0),) for p in range(o)]
    for aligned in (False, True):
        (linear,) = upsampling_taps((i,), None, (o,), "linear", aligned)
        for p, taps in enumerate(linear.taps):
            place = Fraction(p * (i - 1), max(o - 1, 1)) if aligned else (p + Fraction(1, 2)) * i / o - Fraction(1, 2)
            place = min(max(place, 0), i - 1)
            positions = [at for at, _ in taps]
            assert positions == sorted({math.floor(place), math.ceil(place)})
            expected = [float(1 - abs(place - at)) for at in positions]  # one rounding each
            assert [weight for _, weight in taps] == expected


@some
@given(st.integers(1, 20), st.integers(1, 25))
def test_adaptive_windows_cover_all_pixels(i, o):
    windows = adaptive_windows(i, o)
    assert windows == [(math.floor(Fraction(p * i, o)), math.ceil(Fraction((p + 1) * i, o))) for p in range(o)]
    assert {at for first, stop in windows for at in range(first, stop)} == set(range(i))
    (table,), plain = adaptive_average((i,), (o,))
    if i % o == 0:
        assert table is None and plain == pool_window((i,), i // o)
    else:
        means = np.array([np.arange(i)[first:stop].mean() for first, stop in windows])
        assert plain is None and np.allclose(matrix(table) @ np.arange(i), means)
    (laid,), fit = adaptive_maximum((i,), (o,))
    assert (laid is None) == (i % o == 0) and fit.output == (o,) and fit.stride == fit.kernel
    if laid is not None:
        shown = [{taps[p][0] for p in range(1)} for taps in laid.taps]
        k = fit.kernel[0]
        for p, (first, stop) in enumerate(windows):
            assert set().union(*shown[p * k : (p + 1) * k]) == set(range(first, stop))
    assert adaptive_field((i,), (o,)) == ((max(b - a for a, b in windows),), (Fraction(i, o),))


@some
@given(st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_the_transposed_map_is_the_transposed_matrix_in_ascending_order(i, o, aligned):
    (table,) = upsampling_taps((i,), None, o, "linear", aligned)
    if table is None:
        return
    turned = table.transposed()
    assert np.array_equal(matrix(turned), matrix(table).T)
    assert all([p for p, _ in taps] == sorted(p for p, _ in taps) for taps in turned.taps)
    assert turned.transposed() == table and hash(turned.transposed()) == hash(table)


def test_arrays_round_once_and_cannot_be_changed():
    table = AxisTaps(3, (((0, 1 / 3), (2, 2 / 3)), (), ((1, 1.0),)), 0.1)
    first, position, weight, start = as_arrays(table)
    assert first.tolist() == [0, 2, 2, 3] and position.tolist() == [0, 2, 1]
    assert weight.tolist() == [np.float32(1 / 3), np.float32(2 / 3), 1] and weight.dtype == np.float32
    assert start.tolist() == [0, np.float32(0.1), 0]
    assert as_arrays(table, np.float64)[3][1] == 0.1
    with pytest.raises(ValueError, match="read-only"):
        weight[0] = 1
    assert table.reach == 3


def test_a_window_on_padded_images():
    fit = window((7, 8), (3, 2), stride=(2, 3), padding=((2, 0), (1, 3)), dilation=2)
    inner = unpadded_window(fit)
    assert inner == window((9, 12), (3, 2), stride=(2, 3), dilation=2) and inner.output == fit.output


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: check_padding_mode("mirror", 0), ConfigurationError, "'mirror'; use one of zeros, constant, reflect"),
        (lambda: check_padding_mode(None, 0), ConfigurationError, "the padding mode is None"),
        (lambda: check_padding_mode(["zeros"], 0), ConfigurationError, r"the padding mode is \[.zeros.\]"),
        (lambda: check_padding_mode("constant", float("nan")), ConfigurationError, "nan; give a finite number"),
        (lambda: check_padding_mode("constant", 1e39), ConfigurationError, "range of float32"),
        (lambda: check_padding_mode("constant", True), ConfigurationError, "True"),
        (lambda: check_padding_mode("constant", "1"), ConfigurationError, "'1'"),
        (lambda: check_padding_mode("constant", None), ConfigurationError, "None"),
        (lambda: check_padding_mode("reflect", 1), ConfigurationError, 'mode "constant"'),
        (lambda: check_upsampling(None, None, "nearest", False), ConfigurationError, "give one of them"),
        (lambda: check_upsampling(2, 8, "nearest", False), ConfigurationError, "give one of them"),
        (lambda: check_upsampling(2, None, "bilinear", False), ConfigurationError, "bilinear on two axes"),
        (lambda: check_upsampling(2, None, "nearest", True), ConfigurationError, "no corners"),
        (lambda: check_upsampling(2, None, "linear", 1), ConfigurationError, "True or False"),
        (lambda: upsampling_taps((3, 3), (2,), None, "nearest", False), ShapeError, "1 entries for 2"),
        (lambda: upsampling_taps((3, 3), 0, None, "nearest", False), ConfigurationError, "scale is 0"),
        (lambda: upsampling_taps((3, 3), 1.5, None, "nearest", False), ConfigurationError, "scale is 1.5"),
        (lambda: upsampling_taps((3, 3), None, -1, "nearest", False), ConfigurationError, "size is -1"),
        (lambda: pads_of("same", 2), ConfigurationError, "'same'; give an integer"),
        (lambda: pads_of((1,), 2), ShapeError, "1 entries for 2"),
        (lambda: pads_of(-1, 2), ConfigurationError, "padding is -1"),
        (lambda: pool_window((5,), 2, strict=True, ceil=True), ConfigurationError, "exclude each other"),
        (lambda: pool_window((5,), 2, strict=True), ShapeError, "does not divide"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_constant_of_zero_is_the_kernels_own_padding():
    assert check_padding_mode("constant", 0) == ("zeros", 0.0) == check_padding_mode("constant", -0.0)
    assert check_padding_mode("constant", 2) == ("constant", 2.0)


def test_ceil_mode_of_a_pooling():
    assert pool_window((7,), 2, ceil=True).output == (4,) and pool_window((7,), 2).output == (3,)
