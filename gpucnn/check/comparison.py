"""Raw bits of two backends' results side by side, and the report on them."""

import numpy as np

from gpucnn.check.cases import Case, Results

# Differences told in full for each operation and backend.
_SHOWN = 3


class Comparison:
    """Collects what was compared; `report` is what `check` returns."""

    def __init__(self):
        self._operations: dict[tuple[str, str], dict] = {}
        self._training: list[dict] = []
        self._differences: list[str] = []

    def results(self, case: Case, backend: str, want: Results, got: Results) -> None:
        """What `backend` got for a Case, beside what the specification wants."""
        new = {"name": case.operation, "backend": backend, "values": 0, "differing": 0}
        row = self._operations.setdefault((case.operation, backend), new)
        for label, expected in want.items():
            row["values"] += expected.size
            wrong = differing(expected, got[label])
            if len(wrong) and row["differing"] < _SHOWN:
                self._differences += [
                    f"{case}, {label}{list(map(int, index))}: numpy gives "
                    f"{_exactly(expected, index)}, {backend} gives {_exactly(got[label], index)}"
                    for index in wrong[:_SHOWN]
                ]
            row["differing"] += len(wrong)

    def weights(self, network: str, backend: str, digest: str, expected: str) -> None:
        """The hash of a network's weights after training on `backend`, beside the hash that it must have."""
        row = {"network": network, "backend": backend, "weights_sha256": digest, "expected_sha256": expected}
        self._training.append(row)
        if digest != expected:
            self._differences.append(f"training {network} on {backend}: weights hash to {digest}, not to {expected}")

    def differ(self, sentences: list[str]) -> None:
        """Differences found elsewhere."""
        self._differences += sentences

    def merge(self, report: dict) -> None:
        """Rows and differences of another report, on other backends."""
        self._operations |= {(row["name"], row["backend"]): row for row in report["operations"]}
        self._training += report["training"]
        self._differences += report["differences"]

    def report(self) -> dict:
        """passed, operations, training and differences; see `check`."""
        return {
            "passed": not self._differences,
            "operations": list(self._operations.values()),
            "training": self._training,
            "differences": self._differences,
        }


def differing(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Indices (n, axes) of the elements whose bits differ; all of them if the shape or type does."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return np.argwhere(np.ones(want.shape, bool))
    return np.argwhere(_bits(want) != _bits(got))


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)


def _exactly(values: np.ndarray, index: np.ndarray) -> str:
    """The value at an index, to the bit; or the whole array's type and shape where there is no such index."""
    if len(index) != values.ndim or any(i >= size for i, size in zip(index, values.shape, strict=True)):
        return f"an array of {values.dtype}{list(values.shape)}"
    value = values[tuple(index)]
    return f"{value!r} ({float(value).hex()})" if isinstance(value, np.floating) else repr(value)
