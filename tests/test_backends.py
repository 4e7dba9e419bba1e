"""Choosing a backend: what is refused, and that the error says what to use instead."""

import numpy as np
import pytest

import gpucnn.backends
from gpucnn.backends import Backend, backends, get_backend
from gpucnn.backends.processors import default_threads
from gpucnn.errors import BackendError, ConfigurationError, DataError, DTypeError, ShapeError


@pytest.fixture
def without_numba(monkeypatch):
    """As on a machine where only NumPy can be imported."""

    def why_not(name, math):
        return None if name == "numpy" else f"ImportError: no {name} here"

    monkeypatch.setattr(gpucnn.backends, "_why_not", why_not)


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(
        BackendError, match=r"there is no backend 'cuba'; there are: .*numba \(usable\), .*numpy \(usable\)"
    ):
        get_backend("cuba")


def test_a_wrong_name_tells_why_others_cannot_be_used(without_numba):
    with pytest.raises(BackendError, match=r"numba \(ImportError: no numba here\), .*numpy \(usable\)"):
        get_backend("cuba")


def test_a_backend_that_cannot_be_used(without_numba):
    with pytest.raises(BackendError, match=r"'numba' is not usable here: ImportError: no numba here.*numpy \(usable\)"):
        get_backend("numba")
    assert get_backend().name == "numpy", "the fastest that is usable"
    numba, numpy = (next(row for row in backends() if row["name"] == name) for name in ("numba", "numpy"))
    assert (numba["usable"], numba["reason"], numba["device"]) == (False, "ImportError: no numba here", None)
    assert numpy["usable"] and numpy["reason"] is None


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("flushes subnormals"), OSError("no library")])
def test_why_a_backend_cannot_be_used_is_its_own_error(monkeypatch, error):
    def broken(module):
        raise error

    gpucnn.backends._why_not.cache_clear()
    monkeypatch.setattr(gpucnn.backends.importlib, "import_module", broken)
    assert gpucnn.backends._why_not("numba", "exact") == f"{type(error).__name__}: {error}"
    gpucnn.backends._why_not.cache_clear()


def test_math_that_a_backend_does_not_have():
    with pytest.raises(BackendError, match="'numba' has no math 'fast'; it has: exact"):
        get_backend("numba", "fast")
    with pytest.raises(BackendError, match="'numpy' has no math 'quick'; it has: exact, fast"):
        get_backend("numpy", "quick")


def test_defaults():
    fastest = next(row for row in backends() if row["usable"])
    assert (get_backend().name, get_backend().math) == (fastest["name"], fastest["default"])
    assert (get_backend("numba").name, get_backend("numba").math) == ("numba", "exact")
    assert (get_backend("numpy").name, get_backend("numpy").math) == ("numpy", "exact")
    assert get_backend("numpy", "exact").math == "exact"
    assert "fast" in gpucnn.backends.maths(get_backend(math="fast").name), "the fastest that has it"
    assert all(row["default"] == "exact" for row in backends())
    assert get_backend("numba", threads=default_threads("numba")) is get_backend("numba")
    assert get_backend("numba") is get_backend("numba", graph=True)
    assert get_backend("numba", threads=1) is get_backend("numba", "exact", threads=1)


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_threads_that_are_none(threads):
    with pytest.raises(ConfigurationError, match=f"threads is {threads!r}.*; give a positive integer"):
        get_backend("numba", threads=threads)


def test_more_threads_than_numba_was_started_with():
    with pytest.raises(BackendError, match="threads is 100000.*NUMBA_NUM_THREADS"):
        get_backend("numba", threads=100_000)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_reported(threads):
    backend = get_backend("numba", threads=threads)
    assert backend.threads == threads
    assert backend.device.startswith("CPU ") and backend.device.endswith(f"{threads} thread" + "s" * (threads > 1))


@pytest.mark.parametrize(
    ("name", "math", "dtype"),
    [
        ("numba", "exact", np.float64),
        ("numpy", "exact", np.float64),
        ("numpy", "fast", np.float16),
        ("numpy", "fast", int),
    ],
)
def test_types_that_a_backend_does_not_compute_in(name, math, dtype):
    with pytest.raises(BackendError, match=f"{name!r} with math {math!r} computes in float32, not {np.dtype(dtype)}"):
        get_backend(name, math, dtype=dtype)


def test_float64_is_for_numpys_fast_math():
    assert get_backend("numpy", "fast", dtype=np.float64).dtype == np.float64
    assert get_backend("numpy", "fast").dtype == np.float32


def test_the_list_of_backends():
    rows = backends()
    usable = [row["name"] for row in rows if row["usable"]]
    assert usable[-2:] == ["numba", "numpy"], "fastest first"
    for row in rows:
        assert set(row) == {"name", "usable", "reason", "math", "default", "device", "threads"}
        assert row["default"] == row["math"][0]
        if row["usable"]:
            assert row["reason"] is None and row["device"] and row["threads"] >= 0
        else:
            assert row["reason"] and row["device"] is None and row["threads"] is None


@pytest.mark.parametrize(("name", "math"), [("numba", "exact"), ("numpy", "fast"), ("numpy", "exact")])
def test_what_every_backend_tells_of_itself(name, math):
    backend = get_backend(name, math)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.math, backend.xp) == (name, math, np)
    assert backend.lanes in (1, 16) and backend.dtype == np.float32 and backend.threads >= 1 and backend.device


def test_compiling_is_reported(monkeypatch):
    from gpucnn.kernels.numba import compiler

    from gpucnn.backends import compilation

    get_backend("numba")
    messages = []
    monkeypatch.setattr(compilation, "listeners", [messages.append])

    @compiler.called("made for this test")
    def double(x):
        x[0] = x[0] + x[0]

    monkeypatch.setenv("GPUCNN_CACHE", "/dev/null/nowhere")
    value = np.ones(1, np.float32)
    double(value)
    double(value)
    assert messages == ["made for this test"] and value[0] == 4


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_what_is_no_batch_is_not_packed(name):
    """Gradients and targets of a loop of one's own go in by `pack`, as one value an image, of a reward perhaps."""
    backend = get_backend(name)
    for given, error, words in (
        (
            np.ones(3, np.float32),
            ShapeError,
            r"\(3,\); a batch is \(N, C\), .* one value an image is images\[:, None\]",
        ),
        (np.ones((0, 3), np.float32), ShapeError, r"\(0, 3\); .* and no axis is empty$"),
        (np.ones((1,) * 6, np.float32), ShapeError, "1 to 3 spatial axes"),
        (
            [[1.0, 2.0]],
            DTypeError,
            r"float64; .* takes float32: convert them with numpy.asarray\(images, numpy.float32\)",
        ),
        (np.ones((2, 3)), DTypeError, r"convert them with images.astype\(numpy.float32\)"),
        (None, DTypeError, "images is None; give an array"),
        (np.ma.masked_less(np.ones((2, 3), np.float32), 2), DataError, "masked"),
    ):
        with pytest.raises(error, match=words):
            backend.pack(given)
    rows = [np.float32([1, 2]), np.float32([3, 4])]
    assert backend.pack(rows).numpy().tolist() == [[1, 2], [3, 4]]


def test_each_reason_is_one_line():
    for row in backends():
        reason = row["reason"] or ""
        assert reason == " ".join(reason.split()) and "( " not in reason and " )" not in reason, row["name"]
