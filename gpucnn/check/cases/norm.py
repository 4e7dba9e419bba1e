"""Batch norm, alone and fused with other operations, and group norm."""

from collections.abc import Iterator

import numpy as np

from gpucnn.backends.protocol import Backend
from gpucnn.check.cases.case import NEVER, ORDER, RANDOM, Case, Numbers, Results
from gpucnn.geometry import window

# Shape, the kinds of numbers in the simulator
_BATCH_NORMS = [
    ((2, 1, 1, 1), RANDOM),
    ((17, 3, 9, 8), NEVER),
    ((33, 5), ORDER),
    ((4, 2, 20, 7), NEVER),
    ((48, 2, 3, 3), RANDOM),
    ((3, 2, 130), NEVER),
    ((2, 1, 5, 6, 7), NEVER),
    ((40, 2, 25, 31), NEVER),  # more bands than a block of GPU threads takes alone
]
_BATCH_NORM_GRADIENTS = (
    "dx",
    "dx by means",
    "dx with relu",
    "dgamma with relu",
    "dx in inference",
    "dgamma",
    "dbeta",
    "dx with max pool",
    "dgamma with max pool",
    "dbeta with max pool",
    *(f"{name} of {label}" for label in ("sum", "sum with relu") for name in ("dx", "dgamma", "dbeta")),
)
# Shape, groups, the kinds of numbers in the simulator: one value per group, a band that spans channels, many bands, odd
# batches, one to three axes; the last is a layer norm over its flattened images.
_GROUP_NORMS = [
    ((2, 1, 1, 1), 1, RANDOM),
    ((17, 6, 5, 4), 3, NEVER),
    ((33, 4), 2, ORDER),
    ((3, 4, 9, 8), 1, NEVER),
    ((2, 2, 5, 7), 1, RANDOM),
    ((31, 3, 7), 3, NEVER),
    ((1, 2, 200), 1, NEVER),
    ((2, 4, 3, 4, 5), 2, NEVER),
    ((18, 300), 1, NEVER),
]


def cases(numbers: Numbers) -> Iterator[Case]:
    yield from _batch_norms(numbers)
    yield from _group_norms(numbers)


def _batch_norms(numbers: Numbers) -> Iterator[Case]:
    for shape, simulated in _BATCH_NORMS:

        def run(b: Backend, shape=shape) -> Results:
            x, dy = b.pack(numbers(*shape)), b.pack(numbers(*shape, seed=1))
            gamma, beta = b.array(numbers(shape[1], seed=2)), b.array(numbers(shape[1], seed=3))
            mean, var, unbiased = b.batch_norm_statistics(x)
            dgamma, dbeta, running = b.zeros((shape[1],)), b.zeros((shape[1],)), b.array(numbers(shape[1], seed=4))
            dx = b.batch_norm_gradient(dy, x, mean, var, gamma, 1e-5, dgamma, dbeta)
            b.update_running(running, mean, 0.1)
            moved = b.array(numbers(shape[1], seed=5)), b.array(numbers(shape[1], seed=6))
            again = b.batch_norm_moving_statistics(x, *moved, 0.25)
            trained = b.array(b.host(moved[0])), b.array(b.host(moved[1]))
            of_batch = b.batch_norm_training(x, trained[0], trained[1], 0.25, gamma, beta, 1e-5, dy, True)
            rectified = b.batch_norm(x, mean, var, gamma, beta, 1e-5, relu=True)
            outs = b.zeros((shape[1],)), b.zeros((shape[1],))
            through_relu = b.batch_norm_relu_gradient(dy, rectified, x, mean, var, gamma, beta, 1e-5, *outs)
            results_of_sum = _with_addition(b, numbers, x, dy, mean, var, gamma, beta)
            # What processes that share a batch compute of it.
            center, means = b.array(numbers(shape[1], seed=5).astype(np.float64)), [b.array(numbers(shape[1], seed=6))]
            means.append(b.array(numbers(shape[1], seed=7)))
            by_means = b.batch_norm_gradient_by_means(dy, x, mean, var, gamma, 1e-5, *means)
            arrays = {
                "sums": b.channel_sums(x),
                "squares": b.channel_sums(x, center=center),
                "products": b.channel_sums(x, dy),
                "mean": mean,
                "var": var,
                "unbiased": unbiased,
                "dgamma": dgamma,
                "dbeta": dbeta,
                "running": running,
                "moving mean": moved[0],
                "moving var": moved[1],
                "mean again": again[0],
                "var again": again[1],
                "moving mean in training": trained[0],
                "moving var in training": trained[1],
                "mean in training": of_batch[1],
                "var in training": of_batch[2],
            }
            results = {
                "y": b.batch_norm(x, mean, var, gamma, beta, 1e-5).numpy(),
                "with relu": rectified.numpy(),
                "dx": dx.numpy(),
                "dx by means": by_means.numpy(),
                "dx with relu": through_relu.numpy(),
                "dgamma with relu": b.host(outs[0]),
                "y in training": of_batch[0].numpy(),
                "dx in inference": b.batch_norm_input_gradient(dy, var, gamma, 1e-5).numpy(),
                **{name: b.host(array) for name, array in arrays.items()},
            }
            results |= results_of_sum
            if len(shape) == 4 and min(shape[2:]) > 1:
                results |= _with_max_pool(b, numbers, x, mean, var, gamma, beta)
            return results

        small = numbers.kind in simulated
        yield Case("batch norm", str(shape), run, _BATCH_NORM_GRADIENTS, numbers.kind, small)


def _with_addition(b: Backend, numbers: Numbers, x, dy, mean, var, gamma, beta) -> Results:
    """Batch norm, an addition, and ReLU or not."""
    other = b.pack(numbers(*x.shape, seed=7))
    results: Results = {}
    for label, relu in (("sum", False), ("sum with relu", True)):
        outs = b.zeros((x.channels,)), b.zeros((x.channels,))
        y = b.batch_norm_add(x, mean, var, gamma, beta, 1e-5, other, relu)
        dx, dother = b.batch_norm_add_gradient(dy, y if relu else None, x, mean, var, gamma, 1e-5, *outs)
        named = {"y": y.numpy(), "dx": dx.numpy(), "dother": dother.numpy()}
        named |= {"dgamma": b.host(outs[0]), "dbeta": b.host(outs[1])}
        results |= {f"{name} of {label}": value for name, value in named.items()}
    return results


def _with_max_pool(b: Backend, numbers: Numbers, x, mean, var, gamma, beta) -> Results:
    """Batch norm, ReLU and 2x2 max pooling in one operation, on maps (N, C, H, W)."""
    pool, outs = window(x.spatial, 2, stride=2), (b.zeros((x.channels,)), b.zeros((x.channels,)))
    y, kept = b.batch_norm_max_pool(x, mean, var, gamma, beta, 1e-5, pool)
    dy = b.pack(numbers(*y.shape, seed=5))
    dx = b.batch_norm_max_pool_gradient(dy, kept, x, mean, var, gamma, beta, 1e-5, pool, *outs)
    sums = {f"{name} with max pool": b.host(out) for name, out in zip(("dgamma", "dbeta"), outs, strict=True)}
    return {"with max pool": y.numpy(), "dx with max pool": dx.numpy(), **sums}


def _group_norms(numbers: Numbers) -> Iterator[Case]:
    for shape, groups, simulated in _GROUP_NORMS:

        def run(b: Backend, shape=shape, groups=groups) -> Results:
            x, dy = b.pack(numbers(*shape)), b.pack(numbers(*shape, seed=1))
            gamma, beta = b.array(numbers(shape[1], seed=2)), b.array(numbers(shape[1], seed=3))
            dgamma, dbeta = b.zeros((shape[1],)), b.zeros((shape[1],))
            mean, var = b.group_norm_statistics(x, groups)
            dx = b.group_norm_gradient(dy, x, mean, var, gamma, 1e-5, dgamma, dbeta)
            plain = b.group_norm_gradient(dy, x, mean, var, None, 1e-5, None, None)
            return {
                "mean": mean.numpy(),
                "var": var.numpy(),
                "y": b.group_norm(x, mean, var, gamma, beta, 1e-5).numpy(),
                "with relu": b.group_norm(x, mean, var, gamma, beta, 1e-5, relu=True).numpy(),
                "without gamma": b.group_norm(x, mean, var, None, None, 1e-5).numpy(),
                "dx": dx.numpy(),
                "dx without gamma": plain.numpy(),
                "dgamma": b.host(dgamma),
                "dbeta": b.host(dbeta),
            }

        gradients = ("dx", "dx without gamma", "dgamma", "dbeta")
        small = numbers.kind in simulated
        yield Case("group norm", f"{shape}, {groups} groups", run, gradients, numbers.kind, small)
