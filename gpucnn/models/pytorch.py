"""Weights to and from PyTorch, by the names of a `state_dict()`. docs/pytorch.md has the names and the modules.

The counterpart of a model is an ordinary nn.Sequential in which an activation is a module of its own, so that LeNet-5
is `nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), ...)` with the names 0.weight, 0.bias, 3.weight ... A
Residual is a module with the parts `body` and `shortcut`. PyTorch is needed for `pytorch_module` alone; a state dict is
read from safetensors files only, because PyTorch's own format is a pickle, which can run any program.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.layers import (
    GELU,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv1d,
    Conv2d,
    Conv3d,
    Convolution,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    GroupNorm,
    Layer,
    LayerNorm,
    LeakyReLU,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Parameter,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Statistic,
    Tanh,
    TransposedConvolution,
)
from gpucnn.layers.activation import SLOPE
from gpucnn.layers.base import label
from gpucnn.models import tensors as safetensors_file
from gpucnn.models.model import Model
from gpucnn.storage import write_file

_IGNORED = "num_batches_tracked"  # PyTorch counts batches for a momentum of None, which no layer here has


@dataclass
class Module:
    """A PyTorch module: `kind` in torch.nn, its arguments, our tensors by its names, and the parts of a Residual."""

    kind: str
    arguments: dict = field(default_factory=dict)
    tensors: dict[str, Parameter | Statistic] = field(default_factory=dict)
    parts: dict[str, list["Module"]] = field(default_factory=dict)


# Layer class -> what makes its modules. Exactly the class: a subclass may compute something else.
_COUNTERPARTS: dict[type[Layer], Callable[[Layer], list[Module]]] = {}


def _counterpart(*kinds: type[Layer]):
    def register(make):
        _COUNTERPARTS.update(dict.fromkeys(kinds, make))
        return make

    return register


def modules(layer: Layer) -> list[Module]:
    """What `layer` is in PyTorch, one module after the other.
    Raises ConfigurationError where there is no counterpart.
    """
    if type(layer) not in _COUNTERPARTS:
        raise ConfigurationError(f"{label(layer)} has no counterpart in PyTorch here: {layer!r}")
    return _COUNTERPARTS[type(layer)](layer)


def _activated(module: Module, activation: str | None) -> list[Module]:
    return [module, *_activation(activation)]


_ACTIVATIONS = {
    "relu": lambda: Module("ReLU", {"inplace": True}),
    "tanh": lambda: Module("Tanh"),
    "sigmoid": lambda: Module("Sigmoid"),
    "leaky_relu": lambda: Module("LeakyReLU", {"negative_slope": SLOPE}),
    "gelu": lambda: Module("GELU"),
    "silu": lambda: Module("SiLU"),
}


def _activation(name: str | None) -> list[Module]:
    if name is None:
        return []
    if name not in _ACTIVATIONS:
        raise ConfigurationError(f"the activation {name!r} has no counterpart in PyTorch here")
    return [_ACTIVATIONS[name]()]


def _even(layer: Layer) -> tuple[int, ...]:
    """The padding on either side of each axis."""
    if any(before != after for before, after in layer.window.padding):
        raise ConfigurationError(f"{label(layer)} pads unevenly, {layer.window.padding}, which PyTorch's does not")
    return tuple(before for before, _ in layer.window.padding)


def _tensors(**pairs) -> dict[str, Parameter | Statistic]:
    return {name: tensor for name, tensor in pairs.items() if tensor is not None}


@_counterpart(Sequential)
def _sequential(layer: Sequential) -> list[Module]:
    return [module for part in layer.layers for module in modules(part)]


@_counterpart(Residual)
def _residual(layer: Residual) -> list[Module]:
    parts = {"body": modules(layer.body), "shortcut": modules(layer.shortcut) if layer.shortcut else []}
    return _activated(Module("Residual", parts=parts), layer.activation)


@_counterpart(Conv1d, Conv2d, Conv3d)
def _conv(layer: Convolution) -> list[Module]:
    window, (out, channels, *_) = layer.window, layer.weight.shape
    if layer.padding_mode == "constant":
        raise ConfigurationError(f"{label(layer)} pads with a constant other than 0, which PyTorch's does not")
    arguments = {
        "in_channels": channels * layer.groups,
        "out_channels": out,
        "kernel_size": window.kernel,
        "stride": window.stride,
        "padding": _even(layer),
        "dilation": window.dilation,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": layer.padding_mode,
    }
    made = Module(f"Conv{layer.axes}d", arguments, _tensors(weight=layer.weight, bias=layer.bias))
    return _activated(made, layer.activation)


@_counterpart(ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
def _conv_transpose(layer: TransposedConvolution) -> list[Module]:
    window, (channels, out, *_) = layer.backwards, layer.weight.shape
    if any(before != after for before, after in window.padding):
        raise ConfigurationError(f"{label(layer)} cuts off unevenly, {window.padding}, which PyTorch's does not")
    arguments = {
        "in_channels": channels,
        "out_channels": out * layer.groups,
        "kernel_size": window.kernel,
        "stride": window.stride,
        "padding": tuple(before for before, _ in window.padding),
        "output_padding": layer.output_padding,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "dilation": window.dilation,
    }
    made = Module(f"ConvTranspose{layer.axes}d", arguments, _tensors(weight=layer.weight, bias=layer.bias))
    return _activated(made, layer.activation)


@_counterpart(Dense)
def _dense(layer: Dense) -> list[Module]:
    out, inputs = layer.weight.shape
    arguments = {"in_features": inputs, "out_features": out, "bias": layer.bias is not None}
    return _activated(Module("Linear", arguments, _tensors(weight=layer.weight, bias=layer.bias)), layer.activation)


@_counterpart(GroupNorm)
def _group_norm(layer: GroupNorm) -> list[Module]:
    arguments = {
        "num_groups": layer.groups,
        "num_channels": layer.input_shape[0],
        "eps": layer.eps,
        "affine": layer.affine,
    }
    return _activated(Module("GroupNorm", arguments, _tensors(weight=layer.gamma, bias=layer.beta)), layer.activation)


@_counterpart(LayerNorm)
def _layer_norm(layer: LayerNorm) -> list[Module]:
    arguments = {"normalized_shape": layer.input_shape, "eps": layer.eps, "elementwise_affine": layer.affine}
    return _activated(Module("LayerNorm", arguments, _tensors(weight=layer.gamma, bias=layer.beta)), layer.activation)


@_counterpart(BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d)
def _batch_norm(layer: BatchNorm) -> list[Module]:
    axes = max(len(layer.input_shape) - 1, 1)
    arguments = {"num_features": layer.input_shape[0], "eps": layer.eps, "momentum": layer.momentum}
    tensors = _tensors(
        weight=layer.gamma, bias=layer.beta, running_mean=layer.running_mean, running_var=layer.running_var
    )
    return _activated(Module(f"BatchNorm{axes}d", arguments, tensors), layer.activation)


def _pool(layer: Layer) -> dict:
    window = layer.window
    sizes = {"kernel_size": window.kernel, "stride": window.stride, "padding": _even(layer)}
    return {**sizes, "ceil_mode": layer.ceil_mode}


@_counterpart(MaxPool1d, MaxPool2d, MaxPool3d)
def _max_pool(layer: Layer) -> list[Module]:
    return [Module(f"MaxPool{layer.axes}d", _pool(layer))]


@_counterpart(AvgPool1d, AvgPool2d, AvgPool3d)
def _avg_pool(layer: Layer) -> list[Module]:
    return [Module(f"AvgPool{layer.axes}d", {**_pool(layer), "count_include_pad": layer.count_include_pad})]


@_counterpart(GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d)
def _global_avg_pool(layer: Layer) -> list[Module]:
    return [Module(f"AdaptiveAvgPool{layer.axes}d", {"output_size": 1}), Module("Flatten")]


@_counterpart(GlobalMaxPool1d, GlobalMaxPool2d, GlobalMaxPool3d)
def _global_max_pool(layer: Layer) -> list[Module]:
    return [Module(f"AdaptiveMaxPool{layer.axes}d", {"output_size": 1}), Module("Flatten")]


_COUNTERPARTS[Flatten] = lambda layer: [Module("Flatten")]
_COUNTERPARTS[Dropout] = lambda layer: [Module("Dropout", {"p": layer.rate})]
_COUNTERPARTS[ReLU] = lambda layer: [Module("ReLU")]  # not in place: the input may be used elsewhere, in a Residual
_COUNTERPARTS |= {kind: lambda layer: _activation(type(layer).__name__.lower()) for kind in (Tanh, Sigmoid, GELU, SiLU)}
_COUNTERPARTS[LeakyReLU] = lambda layer: [Module("LeakyReLU", {"negative_slope": layer.negative_slope})]
_COUNTERPARTS[Softmax] = lambda layer: [Module("Softmax", {"dim": 1})]


def _walk(made: list[Module], prefix: str = "") -> Iterator[tuple[str, Module]]:
    for number, module in enumerate(made):
        yield f"{prefix}{number}", module
        for name, part in module.parts.items():
            yield from _walk(part, f"{prefix}{number}.{name}.")


def pytorch_names(model: Model) -> dict[str, str]:
    """The name in PyTorch's state dict of each parameter and running statistic, by our name."""
    return {
        tensor.name: f"{place}.{name}"
        for place, module in _walk(modules(model.layer))
        for name, tensor in module.tensors.items()
    }


def to_pytorch(model: Model) -> dict[str, np.ndarray]:
    """The model's weights as a PyTorch state dict of NumPy arrays, in the counterpart's order.

    `pytorch_module(model)` is that counterpart; it takes images as the first layer sees them, cropped and normalised
    where the model has `mean` and `std`. Raises ConfigurationError for a layer that has none.
    """
    state = {name: value.astype(np.float32) for name, value in model.state_dict().items()}  # float64 on some backends
    found = {}
    for place, module in _walk(modules(model.layer)):
        found |= {f"{place}.{name}": state[tensor.name] for name, tensor in module.tensors.items()}
        if module.kind.startswith("BatchNorm"):
            found[f"{place}.{_IGNORED}"] = np.zeros((), np.int64)
    return found


def save_pytorch(model: Model, path) -> None:
    """Write `to_pytorch(model)` as a safetensors file, for
    `module.load_state_dict(safetensors.torch.load_file(path))`.
    """
    from safetensors.numpy import save as to_bytes

    write_file(path, to_bytes(to_pytorch(model), metadata={"format": "pt"}))


def from_pytorch(model: Model, state) -> Model:
    """Give `model` the weights of a PyTorch state dict; returns the model itself.

    `state` maps names to arrays or tensors, or is the path of a safetensors file that holds them. Names and shapes must
    be those of the counterpart (`pytorch_names`, docs/pytorch.md); num_batches_tracked is passed over. Raises
    CheckpointError where they are not, for numbers that float32 does not hold, or that are not finite, and for files of
    another format.
    """
    where = "the state dict"
    if isinstance(state, (str, Path)):
        where, state = str(state), _read(state)
    found = {name: _array(where, name, value) for name, value in state.items() if name.split(".")[-1] != _IGNORED}
    names = pytorch_names(model)
    parts = {part.name: part.shape for part in (*model.parameters, *model.running)}
    expected = {theirs: parts[ours] for ours, theirs in names.items()}
    shapes = {name: value.shape for name, value in found.items()}
    if shapes != expected:
        wrong = next(name for name in (*expected, *shapes) if shapes.get(name) != expected.get(name))
        there, here = shapes.get(wrong, "missing"), expected.get(wrong, "no part of it")
        raise CheckpointError(
            f"{where} is not of a network like this {model.name}: {wrong} is {there} there and {here} in the network; "
            f"it has {len(expected)} tensors from {next(iter(expected), 'none')} on, see gpucnn.models.pytorch_names"
        )
    model.load_state_dict({ours: found[theirs].astype(np.float32) for ours, theirs in names.items()})
    return model


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
    """One tensor on the host, if float32 holds it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    value = np.asarray(value)
    if value.dtype.kind != "f" or not np.can_cast(value.dtype, np.float32, "safe"):
        raise CheckpointError(f"{name} in {where} is {value.dtype}; convert it to float32: module.float()")
    if not np.isfinite(value).all():
        raise CheckpointError(f"{name} in {where} holds a NaN or an infinity")
    return value


def pytorch_module(model: Model):
    """The counterpart as a torch.nn.Sequential with the model's weights, in evaluation mode.

    Raises ConfigurationError for a layer that has none, or where PyTorch is not installed.
    """
    made = modules(model.layer)
    try:
        import torch
    except ImportError as error:
        raise ConfigurationError(f"PyTorch cannot be imported ({error}); pip install torch") from None

    network = _build(made)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in to_pytorch(model).items()})
    return network.eval()


def _build(made: list[Module]):
    from torch import nn

    class Residual(nn.Module):
        """body(x) + shortcut(x)."""

        def __init__(self, body: nn.Module, shortcut: nn.Module):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    def one(module: Module) -> nn.Module:
        if module.parts:
            return Residual(**{name: nn.Sequential(*map(one, part)) for name, part in module.parts.items()})
        return getattr(nn, module.kind)(**module.arguments)

    return nn.Sequential(*map(one, made))
