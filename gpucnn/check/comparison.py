"""Comparing the raw bits of two backends' results, and the report."""

import numpy as np

from gpucnn.check.cases import Case, Results

# Differences described for each operation and backend.
_SHOWN = 3


class Comparison:
    """Collects the comparisons; `report` returns the result of `check`."""

    def __init__(self):
        self._operations: dict[tuple[str, str], dict] = {}
        self._training: list[dict] = []
        self._differences: list[str] = []

    def results(self, case: Case, backend: str, expected: Results, results: Results) -> None:
        """Compare the results of `backend` for a Case with the specification's."""
        empty = {"name": case.operation, "backend": backend, "values": 0, "differing": 0}
        row = self._operations.setdefault((case.operation, backend), empty)
        for label, right in expected.items():
            row["values"] += right.size
            wrong = differing(right, results[label])
            if len(wrong) and row["differing"] < _SHOWN:
                self._differences += [
                    f"{case}, {label}{list(map(int, index))}: numpy gives "
                    f"{_exactly(right, index)}, {backend} gives {_exactly(results[label], index)}"
                    for index in wrong[:_SHOWN]
                ]
            row["differing"] += len(wrong)

    def weights(self, network: str, backend: str, digest: str, expected: str) -> None:
        """Compare the hash of a network's weights after training on `backend` with the expected one."""
        row = {"network": network, "backend": backend, "weights_sha256": digest, "expected_sha256": expected}
        self._training.append(row)
        if digest != expected:
            self._differences.append(f"training {network} on {backend}: weights hash to {digest}, not to {expected}")

    def differ(self, sentences: list[str]) -> None:
        """Add differences found elsewhere."""
        self._differences += sentences

    def merge(self, report: dict) -> None:
        """Add another report, on other backends."""
        self._operations |= {(row["name"], row["backend"]): row for row in report["operations"]}
        self._training += report["training"]
        self._differences += report["differences"]

    def report(self) -> dict:
        """passed, operations, training and differences; see `check`."""
        names = list(dict.fromkeys(name for name, _ in self._operations))
        return {
            "passed": not self._differences,
            "operations": sorted(self._operations.values(), key=lambda row: names.index(row["name"])),
            "training": self._training,
            "differences": self._differences,
        }


def differing(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Indices (n, axes) of the elements whose bits differ; all of them if the shape or type does."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return np.argwhere(np.ones(expected.shape, bool))
    return np.argwhere(_bits(expected) != _bits(actual))


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)


def _exactly(values: np.ndarray, index: np.ndarray) -> str:
    """The exact value at an index; or the array's type and shape if it has no such index."""
    if len(index) != values.ndim or any(i >= size for i, size in zip(index, values.shape, strict=True)):
        return f"an array of {values.dtype}{list(values.shape)}"
    value = values[tuple(index)]
    return f"{value!r} ({float(value).hex()})" if isinstance(value, np.floating) else repr(value)
