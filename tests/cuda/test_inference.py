"""Recorded plans on a GPU: what follows a convolution is computed in its kernel, to the bits of NumPy exact."""

import collections
import copy
import importlib
from pathlib import Path

import numpy as np
import pytest

from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.planning import PlanningLauncher
from gpucnn.inference import ends
from gpucnn.inference.recorded import compute
from gpucnn.inference.trace import trace
from gpucnn.models import Model, build_model
from gpucnn.throughput.jobs import SHAPES
from tests.cuda import fake_cupy
from tests.cuda.emulated import needs_emulation
from tests.inference.kinds import made, settle
from tests.inference.random_networks import random_network


@pytest.fixture
def cupy_backend(monkeypatch):
    fake_cupy.install(monkeypatch)
    return importlib.import_module("gpucnn.backends.cuda.cupy_backend").CupyBackend(0, np.dtype(np.float32))


def _images(model: Model, count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *model.image_shape)).astype(np.float32)


def _all_ends() -> Model:
    """Each end that a convolution or a batch norm may have, alone and with others, and some that it may not have."""
    body = L.Sequential(L.Conv2d(5, 3, padding=1), L.BatchNorm(activation="relu"), L.Conv2d(5, 3, padding=1))
    normed = L.Sequential(L.Conv2d(5, 3, padding=1, groups=5), L.BatchNorm())
    layers = (
        *(L.Conv2d(5, 3, padding=1), L.BatchNorm(activation="relu"), L.MaxPool2d(2)),
        *(L.Conv2d(5, 3, padding=1, activation="relu"), L.BatchNorm(), L.ReLU()),
        *(L.Residual(body), L.Residual(normed), L.Residual(normed, activation=None), L.Residual(L.BatchNorm())),
        *(L.Conv2d(5, 1), L.Residual(L.BatchNorm(), L.ReLU()), L.Residual(L.Conv2d(5, 1, activation="relu"))),
        *(L.Conv2d(5, 2), L.BatchNorm(), L.BatchNorm(activation="relu"), L.MaxPool2d(2)),
        *(L.Conv2d(6, 2), L.BatchNorm(), L.MaxPool2d((2, 1), stride=1), L.MaxPool2d((1, 2), stride=1)),
        *(L.Conv2d(4, (1, 2)), L.BatchNorm(activation="tanh"), L.Flatten(), L.Dense(3), L.BatchNorm(activation="relu")),
    )
    return settle(Model(L.Sequential(*copy.deepcopy(layers)), (2, 22, 21), head="regressor"), 1)


_MODELS = {"all ends": _all_ends, **{kind: lambda kind=kind: made(kind) for kind in ("VGG", "ResNet", "3D")}}


@needs_emulation
@pytest.mark.parametrize("fuses", [True, False], ids=["in shared memory", "layer by layer"])
@pytest.mark.parametrize("name", _MODELS)
def test_predictions_have_the_bits_of_numpy(cupy_backend, name, fuses, monkeypatch):
    monkeypatch.setattr(type(cupy_backend), "fuses", fuses)
    model = _MODELS[name]()
    images = _images(model, 37)
    expected = copy.deepcopy(model).place(get_backend("numpy", "exact")).predict(images)
    model.place(cupy_backend)
    for count in (37, 3):
        assert model.predict(images[:count]).tobytes() == expected[:count].tobytes()
    assert all(stage.graph is not None for stages in model._plans._stages.values() for stage in stages)
    assert any(file == "fused.cu" for file, _ in cupy_backend.launcher._kernels) == fuses


@pytest.mark.parametrize("seed", range(40))
def test_joining_operations_changes_no_bit_and_leaves_none_out(seed):
    """The operations one by one as NumPy computes them, of the traced graph and of the joined one."""
    model = random_network(seed).place(get_backend("numpy", "exact"))
    images = _images(model, 3)
    graph = trace(lambda x: model.layer(x)[0], model.input_shape, lambda array: array)
    joined, batch = ends.joined(graph), model.backend.pack(images)
    assert len(joined.nodes) <= len(graph.nodes) and joined.nodes[0].operation == "input"
    got = model.backend.unpack(compute(joined, batch))
    assert got.tobytes() == model.predict(images).tobytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('if not (rectified or added or "norm" in settings', 'if not (added or "norm" in settings'),
        ('case "add" if not (rectified or added)', 'case "add" if not added'),
        ("readers[id(last)] == 1", "readers[id(last)] >= 1"),
        ('settings["relu"] = following.settings["relu"]', "pass"),
        ('if "pool" in settings:', "if False:"),
    ],
)
def test_wrong_joins_are_noticed(old, new):
    source = Path(ends.__file__).read_text()
    assert old in source
    wrong = dict(vars(ends))
    exec(compile(source.replace(old, new), "ends.py", "exec"), wrong)
    model = _all_ends().place(get_backend("numpy", "exact"))
    images = _images(model, 3)
    graph = trace(lambda x: model.layer(x)[0], model.input_shape, lambda array: array)
    try:
        got = model.backend.unpack(compute(wrong["joined"](graph), model.backend.pack(images))).tobytes()
    except (KeyError, ValueError):  # a value that nothing computes any more, or of another shape
        return
    assert got != model.predict(images).tobytes()


@pytest.mark.parametrize(
    ("name", "launches"),
    [
        ("lenet5", {"image_step": 1}),
        # Beside the network's own: the images into lanes, the probabilities, and out of lanes.
        ("vgg_small", {"conv": 3, "conv_max_pool": 3, "dense": 1, "load_images": 1, "softmax": 1, "unpack": 1}),
        ("resnet20", {"conv": 21, "global_avg_pool": 1, "dense": 1, "load_images": 1, "softmax": 1, "unpack": 1}),
    ],
)
def test_a_prediction_is_so_many_launches(name, launches):
    launcher = PlanningLauncher(132)
    launcher.graph = True
    model = build_model(name, SHAPES.get(name, (3, 32, 32)), 10).initialize(0).place(CudaBackend(launcher))
    images = np.zeros((128, *model.image_shape), np.float32)
    model.predict(images, batch_size=128)
    launcher.launches.clear()
    model.predict(images, batch_size=128)
    names = collections.Counter(launch[0][1].split("<")[0] for launch in launcher.launches if launch[0] != "copy")
    assert names == launches
