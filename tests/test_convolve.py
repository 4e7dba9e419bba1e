"""True convolution: SciPy as oracle in one to five dimensions, the five algebraic properties,
and the order of its sums.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpucnn
from gpucnn import convolve
from gpucnn.errors import BackendError, ConfigurationError, DTypeError, ShapeError
from tests.backends.guarded import assert_bits, numbers
from tests.backends.scalar import fma
from tests.oracle import UNIT, Expected, assert_within

BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
on_every_backend = pytest.mark.parametrize(("backend", "math_"), BACKENDS, ids=["-".join(b) for b in BACKENDS])
some = settings(deadline=None, max_examples=20, derandomize=True)
SEED = st.integers(0, 2**32 - 1)
MODES = ["full", "same", "valid"]


@st.composite
def shapes(draw, count, axes=(1, 4)):
    """So many shapes of one number of axes, small enough for sums of whole numbers to stay exact in float32."""
    dimensions = draw(st.integers(*axes))
    most = (9, 5, 3, 2, 2)[dimensions - 1]
    return [tuple(draw(st.lists(st.integers(1, most), min_size=dimensions, max_size=dimensions))) for _ in range(count)]


def whole(seed, *shapes_):
    """Small whole numbers as float32: sums of products of three of them stay far below 2**24, so they are exact."""
    random = np.random.default_rng(seed)
    return [random.integers(-4, 5, shape).astype(np.float32) for shape in shapes_]


def normal(seed, *shapes_):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes_]


def exactly(*arrays):
    """(value, magnitude) in float64 of the convolution of all, by SciPy."""
    from scipy.signal import convolve as reference

    value, size = arrays[0].astype(np.float64), np.abs(arrays[0].astype(np.float64))
    for array in arrays[1:]:
        value = reference(value, array.astype(np.float64), method="direct")
        size = reference(size, np.abs(array.astype(np.float64)), method="direct")
    return value, size


# ---- values ----------------------------------------------------------------------------------------------------------


@on_every_backend
@pytest.mark.parametrize("dimensions", range(1, 6))
@pytest.mark.parametrize("mode", MODES)
def test_as_scipy_has_it(backend, math_, dimensions, mode):
    from scipy.signal import convolve as reference

    rng = np.random.default_rng(dimensions)
    for _ in range(6):
        a, b = rng.integers(1, (12, 7, 5, 4, 3)[dimensions - 1], (2, dimensions))
        if mode == "valid":
            a, b = np.maximum(a, b), np.minimum(a, b)
        x, kernel = normal(int(rng.integers(1000)), a, b)
        for one, other in ((x, kernel), (kernel, x)):
            operands = one.astype(np.float64), other.astype(np.float64)
            value = reference(*operands, mode, method="direct")
            size = reference(*map(np.abs, operands), mode, method="direct")
            result = convolve(one, other, mode, backend=backend, math=math_)
            assert result.dtype == np.float32
            assert_within(result, Expected(value, size, min(x.size, kernel.size)))


@pytest.mark.parametrize(("mode", "expected"), [("full", [0, 1, 2.5, 4, 1.5]), ("same", [1, 2.5, 4]), ("valid", [2.5])])
def test_numpys_own_example(mode, expected):
    x, kernel = np.array([1, 2, 3], np.float32), np.array([0, 1, 0.5], np.float32)
    assert convolve(x, kernel, mode, math="exact").tolist() == expected
    assert np.convolve(x, kernel, mode).tolist() == expected


def test_the_kernel_is_flipped():
    picture, corner = np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)
    picture[1, 1], corner[0, 2] = 1, 7
    assert convolve(picture, corner, "same").tolist() == corner.tolist()  # an impulse shows the kernel as it is
    correlation = gpucnn.functional.conv(picture[None, None], corner[None, None], padding=1)
    assert correlation[0, 0].tolist() == corner[::-1, ::-1].tolist()


def test_float64_on_numpy_fast():
    x, kernel = (np.random.default_rng(0).standard_normal(shape) for shape in ((4, 5), (2, 3)))
    y = convolve(x, kernel, math="fast")
    assert y.dtype == np.float64 and np.abs(y - exactly(x, kernel)[0]).max() < 1e-14


# ---- five properties, exact where sums are ---------------------------------------------------------------------------


@on_every_backend
@some
@given(sizes=shapes(2), seed=SEED)
def test_it_is_commutative(backend, math_, sizes, seed):
    a, b = whole(seed, *sizes)
    assert_bits(convolve(a, b, backend=backend, math=math_), convolve(b, a, backend=backend, math=math_))
    a, b = normal(seed, *sizes)
    value, size = exactly(a, b)
    for result in (convolve(a, b, backend=backend, math=math_), convolve(b, a, backend=backend, math=math_)):
        assert_within(result, Expected(value, size, min(a.size, b.size)))
    if math_ == "exact" and a.size != b.size:  # the smaller one slides in both
        assert_bits(convolve(a, b, backend=backend), convolve(b, a, backend=backend))


@on_every_backend
@some
@given(sizes=shapes(3), seed=SEED)
def test_it_is_associative(backend, math_, sizes, seed):
    def both(a, b, c):
        where = {"backend": backend, "math": math_}
        return convolve(convolve(a, b, **where), c, **where), convolve(a, convolve(b, c, **where), **where)

    assert_bits(*both(*whole(seed, *sizes)))
    operands = normal(seed, *sizes)
    value, size = exactly(*operands)
    # Two sums, one of the other's results: their relative errors add up, and no sum is longer than all terms.
    terms = 2 + sum(array.size for array in operands)
    for result in both(*operands):
        assert_within(result, Expected(value, size, terms))


@on_every_backend
@some
@given(sizes=shapes(2), seed=SEED)
def test_it_distributes_over_addition(backend, math_, sizes, seed):
    def both(a, b, c):
        where = {"backend": backend, "math": math_}
        return convolve(a, b + c, **where), convolve(a, b, **where) + convolve(a, c, **where)

    assert_bits(*both(*whole(seed, *sizes, sizes[1])))
    a, b, c = normal(seed, *sizes, sizes[1])
    value = exactly(a, b)[0] + exactly(a, c)[0]
    size = exactly(a, b)[1] + exactly(a, c)[1]
    for result in both(a, b, c):  # one rounding of the sum, and one sum of products
        assert_within(result, Expected(value, size, min(a.size, b.size) + 1))


@on_every_backend
@some
@given(sizes=shapes(2), scalar=st.integers(-9, 9), seed=SEED)
def test_it_lets_scalars_out(backend, math_, sizes, scalar, seed):
    def three(a, b, s):
        where = {"backend": backend, "math": math_}
        return convolve(s * a, b, **where), s * convolve(a, b, **where), convolve(a, s * b, **where)

    first, second, third = three(*whole(seed, *sizes), np.float32(scalar))
    assert_bits(first, second + np.float32(0))  # -0 times a number is the one thing that multiplication may change
    assert_bits(third, first)
    a, b = normal(seed, *sizes)
    value, size = exactly(a, b)
    s = np.float32(scalar + 0.3)
    for result in three(a, b, s):
        assert_within(result, Expected(float(s) * value, abs(float(s)) * size, min(a.size, b.size) + 1))


@on_every_backend
@some
@given(sizes=shapes(1), shift=st.integers(0, 2), seed=SEED)
def test_the_unit_impulse_is_its_identity(backend, math_, sizes, shift, seed):
    where = {"backend": backend, "math": math_}
    (a,) = normal(seed, *sizes)
    impulse = np.ones((1,) * a.ndim, np.float32)
    for mode in MODES:
        assert_bits(convolve(a, impulse, mode, **where), a)
        if mode != "same":
            assert_bits(convolve(impulse, a, mode, **where), a)
    centered = np.zeros((3,) * a.ndim, np.float32)
    centered[(1,) * a.ndim] = 1
    assert_bits(convolve(a, centered, "same", **where), a)
    late = np.zeros((shift + 1,) * a.ndim, np.float32)
    late[(shift,) * a.ndim] = 1  # moves everything
    moved = convolve(a, late, **where)
    assert_bits(moved[tuple(slice(shift, shift + size) for size in a.shape)], a)
    assert np.count_nonzero(moved) == np.count_nonzero(a)


# ---- the order of the sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("kind", ["random", "subnormal", "cancelling"])
@pytest.mark.parametrize(
    ("x_shape", "kernel_shape"),
    [
        ((7,), (3,)),
        ((2, 3), (4, 3)),
        ((3, 2, 3), (2, 2, 2)),
        ((2, 3, 2, 2), (2, 2, 1, 2)),
        ((2, 1, 2, 2, 2), (1, 2, 2, 1, 2)),
    ],
)
def test_each_value_is_one_chain_backwards_over_the_smaller_array(backend, kind, x_shape, kernel_shape):
    x, kernel = numbers(kind, *x_shape), numbers(kind, *kernel_shape, seed=1)
    result = convolve(x, kernel, backend=backend, math="exact")
    if kernel.size > x.size:
        x, kernel = kernel, x
    for p in np.ndindex(result.shape):
        acc = 0.0
        for k in reversed(list(np.ndindex(kernel.shape))):
            at = tuple(a - b for a, b in zip(p, k))
            if all(0 <= i < size for i, size in zip(at, x.shape)):
                acc = fma(x[at], kernel[k], acc)
        assert_bits(result[p], np.float32(acc + 0.0), f"{p}")


def test_same_and_valid_are_parts_of_full_to_the_bit():
    x, kernel = normal(4, (9, 8, 4, 3), (4, 3, 2, 3))
    full = convolve(x, kernel, math="exact")
    middle = tuple(slice((k - 1) // 2, (k - 1) // 2 + i) for i, k in zip(x.shape, kernel.shape))
    inner = tuple(slice(k - 1, i) for i, k in zip(x.shape, kernel.shape))
    assert_bits(convolve(x, kernel, "same", math="exact"), np.ascontiguousarray(full[middle]))
    assert_bits(convolve(x, kernel, "valid", math="exact"), np.ascontiguousarray(full[inner]))


def test_the_bound_is_not_empty():
    """The oracle itself finds a kernel that was not flipped, and a product left out."""
    x, kernel = normal(5, (9,), (4,))
    value, size = exactly(x, kernel)
    for wrong in (exactly(x, kernel[::-1])[0], value - size * len(kernel) * 2 * UNIT):
        with pytest.raises(AssertionError):
            assert_within(wrong, Expected(value, size, len(kernel)))


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "mode", "error", "words"),
    [
        (
            (),
            (),
            "full",
            ShapeError,
            r"x has shape \(\) and kernel \(\); expected two arrays with the same number of axes",
        ),
        ((3,), (), "full", ShapeError, "same number of axes"),
        ((3, 3), (3,), "full", ShapeError, "same number of axes"),
        ((0,), (3,), "full", ShapeError, "every axis needs at least one entry"),
        ((3, 3), (3, 0), "same", ShapeError, r"kernel has shape \(3, 0\)"),
        ((3, 5), (4, 4), "valid", ShapeError, "neither fits within the other"),
        ((3,), (3,), "reflect", ConfigurationError, "mode is .reflect.; use one of full, same, valid"),
        ((3,), (3,), None, ConfigurationError, "mode is None"),
    ],
)
def test_what_does_not_fit_is_refused(x_shape, kernel_shape, mode, error, words):
    with pytest.raises(error, match=words):
        convolve(np.zeros(x_shape, np.float32), np.zeros(kernel_shape, np.float32), mode)


def test_other_types_are_refused():
    x = np.ones(3, np.float32)
    for other in (np.ones(3, np.int64), np.ones(3, np.complex64), [1, 2, 3], np.ones(3)):
        with pytest.raises(DTypeError):
            convolve(x, other)
    with pytest.raises(DTypeError, match="takes float32"):
        convolve(np.ones(3), np.ones(3), backend="numba")
    with pytest.raises(BackendError):
        convolve(x, x, backend="abacus")


def test_it_is_where_users_look():
    assert gpucnn.convolve is gpucnn.functional.convolve
    assert "convolve" in dir(gpucnn) and "convolve" in gpucnn.functional.__all__
    assert math.isclose(float(convolve(np.float32([2]), np.float32([3]))[0]), 6)
    assert list(itertools.chain(convolve(np.float32([1, 1]), np.float32([1, 1])))) == [1, 2, 1]
