"""What `gpucnn backends` reports if the CuPy backend cannot be used, and the fix that it suggests."""

import ctypes
import importlib
import sys
import types

import pytest

from gpucnn.errors import BackendError

MODULE = "gpucnn.backends.cuda.cupy_backend"


def _reason(monkeypatch, **machine) -> str:
    """The BackendError of importing the backend on a made-up machine."""
    facts = {"driver": True, "cupy": True, "nvrtc": (13, 0), "devices": 1, "driver_version": 13000, "capability": "90"}
    facts |= machine

    def load(name, *arguments, **options):
        if not facts["driver"] and ("cuda" in str(name) or "nvcuda" in str(name)):
            raise OSError(f"{name}: cannot open shared object file")
        return real(name, *arguments, **options) if "cuda" not in str(name) else None

    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", load)

    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        if facts["devices"] is None:
            raise CUDARuntimeError("cudaErrorInsufficientDriver")
        return facts["devices"]

    runtime = types.SimpleNamespace(
        getDeviceCount=count, driverGetVersion=lambda: facts["driver_version"], CUDARuntimeError=CUDARuntimeError
    )
    device = lambda: types.SimpleNamespace(compute_capability=facts["capability"])  # noqa: E731
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=device)
    nvrtc = types.ModuleType("cuda.bindings.nvrtc")
    nvrtc.nvrtcVersion = lambda: (0, *facts["nvrtc"])
    nvrtc.nvrtcGetSupportedArchs = lambda: (0, [75, 80, 90, 100])
    bindings, cuda = types.ModuleType("cuda.bindings"), types.ModuleType("cuda")
    cuda.bindings, bindings.nvrtc = bindings, nvrtc if facts["nvrtc"] else None
    modules = {"cupy": cupy if facts["cupy"] else None, "cuda": cuda, "cuda.bindings": bindings}
    modules["cuda.bindings.nvrtc"] = nvrtc if facts["nvrtc"] else None  # None: an import of it fails
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, MODULE, None)  # not delitem: what is imported now must be gone after the test too
    del sys.modules[MODULE]
    with pytest.raises(BackendError) as caught:
        importlib.import_module(MODULE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"driver": False}, ["no NVIDIA driver"]),
        ({"cupy": False}, ["CuPy", "pip install cupy-cuda13x "]),
        ({"nvrtc": None}, ["NVRTC", "pip install cupy-cuda13x "]),
        (
            {"devices": None},
            ["cudaErrorInsufficientDriver", "with a driver older than version 580 pip install cupy-cuda12x"],
        ),
        ({"devices": 0}, ["no GPU", "CUDA_VISIBLE_DEVICES"]),
        ({"driver_version": 12040}, ["CUDA 12.4", "pip install cupy-cuda12x "]),
        ({"capability": "61"}, ["sm_61", "sm_75 to sm_100"]),
    ],
)
def test_what_is_missing_is_told(monkeypatch, machine, words):
    reason = _reason(monkeypatch, **machine)
    assert all(word in reason for word in words), reason
