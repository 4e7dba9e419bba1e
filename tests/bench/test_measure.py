"""What bench/training.py and bench/inference.py measure, once and shortly, so that no renamed argument breaks them."""

import pytest

import inference
import training

pytest.importorskip("torch", reason="PyTorch, which both compare with, is not installed")
pytestmark = pytest.mark.pytorch


def test_training_is_measured_beside_each_variant():
    row = training.measure(training.Training("mlp", 8), threads=2, seconds=0.05)
    peers = {f"eager, {layout}, {kind} SGD" for layout in training.pytorch.LAYOUTS for kind in ("foreach", "fused")}
    assert row["ratios"].keys() == peers and row["images_per_second"].keys() == {"gpucnn", *peers}
    assert row["ratio"] == min(row["ratios"].values()) > 0
    assert training.show(row).startswith("mlp ")


@pytest.mark.parametrize("batch", [1, 8])
def test_inference_is_measured_beside_each_peer(batch):
    row = inference.measure("mlp", batch, threads=2, seconds=0.05, compiled=False)
    peers = {f"PyTorch, eager, {layout}" for layout in inference.pytorch.LAYOUTS}
    peers |= {"ONNX Runtime"} if inference.onnx_runtime.installed() else set()
    assert row["ratios"].keys() == peers and row["images_per_second"].keys() == {"gpucnn", *peers}
    assert ("latency_microseconds" in row) == (batch == 1)
    assert inference.show(row).startswith("mlp ")
