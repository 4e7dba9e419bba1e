"""gpucnn: small convolutional networks that give the same bits on every device."""

import importlib
import importlib.util
import sys
from pathlib import Path

__version__ = "0.1.0"


def _find_kernels() -> None:
    """Import gpucnn.kernels from a checkout, where kernels/ is next to this package; an installation has it inside.
    Nothing else of the checkout becomes part of the package.
    """
    package = Path(__file__).resolve().parent
    folder = package.parent / "kernels"
    if (package / "kernels").is_dir() or not (folder / "__init__.py").is_file():
        return
    name = f"{__name__}.kernels"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    globals()["kernels"] = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_find_kernels()

# Public names and their modules, imported at first use: `import gpucnn` stays quick.
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
    "load_matching": "gpucnn.models",
    "replace_head": "gpucnn.models",
}
_MODULES = {
    "arithmetic",
    "backends",
    "check",
    "data",
    "errors",
    "explain",
    "functional",
    "geometry",
    "gradients",
    "initializers",
    "layers",
    "losses",
    "metrics",
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
