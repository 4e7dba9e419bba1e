"""gpucnn tune: the fastest tile by the device's clock is kept for later runs, and no tile changes a bit."""

import hashlib
import importlib
import json
import re

import numpy as np
import pytest

from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.backends.cuda import measured
from gpucnn.backends.cuda.measured import Request, Tiles
from gpucnn.errors import BackendError, ConfigurationError
from gpucnn.models import Model
from gpucnn.throughput import tune, tuning
from tests.cli.conftest import Cli
from tests.cuda import fake_cupy
from tests.cuda.emulated import needs_emulation

DEVICE = "GPU made up, 1 GiB"
REQUEST = Request("dense", 1, (64, 2, 132))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    return tmp_path / "tiles"


def _backend(monkeypatch):
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(tuning, "compile_kernels", lambda kernels, architecture, processes: len(kernels))
    return importlib.import_module("gpucnn.backends.cuda.cupy_backend").CupyBackend(0, np.dtype(np.float32))


@pytest.fixture
def cupy_backend(monkeypatch):
    return _backend(monkeypatch)


def _network() -> Model:
    layers = L.Conv2d(4, 3, padding=1), L.BatchNorm(activation="relu"), L.MaxPool2d(2), L.Conv2d(8, 3, groups=2)
    return Model(L.Sequential(*layers, L.Flatten(), L.Dense(3)), (3, 8, 8)).initialize(1)


def _cost(expression: str) -> float:
    """Milliseconds as if by lot, the same for the same tile; what has no tile takes a second, and cancels out."""
    tile = re.search(r"Tile<([\d, ]+)>|dense(?:_gradients)?<(\d+, \d+)", expression)
    return int(hashlib.sha256(tile[0].encode()).hexdigest()[:6], 16) / 1e5 + 1 if tile else 1000.0


_TEXTS = {"weight gradient": "GradientTile<{}>", "dense": "dense<{}", "dense gradients": "dense_gradients<{}"}


def _fastest(request: Request, count: int) -> tuple:
    """Of the first tiles, by the made-up clock."""
    text = _TEXTS.get(request.kernel, "Tile<{}>")
    return min(request.candidates[:count], key=lambda tile: _cost(text.format(", ".join(map(str, tile)))))


def _chosen_wrongly(backend) -> list:
    """The rows of `tune` whose tile is not the fastest of four."""
    requests = []
    keep = Tiles.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tiles, "keep", lambda self, request, tile: (requests.append(request), keep(self, request, tile)))
        rows = tune(_network(), 5, backend, candidates=4, again=True)
    assert len(rows) > 6 and any(row["tile"] != row["model_tile"] for row in rows)
    pairs = zip(rows, requests, strict=True)
    return [row for row, request in pairs if tuple(row["tile"]) != _fastest(request, 4)]


@needs_emulation
def test_the_fastest_tile_is_chosen(cupy_backend, monkeypatch):
    monkeypatch.setattr(fake_cupy, "cost", _cost)
    assert _chosen_wrongly(cupy_backend) == []


@needs_emulation
def test_a_wrong_choice_is_noticed(cupy_backend, monkeypatch):
    monkeypatch.setattr(fake_cupy, "cost", _cost)
    monkeypatch.setattr(tuning, "min", max, raising=False)
    assert len(_chosen_wrongly(cupy_backend)) > 3


@needs_emulation
def test_what_was_chosen_is_stored_and_read_again(cupy_backend, monkeypatch):
    monkeypatch.setattr(fake_cupy, "cost", _cost)
    said = []
    rows = tune(_network(), 5, cupy_backend, candidates=4, say=said.append)
    kernels = {"conv", "input gradient", "weight gradient", "dense", "dense gradients", "pooled conv"}
    assert kernels == {row["kernel"] for row in rows}
    assert len(said) == len(rows)
    later = _backend(monkeypatch)  # as in another process
    assert [list(tile) for tile in later.tiles._measured.values()] == [row["tile"] for row in rows]
    assert tune(_network(), 5, later, candidates=4) == []
    later.tiles.requested.clear()
    model = _network().place(later)
    model.predict(np.zeros((5, 3, 8, 8), np.float32))
    model.layer(later.pack(np.zeros((5, 3, 8, 8), np.float32)))
    for request in later.tiles.requested:
        tile = later.tiles.choose(request.kernel, *request.shape, groups=request.groups)
        assert tile == later.tiles._measured[str(request)] == _fastest(request, 4)


@needs_emulation
def test_the_command_shows_what_it_measured(cupy_backend, monkeypatch):
    monkeypatch.setattr(fake_cupy, "cost", _cost)
    monkeypatch.setattr("gpucnn.backends.get_backend", lambda name: cupy_backend)
    size = "--input-shape", "1x4x4", "--hidden", "5", "--batch-size", "3", "--candidates", "2"
    rows = Cli().json("tune", "mlp", *size)["results"]
    assert {row["kernel"] for row in rows} == {"dense", "dense gradients"}
    result = Cli()("tune", "mlp", *size, "--again")
    assert result.exit_code == 0
    assert f"{len(rows)} kernels were measured; " in result.stdout and "model's tile" in result.stdout
    assert f"{len(rows)} of {len(rows)}: dense" in result.stderr
    assert "0 kernels were measured" in Cli()("tune", "mlp", *size).stdout


@needs_emulation
def test_tiles_that_spill_are_left_out(cupy_backend, monkeypatch):
    monkeypatch.setattr(fake_cupy, "spills", lambda expression: 8 if expression.startswith("dense<") else 0)
    said = []
    rows = tune(_network(), 5, cupy_backend, candidates=2, say=said.append)
    assert "dense" not in {row["kernel"] for row in rows}
    assert any("no tile compiles without spills" in line for line in said)


@needs_emulation
def test_no_tile_changes_a_bit():
    """Every tile that the tests' network may have, on the emulation."""
    from tests.cuda.emulated import backend

    emulated = backend()
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)

    def results(b) -> bytes:
        model = _network().place(b)
        model.layer.need_input_gradient(True)
        model.mode.training = True
        y, backward = model.layer(b.pack(images))
        dx = backward(y)
        return b.unpack(y).tobytes() + b.unpack(dx).tobytes() + b.host(model.grads).tobytes()

    expected = results(get_backend("numpy", "exact"))
    emulated.tiles.requested.clear()
    assert results(emulated) == expected
    tried = 0
    for request in list(emulated.tiles.requested):
        spread = request.candidates[:: max(1, len(request.candidates) // 5)]
        for tile in spread:
            with emulated.tiles.trial(request, tile):
                assert results(emulated) == expected, (request, tile)
            tried += 1
    assert tried > 20


@needs_emulation
def test_an_interruption_keeps_what_was_measured(cupy_backend, monkeypatch):
    def say(line):
        if line.startswith("2 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(_network(), 5, cupy_backend, candidates=2, say=say)
    assert len(Tiles(DEVICE)._measured) == 2
    assert len(tune(_network(), 5, cupy_backend, candidates=2)) > 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b'{"device": "another", "tiles": {}}',
        json.dumps({"device": DEVICE, "tiles": [1]}).encode(),
        json.dumps({"device": DEVICE, "tiles": {str(REQUEST): "ab"}}).encode(),
        json.dumps({"device": DEVICE, "tiles": {str(REQUEST): [7, 7]}}).encode(),  # the kernel has no such tile
        json.dumps({"device": DEVICE, "tiles": {str(REQUEST): [4, 1]}}).encode()[:-1],
    ],
)
def test_files_that_are_damaged_or_something_else_are_ignored(content):
    model = REQUEST.candidates[0]
    assert model != (4, 1)
    measured._STORE.write(measured._name(DEVICE), content)
    assert Tiles(DEVICE).choose(REQUEST.kernel, *REQUEST.shape) == model
    Tiles(DEVICE).keep(REQUEST, (4, 1))
    assert Tiles(DEVICE).choose(REQUEST.kernel, *REQUEST.shape) == (4, 1)
    assert Tiles("another GPU").choose(REQUEST.kernel, *REQUEST.shape) == model


def test_a_file_without_its_digest_is_ignored(cache):
    Tiles(DEVICE).keep(REQUEST, (4, 1))
    (stored,) = cache.iterdir()
    stored.write_bytes(stored.read_bytes()[:-2] + b" }")
    assert Tiles(DEVICE).choose(REQUEST.kernel, *REQUEST.shape) == REQUEST.candidates[0]


def test_results_that_cannot_be_stored_are_an_error(monkeypatch):
    monkeypatch.setattr(type(measured._STORE), "write", lambda *arguments: None)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Tiles(DEVICE).keep(REQUEST, (4, 1))


def test_another_backend_is_refused():
    with pytest.raises(BackendError, match="on the backend cupy; numpy's"):
        tune(_network(), 5, get_backend("numpy"))
    with pytest.raises(ConfigurationError, match="batch_size"):
        tune(_network(), 0, get_backend("numpy"))
