"""Group norm and layer norm: the contract in plain loops, float64, PyTorch, every backend's bits, mutants, training."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpucnn import errors
from gpucnn.backends import get_backend
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.backends.numpy.exact import NumpyExact
from gpucnn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv2d,
    Dense,
    Flatten,
    GroupNorm,
    LayerNorm,
    MaxPool2d,
    Residual,
    Sequential,
)
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.training import Trainer
from tests.backends import scalar
from tests.backends.guarded import KINDS, assert_bits, guarded, numbers
from tests.cuda.emulated import backend as emulated
from tests.cuda.emulated import differing, needs_emulation, with_garbage
from tests.float64 import functional
from tests.mutants import mutant, parameters
from tests.oracle import Expected, assert_within

HERE = Path(__file__).resolve().parent

EXACT = get_backend("numpy", "exact")
GUARDED = {threads: guarded()(threads) for threads in (1, 2)}
EPS = 1e-5
slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
BACKENDS = [("numpy", "exact"), ("numpy", "fast"), ("numba", "exact")]
on_every_backend = pytest.mark.parametrize(("backend", "math_"), BACKENDS, ids=["-".join(b) for b in BACKENDS])


def drawn(kind, shape, groups, seed):
    """Numbers of a kind; of "lines", each line is annihilating: what is left of its sum is its rounding,
    by its order.
    """
    if kind != "lines":
        return numbers(kind, *shape, seed=seed)
    lines = numbers("annihilating", math.prod(shape[1:]) // groups, shape[0] * groups, seed=seed)
    return np.ascontiguousarray(lines.T).reshape(shape)


def everything(b, shape, groups, kind, seed=0, spoil=lambda batch: batch) -> dict:
    """All results of the three operations, as host arrays."""
    x, dy = (spoil(b.pack(drawn(kind, shape, groups, seed + i))) for i in range(2))
    gamma, beta = (b.array(numbers("random", shape[1], seed=seed + i)) for i in (2, 3))
    dgamma, dbeta = (b.array(np.full(shape[1], np.nan, np.float32)) for _ in range(2))
    mean, var = b.group_norm_statistics(x, groups)
    y = b.group_norm(x, mean, var, gamma, beta, EPS)
    rectified = b.group_norm(x, mean, var, gamma, beta, EPS, relu=True)
    dx = b.group_norm_gradient(dy, x, mean, var, gamma, EPS, dgamma, dbeta)
    plain = b.group_norm(x, mean, var, None, None, EPS), b.group_norm_gradient(dy, x, mean, var, None, EPS, None, None)
    batches = {
        "mean": mean,
        "var": var,
        "y": y,
        "rectified": rectified,
        "dx": dx,
        "plain": plain[0],
        "dx plain": plain[1],
    }
    return {**{name: b.unpack(x) for name, x in batches.items()}, "dgamma": b.host(dgamma), "dbeta": b.host(dbeta)}


# ---- the contract once more, number by number ------------------------------------------------------------------------


def line_sum(values) -> float:
    """Bands of 64 values in order, then the tree over the bands: float64."""
    sums = []
    for start in range(0, len(values), 64):
        acc = 0.0
        for value in values[start : start + 64]:
            acc += value
        sums.append(acc)
    return scalar.tree(sums)


def plain_loops(x, dy, gamma, beta, groups, eps) -> dict:
    f32, fma = scalar.f32, scalar.fma
    images, channels = x.shape[:2]
    M, positions = x[0].size // groups, x[0, 0].size
    lines, gradients = x.reshape(images, groups, M), dy.reshape(images, groups, M)
    mean, var = np.zeros((2, images, groups), np.float32)
    y, dx, xhat = (np.zeros_like(lines) for _ in range(3))
    for n, g in itertools.product(range(images), range(groups)):
        values = [float(v) for v in lines[n, g]]
        mean64 = line_sum(values) / M
        mean[n, g] = f32(mean64)
        var[n, g] = f32(line_sum([(v - mean64) * (v - mean64) for v in values]) / M)
        inv = scalar.inverse(var[n, g], eps)
        own = [g * (channels // groups) + i // positions for i in range(M)]
        xhat[n, g] = [f32(f32(v - float(mean[n, g])) * inv) for v in values]
        y[n, g] = [fma(gamma[c], h, beta[c]) for c, h in zip(own, xhat[n, g], strict=True)]
        d = [f32(float(gamma[c]) * float(v)) for c, v in zip(own, gradients[n, g], strict=True)]
        a = f32(line_sum(d) / M)
        b = f32(line_sum([v * float(h) for v, h in zip(d, xhat[n, g], strict=True)]) / M)
        dx[n, g] = [f32(inv * fma(-h, b, f32(v - a))) for h, v in zip(xhat[n, g], d, strict=True)]
    xhat, products = xhat.reshape(x.shape), dy.astype(np.float64) * xhat.reshape(x.shape)
    sums = {
        "dgamma": [f32(scalar.sum64(products[:, c])) + 0.0 for c in range(channels)],
        "dbeta": [f32(scalar.sum64(dy[:, c].astype(np.float64))) + 0.0 for c in range(channels)],
    }
    sums = {name: np.array(values, np.float32) for name, values in sums.items()}
    return {"mean": mean, "var": var, "y": y.reshape(x.shape), "dx": dx.reshape(x.shape), **sums}


@pytest.mark.parametrize("kind", ["random", "annihilating", "cancelling", "lines"])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 2, 1, 1), 2), ((17, 4), 2), ((2, 2, 5, 7), 1), ((2, 3, 70), 3), ((3, 130), 1), ((2, 4, 2, 3, 2), 2)],
)
def test_numpy_and_numba_are_the_contract(shape, groups, kind):
    x, dy = (drawn(kind, shape, groups, i) for i in range(2))
    gamma, beta = (numbers("random", shape[1], seed=i) for i in (2, 3))
    expected = plain_loops(x, dy, gamma, beta, groups, EPS)
    for b in (EXACT, GUARDED[2]):
        got = everything(b, shape, groups, kind)
        for name, value in expected.items():
            assert_bits(got[name], value, name)
    GUARDED[2].verify()


def test_the_contracts_worked_case():
    x = np.array([1, 2, 4, 9], np.float32).reshape(1, 2, 2)
    gamma, beta = np.array([1, 3], np.float32), np.array([0, -1], np.float32)
    for backend in ("numpy", "numba"):
        y, mean, var = functional.group_norm(x, 1, gamma, beta, eps=2.0**-20, backend=backend, math="exact")
        assert (mean.item(), var.item()) == (4, 9.5)
        assert_bits(y.ravel(), np.array([-0.9733285, -0.64888567, -1, 3.8666425], np.float32))
    text = (HERE.parent.parent / "kernels" / "CONTRACT.md").read_text()
    assert "y = -0.9733285, -0.64888567, -1, 3.8666425" in text


# ---- other backends: the same bits -----------------------------------------------------------------------------------

IMAGES = st.sampled_from([1, 2, 16, 17, 31, 33])
SPATIAL = st.sampled_from([(), (1,), (65,), (1, 1), (5, 7), (9, 8), (2, 3, 4)])


@settings(max_examples=60, deadline=None, suppress_health_check=slow, derandomize=True)
@given(
    threads=st.sampled_from([1, 2]),
    images=IMAGES,
    groups=st.integers(1, 4),
    channels=st.integers(1, 3),
    spatial=SPATIAL,
    kind=st.sampled_from(sorted([*KINDS, "lines"])),
    seed=st.integers(0, 2**16),
)
def test_numba_gives_the_specified_bits(threads, images, groups, channels, spatial, kind, seed):
    shape = (images, groups * channels, *spatial)
    expected, got = (everything(b, shape, groups, kind, seed) for b in (EXACT, GUARDED[threads]))
    for name, value in expected.items():
        assert_bits(got[name], value, name)
    GUARDED[threads].verify()


# A line of more bands than a block of threads has warps: 8.
EMULATED = [((33, 6, 5, 4), 3), ((1, 1, 1, 1), 1), ((17, 2, 40, 41), 2), ((3, 1500), 1), ((31, 4, 3, 4, 5), 4)]


@needs_emulation
@pytest.mark.parametrize(("shape", "groups"), EMULATED)
@pytest.mark.parametrize(("order", "guard"), [("forward", "end"), ("reversed", "front")])
def test_the_cuda_kernels_give_the_specified_bits(shape, groups, order, guard):
    for kind in ("random", "annihilating", "lines"):
        want = everything(EXACT, shape, groups, kind)
        assert differing(want, everything(emulated(order, guard), shape, groups, kind, spoil=with_garbage)) == []


@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 5, 6), 2), ((2, 6), 3)])
def test_layer_norm_is_group_norm_of_the_flattened_image(shape, groups):
    x, gamma, beta = (
        numbers("random", *shape),
        numbers("random", *shape[1:], seed=1),
        numbers("random", *shape[1:], seed=2),
    )
    y, mean, var = functional.layer_norm(x, gamma, beta, backend="numba")
    flat = functional.group_norm(x.reshape(len(x), -1), 1, gamma.ravel(), beta.ravel(), backend="numba")
    assert_bits(y, flat[0].reshape(shape))
    # Its statistics are those of one group of all channels: a line is a line whatever its map looks like.
    _, *statistics = functional.group_norm(x, 1, np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32))
    whole = functional.group_norm(x, 1, *np.ones((2, shape[1]), np.float32), math="exact")[1:]
    assert_bits(mean, whole[0][:, 0])
    assert_bits(var, whole[1][:, 0])
    assert all(np.allclose(s[:, 0], w, rtol=1e-6, atol=1e-6) for s, w in zip(statistics, (mean, var), strict=True))


# ---- float64, and PyTorch --------------------------------------------------------------------------------------------


def norm64(x, groups, eps):
    """(mean, inv, xhat, spread) in float64, per line; the bounds are those of oracle.batch_norm."""
    lines = x.astype(np.float64).reshape(len(x), groups, -1)
    mean = lines.mean(2, keepdims=True)
    inv = 1 / np.sqrt(((lines - mean) ** 2).mean(2, keepdims=True) + eps)
    return lines, mean, inv, (lines - mean) * inv, inv * (np.abs(mean) + np.abs(lines - mean))


def expected64(x, dy, groups, gamma, beta, eps):
    lines, mean, inv, xhat, spread = norm64(x, groups, eps)
    size = np.abs(lines).mean(2)
    var = ((lines - mean) ** 2).mean(2)
    along = [v.astype(np.float64).reshape(1, -1, *(1 for _ in x.shape[2:])) for v in (gamma, beta)]
    g, b = (np.broadcast_to(v, x.shape).reshape(lines.shape) for v in along)
    y = Expected((g * xhat + b).reshape(x.shape), (np.abs(g) * spread + np.abs(b)).reshape(x.shape), 8 + 2)
    axes = (0, *range(2, x.ndim))
    dy64 = dy.astype(np.float64)
    dgamma = Expected(
        (dy64 * xhat.reshape(x.shape)).sum(axes), (np.abs(dy64) * spread.reshape(x.shape)).sum(axes), 8 + 2
    )
    # In fast math dy's sum is a float64 one too; rounded once in both.
    dbeta = Expected(dy64.sum(axes), np.abs(dy64).sum(axes), 2)
    d = dy64.reshape(lines.shape) * g
    means = d.mean(2, keepdims=True), (d * xhat).mean(2, keepdims=True)
    sizes = np.abs(d).mean(2, keepdims=True), (np.abs(d) * spread).mean(2, keepdims=True)
    dx = Expected(
        (inv * (d - means[0] - xhat * means[1])).reshape(x.shape),
        (inv * (np.abs(d) + sizes[0] + spread * sizes[1])).reshape(x.shape),
        8 + 10 + 2 + 2 + 7 + 1,  # as in oracle.batch_norm_backward, and the product gamma * dy
    )
    return (y, Expected(mean[..., 0], size, 1), Expected(var, var + (2.0**-26 * size) ** 2, 1)), (dx, dgamma, dbeta)


@on_every_backend
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    images=IMAGES,
    groups=st.integers(1, 3),
    channels=st.integers(1, 3),
    spatial=SPATIAL,
    offset=st.sampled_from([0.0, 3.0, -100.0]),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    seed=st.integers(0, 2**16),
)
@example(images=1, groups=1, channels=1, spatial=(1, 1), offset=0.0, eps=1e-5, seed=0)
def test_against_float64(backend, math_, images, groups, channels, spatial, offset, eps, seed):
    shape = (images, groups * channels, *spatial)
    x, dy = numbers("random", *shape, seed=seed) + np.float32(offset), numbers("random", *shape, seed=seed + 1)
    gamma, beta = (numbers("random", shape[1], seed=seed + i) for i in (2, 3))
    forward, backward = expected64(x, dy, groups, gamma, beta, eps)
    options = dict(eps=eps, backend=backend, math=math_)
    for result, expected in zip(functional.group_norm(x, groups, gamma, beta, **options), forward, strict=True):
        assert result.dtype == np.float32
        assert_within(result, expected)
    for result, expected in zip(functional.group_norm_backward(dy, x, groups, gamma, **options), backward, strict=True):
        assert result.dtype == np.float32
        assert_within(result, expected)


@pytest.mark.pytorch
@pytest.mark.parametrize(("shape", "groups"), [((3, 6), 2), ((2, 4, 9), 4), ((5, 6, 4, 5), 3), ((2, 2, 3, 4, 2), 1)])
def test_against_pytorch(shape, groups):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape))
    for kind, size in (("group", shape[1:2]), ("layer", shape[1:])):
        gamma, beta = rng.standard_normal((2, *size))
        tensors = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
        if kind == "group":
            theirs = torch.nn.functional.group_norm(tensors[0], groups, *tensors[1:], eps=1e-3)
            y, _, _ = functional.group_norm(x, groups, gamma, beta, eps=1e-3)
            ours = functional.group_norm_backward(dy, x, groups, gamma, eps=1e-3)
        else:
            theirs = torch.nn.functional.layer_norm(tensors[0], size, *tensors[1:], eps=1e-3)
            y, _, _ = functional.layer_norm(x, gamma, beta, eps=1e-3)
            ours = functional.layer_norm_backward(dy, x, gamma, eps=1e-3)
        theirs.backward(torch.tensor(dy))
        assert np.abs(y - theirs.detach().numpy()).max() < 1e-13
        for mine, tensor in zip(ours, tensors, strict=True):
            assert np.abs(mine - tensor.grad.numpy()).max() < 1e-12 * max(1, np.abs(mine).max())


# ---- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "parameters"),
    [
        (GroupNorm(2), (4, 3, 3), {"gamma": (4,), "beta": (4,)}),
        (GroupNorm(3, affine=False, activation="tanh"), (3, 5), {}),
        (LayerNorm(), (2, 3, 4), {"gamma": (2, 3, 4), "beta": (2, 3, 4)}),
        (LayerNorm(affine=False), (7,), {}),
        (BatchNorm1d(), (4,), {"gamma": (4,), "beta": (4,)}),
        (BatchNorm1d(activation="relu"), (4, 6), {"gamma": (4,), "beta": (4,)}),
        (BatchNorm2d(), (4, 3, 2), {"gamma": (4,), "beta": (4,)}),
        (BatchNorm3d(), (2, 3, 2, 2), {"gamma": (2,), "beta": (2,)}),
    ],
    ids=repr,
)
def test_layers(layer, shape, parameters):
    from gpucnn.summary import summary

    model = Model(layer, shape).initialize(0)
    assert {p.name: p.shape for p in model.parameters} == parameters
    assert model.output_shape == shape
    assert summary(model).rows[0].output == shape
    assert summary(model).total.parameters == sum(math.prod(s) for s in parameters.values())
    assert summary(model).total.multiply_adds == 0
    x = numbers("random", 3, *shape)
    y, backward = model.place(get_backend("numpy", "exact"))(x)
    assert backward(y).shape == y.shape == x.shape
    if isinstance(layer, (GroupNorm, LayerNorm)):  # the same in training, and for an image alone
        model.mode.training = True
        assert_bits(model(x)[0].numpy(), y.numpy())
        assert_bits(model(x[1:2])[0].numpy(), y.numpy()[1:2])


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_the_activation_is_the_one_after(activation):
    from gpucnn.layers import ReLU, Sigmoid, Tanh

    x = numbers("random", 5, 4, 3, 3)
    for make in (lambda **more: GroupNorm(2, **more), LayerNorm):
        kind = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}[activation]
        fused = Model(make(activation=activation), (4, 3, 3)).initialize(0).place(GUARDED[1])
        apart = Model(Sequential(make(), kind()), (4, 3, 3)).initialize(0).place(GUARDED[1])
        (y1, back1), (y2, back2) = fused(x), apart(x)
        assert_bits(GUARDED[1].unpack(y1), GUARDED[1].unpack(y2))
        assert_bits(GUARDED[1].unpack(back1(y1)), GUARDED[1].unpack(back2(y2)))
        assert_bits(fused.grads, apart.grads)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: GroupNorm(0), errors.ConfigurationError, "groups is 0"),
        (lambda: GroupNorm(True), errors.ConfigurationError, "groups is True"),
        (lambda: GroupNorm(2, eps=0), errors.ConfigurationError, "eps is 0"),
        (lambda: GroupNorm(2, eps=float("nan")), errors.ConfigurationError, "eps is nan"),
        (lambda: LayerNorm(eps="small"), errors.ConfigurationError, "eps is 'small'"),
        (lambda: LayerNorm(eps=float("inf")), errors.ConfigurationError, "eps is inf"),
        (lambda: LayerNorm(affine=1), errors.ConfigurationError, "affine is 1"),
        (lambda: LayerNorm(activation="best"), errors.ConfigurationError, "best"),
        (
            lambda: Model(Sequential(GroupNorm(3)), (4, 2, 2)),
            errors.ShapeError,
            r"layer 0 \(GroupNorm\): 3 groups.*1, 2, 4",
        ),
        (lambda: Model(BatchNorm1d(), (4, 2, 2)), errors.ShapeError, r"BatchNorm1d: needs values of shape \(C,\)"),
        (lambda: Model(BatchNorm2d(), (4,)), errors.ShapeError, r"\(C, H, W\), not \(4,\)"),
        (lambda: Model(BatchNorm3d(), (4, 2, 2)), errors.ShapeError, r"\(C, D, H, W\)"),
        (lambda: normed(3), errors.ShapeError, "3 groups do not divide 4 channels; use one of"),
        (lambda: normed(1.5), errors.ConfigurationError, "groups is 1.5"),
        (lambda: normed(True), errors.ConfigurationError, "groups is True"),
        (lambda: normed(2, 5), errors.ShapeError, r"gamma .*expected \(4,\)"),
        (lambda: functional.layer_norm(X, X[0, :, 0], X[0, :, 0]), errors.ShapeError, r"gamma .*expected \(4, 3\)"),
        (
            lambda: functional.layer_norm_backward(X[:1], X, X[0]),
            errors.ShapeError,
            r"dy has shape \(1, 4, 3\); expected \(2, 4, 3\)",
        ),
        (lambda: functional.group_norm_backward(X[:1], X, 2, X[0, :, 0]), errors.ShapeError, "dy has shape"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


X = np.ones((2, 4, 3), np.float32)


def normed(groups, channels=4):
    return functional.group_norm(X, groups, *np.ones((2, channels), np.float32))


# ---- training through both norms, recorded and replayed --------------------------------------------------------------


def trained(backend) -> str:
    """Three epochs of a small net on a short last batch: from the third step on a backend replays its recording."""
    layer = Sequential(
        Conv2d(4, 3, padding=1, bias=False),
        GroupNorm(2, activation="relu"),
        MaxPool2d(2),
        Residual(Sequential(Conv2d(4, 3, padding=1), LayerNorm())),
        GroupNorm(4, affine=False),
        Flatten(),
        Dense(6),
        LayerNorm(activation="tanh"),
        Dense(3),
    )
    rng = np.random.default_rng(0)
    images, labels = rng.random((40, 1, 6, 6), np.float32), rng.integers(0, 3, 40)
    model = Model(layer, (1, 6, 6))
    Trainer(model, backend=backend, seed=2, batch_size=17, optimizer=SGD(0.05), progress=False).fit(images, labels, 3)
    return model.weights_sha256()


@pytest.fixture(scope="module")
def specified():
    return trained(EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_training_on_numba_gives_the_specified_weights(specified, threads):
    assert trained(get_backend("numba", threads=threads)) == specified


@needs_emulation
def test_training_through_the_cuda_kernels_gives_the_specified_weights(specified):
    assert trained(emulated()) == specified


# ---- broken on purpose -----------------------------------------------------------------------------------------------

NUMPY, NUMBA = "gpucnn/backends/numpy/exact/group_norm.py", "kernels/numba/group_norm.py"
MUTANTS = {
    "numpy: no bands": ("gpucnn/arithmetic/sums.py", "tree(over_bands64(x, x.shape[2:]), -1)", "tree(x, -1)"),
    "numpy: squares in float32": (
        NUMPY,
        "image_sums64(deviation * deviation)",
        "image_sums64((deviation * deviation).astype(np.float32))",
    ),
    "numpy: sums of dy before gamma": (
        NUMPY,
        "line = lines(g.astype(np.float64), groups)",
        "line = lines(dy.data * np.float64(1), groups)",
    ),
    "numba: bands of 65": (NUMBA, "from gpucnn.kernels.contract import BAND", "BAND = 65"),
    "numba: the tree's sums swapped": (
        "kernels/numba/sums.py",
        "        value = add64(load64(slots[level], 0), value)\n        t >>= 1",
        "        value = add64(load64(slots[0], 0), value)\n        t >>= 1",
    ),
    "numba: one rounding too few": (
        NUMBA,
        "v = fma(scale, multiply(subtract(load(values, i), m), inv), shift)",
        "v = add32(multiply(scale, multiply(subtract(load(values, i), m), inv)), shift)",
    ),
    "numba: an unmasked lane": (NUMBA, "band, lanes_of(images, b), scratch", "band, LANES, scratch"),
    "numba: the neighbour's statistics": (NUMBA, "g = c // channels\n", "g = (c // channels) ^ 1\n"),
}


# As another here shows: sums in another order, statistics of other values.
AT_LENGTH = {"numba: the tree's sums swapped", "numba: the neighbour's statistics"}


@pytest.mark.slow
@pytest.mark.parametrize("name", parameters(MUTANTS, AT_LENGTH))
def test_a_mutant_is_noticed(name, tmp_path, monkeypatch):
    file, old, new = MUTANTS[name]
    backend = name.split(":")[0]

    def results(kind):
        return everything(guarded(kind)(2) if backend == "numba" else kind(), (19, 4, 5, 31), 2, "lines")

    want = everything(EXACT, (19, 4, 5, 31), 2, "lines")
    assert differing(want, results(NumbaBackend if backend == "numba" else NumpyExact)) == []
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    assert differing(want, results(mutant(tmp_path, backend, file, old, new)))


PLANTED = {
    "a band past the line's end": ("least((band + 1) * BAND, length)", "(band + 1) * BAND"),
    "a barrier is missing": ("[lane] = trees[s].total(taken);\n  __syncthreads();", "[lane] = trees[s].total(taken);"),
    "a write overtakes a read": ("  __syncthreads();  // an earlier call's sums have been read\n", ""),
    "shares of warps that are no powers of two": ("each *= 2", "each += 2"),
    "not fused": ("__fmaf_rn(gamma ? gamma[c] : 1.0f, xhat,", "__fadd_rn(__fmul_rn(gamma ? gamma[c] : 1.0f, xhat),"),
    "another channel's gamma": ("first + i / positions", "i / positions"),
}


@needs_emulation
@pytest.mark.parametrize("name", PLANTED)
def test_an_error_planted_in_the_cuda_kernels_is_noticed(name, tmp_path):
    from gpucnn.emulation.launcher import EmulatedLauncher

    old, new = PLANTED[name]
    shutil.copytree(SOURCES, tmp_path / "cuda")
    sources = [tmp_path / "cuda" / file for file in ("group_norm.cu", "lines.cuh")]
    source = next((source for source in sources if old in source.read_text()), None)
    assert source, f"neither group_norm.cu nor lines.cuh holds {old!r}: plant the error again"
    source.write_text(source.read_text().replace(old, new))
    shape = (19, 2, 37, 33)
    want = everything(EXACT, shape, 2, "lines")
    for order in ("forward", "reversed", 5):
        try:
            wrong = CudaBackend(EmulatedLauncher(order, guard="end", folder=tmp_path / "cuda"))
            if differing(want, everything(wrong, shape, 2, "lines", spoil=with_garbage)):
                return
        except errors.BackendError:
            return
    pytest.fail("nobody noticed")
