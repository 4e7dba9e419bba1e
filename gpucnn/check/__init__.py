"""Proving on this machine that the device changes nothing but the speed.

Every operation, forward and backward, runs on each backend and on NumPy's exact math, which is the specification, and
so do ten training steps of two networks. Raw bits are compared; the networks' weights also against hashes that are kept
with the source, so that two machines agree as well as two backends.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpucnn.backends import backends as known_backends
from gpucnn.backends import get_backend, maths
from gpucnn.check.cases import cases
from gpucnn.check.networks import NETWORKS, train
from gpucnn.errors import BackendError

# Differences told in full for each operation and backend.
_SHOWN = 3
HASHES = Path(__file__).with_name("hashes.json")


def check(
    backends: list[str] | None = None, *, threads: int | None = None, progress: Callable[[str], None] | None = None
) -> dict:
    """Compare `backends` (None: all that are usable here and have exact math) with the specification, bit by bit.

    Returns a dict for machines: `passed`; `operations`, a list of (name, backend, values, differing); `training`, a list
    of (network, backend, weights_sha256, expected_sha256); `differences`, sentences naming operation, index and both
    values, the first few of each operation. `progress` is called with a line of text now and then.
    Raises BackendError for a name that is wrong or not usable.
    """
    say = progress or (lambda text: None)
    chosen = [get_backend(name, "exact", threads=threads) for name in _names(backends)]
    specification = get_backend("numpy", "exact")
    operations: dict[tuple[str, str], dict] = {}
    differences: list[str] = []
    for number, case in enumerate(everything := list(cases()), start=1):
        if number % 20 == 1:
            say(f"operations: {number} of {len(everything)} cases ({case.operation})")
        expected = case.run(specification)
        for backend in chosen:
            key = (case.operation, backend.name)
            row = operations.setdefault(key, {"name": key[0], "backend": key[1], "values": 0, "differing": 0})
            got = expected if backend is specification else case.run(backend)
            for label, want in expected.items():
                row["values"] += want.size
                wrong = _differing(want, got[label])
                if len(wrong) and row["differing"] < _SHOWN:
                    differences += [
                        f"{case.operation} ({case.about}), {label}{list(map(int, index))}: numpy gives "
                        f"{_exactly(want[tuple(index)])}, {backend.name} gives {_exactly(got[label][tuple(index)])}"
                        for index in wrong[:_SHOWN]
                    ]
                row["differing"] += len(wrong)
    training = []
    committed = json.loads(HASHES.read_text())
    for network in NETWORKS:
        for backend in chosen:
            say(f"training: ten steps of {network} on {backend.name}")
            digest = train(network, backend)
            expected = committed[network]
            row = {"network": network, "backend": backend.name, "weights_sha256": digest, "expected_sha256": expected}
            training.append(row)
            if digest != expected:
                differences.append(f"training {network} on {backend.name}: weights hash to {digest}, not to {expected}")
    return {
        "passed": not differences,
        "operations": list(operations.values()),
        "training": training,
        "differences": differences,
    }


def _names(names: list[str] | None) -> list[str]:
    if names is None:
        return [row["name"] for row in known_backends() if row["usable"] and "exact" in row["math"]]
    for name in names:
        get_backend(name, "exact" if "exact" in maths(name) else None)  # a wrong name lists the right ones
        if "exact" not in maths(name):
            raise BackendError(f"backend {name!r} has no exact math to check")
    return list(dict.fromkeys(names))


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)


def _differing(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Indices (n, axes) of the elements whose bits differ; all of them if the shape or type does."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return np.argwhere(np.ones(want.shape, bool))
    return np.argwhere(_bits(want) != _bits(got))


def _exactly(value) -> str:
    return f"{value!r} ({float(value).hex()})" if isinstance(value, np.floating) else repr(value)
