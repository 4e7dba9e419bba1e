"""NVRTC, which needs no GPU, compiles every kernel for every generation of GPUs: without spills, and as it is
written."""

import collections
import importlib
import re

import numpy as np
import pytest

from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.cuda import compiler as cuda_compiler
from gpucnn.backends.cuda import tiles as cuda_tiles
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.planning import PlanningLauncher, compile_kernels
from gpucnn.check.cases import Numbers, all_cases, elementwise, loss, optimizers
from gpucnn.geometry import window
from gpucnn.layers import Concat, Conv2d, ConvTranspose2d, Dense, Flatten, GroupNorm, LayerNorm, MaxPool2d, Sequential
from gpucnn.models import Model, lenet5, resnet20, vgg_small
from gpucnn.optimizers import SGD, Adam
from gpucnn.training.data import Resident
from gpucnn.training.steps import TrainingSteps
from tests.resampled import network


def _missing() -> str | None:
    try:
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        return f"NVRTC: {error}; pip install cuda-bindings nvidia-cuda-nvrtc"
    return None


pytestmark = [pytest.mark.skipif(_missing() is not None, reason=str(_missing())), pytest.mark.slow]
# Each kernel for one of these, and in long runs for all of them.
ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "sm_100"]


def _asked_by(work) -> dict[str, list[str]]:
    """The kernels that `work(backend)` requests on a large GPU, by file."""
    launcher = PlanningLauncher(132)
    for launcher.graph in (False, True):  # layer by layer, and small networks in a few launches
        work(CudaBackend(launcher))
    for _, grid, block, _ in (launch for launch in launcher.launches if len(launch) == 4):
        assert all(1 <= g <= top for g, top in zip(grid, (2**31 - 1, 65535, 65535)))
        assert 1 <= np.prod(block) <= 1024
    by_file = collections.defaultdict(list)
    for file, expression in sorted(launcher.kernels):
        by_file[file].append(expression)
    return by_file


def _normed() -> Model:
    layers = Conv2d(8, 3), GroupNorm(2, activation="relu"), Flatten(), LayerNorm(), Dense(10)
    return Model(Sequential(*layers), (1, 8, 8))


def _upscaler() -> Model:
    """Down, up by transposed convolutions, and both side by side."""
    deep = Sequential(MaxPool2d(2), Conv2d(32, 3, padding=1), ConvTranspose2d(16, 2, stride=2, activation="relu"))
    up = ConvTranspose2d(8, 4, stride=2, padding=1)
    layer = Sequential(Conv2d(16, 3, padding=1), Concat(Sequential(), deep), up, Flatten(), Dense(10))
    return Model(layer, (3, 16, 16))


def _networks(b) -> None:
    colors = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    # Small networks for what the large ones do not use: `network` resamples, `_upscaler` transposes and concatenates.
    for make, optimizer, batch, augmentation in (
        (lenet5, SGD(), 64, Augmentation(shift=2)),
        (resnet20, Adam(), 512, Augmentation(shift=4, crop=(32, 32), flip=True, cutout=8, **colors)),
        (vgg_small, SGD(), 128, Augmentation()),
        (network, SGD(), 33, Augmentation()),
        (_normed, SGD(), 64, Augmentation()),
        (_upscaler, SGD(), 64, Augmentation()),
    ):
        model = make().initialize(0).place(b)
        model.mean, model.std = augmentation.mean, augmentation.std
        model.layer.need_input_gradient(False)
        optimizer.place(b, model.values.size)
        data = Resident(b, np.zeros((batch, *model.input_shape), np.float32), np.zeros(batch, np.int32), batch)
        TrainingSteps(model, optimizer, data, augmentation).run(np.arange(batch), 0, 1.0)
        model.predict(np.zeros((batch, *model.image_shape), np.float32), batch_size=batch)


def _pointwise(b) -> None:
    """Activations, losses and clipping that no shipped network has."""
    for family in (elementwise, loss, optimizers):
        for case in family.cases(Numbers("random")):
            case.run(b)


def _operations(b) -> None:
    for case in all_cases():
        if case.kind in ("random", ""):
            case.run(b)


@pytest.fixture(scope="module")
def in_networks():
    return _asked_by(lambda b: (_networks(b), _pointwise(b)))


@pytest.fixture(scope="module")
def in_operations():
    return _asked_by(_operations)


def _parts():
    for number, architecture in enumerate(ARCHITECTURES):
        yield pytest.param(architecture, number, len(ARCHITECTURES), id=architecture)
        yield pytest.param(architecture, 0, 1, id=f"{architecture}, all", marks=pytest.mark.long)


@pytest.mark.parametrize(("architecture", "first", "step"), list(_parts()))
def test_no_kernel_of_the_models_spills(in_networks, architecture, first, step):
    for file, every in in_networks.items():
        if not (expressions := every[first::step]):
            continue
        made = cuda_compiler.translate(file, expressions, [f"--gpu-architecture={architecture}", "--ptxas-options=-v"])
        reports = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", made.log)
        assert len(reports) >= len(expressions)  # kernels that are no templates are always there
        assert set(reports) == {("0", "0", "0")}, f"{file}: {made.log}"


@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.long)])
def test_no_kernel_does_what_is_not_written(in_operations, step):
    """Fusing allowed or not gives the same instructions: each multiplication and addition specifies its rounding."""
    operations = "add|sub|mul|fma|mad|div|sqrt|rcp|rsqrt|ex2|lg2|sin|cos|tanh"
    arithmetic = re.compile(rf"\b((?:{operations})\.[\w.]*f(?:16|32|64)\w*)")
    # rcp.rn is 1 / x, correctly rounded.
    written = {f"{o}.rn.{t}" for o in ("add", "sub", "mul", "div", "sqrt") for t in ("f32", "f64")}
    written |= {"fma.rn.f32", "rcp.rn.f64"}
    for file, every in in_operations.items():
        expressions, counts = every[::step], []
        for fused in ("true", "false"):
            options = ["--gpu-architecture=compute_80", f"--fmad={fused}"]
            ptx = cuda_compiler.translate(file, expressions, options, ptx=True).code.decode(errors="replace")
            counts.append(collections.Counter(arithmetic.findall(ptx)))
            assert not re.search(r"\.ftz|\.approx|\.full", ptx), file
            assert not re.search(r"\b(?:atom|red)\.[\w.:]*f(?:16|32|64)", ptx), file
        assert counts[0] == counts[1], file
        assert set(counts[0]) <= written, (file, set(counts[0]) - written)


def test_the_check_itself_finds_a_contraction(tmp_path):
    (tmp_path / "bad.cu").write_text("__global__ void bad(float* x) { x[0] = x[0] * x[1] + x[2]; }")
    options = ["--gpu-architecture=compute_80", "--fmad=true"]
    ptx = cuda_compiler.translate("bad.cu", ["bad"], options, ptx=True, folder=tmp_path).code.decode()
    assert "fma.rn.f32" in ptx


def test_a_kernel_is_compiled_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    told = []
    monkeypatch.setattr(cuda_compiler, "listeners", [told.append])
    first = cuda_compiler.compiled("random.cu", "dropout", "sm_90")
    assert cuda_compiler.compiled("random.cu", "dropout", "sm_90") == first
    assert told == ["random.cu: dropout"]
    (stored,) = (tmp_path / "cuda").iterdir()
    stored.write_bytes(stored.read_bytes()[:-1])  # as if the disk had been full
    assert cuda_compiler.compiled("random.cu", "dropout", "sm_90") == first
    assert len(told) == 2
    cuda_compiler.compiled("random.cu", "dropout", "sm_80")
    assert len(told) == 3


def test_kernels_are_compiled_in_several_processes_into_a_folder_that_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "first"))
    kernels = [("random.cu", "dropout"), ("clip.cu", "scale_all"), ("random.cu", "dropout")]
    assert compile_kernels(kernels, "sm_90", processes=2) == 2
    (tmp_path / "first").rename(tmp_path / "second")
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(cuda_compiler, "translate", lambda *_, **__: pytest.fail("compiled again"))
    assert {cuda_compiler.compiled(*kernel, "sm_90").symbol for kernel in kernels}


def test_a_kernel_that_does_not_compile_says_why(tmp_path):
    (tmp_path / "bad.cu").write_text("__global__ void bad(float* x) { y = 1; }")
    with pytest.raises(cuda_compiler.BackendError, match="identifier"):
        cuda_compiler.translate("bad.cu", ["bad"], ["--gpu-architecture=sm_90"], folder=tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_tiles_fit(seed):
    """Any shape gets a tile that fits its image, its registers and shared memory."""
    rng = np.random.default_rng(seed)
    for _ in range(50):
        outputs, channels, blocks, processors = (int(rng.integers(1, top)) for top in (200, 200, 70, 150))
        output, kernel = (tuple(map(int, rng.integers(1, top, 3))) for top in (40, 12))
        stride, dilation = int(rng.integers(1, 5)), int(rng.integers(1, 5))
        given = outputs, channels, output, kernel, stride, dilation, blocks, processors
        ob, qb, wk, wp, cc, sb = cuda_tiles.conv_tiles(*given)[0]
        row = 1 if ob * wk == 1 else -(-ob * wk // 4) * 4 + 4
        assert qb <= output[2] and ob * qb <= 64 and wk * wp <= 32 and sb <= kernel[2]
        assert 4 * cc * np.prod(kernel) * row <= 48 * 1024
        band = -(-64 // output[2])
        given = outputs, channels, 1, output, kernel, stride, dilation, band, blocks, processors
        ob, cb, rb, sb, ahead, warps, bands = cuda_tiles.gradient_tiles(*given)[0]
        assert ob <= outputs and cb <= channels and rb <= kernel[1] and sb <= kernel[2] and ahead <= output[2]
        assert bands & (bands - 1) == 0
        assert 4 * 32 * warps * -(-ob * cb * rb * sb // 16) * bands.bit_length() < 48 * 1024


def test_the_tile_for_a_weight_gradient_of_many_bands_compiles():
    """512 maps of 1200x1200: there the waiting sums of the bands take most of the shared memory."""
    launcher = PlanningLauncher(132)
    b, win = CudaBackend(launcher), window((12, 12), 4)
    dy, x = (b.pack(np.zeros((1, *shape), np.float32)) for shape in ((32, 9, 9), (16, 12, 12)))
    launcher.kernels.clear()
    b.conv_weight_gradient(dy, x, win, 1, b.zeros((32, 16, 4, 4)))
    ((file, small),) = launcher.kernels
    tile = cuda_tiles.gradient_tiles(32, 16, 1, (1, 1200, 1200), (1, 4, 4), 1, 1, 1, 16, 132)[0]
    expression = re.sub("GradientTile<[^>]*>", f"GradientTile<{', '.join(map(str, tile))}>", small)
    cuda_compiler.translate(file, [expression], ["--gpu-architecture=sm_90"])
