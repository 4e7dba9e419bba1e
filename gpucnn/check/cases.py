"""What `check` computes on every backend: each operation on several shapes and kinds of numbers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.protocol import Backend
from gpucnn.check.cases_augmentation import augmentations
from gpucnn.check.cases_group_norm import group_norms
from gpucnn.geometry import window

Results = dict[str, np.ndarray]


@dataclass
class Case:
    """One call of an operation and its gradients. `run` gives the results by name; `about` tells shape and numbers."""

    operation: str
    about: str
    run: Callable[[Backend], Results]


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _subnormal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Sizes around 2**-75, whose products are subnormal, with subnormal numbers among them."""
    exponent = np.where(rng.random(shape) < 0.2, -135, rng.integers(-80, -70, shape))
    return np.ldexp(rng.standard_normal(shape), exponent).astype(np.float32)


def _cancelling(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Few magnitudes with random signs, so that sums cancel to their last bits, and zeros of both signs."""
    magnitudes = np.array([1, 1 + 2**-23, 1 - 2**-24, 1 + 2**-12, 2**-24, 3 * 2**-25, 0], np.float32)
    return rng.choice(magnitudes, shape) * rng.choice(np.array([-1, 1], np.float32), shape)


KINDS = {"random": _random, "subnormal": _subnormal, "cancelling": _cancelling}


def cases() -> Iterator[Case]:
    """All cases; their numbers are drawn from fixed seeds."""
    # These import Case from here.
    from gpucnn.check.cases_channels import channel_cases
    from gpucnn.check.cases_pointwise import pointwise
    from gpucnn.check.cases_resampling import resampling

    for kind, draw in KINDS.items():

        def numbers(*shape: int, seed: int = 0, draw=draw) -> np.ndarray:
            return draw(np.random.default_rng([seed, *shape]), shape)

        yield from _convolutions(kind, numbers)
        yield from _pooled_convolutions(kind, numbers)
        yield from _denses(kind, numbers)
        yield from _pools(kind, numbers)
        yield from resampling(kind, numbers)
        yield from _elementwise(kind, numbers)
        yield from _norms(kind, numbers)
        yield from (Case(*case) for case in group_norms(kind, numbers))
        yield from _losses(kind, numbers)
        yield from pointwise(kind, numbers)
        yield from _optimizers(kind, numbers)
        yield from channel_cases(kind, numbers)
    yield from _drawn()
    yield from augmentations()


# (N, C, input), O, groups, kernel and the window's settings
_CONVOLUTIONS = [
    ((1, 1, (1, 1)), 1, 1, 1, {}),
    ((3, 1, (5, 4)), 2, 1, (3, 2), {}),
    ((17, 3, (9, 8)), 5, 1, 3, {"padding": "same"}),
    ((15, 2, (7, 11)), 4, 1, (3, 5), {"stride": 2, "padding": (1, 2)}),
    ((16, 4, (8, 9)), 6, 2, 3, {"padding": ((2, 1), (0, 2)), "dilation": 2}),
    ((33, 3, (6, 6)), 3, 3, 3, {"padding": 1, "stride": (3, 2)}),
    ((2, 2, (10, 10)), 25, 1, 5, {"stride": 3, "dilation": 2, "padding": 4}),
    ((18, 2, (5, 5)), 7, 1, 5, {}),
    ((17, 4, (3, 3)), 4, 2, 5, {"padding": 1}),
    ((4, 3, (20, 33)), 4, 1, 3, {"padding": 1}),
    ((19, 2, (13,)), 3, 1, 4, {"stride": 2, "padding": 1}),
    ((3, 2, (200,)), 2, 1, 3, {"padding": "same"}),
    ((5, 2, (4, 5, 6)), 3, 1, (2, 3, 2), {"stride": (1, 2, 1), "padding": 1}),
]


def _convolutions(kind: str, numbers) -> Iterator[Case]:
    for (n, c, size), o, groups, kernel, settings in _CONVOLUTIONS:
        win = window(size, kernel, **settings)

        def run(b: Backend, n=n, c=c, size=size, o=o, groups=groups, win=win, relu=kind == "random") -> Results:
            x, dy = b.pack(numbers(n, c, *size)), b.pack(numbers(n, o, *win.output, seed=1))
            w, bias = b.array(numbers(o, c // groups, *win.kernel, seed=2)), b.array(numbers(o, seed=3))
            dw, db = b.zeros(w.shape), b.zeros(bias.shape)
            b.conv_weight_gradient(dy, x, win, groups, dw)
            b.bias_gradient(dy, db)
            return {
                "y": b.conv(x, w, bias, win, groups, relu).numpy(),
                "without bias": b.conv(x, w, None, win, groups).numpy(),
                "dx": b.conv_input_gradient(dy, w, win, groups).numpy(),
                "dw": b.host(dw),
                "db": b.host(db),
            }

        about = f"{kind}, {n} images of {c}x{'x'.join(map(str, size))}, {o} filters, kernel {win.kernel}, {settings}"
        yield Case("convolution", about, run)


def _pooled_convolutions(kind: str, numbers) -> Iterator[Case]:
    for n, c, size, o, groups, kernel, padding, pool_settings in [
        (17, 1, (12, 12), 6, 1, 5, 2, {}),
        (3, 3, (9, 8), 5, 1, 3, 1, {}),
        (16, 4, (7, 11), 4, 2, (3, 4), 0, {}),
        (2, 1, (8, 8), 2, 1, 3, 1, {"stride": 1}),
        (2, 2, (10,), 2, 1, 3, 1, {}),
    ]:
        win = window(size, kernel, padding=padding)
        pool = window(win.output, 2, **{"stride": 2, **pool_settings})

        def run(b: Backend, n=n, c=c, size=size, o=o, groups=groups, win=win, pool=pool) -> Results:
            w, bias = b.array(numbers(o, c // groups, *win.kernel, seed=2)), b.array(numbers(o, seed=3))
            y, where = b.conv_max_pool(b.pack(numbers(n, c, *size)), w, bias, win, groups, pool)
            db = b.zeros((o,))
            dz = b.conv_max_pool_gradient(b.pack(numbers(*y.shape, seed=1)), y, where, pool, db)
            return {"y": y.numpy(), "dz": dz.numpy(), "db": b.host(db)}

        yield Case(
            "convolution with max pool", f"{kind}, {n} images of {c}x{size}, {o} filters, kernel {win.kernel}", run
        )


def _denses(kind: str, numbers) -> Iterator[Case]:
    for n, inputs, outputs in [(1, 1, 1), (17, 37, 10), (33, 16, 25), (100, 5, 3)]:

        def run(b: Backend, n=n, inputs=inputs, outputs=outputs) -> Results:
            x, dy = b.pack(numbers(n, inputs)), b.pack(numbers(n, outputs, seed=1))
            w, bias = b.array(numbers(outputs, inputs, seed=2)), b.array(numbers(outputs, seed=3))
            dw, db = b.zeros(w.shape), b.zeros(bias.shape)
            b.dense_weight_gradient(dy, x, dw)
            b.bias_gradient(dy, db)
            y, dx = b.dense(x, w, bias), b.dense_input_gradient(dy, w)
            return {"y": y.numpy(), "dx": dx.numpy(), "dw": b.host(dw), "db": b.host(db)}

        yield Case("dense", f"{kind}, {n} images, {inputs} to {outputs}", run)


_POOLS = [
    ((17, 2, (8, 8)), 2, {"stride": 2}),
    ((3, 3, (7, 9)), 3, {"stride": 2, "padding": 1}),
    ((16, 1, (5, 6)), (2, 3), {"stride": 1}),
    ((2, 2, (7, 8)), 3, {"stride": 2, "ceil": True}),
    ((5, 2, (9,)), 3, {"stride": 2, "padding": 1}),
    ((2, 1, (150,)), 2, {"stride": 2}),
    ((3, 1, (4, 5, 4)), 2, {"stride": 2}),
    ((1, 1, (1, 1)), 1, {}),
    ((2, 1, (3, 4)), 3, {"stride": 3, "padding": ((1, 0), (0, 1))}),
]


def _pools(kind: str, numbers) -> Iterator[Case]:
    for (n, c, size), kernel, settings in _POOLS:
        win = window(size, kernel, **settings)
        about = f"{kind}, {n} images of {c}x{'x'.join(map(str, size))}, window {win.kernel}, {settings}"

        def largest(b: Backend, n=n, c=c, size=size, win=win) -> Results:
            y, where = b.max_pool(b.pack(numbers(n, c, *size)), win)
            return {"y": y.numpy(), "dx": b.max_pool_gradient(b.pack(numbers(*y.shape, seed=1)), where, win).numpy()}

        def average(b: Backend, n=n, c=c, size=size, win=win) -> Results:
            results = {}
            for label, counted in [("", True), (" (padding not counted)", False)]:
                y = b.avg_pool(b.pack(numbers(n, c, *size)), win, counted)
                results["y" + label] = y.numpy()
                results["dx" + label] = b.avg_pool_gradient(b.pack(numbers(*y.shape, seed=1)), win, counted).numpy()
            return results

        def whole(b: Backend, n=n, c=c, size=size) -> Results:
            y = b.global_avg_pool(b.pack(numbers(n, c, *size)))
            return {"y": y.numpy(), "dx": b.global_avg_pool_gradient(y, size).numpy()}

        yield Case("max pool", about, largest)
        yield Case("average pool", about, average)
        yield Case("global average pool", about, whole)


def _elementwise(kind: str, numbers) -> Iterator[Case]:
    for shape in [(1, 1, 1, 1), (17, 3, 5, 4), (33, 7)]:
        for name in ("relu", "tanh", "sigmoid"):

            def activation(b: Backend, shape=shape, name=name) -> Results:
                # Large arguments too: both ends of the polynomials.
                y = b.elementwise(name, b.pack(numbers(*shape) * np.float32(8)))
                dy = b.pack(numbers(*shape, seed=1))
                return {"y": y.numpy(), "dx": b.elementwise_gradient(name, dy, y).numpy()}

            yield Case(name, f"{kind}, {shape}", activation)

        def plus(b: Backend, shape=shape) -> Results:
            x, z = b.pack(numbers(*shape)), b.pack(numbers(*shape, seed=1))
            return {"y": b.add(x, z).numpy(), "with relu": b.add(x, z, relu=True).numpy()}

        def dropped(b: Backend, shape=shape) -> Results:
            step = b.array(np.array([5], np.uint32))
            return {"y": b.dropout(b.pack(numbers(*shape)), 0.3, 2**40 + 1, step, 3).numpy()}

        yield Case("addition", f"{kind}, {shape}", plus)
        yield Case("dropout", f"{kind}, {shape}", dropped)


def _norms(kind: str, numbers) -> Iterator[Case]:
    for shape in [(2, 1, 1, 1), (17, 3, 9, 8), (33, 5), (4, 2, 20, 7), (48, 2, 3, 3), (3, 2, 130), (2, 1, 5, 6, 7)]:

        def run(b: Backend, shape=shape) -> Results:
            x, dy = b.pack(numbers(*shape)), b.pack(numbers(*shape, seed=1))
            gamma, beta = b.array(numbers(shape[1], seed=2)), b.array(numbers(shape[1], seed=3))
            mean, var, unbiased = b.batch_norm_statistics(x)
            dgamma, dbeta, running = b.zeros((shape[1],)), b.zeros((shape[1],)), b.array(numbers(shape[1], seed=4))
            dx = b.batch_norm_gradient(dy, x, mean, var, gamma, 1e-5, dgamma, dbeta)
            b.update_running(running, mean, 0.1)
            rectified = b.batch_norm(x, mean, var, gamma, beta, 1e-5, relu=True)
            outs = b.zeros((shape[1],)), b.zeros((shape[1],))
            through_relu = b.batch_norm_relu_gradient(dy, rectified, x, mean, var, gamma, beta, 1e-5, *outs)
            arrays = {
                "mean": mean,
                "var": var,
                "unbiased": unbiased,
                "dgamma": dgamma,
                "dbeta": dbeta,
                "running": running,
            }
            return {
                "y": b.batch_norm(x, mean, var, gamma, beta, 1e-5).numpy(),
                "with relu": rectified.numpy(),
                "dx": dx.numpy(),
                "dx with relu": through_relu.numpy(),
                "dgamma with relu": b.host(outs[0]),
                "dx in inference": b.batch_norm_input_gradient(dy, var, gamma, 1e-5).numpy(),
                **{name: b.host(array) for name, array in arrays.items()},
                **(
                    _norm_pooled(b, numbers, x, mean, var, gamma, beta)
                    if len(shape) == 4 and min(shape[2:]) > 1
                    else {}
                ),
            }

        yield Case("batch norm", f"{kind}, {shape}", run)


def _norm_pooled(b: Backend, numbers, x, mean, var, gamma, beta) -> Results:
    """Batch norm, ReLU and 2x2 max pooling in one, of maps (N, C, H, W)."""
    pool, outs = window(x.spatial, 2, stride=2), (b.zeros((x.channels,)), b.zeros((x.channels,)))
    y, kept = b.batch_norm_max_pool(x, mean, var, gamma, beta, 1e-5, pool)
    dy = b.pack(numbers(*y.shape, seed=5))
    dx = b.batch_norm_max_pool_gradient(dy, kept, x, mean, var, gamma, beta, 1e-5, pool, *outs)
    sums = {f"{name} with max pool": b.host(out) for name, out in zip(("dgamma", "dbeta"), outs, strict=True)}
    return {"with max pool": y.numpy(), "dx with max pool": dx.numpy(), **sums}


def _losses(kind: str, numbers) -> Iterator[Case]:
    for n, classes in [(1, 1), (1, 10), (17, 10), (100, 3)]:

        def run(b: Backend, n=n, classes=classes) -> Results:
            z = b.pack(numbers(n, classes) * np.float32(10))
            totals = b.zeros((2,), np.float64)
            mean, dz = b.softmax_cross_entropy(z, b.pack_labels(np.arange(n) * 7 % classes), totals)
            arrays = {"loss": b.host(mean), "totals": b.host(totals)}
            return {"dlogits": dz.numpy(), "softmax": b.softmax(z).numpy(), **arrays}

        yield Case("softmax cross-entropy", f"{kind}, {n} images of {classes} classes", run)


def _optimizers(kind: str, numbers) -> Iterator[Case]:
    for size in (1, 1000):

        def sgd(b: Backend, size=size) -> Results:
            w, g, v = (b.array(numbers(size, seed=s)) for s in range(3))
            hyper = b.array(np.array([0.05], np.float32))
            b.sgd(w, g, v, hyper, momentum=0.9, weight_decay=1e-3, nesterov=False)
            b.sgd(w, g, v, hyper, momentum=0.9, weight_decay=1e-3, nesterov=True)
            return {"w": b.host(w), "velocity": b.host(v)}

        def adam(b: Backend, size=size, decoupled=False) -> Results:
            w, g, m, v = (b.array(numbers(size, seed=s)) for s in range(4))
            b.assign(v, np.abs(b.host(v)))
            hyper = b.array(np.array([0.01, 0.1, 0.001, 1e-4], np.float32))
            rates = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
            b.adam(w, g, m, v, hyper, **rates, decoupled=decoupled)
            return {"w": b.host(w), "m": b.host(m), "v": b.host(v)}

        yield Case("SGD", f"{kind}, {size} weights", sgd)
        yield Case("Adam", f"{kind}, {size} weights", adam)
        yield Case("AdamW", f"{kind}, {size} weights", lambda b, size=size, adam=adam: adam(b, size, True))


def _drawn() -> Iterator[Case]:
    """Loading with random shifts, and the watch: they depend on no kind of numbers."""

    def load(b: Backend) -> Results:
        rng = np.random.default_rng(0)
        images = b.array(_random(rng, (40, 2, 7, 6)))
        indices = b.array(rng.permutation(40))
        step = b.array(np.array([9], np.uint32))
        moved = b.load_images(images, indices, 33, Augmentation(shift=2), seed=2**63 + 5, step=step)
        return {"images": moved.numpy(), "as they are": b.load_images(images, indices, 17).numpy()}

    def watch(b: Backend) -> Results:
        found = []
        for loss, weight in [(1, 1), (np.inf, 1), (1, np.nan), (1, -np.inf)]:
            status = b.array(np.array([-1], np.int64))
            weights = np.ones(20, np.float32)
            weights[13] = weight
            step = b.array(np.array([7], np.uint32))
            b.watch(status, step, b.array(np.array([loss], np.float32)), b.array(weights))
            found.append(b.host(status)[0])
        return {"status": np.array(found, np.int64)}

    yield Case("loading with random shift", "40 images of 2x7x6", load)
    yield Case("watch for non-finite numbers", "20 weights", watch)
