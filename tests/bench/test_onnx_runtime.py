"""ONNX Runtime beside us in gpucnn bench."""

import numpy as np
import pytest

from gpucnn import export_onnx
from gpucnn.backends import get_backend
from gpucnn.errors import BackendError
from gpucnn.throughput import Case, bench, onnx_runtime
from gpucnn.throughput.report import slowest

pytest.importorskip("onnxruntime")
CASE = Case("lenet5", "inference", 4)


def test_it_computes_the_same_and_goes_through_the_batches():
    prepared, error = onnx_runtime.prepare(CASE, 1)
    assert 0 < error < 1e-4
    first, second = (prepared.contender.call()[0] for _ in range(2))
    assert first.shape == second.shape == (4, 10) and not np.array_equal(first, second)


def test_another_network_is_found(monkeypatch):
    monkeypatch.setattr(onnx_runtime, "export_onnx", lambda _, path: export_onnx(CASE.build().initialize(1), path))
    with pytest.raises(BackendError, match="ONNX Runtime's outputs"):
        onnx_runtime.prepare(CASE, 1)


def test_the_report_has_its_ratio():
    report = bench([CASE], [get_backend("numpy", "fast", threads=1)], seconds=0.1, compiled=False)
    (row,) = (row for row in report["results"] if row["backend"] == "onnxruntime")
    assert row["threads"] == 1 and row["images_per_second"] > 0 and row["error"] < 1e-4
    (ratio,) = (row for row in report["ratios"] if row["peer"] == "onnxruntime")
    assert ratio["quartiles"][0] <= ratio["ratio"] <= ratio["quartiles"][1]


def test_the_slowest_is_named_for_each_peer():
    def row(peer: str, ratio: float, batch: int) -> dict:
        return {"peer": peer, "ratio": ratio, "model": "mlp", "job": "inference", "batch": batch}

    assert slowest([row("pytorch", 2.0, 1), row("pytorch", 0.5, 8), row("onnxruntime", 0.75, 8)]) == [
        "times PyTorch: 0.50 (mlp inference, batch 8) where it is least, "
        "2.00 (mlp inference, batch 1) where it is most",
        "times ONNX Runtime: 0.75 (mlp inference, batch 8) where it is least",
    ]
