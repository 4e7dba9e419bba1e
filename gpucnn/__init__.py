"""gpucnn: small convolutional networks that give the same bits on every device."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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


if TYPE_CHECKING:  # the same for type checkers and editors
    from gpucnn import arithmetic as arithmetic
    from gpucnn import backends as backends
    from gpucnn import check as check
    from gpucnn import data as data
    from gpucnn import errors as errors
    from gpucnn import explain as explain
    from gpucnn import functional as functional
    from gpucnn import geometry as geometry
    from gpucnn import gradients as gradients
    from gpucnn import initializers as initializers
    from gpucnn import layers as layers
    from gpucnn import losses as losses
    from gpucnn import metrics as metrics
    from gpucnn import models as models
    from gpucnn import optimizers as optimizers
    from gpucnn import schedules as schedules
    from gpucnn import show as show
    from gpucnn import summary as summary
    from gpucnn import throughput as throughput
    from gpucnn import training as training
    from gpucnn.backends import get_backend as get_backend
    from gpucnn.backends.batch import Batch as Batch
    from gpucnn.functional import convolve as convolve
    from gpucnn.geometry import Window as Window
    from gpucnn.geometry import window as window
    from gpucnn.gradients import check_gradients as check_gradients
    from gpucnn.layers import Concat as Concat
    from gpucnn.layers import Layer as Layer
    from gpucnn.layers import Parameter as Parameter
    from gpucnn.layers import Residual as Residual
    from gpucnn.layers import Sequential as Sequential
    from gpucnn.models import Model as Model
    from gpucnn.models import export_onnx as export_onnx
    from gpucnn.models import load_matching as load_matching
    from gpucnn.models import replace_head as replace_head
    from gpucnn.training import Trainer as Trainer
    from gpucnn.training import load as load
    from gpucnn.training import save as save
else:

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
