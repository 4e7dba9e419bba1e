"""What the tests run in Numba's CUDA simulator, in a separate process with NUMBA_ENABLE_CUDASIM=1.

The simulator starts a Python thread for each CUDA thread, so everything here is small: a few thousand threads a call.
"""

import json
import math
import sys

import numpy as np

# The simulator polls threads that wait at a barrier; let it hand over sooner than after Python's 5 ms.
sys.setswitchinterval(1e-4)

from gpucnn import geometry
from gpucnn.arithmetic import fma
from gpucnn.backends import get_backend
from gpucnn.check.cases import Case, Numbers, small_cases
from gpucnn.check.cases.case import RANDOM
from gpucnn.check.cases.conv import convolutions
from gpucnn.check.cases.pool import pools
from gpucnn.check.comparison import differing
from gpucnn.check.simulator import poisoned
from gpucnn.errors import ShapeError

BATCHES = (1, 31, 32, 33)


numbers = Numbers("random")


def random_cases():
    """Convolutions and pools of random shapes, strides, paddings, dilations and groups, batches around 32."""
    rng = np.random.default_rng(20)
    chosen_convolutions, chosen_pools = [], []
    while len(chosen_convolutions) < 8 or len(chosen_pools) < 4:
        number = len(chosen_convolutions) + len(chosen_pools)
        axes = (2, 2, 1, 3, 2, 0 if number < 8 else 1)[number % 6]
        groups = int(rng.integers(1, 3))
        channels, filters = (groups * int(rng.integers(1, 3)) for _ in range(2))
        size = tuple(int(n) for n in rng.integers(2, 6 if axes < 3 else 4, axes))
        kernel = tuple(int(n) for n in rng.integers(1, 4, axes))
        settings = {
            "stride": tuple(int(n) for n in rng.integers(1, 4, axes)),
            "padding": tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (axes, 2))),
            "dilation": tuple(int(n) for n in rng.integers(1, 3, axes)),
        }
        batch = BATCHES[number % len(BATCHES)]
        try:
            window = geometry.window(size, kernel, **settings)
        except ShapeError:  # a kernel larger than its image
            continue
        positions, pixels = math.prod(window.output), math.prod(size)
        weights = filters * channels // groups * math.prod(kernel)
        if batch * (filters * positions * 2 + channels * pixels + weights) > 3000:
            continue
        if len(chosen_convolutions) < 8:
            chosen_convolutions.append(((batch, channels, size), filters, groups, kernel, settings, RANDOM))
        else:
            half = tuple((min(a, k // 2), min(b, k // 2)) for (a, b), k in zip(settings["padding"], kernel))
            settings = {"stride": settings["stride"], "padding": half}
            chosen_pools.append(((batch, 1, size), kernel, settings, RANDOM))
    yield from convolutions(numbers, chosen_convolutions)
    yield from pools(numbers, chosen_pools)


def band_cases():
    """Maps of several bands, in batches of several blocks: all levels of rule 3."""

    def sums(shape):
        def run(b):
            x, dy = b.pack(numbers(*shape)), b.pack(numbers(*shape, seed=1))
            arrays = [b.zeros((shape[1],)) for _ in range(3)]
            statistics = b.batch_norm_statistics(x)
            b.bias_gradient(dy, arrays[0])
            gamma = b.array(numbers(shape[1], seed=2))
            b.batch_norm_gradient(dy, x, *statistics[:2], gamma, 1e-5, *arrays[1:])
            results = {f"sum {i}": b.host(a) for i, a in enumerate([*statistics, *arrays])}
            return {**results, "mean of maps": b.global_avg_pool(x).numpy()}

        return run

    def weights(shape, window):
        def run(b):
            x, dy = b.pack(numbers(*shape)), b.pack(numbers(shape[0], 1, *window.output, seed=1))
            out = b.zeros((1, shape[1], *window.kernel))
            b.conv_weight_gradient(dy, x, window, 1, out)
            return {"dw": b.host(out)}

        return run

    for shape in [(2, 1, 130), (33, 1, 11, 7), (70, 2), (3, 1, 3, 5, 9)]:
        yield Case("sums", f"{shape}", sums(shape))
    for shape, window in [
        ((33, 1, 10, 9), geometry.window((10, 9), 2)),
        ((2, 1, 200), geometry.window((200,), 2)),
        ((49, 2, 2, 2), geometry.window((2, 2), 1)),
        ((70, 3), geometry.window((), ())),
    ]:
        yield Case("weight gradient", f"{shape}, kernel {window.kernel}", weights(shape, window))


def compare(chosen):
    """{operation: [number of cases, {case and result: differing values}]} of numba-cuda against numpy exact."""
    specification, backend = get_backend("numpy", "exact"), poisoned(get_backend("numba-cuda"))
    found = {}
    for case in chosen:
        row = found.setdefault(case.operation, [0, {}])
        want, got = case.run(specification), case.run(backend)
        row[0] += 1
        for label, values in want.items():
            if count := len(differing(values, got[label])):
                row[1][f"{case}: {label}"] = count
    return found


def random():
    return compare([*random_cases(), *band_cases()])


def planted():
    """A little of everything that has a mask, an order, a tree or a band: what a planted error must change."""

    def dense(b):
        x, w = b.pack(numbers(20, 9)), b.array(numbers(4, 9, seed=1))
        dw = b.zeros((4, 9))
        b.dense_weight_gradient(b.dense(x, w, None), x, dw)
        return {"y": b.dense(x, w, None).numpy(), "dw": b.host(dw)}

    def conv(b):
        dw, db = b.zeros((1, 1, 2)), b.zeros((1,))
        dy = b.pack(numbers(5, 1, 130, seed=1))
        b.conv_weight_gradient(dy, b.pack(numbers(5, 1, 131)), geometry.window((131,), 2), 1, dw)
        b.bias_gradient(dy, db)
        return {"dw": b.host(dw), "db": b.host(db)}

    def norm(b):
        x, dy, results = b.pack(numbers(5, 1, 2)), b.pack(numbers(5, 1, 2, seed=1)), b.zeros((3, 1))
        mean, var, _ = b.batch_norm_statistics(x)
        b.batch_norm_gradient(dy, x, mean, var, b.array(numbers(1)), 1e-5, results[0], results[1])
        return {"mean": b.host(mean), "var": b.host(var), "sums": b.host(results)}

    def group(b):
        x, dy, results = b.pack(numbers(5, 4, 3)), b.pack(numbers(5, 4, 3, seed=1)), b.zeros((2, 4))
        mean, var = b.group_norm_statistics(x, 2)
        gamma = b.array(numbers(4, seed=2))
        dx = b.group_norm_gradient(dy, x, mean, var, gamma, 1e-5, results[0], results[1])
        return {"dx": dx.numpy(), "sums": b.host(results)}

    return compare(Case(run.__name__, "", run) for run in (dense, conv, norm, group))


def channels():
    """Bias addition, with zeros of both signs too, and concatenation."""

    def zeros(b):
        x, bias = np.array([[0.0, -0.0, 1, -1]], np.float32), np.array([-0.0, -0.0, 1, 1], np.float32)
        return {"y": b.add_bias(b.pack(x), b.array(bias)).numpy()}

    operations = "bias addition", "concatenation"
    return compare([*(c for c in small_cases() if c.operation in operations), Case("zeros", "", zeros)])


def rounding():
    """How many of many fmas, some of them hard, differ from gpucnn.arithmetic's; and what mixed types raise."""
    from gpucnn.kernels.numba_cuda import arithmetic

    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, (3, 20000), dtype=np.uint32).view(np.float32)
    near = (rng.integers(2**23, 2**24, (3, 20000)) * 2.0 ** rng.integers(-40, 3, (3, 20000))).astype(np.float32)
    near[2] = -near[0] * near[1] * np.float32(1 + 2**-23)  # cancels
    tiny = np.ldexp(rng.standard_normal((3, 20000)), rng.integers(-149, -60, (3, 20000))).astype(np.float32)
    # Products halfway between two float32, and a little more or less: two roundings go wrong for every second one.
    odd = 1 + (2 * rng.integers(0, 2048, (2, 20000)) + 1) * 2.0**-12
    halfway = np.stack([*odd, rng.choice([-1, 1], 20000) * 2.0 ** rng.integers(-90, -54, 20000)]).astype(np.float32)
    values = np.concatenate([bits, near, tiny, halfway], 1)
    values = values[:, np.isfinite(values).all(0)]
    want = fma(*values)
    with np.errstate(all="ignore"):
        got = np.array([arithmetic.fma(*each) for each in values.T], np.float32)
        double = (values[0].astype(np.float64) * values[1] + values[2]).astype(np.float32)
    refused = 0
    for call in (
        lambda: arithmetic.add(np.float32(1), 1.0),
        lambda: arithmetic.multiply(np.float64(1), np.float32(1)),
        lambda: arithmetic.add64(np.float32(1), np.float64(1)),
        lambda: arithmetic.fma(np.float32(1), np.float32(1), 1),
    ):
        try:
            call()
        except TypeError:
            refused += 1
    differing = int((want.view(np.uint32) != got.view(np.uint32)).sum())
    return {
        "values": values.shape[1],
        "differing": differing,
        "refused": refused,
        "double rounding differs": int((want.view(np.uint32) != double.view(np.uint32)).sum()),
    }


def record():
    """[module, kernel, types of its arguments] of every launch of the small cases, without running any kernel."""
    from gpucnn.kernels.numba_cuda import arithmetic

    backend = get_backend("numba-cuda")
    launches = set()

    def launch(kernel, configuration, arguments):
        launches.add((kernel.__module__.rpartition(".")[2], kernel.__name__, tuple(map(_type_name, arguments))))

    backend._launch = launch
    launch(arithmetic.small_product, (1, 1), (np.zeros(3, np.float32),))
    for case in [*small_cases(), *band_cases()]:
        case.run(backend)
    return sorted(launches)


def _type_name(value) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{value.ndim}]"
    if isinstance(value, tuple):
        return f"{_type_name(value[0]) if value else 'int64'}x{len(value)}"
    return {bool: "bool", int: "int64"}.get(type(value)) or type(value).__name__


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
