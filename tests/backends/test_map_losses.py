"""Losses of label maps: the specification against scalar loops, numba and the emulated CUDA against the specification,
fast math against float64, planted errors. numba-cuda runs `check`'s cases in the simulator.
"""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn.backends import get_backend
from gpucnn.backends.numpy.exact import NumpyExact
from tests.backends import scalar_maps as scalar
from tests.backends.guarded import assert_bits, guarded, numbers
from tests.cuda.emulated import backend as emulated
from tests.cuda.emulated import needs_emulation, with_garbage
from tests.mutants import mutant

EXACT = NumpyExact()
SHAPES = [(1, 1, 1), (2, 3, 5, 7), (17, 2, 70), (18, 4, 9, 11), (3, 2, 2, 3, 5), (35, 5)]


@functools.cache
def numba(threads=2):
    return guarded()(threads)


def drawn(shape, seed=0):
    """(logits, labels with ignored ones, weights)."""
    n, classes, *spatial = shape
    rng = np.random.default_rng([seed, *shape])
    labels = rng.integers(-1, classes, (n, *spatial))
    return numbers("random", *shape) * np.float32(4), labels, (rng.random(classes) + 0.1).astype(np.float32)


def both(b, z, labels, weights, smoothing=0.1, smooth=0.5, poison=lambda batch: batch):
    """Results of both losses on a backend."""
    totals, sums = b.zeros((4,), np.float64), b.zeros((1,), np.float64)
    where = poison(b.pack((labels[:, None] + 1).astype(b.dtype)))
    logits = poison(b.pack(z.astype(b.dtype)))
    loss, dz = b.map_cross_entropy(logits, where, b.array(weights.astype(b.dtype)), smoothing, totals)
    p = b.softmax(logits)
    mean, dp = b.dice(p, where, smooth, sums)
    device = {"loss": loss, "totals": totals, "dice": mean, "sum": sums}
    batches = {"dz": dz, "dp": dp, "p": p}
    return {name: b.host(value) for name, value in device.items()} | {k: batch.numpy() for k, batch in batches.items()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_the_specification_against_scalar_loops(shape, smoothing):
    z, labels, weights = drawn(shape)
    got = both(EXACT, z, labels, weights, smoothing)
    loss, dz, totals = scalar.map_cross_entropy(z, labels, weights, smoothing)
    assert_bits(got["loss"], np.array([loss], np.float32))
    assert_bits(got["dz"], dz)
    assert got["totals"].tolist() == list(totals)
    loss, dp, total = scalar.dice(got["p"], labels, 0.5)
    assert_bits(got["dice"], np.array([loss], np.float32))
    assert_bits(got["dp"], dp)
    assert got["sum"].tolist() == [total]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    n=st.sampled_from([1, 15, 16, 17, 33]),
    classes=st.integers(1, 5),
    spatial=st.lists(st.integers(1, 13), max_size=3),
    threads=st.sampled_from([1, 2]),
)
def test_numba_gives_the_specified_bits(n, classes, spatial, threads):
    data = drawn((n, classes, *spatial))
    want, got = both(EXACT, *data), both(numba(threads), *data)
    for name, values in want.items():
        assert_bits(got[name], values, name)
    numba(threads).verify()


@needs_emulation
@pytest.mark.parametrize("order", ["forward", "reversed", 12345])
def test_the_cuda_sources_give_the_specified_bits(order):
    b = emulated(order, "end")
    for shape in SHAPES:
        want, got = both(EXACT, *drawn(shape)), both(b, *drawn(shape), poison=with_garbage)
        for name, values in want.items():
            assert_bits(got[name], values, f"{name} of {shape}")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_without_any_label_loss_and_gradient_are_zero(backend):
    b = get_backend(backend, "exact")
    got = both(b, numbers("random", 3, 2, 4, 4), np.full((3, 4, 4), -1), np.ones(2, np.float32), 0.0)
    for name in ("loss", "dz", "totals", "dice", "sum", "dp"):
        assert_bits(got[name], np.zeros_like(got[name]), name)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_one_position_an_image_is_the_weighted_loss(backend):
    b = get_backend(backend, "exact")
    z, labels, weights = drawn((35, 5))
    labels = np.abs(labels)
    totals, got = b.zeros((3,), np.float64), both(b, z, labels, weights)
    loss, dz = b.weighted_cross_entropy(b.pack(z), b.pack_labels(labels), b.array(weights), 0.1, totals)
    assert_bits(b.host(loss), got["loss"])
    assert_bits(dz.numpy(), got["dz"])
    assert [*b.host(totals).tolist(), 35] == got["totals"].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_math_is_close_to_float64(shape):
    """Of each term a logarithm, an exponential and a few operations of values up to 40: a few units of 2**-24 of it."""
    data = drawn(shape)
    double = both(get_backend("numpy", "fast", dtype=np.float64), *data)
    single, exact = both(get_backend("numpy", "fast"), *data), both(EXACT, *data)
    # A probability is off by the exponential's and the quotient's rounding and 40 * 2**-24 of its argument's.
    bound = {"loss": 64 * 40, "dz": 64, "dice": 64, "dp": 64, "p": 64, "sum": 64 * shape[0]}
    bound["totals"] = 64 * 40 * data[1].size
    for name, values in double.items():
        for found in (single, exact):
            assert np.abs(found[name] - values).max() <= bound[name] * 2.0**-24 * max(1, np.abs(values).max()), name


NUMBA, NUMPY = "kernels/numba/map_loss.py", "gpucnn/backends/numpy/exact/map_loss.py"
CHANGES = {
    "smoothing not fused": (NUMBA, "fma(splat(keep), w, q), q)", "add(multiply(splat(keep), w), q), q)"),
    "ignored positions in the mean": (NUMBA, "where_greater(label, splat(HALF), each, zero)", "each"),
    "lines in bands of 128": (NUMBA, "range(0, size, BAND * LANES)", "range(0, size, 2 * BAND * LANES)"),
    "no smooth term above": (NUMBA, "add64(twice, splat64(smooth))", "twice"),
    "ignored positions": (NUMPY, "np.where(labeled, losses, ZERO)[:, None])", "losses[:, None])"),
    "another slope": (NUMPY, "(ratio - 2) / below", "(ratio - 1) / below"),
    "weights of the ignored": (NUMPY, "np.where(labeled, weights[target], ZERO)", "weights[target]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_planted_errors_are_found(name, tmp_path):
    file, old, new = CHANGES[name]
    kind = mutant(tmp_path, "numba" if file == NUMBA else "numpy", file, old, new)
    b = guarded(kind)(2) if file == NUMBA else kind()
    differing = 0
    for shape in ((35, 3, 9, 11), (18, 4, 150)):
        want, got = both(EXACT, *drawn(shape)), both(b, *drawn(shape))
        differing += sum(values.tobytes() != got[result].tobytes() for result, values in want.items())
    assert differing
