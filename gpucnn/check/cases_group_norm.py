"""`check`'s cases of group norm and layer norm."""

from collections.abc import Callable, Iterator

import numpy as np

from gpucnn.backends.protocol import Backend

# (shape, groups): one value a group, a band that spans channels, many bands, odd batches, one to three axes; the last
# is a layer norm over its flattened images.
_SHAPES = [
    ((2, 1, 1, 1), 1),
    ((17, 6, 5, 4), 3),
    ((33, 4), 2),
    ((3, 4, 9, 8), 1),
    ((2, 2, 5, 7), 1),
    ((31, 3, 7), 3),
    ((1, 2, 200), 1),
    ((2, 4, 3, 4, 5), 2),
    ((18, 300), 1),
]


def group_norms(kind: str, numbers: Callable) -> Iterator[tuple[str, str, Callable[[Backend], dict[str, np.ndarray]]]]:
    """(operation, about, run) for each shape."""
    for shape, groups in _SHAPES:

        def run(b: Backend, shape=shape, groups=groups) -> dict[str, np.ndarray]:
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

        yield "group norm", f"{kind}, {shape}, {groups} groups", run
