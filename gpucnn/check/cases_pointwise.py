"""What `check` computes of activations beside ReLU, of losses beside the plain one, and of gradient clipping."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases import Case, Results


def pointwise(kind: str, numbers) -> Iterator[Case]:
    """Cases of one kind of numbers."""
    yield from _activations(kind, numbers)
    yield from _losses(kind, numbers)
    yield from _clipping(kind, numbers)


def _activations(kind: str, numbers) -> Iterator[Case]:
    for shape in [(1, 1, 1, 1), (17, 3, 5, 4), (33, 7)]:
        for name, settings in (("leaky_relu", (0.01,)), ("gelu", ()), ("silu", ())):

            def activation(b: Backend, shape=shape, name=name, settings=settings) -> Results:
                # Large arguments too: both tails.
                x, dy = b.pack(numbers(*shape) * np.float32(8)), b.pack(numbers(*shape, seed=1))
                dx = b.elementwise_gradient(name, dy, x, *settings)
                return {"y": b.elementwise(name, x, *settings).numpy(), "dx": dx.numpy()}

            yield Case(name.replace("_", " "), f"{kind}, {shape}", activation)

        def softmax(b: Backend, shape=shape) -> Results:
            y, dy = b.softmax(b.pack(numbers(*shape) * np.float32(8))), b.pack(numbers(*shape, seed=1))
            return {"y": y.numpy(), "dx": b.softmax_gradient(dy, y).numpy()}

        yield Case("softmax", f"{kind}, {shape}", softmax)


def _losses(kind: str, numbers) -> Iterator[Case]:
    for n, classes, smoothing in [(1, 1, 0.1), (17, 10, 0.0), (33, 4, 0.25), (100, 3, 0.1)]:

        def weighted(b: Backend, n=n, classes=classes, smoothing=smoothing) -> Results:
            z, totals = b.pack(numbers(n, classes) * np.float32(10)), b.zeros((3,), np.float64)
            weights = b.array(np.abs(numbers(classes, seed=1)) + np.float32(0.125))
            labels = b.pack_labels(np.arange(n) * 7 % classes)
            mean, dz = b.weighted_cross_entropy(z, labels, weights, smoothing, totals)
            return {"loss": b.host(mean), "dlogits": dz.numpy(), "totals": b.host(totals)}

        about = f"{kind}, {n} images of {classes} classes, smoothing {smoothing}"
        yield Case("weighted cross-entropy", about, weighted)

    for shape in [(1, 1), (17, 3), (33, 1), (3, 2, 9, 8)]:
        for loss in ("mean_squared", "mean_absolute", "huber", "binary_cross_entropy"):

            def values(b: Backend, shape=shape, loss=loss) -> Results:
                x, t, totals = numbers(*shape) * np.float32(3), numbers(*shape, seed=1), b.zeros((1,), np.float64)
                t = np.clip(np.abs(t), 0, 1) if loss == "binary_cross_entropy" else t
                mean, dx = b.value_loss(loss, b.pack(x), b.pack(t), 0.75, totals)
                return {"loss": b.host(mean), "dx": dx.numpy(), "totals": b.host(totals)}

            yield Case(loss.replace("_", " "), f"{kind}, {shape}", values)


def _clipping(kind: str, numbers) -> Iterator[Case]:
    for size in (1, 70, 1000, 5000):

        def clip(b: Backend, size=size) -> Results:
            g, unit = numbers(size), float(np.abs(numbers(size)).max())
            results = {}
            for label, limit in (("clipped", unit), ("as it was", 4 * size * unit)):
                by_norm, by_value = b.array(g), b.array(g)
                b.clip_norm(by_norm, limit or 1.0)
                b.clip_value(by_value, limit / 2 or 1.0)
                results |= {f"norm, {label}": b.host(by_norm), f"value, {label}": b.host(by_value)}
            return results

        yield Case("gradient clipping", f"{kind}, {size} values", clip)
