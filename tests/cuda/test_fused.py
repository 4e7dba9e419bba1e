"""Small networks in a few launches: the specified bits, whatever the network is made of, and where it fits."""

import importlib
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.cuda import fused, program
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.fused import CudaFused
from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.backends.cuda.planning import PlanningLauncher
from gpucnn.emulation import get_emulated_backend
from gpucnn.emulation.launcher import EmulatedLauncher
from gpucnn.errors import BackendError, NonFiniteError
from gpucnn.layers import (
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    Conv3d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Residual,
    Sequential,
)
from gpucnn.losses import MeanSquared
from gpucnn.models import Model, build_model
from gpucnn.optimizers import SGD, Adam
from gpucnn.throughput.jobs import SHAPES
from gpucnn.training import Trainer
from gpucnn.training.data import Resident
from gpucnn.training.steps import TrainingSteps
from tests.cuda import fake_cupy
from tests.cuda.emulated import needs_emulation


def _residual() -> tuple:
    body = Sequential(Conv2d(4, 3, padding=1, activation="relu"), Conv2d(4, 3, padding=1))
    return Conv2d(4, 3, stride=2, activation="leaky_relu"), Residual(body), AvgPool2d(2, padding=1), GlobalAvgPool2d()


# Layers before the last, a dense one, and the shape of the images: between them what has a stage.
NETWORKS = {
    "pooled convolutions": (
        lambda: (Conv2d(3, 3, activation="relu"), MaxPool2d(2), Conv2d(5, 3), Flatten()),
        (2, 11, 9),
    ),
    "residual": (_residual, (1, 12, 13)),
    "branches": (lambda: (Concat(Conv2d(2, 1), Conv2d(3, 3, padding=1)), MaxPool2d(3, stride=2), Flatten()), (2, 7, 8)),
    "odd windows": (
        lambda: (
            Conv2d(4, (5, 2), stride=(3, 2), dilation=(1, 2), padding=2, groups=2, activation="tanh"),
            Conv2d(6, 2, groups=2, bias=False, activation="gelu"),
            MaxPool2d(2, stride=1, padding=1),
            Flatten(),
        ),
        (4, 12, 14),
    ),
    "one axis": (lambda: (Conv1d(4, 7, padding=3, activation="relu"), MaxPool1d(3), Flatten()), (2, 150)),
    "many bands": (lambda: (Conv1d(2, 3, padding=1, activation="relu"), MaxPool1d(7), Flatten()), (1, 700)),
    "three axes": (lambda: (Conv3d(3, 3, activation="silu"), MaxPool3d(2), Flatten()), (1, 6, 7, 8)),
    "dense": (
        lambda: (Flatten(), Dense(70, activation="relu"), Dropout(0.4), Dense(33, activation="sigmoid")),
        (1, 5, 9),
    ),
    "whole map": (lambda: (Conv2d(5, 4, activation="relu"), Flatten()), (2, 4, 4)),
}


def _model(network: str) -> Model:
    layers, shape = NETWORKS[network]
    return Model(Sequential(*layers(), Dense(10)), shape).initialize(3)


def _trained(backend, model: Model, epochs: int = 3, **settings) -> tuple[str, list]:
    random = np.random.default_rng(2)
    images = random.standard_normal((75, *model.input_shape)).astype(np.float32)
    trainer = Trainer(model, backend=backend, batch_size=33, seed=5, progress=False, **settings)
    history = trainer.fit(images, random.integers(0, 10, 75), epochs)
    kept = ("loss", "accuracy", "f1")
    return model.weights_sha256(), [{k: v for k, v in epoch.items() if k in kept} for epoch in history.epochs]


@pytest.fixture
def programs(monkeypatch):
    """What each captured step was traced to: a Program, or None."""
    found = []
    traced = CudaFused._traced

    def spied(self, step):
        found.append(traced(self, step))
        return found[-1]

    monkeypatch.setattr(CudaFused, "_traced", spied)
    return found


def _kernels(program) -> list[str]:
    return [expression.split("<")[0] for expression, *_ in program._kernels]


@needs_emulation
@pytest.mark.parametrize("network", NETWORKS)
def test_a_fused_network_is_trained_to_the_specified_bits(network, programs):
    """Batches of 33 and 9 images: a part of a block, more than one, and trees over an odd number of blocks of 16."""
    specified = _trained(get_backend("numpy", "exact"), _model(network))
    assert _trained(get_emulated_backend(), _model(network)) == specified
    assert [_kernels(program) for program in programs] == [["image_step", "image_sums"]] * 2
    assert _trained(get_emulated_backend("reversed", guard="front"), _model(network)) == specified
    assert _trained(get_emulated_backend(7), _model(network)) == specified


@needs_emulation
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": lambda: Adam(0.01), "clip_norm": lambda: 0.5, "clip_value": lambda: 0.1},
        {"metrics": lambda: ["f1"]},
        {"shift": lambda: 2, "metrics": lambda: ["f1"]},
        {"normalize": lambda: True, "ema": lambda: 0.9},
        {"optimizer": lambda: SGD(0.1, nesterov=True), "lr_factors": lambda: {"0": 0.5}},
    ],
)
def test_what_is_around_a_network_stays_as_it_is(settings, programs):
    emulated, specified = (
        _trained(backend, _model("pooled convolutions"), **{name: make() for name, make in settings.items()})
        for backend in (get_emulated_backend(), get_backend("numpy", "exact"))
    )
    assert emulated == specified
    assert len(programs) == 2 and None not in programs


@needs_emulation
@pytest.mark.parametrize(
    ("layers", "settings"),
    [
        ((Conv2d(3, 3), BatchNorm(), Flatten(), Dense(10)), {}),
        ((Conv2d(64, 3, padding=1), Conv2d(64, 3), Flatten(), Dense(10)), {}),
        ((Flatten(), Dense(10)), {"loss": MeanSquared()}),
    ],
)
def test_what_does_not_fit_runs_layer_by_layer(layers, settings, programs):
    head = "regressor" if settings else "classifier"
    model = Model(Sequential(*layers), (1, 12, 12), head=head).initialize(3)
    random = np.random.default_rng(2)
    targets = random.standard_normal((20, 10)).astype(np.float32) if settings else random.integers(0, 10, 20)
    images = random.standard_normal((20, 1, 12, 12)).astype(np.float32)
    Trainer(model, backend=get_emulated_backend(), batch_size=10, progress=False, **settings).fit(images, targets, 1)
    assert programs == [None]


@needs_emulation
def test_a_cuda_graph_holds_a_fused_step(programs, monkeypatch):
    """On the CuPy backend with a made-up CuPy, in which recording allocates and copies nothing."""
    fake_cupy.install(monkeypatch)
    backend = importlib.import_module("gpucnn.backends.cuda.cupy_backend").CupyBackend(0, np.dtype(np.float32))
    settings = {"metrics": ["f1"]}
    specified = _trained(get_backend("numpy", "exact"), _model("dense"), **settings)
    assert _trained(backend, _model("dense"), **settings) == specified
    assert [_kernels(program) for program in programs] == [["image_step", "image_sums"]] * 2


@needs_emulation
def test_a_switch_turns_it_off(programs):
    backend = get_emulated_backend()
    backend.fuses = False
    assert _trained(backend, _model("dense")) == _trained(get_backend("numpy", "exact"), _model("dense"))
    assert programs == []


def _launches(model: str, batch: int) -> list[tuple]:
    """Those of a recorded step; what does not change from step to step was copied before."""
    launcher = PlanningLauncher(132)
    launcher.graph = True
    backend, shape = CudaBackend(launcher), SHAPES[model]
    built = build_model(model, shape, 10).initialize(0).place(backend)
    optimizer = SGD()
    optimizer.place(backend, built.values.size)
    data = Resident(backend, np.zeros((batch, *shape), np.float32), np.zeros(batch, np.int32), batch)
    steps = TrainingSteps(built, optimizer, data)
    steps.look_ahead(data.batches(np.arange(batch)), 0, [1.0])
    steps.run(np.arange(batch), 0, 1.0)
    launcher.launches.clear()
    steps._recordings[batch]()
    return launcher.launches


@pytest.mark.parametrize(("model", "batch"), [("lenet5", 64), ("lenet5", 512), ("mlp", 64)])
def test_a_training_step_is_three_launches(model, batch):
    launches = _launches(model, batch)
    assert [launch[0][1].split("<")[0] for launch in launches] == ["image_step", "image_sums", "sgd"]
    assert launches[0][1] == (batch,)


@needs_emulation
@pytest.mark.parametrize("normalized", [False, True])
def test_inference_of_an_image_is_one_launch(normalized, programs):
    backend, model = get_emulated_backend(), _model("pooled convolutions")
    model.mean, model.std = ((0.5, 0.25), (2.0, 0.5)) if normalized else (None, None)
    images = np.random.default_rng(4).standard_normal((35, *model.input_shape)).astype(np.float32)
    specified = model.place(get_backend("numpy", "exact")).predict(images)
    model.place(backend)
    assert model.predict(images).tobytes() == specified.tobytes()
    assert [_kernels(program) for program in programs] == [["image_step"]]
    assert model.predict(images[:1]).tobytes() == specified[:1].tobytes()
    before = backend.launcher.launches
    assert model.predict(images[2:3]).tobytes() == specified[2:3].tobytes()
    assert backend.launcher.launches == before + 1


@needs_emulation
def test_what_a_step_leaves_is_there_after_each_replay(programs):
    """The mean loss, and a batch that somebody keeps, in both forms."""
    random = np.random.default_rng(6)
    images, labels = random.standard_normal((40, 7)).astype(np.float32), random.integers(0, 5, 40).astype(np.int32)
    weights = random.standard_normal((5, 7)).astype(np.float32)
    results = []
    for b in (get_backend("numpy", "exact"), get_emulated_backend()):
        placed, w, indices = b.array(images), b.array(weights), b.array(np.arange(20))
        known, left = b.array(labels), {}

        def step(b=b, placed=placed, w=w, indices=indices, known=known, left=left):
            left.clear()
            x, targets = b.load_batch(placed, known, indices, 20)
            left["outputs"] = b.dense(x, w, None)
            left["loss"], _ = b.softmax_cross_entropy(left["outputs"], targets)

        replay = b.capture_step(step)
        for first in (0, 20, 3):
            b.assign(indices, np.arange(first, first + 20))
            replay()
            results.append((left["outputs"].numpy().tobytes(), b.host(left["loss"]).tobytes()))
    assert results[:3] == results[3:] and len(set(results)) == 3
    assert [_kernels(program) for program in programs] == [["image_step", "image_sums"]]


# A network that shows it, the line, and what is wrong with the other one.
PLANTED = {
    "no barrier between stages": ("dense", "if (HAS_BARRIER<Stage>) __syncthreads();", ""),
    "a square that is still read": ("dense", "__syncwarp();  // the previous square has been used", ""),
    "a sum of exponentials that is still read": ("dense", "__syncthreads();  // all have read them", ""),
    "another image's dropout": ("dense", "u64(image.number) * SIZE + i", "u64(image.number) + i"),
    "bands of as many positions as rows": (
        "pooled convolutions",
        "p < least((band + 1) * BAND_ROWS, ROWS)",
        "p < least((band + 1) * BAND_ROWS, ROWS - 1)",
    ),
    "a channel's bands mixed up": (
        "one axis",
        "last = least((band + 1) * BAND_POSITIONS, POSITIONS)",
        "last = POSITIONS",
    ),
    "images that are not there": (
        "pooled convolutions",
        "i < COUNT && band < BANDS && first + n < images",
        "i < COUNT && band < BANDS",
    ),
    "bands that are not there": (
        "one axis",
        "i < COUNT && band < BANDS && first + n < images",
        "i < COUNT && first + n < images",
    ),
    "one warp's terms alone": (
        "pooled convolutions",
        "result[s] = over_warps.total(WARPS);",
        "result[s] = over_warps.total(1);",
    ),
    "a chain in another order": (
        "dense",
        "to[i] = __fmaf_rn(d, v[n], to[i]);",
        "to[i] = __fmaf_rn(d, v[IMAGES - 1 - n], to[i]);",
    ),
    "a tile that overwrites its neighbor": (
        "pooled convolutions",
        "if (q + j < q_first) continue;",
        "if (q + j < q_first) acc[i][j] = 1.0f;",
    ),
    "misses for hits": ("dense", "e.first == label ?", "e.first != label ?"),
}


@pytest.mark.slow
@needs_emulation
@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_shows(error, tmp_path):
    network, line, wrong = PLANTED[error]
    shutil.copytree(SOURCES, tmp_path / "cuda")
    source = tmp_path / "cuda" / "fused.cu"
    text = source.read_text()
    assert text.count(line) == 1
    source.write_text(text.replace(line, wrong))
    specified = _trained(get_backend("numpy", "exact"), _model(network), 1)
    for order in ("forward", "reversed", 5):
        try:
            if (
                _trained(CudaBackend(EmulatedLauncher(order, folder=tmp_path / "cuda")), _model(network), 1)
                != specified
            ):
                return
        except (BackendError, NonFiniteError):
            return
    pytest.fail("the error has no effect")


PLANTED_IN_PROGRAMS = {
    "values overwritten while a stage beside reads them": ("residual", "value.last += 1", "break"),
    "values overwritten before they are read": (
        "residual",
        "value.last = len(self._stages)",
        "value.last = value.first",
    ),
    "results written before they are complete": (
        "branches",
        "self._values[self._places[self._address(array)]].made = len(self._stages)",
        "pass",
    ),
    "a part of the tree": ("many bands", "depth = (each // together).bit_length()", "depth = 1"),
}


@pytest.mark.slow
@needs_emulation
@pytest.mark.parametrize("error", PLANTED_IN_PROGRAMS)
def test_an_error_in_programs_shows(error, monkeypatch):
    network, line, wrong = PLANTED_IN_PROGRAMS[error]
    text = Path(program.__file__).read_text()
    assert text.count(line) == 1
    changed = types.ModuleType("changed")
    monkeypatch.setitem(sys.modules, "changed", changed)
    exec(compile(text.replace(line, wrong), "changed", "exec"), vars(changed))
    monkeypatch.setattr(fused, "Program", changed.Program)
    settings = {"metrics": ["f1"]}  # which takes the outputs from the step
    specified = _trained(get_backend("numpy", "exact"), _model(network), 1, **settings)
    orders = ("forward", "reversed", 5)
    assert any(_trained(get_emulated_backend(order), _model(network), 1, **settings) != specified for order in orders)
