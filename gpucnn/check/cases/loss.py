"""Losses for classes and for values."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from _cross_entropies(numbers)
    yield from _weighted_cross_entropies(numbers)
    yield from _value_losses(numbers)
    yield from _map_losses(numbers)


def _cross_entropies(numbers: Numbers) -> Iterator[Case]:
    for n, classes in [(1, 1), (1, 10), (17, 10), (100, 3)]:

        def run(b: Backend, n=n, classes=classes) -> Results:
            z = b.pack(numbers(n, classes) * np.float32(10))
            totals = b.zeros((2,), np.float64)
            mean, dz = b.softmax_cross_entropy(z, b.pack_labels(np.arange(n) * 7 % classes), totals)
            arrays = {"loss": b.host(mean), "totals": b.host(totals)}
            return {"dlogits": dz.numpy(), "softmax": b.softmax(z).numpy(), **arrays}

        about = f"{n} images of {classes} classes"
        yield Case("softmax cross-entropy", about, run, ("dlogits",), numbers.kind, small=True)


def _weighted_cross_entropies(numbers: Numbers) -> Iterator[Case]:
    for n, classes, smoothing in [(1, 1, 0.1), (17, 10, 0.0), (33, 4, 0.25), (100, 3, 0.1)]:

        def run(b: Backend, n=n, classes=classes, smoothing=smoothing) -> Results:
            z, totals = b.pack(numbers(n, classes) * np.float32(10)), b.zeros((3,), np.float64)
            weights = b.array(np.abs(numbers(classes, seed=1)) + np.float32(0.125))
            labels = b.pack_labels(np.arange(n) * 7 % classes)
            mean, dz = b.weighted_cross_entropy(z, labels, weights, smoothing, totals)
            weight = b.host(b.label_weights(labels, weights, n))
            return {"loss": b.host(mean), "dlogits": dz.numpy(), "totals": b.host(totals), "weight": weight}

        about = f"{n} images of {classes} classes, smoothing {smoothing}"
        yield Case("weighted cross-entropy", about, run, ("dlogits",), numbers.kind, small=True)


def _value_losses(numbers: Numbers) -> Iterator[Case]:
    for shape, simulated in [((1, 1), NEVER), ((17, 3), ORDER), ((33, 1), NEVER), ((3, 2, 9, 8), RANDOM)]:
        for loss in ("mean_squared", "mean_absolute", "huber", "binary_cross_entropy"):

            def run(b: Backend, shape=shape, loss=loss) -> Results:
                x, t, totals = numbers(*shape) * np.float32(3), numbers(*shape, seed=1), b.zeros((1,), np.float64)
                t = np.clip(np.abs(t), 0, 1) if loss == "binary_cross_entropy" else t
                mean, dx = b.value_loss(loss, b.pack(x), b.pack(t), 0.75, totals)
                return {"loss": b.host(mean), "dx": dx.numpy(), "totals": b.host(totals)}

            small = numbers.kind in simulated
            yield Case(loss.replace("_", " "), str(shape), run, ("dx",), numbers.kind, small)


def _map_losses(numbers: Numbers) -> Iterator[Case]:
    """With ignored positions, and once nothing else."""
    shapes = [((2, 3, 3, 4), ORDER), ((17, 2, 70), RANDOM), ((33, 4, 9, 11), NEVER), ((3, 3, 2, 5, 4), NEVER)]
    for shape, simulated in shapes:
        small = numbers.kind in simulated

        def labels(b: Backend, shape=shape):
            n, classes, *spatial = shape
            return b.pack((np.arange(n * np.prod(spatial)) * 7 % (classes + 1)).reshape(n, 1, *spatial).astype("f4"))

        def cross_entropy(b: Backend, shape=shape, labels=labels) -> Results:
            z, totals = b.pack(numbers(*shape) * np.float32(4)), b.zeros((4,), np.float64)
            weights = b.array(np.abs(numbers(shape[1], seed=1)) + np.float32(0.125))
            mean, dz = b.map_cross_entropy(z, labels(b), weights, 0.1, totals)
            weight = b.host(b.label_map_weights(labels(b), weights))
            return {"loss": b.host(mean), "dlogits": dz.numpy(), "totals": b.host(totals), "weight": weight}

        def dice(b: Backend, shape=shape, labels=labels) -> Results:
            p, totals = b.softmax(b.pack(numbers(*shape) * np.float32(4))), b.zeros((1,), np.float64)
            mean, dp = b.dice(p, labels(b), 0.5, totals)
            return {"loss": b.host(mean), "dp": dp.numpy(), "totals": b.host(totals)}

        yield Case("map cross-entropy", str(shape), cross_entropy, ("dlogits",), numbers.kind, small)
        yield Case("dice", str(shape), dice, ("dp",), numbers.kind, small)

    def nothing(b: Backend) -> Results:
        z, totals = b.pack(numbers(2, 3, 4)), b.zeros((4,), np.float64)
        mean, dz = b.map_cross_entropy(z, b.pack(np.zeros((2, 1, 4), np.float32)), b.array(numbers(3)), 0.0, totals)
        return {"loss": b.host(mean), "dlogits": dz.numpy(), "totals": b.host(totals)}

    yield Case("map cross-entropy", "all ignored", nothing, ("dlogits",), numbers.kind)
