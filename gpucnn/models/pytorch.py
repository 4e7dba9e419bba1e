"""Weights to and from PyTorch, by the names in a `state_dict()`; docs/pytorch.md lists names and modules.

The counterpart of a model is an ordinary nn.Sequential in which an activation is a module of its own, so that LeNet-5
is `nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), ...)` with the names 0.weight, 0.bias, 3.weight ... A
Residual is a module with the parts `body` and `shortcut`. Only `pytorch_module` needs PyTorch; state dicts are read
from safetensors files only, because PyTorch's own format is a pickle, which can run any program.
"""

from collections.abc import Iterator, Mapping
from os import PathLike, fspath

import numpy as np

from gpucnn.arguments import instance, refuse
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.layers.base import Parameter, Statistic
from gpucnn.layers.counterparts import TorchModule, torch_modules
from gpucnn.models import tensors as safetensors_file
from gpucnn.models.model import Model
from gpucnn.storage import write_file

_IGNORED = "num_batches_tracked"  # PyTorch counts batches for a momentum of None, which no layer here has


def _walk(made: list[TorchModule], prefix: str = "") -> Iterator[tuple[str, TorchModule]]:
    for number, module in enumerate(made):
        yield f"{prefix}{number}", module
        for name, part in module.parts.items():
            yield from _walk(part, f"{prefix}{number}.{name}.")


def pytorch_names(model: Model) -> dict[str, str]:
    """The name in PyTorch's state dict of each parameter and running statistic, by our name."""
    instance("model", model, Model, "a gpucnn.Model")
    return {tensor.name: theirs for theirs, tensor in _places(model).items()}


def _places(model: Model) -> dict[str, Parameter | Statistic]:
    """Our parameter or running statistic for each name in PyTorch's state dict."""
    return {
        f"{place}.{name}": tensor
        for place, module in _walk(torch_modules(model.layer))
        for name, tensor in module.tensors.items()
    }


def to_pytorch(model: Model) -> dict[str, np.ndarray]:
    """The model's weights as a PyTorch state dict of NumPy arrays, in the counterpart's order.

    `pytorch_module(model)` is that counterpart; it takes preprocessed images, as the first layer does: cropped, and
    normalized if the model has `mean` and `std`. Raises ConfigurationError for a layer without a counterpart.
    """
    instance("model", model, Model, "a gpucnn.Model")
    made, tensors = torch_modules(model.layer), dict[str, np.ndarray]()
    state = {name: value.astype(np.float32) for name, value in model.state_dict().items()}  # float64 on some backends
    for place, module in _walk(made):
        tensors |= {f"{place}.{name}": state[tensor.name] for name, tensor in module.tensors.items()}
        if module.kind.startswith("BatchNorm"):
            tensors[f"{place}.{_IGNORED}"] = np.zeros((), np.int64)
    return tensors


def save_pytorch(model: Model, path) -> None:
    """Write `to_pytorch(model)` as a safetensors file, for
    `module.load_state_dict(safetensors.torch.load_file(path))`.
    """
    instance("model", model, Model, "a gpucnn.Model")
    from safetensors.numpy import save as to_bytes

    write_file(path, to_bytes(to_pytorch(model), metadata={"format": "pt"}))


def from_pytorch(model: Model, state) -> Model:
    """Load the weights of a PyTorch state dict into `model`; returns the model itself.

    `state` maps names to arrays or tensors, or is the path of a safetensors file that holds them. Names and shapes must
    be those of the counterpart (`pytorch_names`, docs/pytorch.md); num_batches_tracked is ignored. Raises
    CheckpointError if they are not, for numbers that float32 cannot represent or that are not finite, and for files of
    another format.
    """
    instance("model", model, Model, "a gpucnn.Model")
    expected_kind = "arrays by name, such as module.state_dict(), or the path of a safetensors file"
    instance("state", state, (Mapping, str, PathLike), expected_kind)
    if isinstance(state, Mapping) and not all(isinstance(name, str) for name in state):
        raise refuse("state", state, expected_kind, CheckpointError)
    where = "the state dict"
    if not isinstance(state, Mapping):
        where, state = fspath(state), _read(state)
    tensors = {name: _array(where, name, value) for name, value in state.items() if name.split(".")[-1] != _IGNORED}
    places = _places(model)
    expected = {theirs: tensor.shape for theirs, tensor in places.items()}
    shapes = {name: value.shape for name, value in tensors.items()}
    if shapes != expected:
        wrong = next(name for name in (*expected, *shapes) if shapes.get(name) != expected.get(name))
        raise CheckpointError(
            f"{where} is not of a network like this {model.name}: {wrong} is {shapes.get(wrong, 'missing')} in it and "
            f"{expected.get(wrong, 'missing')} in the network, which has {len(expected)} tensors, the first "
            f"{next(iter(expected), 'none')}; {_renaming(shapes, expected)}"
        )
    found: dict[str, str] = {}
    for theirs, tensor in places.items():  # a layer in several places is as many modules
        first = found.setdefault(tensor.name, theirs)
        if not np.array_equal(tensors[first], tensors[theirs]):
            raise CheckpointError(
                f"{first} and {theirs} differ in {where}, but are one layer in two places in this {model.name}, which "
                "has its weights once; make a network with a layer for each"
            )
    model.load_state_dict({ours: tensors[theirs].astype(np.float32) for ours, theirs in found.items()})
    return model


def _renaming(found: dict[str, tuple], expected: dict[str, tuple]) -> str:
    """What to do about names: to take tensors of the right shapes without asking would be a guess."""
    wanted = next(iter(expected), "")
    prefix = next((name.removesuffix(wanted) for name in found if name.endswith(wanted)), "")
    if prefix and {prefix + name: shape for name, shape in expected.items()} == found:
        return f"take the prefix away: {{name.removeprefix({prefix!r}): value for name, value in state.items()}}"
    ours, theirs = ([(name.split(".")[-1], shape) for name, shape in state.items()] for state in (expected, found))
    if ours == theirs:
        return "its tensors have the same shapes in the same order: docs/pytorch.md shows how to rename them"
    return "see gpucnn.models.pytorch_names"


def _read(path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file. Raises CheckpointError for any other file; nothing is unpickled."""
    content = safetensors_file.content_of(path)
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # torch.save: a zip, or a pickle
        raise CheckpointError(
            f"{path} is in PyTorch's own format, a pickle, which can run any program and is not read; convert it "
            "where you trust it: safetensors.torch.save_file(module.state_dict(), 'weights.safetensors')"
        )
    tensors, metadata = safetensors_file.parse(content, path)
    if "gpucnn" in metadata:
        raise CheckpointError(f"{path} is a file of gpucnn's own: read it with gpucnn.load")
    return tensors


def _array(where: str, name: str, value) -> np.ndarray:
    """One tensor on the host, if float32 can represent it."""
    if isinstance(value, Mapping):
        raise CheckpointError(f"{name} in {where} is a dictionary itself; if it has the weights, give state[{name!r}]")
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        value = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # such as of a tensor on the device "meta"
        raise CheckpointError(f"{name} in {where} is no array: {error}") from None
    if value.dtype.kind != "f" or not np.can_cast(value.dtype, np.float32, "safe"):
        raise CheckpointError(f"{name} in {where} is {value.dtype}; convert it to float32: module.float()")
    if not np.isfinite(value).all():
        raise CheckpointError(f"{name} in {where} holds a NaN or an infinity")
    if name.split(".")[-1] == "running_var" and (value < 0).any():
        raise CheckpointError(f"{name} in {where} holds {value.min():g}; no variance is negative: exchanged tensors?")
    return value


def pytorch_module(model: Model):
    """The counterpart as a torch.nn.Sequential with the model's weights, in evaluation mode.

    Raises ConfigurationError for a layer without a counterpart, or if PyTorch is not installed.
    """
    instance("model", model, Model, "a gpucnn.Model")
    made = torch_modules(model.layer)
    try:
        import torch
    except ImportError as error:
        raise ConfigurationError(f"PyTorch cannot be imported ({error}); pip install torch") from None

    network = _build(made)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in to_pytorch(model).items()})
    return network.eval()


def _build(made: list[TorchModule]):
    import torch
    from torch import nn

    class Residual(nn.Module):
        """body(x) + shortcut(x)."""

        def __init__(self, body: nn.Module, shortcut: nn.Module):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    class Concat(nn.ModuleDict):
        """All parts of the same x, side by side."""

        def forward(self, x):
            return torch.cat([part(x) for part in self.values()], 1)

    def one(module: TorchModule) -> nn.Module:
        if module.parts:
            parts = {name: nn.Sequential(*map(one, part)) for name, part in module.parts.items()}
            return Residual(**parts) if module.kind == "Residual" else Concat(parts)
        if not hasattr(nn, module.kind):
            raise ConfigurationError(
                f"torch.nn has no {module.kind}, which the pytorch() of a layer of yours names; name one that it has"
            )
        return getattr(nn, module.kind)(**module.arguments)

    return nn.Sequential(*map(one, made))
