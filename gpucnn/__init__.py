"""gpucnn: small convolutional networks, to the same bits on every device."""

import importlib
from pathlib import Path

__version__ = "0.1.0"

# A bare checkout keeps the kernels beside this package; an installation has them inside it, as gpucnn.kernels.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "kernels").is_dir():
    __path__.append(str(_checkout))

# Public names and the module each lives in, imported at first use: `import gpucnn` stays quick.
_PUBLIC = {
    "get_backend": "gpucnn.backends",
    "Batch": "gpucnn.backends.batch",
    "Window": "gpucnn.geometry",
    "window": "gpucnn.geometry",
    "Layer": "gpucnn.layers",
    "Parameter": "gpucnn.layers",
    "Sequential": "gpucnn.layers",
    "Residual": "gpucnn.layers",
    "Concat": "gpucnn.layers",
    "convolve": "gpucnn.functional",
    "Model": "gpucnn.models",
    "check_gradients": "gpucnn.gradients",
    "Trainer": "gpucnn.training",
    "export_onnx": "gpucnn.models",
    "save": "gpucnn.training",
    "load": "gpucnn.training",
}
_MODULES = {
    "arithmetic",
    "backends",
    "check",
    "data",
    "errors",
    "functional",
    "geometry",
    "gradients",
    "initializers",
    "layers",
    "losses",
    "models",
    "optimizers",
    "schedules",
    "show",
    "summary",
    "throughput",
    "training",
}
__all__ = sorted([*_PUBLIC, *_MODULES])  # noqa: PLE0605 - computed from the tables above


def __getattr__(name: str):
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"gpucnn.{name}")
    raise AttributeError(f"module 'gpucnn' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
