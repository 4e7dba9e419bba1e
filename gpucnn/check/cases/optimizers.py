"""What happens to gradients and weights: clipping, the optimizers' updates, and the watch for non-finite numbers."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.backends.step_end import StepEnd
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from _clipping(numbers)
    yield from _updates(numbers)


def _clipping(numbers: Numbers) -> Iterator[Case]:
    for size, simulated in [(1, NEVER), (70, ORDER), (1000, NEVER), (5000, RANDOM)]:

        def clip(b: Backend, size=size) -> Results:
            g, unit = numbers(size), float(np.abs(numbers(size)).max())
            results: Results = {}
            for label, limit in (("clipped", unit), ("as it was", 4 * size * unit)):
                by_norm, by_value = b.array(g), b.array(g)
                b.clip_norm(by_norm, limit or 1.0)
                b.clip_value(by_value, limit / 2 or 1.0)
                results |= {f"norm, {label}": b.host(by_norm), f"value, {label}": b.host(by_value)}
            return results

        yield Case("gradient clipping", f"{size} values", clip, (), numbers.kind, numbers.kind in simulated)


def _updates(numbers: Numbers) -> Iterator[Case]:
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

        def adamw(b: Backend, adam=adam) -> Results:
            return adam(b, decoupled=True)

        for name, run in (("SGD", sgd), ("Adam", adam), ("AdamW", adamw)):
            yield Case(name, f"{size} weights", run, (), numbers.kind, small=True)


def watch() -> Iterator[Case]:
    """Cases that do not depend on the kind of numbers."""

    def run(b: Backend) -> Results:
        statuses = []
        for loss, weight in [(1, 1), (np.inf, 1), (1, np.nan), (1, -np.inf)]:
            status = b.array(np.array([-1], np.int64))
            weights = np.ones(20, np.float32)
            weights[13] = weight
            step = b.array(np.array([7], np.uint32))
            b.watch(status, step, b.array(np.array([loss], np.float32)), b.array(weights))
            statuses.append(b.host(status)[0])
            # The same at the end of a step, and of an update that leaves the weights as they are.
            end = StepEnd(b.array(np.array([-1], np.int64)), step, b.array(np.array([loss], np.float32)))
            b.end_step(end, b.array(weights))
            statuses.append(b.host(end.status)[0])
            end, zeros = end._replace(status=b.array(np.array([-1], np.int64))), (b.zeros((20,)) for _ in range(2))
            settings = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False}
            b.optimize("sgd", b.array(weights), *zeros, b.zeros((1,), np.float32), end=end, **settings)
            statuses.append(b.host(end.status)[0])
        for loss in (1, np.nan):  # of a network without weights
            status = b.array(np.array([-1], np.int64))
            b.watch(status, step, b.array(np.array([loss], np.float32)), b.array(np.ones(0, np.float32)))
            statuses.append(b.host(status)[0])
        return {"status": np.array(statuses, np.int64)}

    yield Case("watch for non-finite numbers", "20 weights", run, small=True)
