"""Models as ONNX files, for runtimes elsewhere: the graph of inference, one small function a layer.

Another layer's function is registered with `exports(LayerClass)`: it gets the graph, the layer and the name of its
input, adds nodes, and returns the name of its output. Needs the onnx package: pip install 'gpucnn[onnx]'.
"""

import json
from collections.abc import Callable

import numpy as np

from gpucnn.errors import ConfigurationError
from gpucnn.layers import (
    GELU,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Concat,
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
    Pad,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    TransposedConvolution,
    Upsample,
)
from gpucnn.layers.activation import SLOPE
from gpucnn.layers.base import Parameter, Statistic, label
from gpucnn.models.heads import CLASSIFIER
from gpucnn.models.model import Model
from gpucnn.resampling import Taps, adaptive_average, adaptive_maximum
from gpucnn.storage import write_file

OPSET, IR_VERSION = 20, 9  # of onnx 1.15, late 2023; onnxruntime 1.17 and newer read them

INPUT = "images"
OUTPUTS = {True: "scores", False: "values"}  # a classifier's scores, before softmax; a regressor's values


class Graph:
    """The nodes and constants of a graph that is being made."""

    def __init__(self, state: dict[str, np.ndarray]):
        self.nodes, self.constants = [], {}
        self._state, self._taken = state, set()

    def tensor(self, part: Parameter | Statistic, shape: tuple[int, ...] | None = None) -> str:
        """The name of a parameter or running statistic, which is its name in the model; reshaped if asked for."""
        return self.constant(
            part.name,
            self._state[part.name].astype(np.float32).reshape(shape or part.shape),  # float64 on some backends
        )

    def constant(self, name: str, value: np.ndarray) -> str:
        """The name of a constant, which is `name`."""
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def node(self, layer: Layer, operation: str, *inputs: str, **attributes) -> str:
        """Add a node for `layer`; returns the name of its one output. None attributes are left out."""
        from onnx import helper

        stem = f"{layer.name or 'model'}/{operation}"
        name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 1000))) if n not in self._taken)
        self._taken.add(name)
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operation, list(inputs), [name], name=name, **attributes))
        return name


# Layer class -> (graph, layer, name of the input) -> name of the output. Exactly the class: a subclass of a user's may
# compute something else.
EXPORTERS: dict[type[Layer], Callable[[Graph, Layer, str], str]] = {}


def exports(*kinds: type[Layer]):
    """Register a function for layers of these classes."""

    def register(function):
        EXPORTERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def export_onnx(model: Model, path) -> None:
    """Write `model` to `path` as an ONNX graph of inference.

    Input "images", float32 (N, *image_shape) with any N, which the graph crops and normalises as the model does; output
    "scores" (N, classes), before softmax, or "values" (N, outputs) of a regressor. Metadata hold the model's name,
    arguments, class names and the weights' SHA-256. Raises ConfigurationError for a layer that has no counterpart,
    naming it, and where the onnx package is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigurationError(f"onnx cannot be imported ({error}): pip install 'gpucnn[onnx]'") from None
    from onnx import TensorProto, helper, numpy_helper

    graph = Graph(model.state_dict())
    output = OUTPUTS[model.head == CLASSIFIER]
    last = export_layer(graph, model.layer, _prepared(graph, model))
    graph.nodes.append(helper.make_node("Identity", [last], [output], name=output))
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *model.image_shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *model.output_shape])],
            [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        producer_name="gpucnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    about = {
        "model": model.name,
        "arguments": json.dumps(model.arguments),
        "class_names": json.dumps(model.class_names),
        "weights_sha256": model.weights_sha256(),
    }
    helper.set_model_props(made, about)
    onnx.checker.check_model(made, full_check=True)
    write_file(path, made.SerializeToString())


def _prepared(graph: Graph, model: Model) -> str:
    """The middle of the images where the model crops, normalised where it normalises: Model.preparation."""
    x, layer, (channels, *sizes) = INPUT, model.layer, model.input_shape
    if model.image_shape != model.input_shape:
        firsts = [(there - kept) // 2 for there, kept in zip(model.image_shape[1:], sizes, strict=True)]
        limits = {
            "starts": firsts,
            "ends": [first + kept for first, kept in zip(firsts, sizes, strict=True)],
            "axes": range(2, 2 + len(sizes)),
        }
        names = [graph.constant(f"crop.{name}", np.array(list(given), np.int64)) for name, given in limits.items()]
        x = graph.node(layer, "Slice", x, *names)
    if model.mean is not None:
        mean, factor = (part.reshape(-1, *[1] * len(sizes)) for part in model.preparation.constants(channels))
        x = graph.node(layer, "Sub", x, graph.constant("mean", mean))
        x = graph.node(layer, "Mul", x, graph.constant("1/std", factor))
    return x


def export_layer(graph: Graph, layer: Layer, x: str) -> str:
    """Add `layer`'s nodes; returns its output's name. Raises ConfigurationError where it has no counterpart."""
    if type(layer) not in EXPORTERS:
        raise ConfigurationError(f"{label(layer)} has no counterpart in ONNX here: {layer!r}")
    return EXPORTERS[type(layer)](graph, layer, x)


# Each gives nodes in place of an activation by name: (graph, layer, name of the input) -> name of the output.
ACTIVATIONS: dict[str | None, Callable[[Graph, Layer, str], str]] = {
    None: lambda graph, layer, x: x,
    "relu": lambda graph, layer, x: graph.node(layer, "Relu", x),
    "tanh": lambda graph, layer, x: graph.node(layer, "Tanh", x),
    "sigmoid": lambda graph, layer, x: graph.node(layer, "Sigmoid", x),
    "leaky_relu": lambda graph, layer, x: graph.node(layer, "LeakyRelu", x, alpha=SLOPE),
    "gelu": lambda graph, layer, x: graph.node(layer, "Gelu", x),
    "silu": lambda graph, layer, x: graph.node(layer, "Mul", x, graph.node(layer, "Sigmoid", x)),
}


def activated(graph: Graph, layer: Layer, x: str) -> str:
    """The layer's own activation after its operation."""
    if layer.activation not in ACTIVATIONS:
        raise ConfigurationError(f"{label(layer)}: the activation {layer.activation!r} has no counterpart in ONNX here")
    return ACTIVATIONS[layer.activation](graph, layer, x)


def sides(padding) -> list[int]:
    """Padding as ONNX has it: before each axis, then after each."""
    return [before for before, _ in padding] + [after for _, after in padding]


@exports(Sequential)
def _sequential(graph: Graph, layer: Sequential, x: str) -> str:
    for part in layer.layers:
        x = export_layer(graph, part, x)
    return x


@exports(Residual)
def _residual(graph: Graph, layer: Residual, x: str) -> str:
    main = export_layer(graph, layer.body, x)
    short = export_layer(graph, layer.shortcut, x) if layer.shortcut else x
    return activated(graph, layer, graph.node(layer, "Add", main, short))


@exports(Pad, Upsample)
def _resample(graph: Graph, layer: Layer, x: str) -> str:
    return _mapped(graph, layer, x, layer._taps)


@exports(Conv1d, Conv2d, Conv3d)
def _conv(graph: Graph, layer: Convolution, x: str) -> str:
    window = layer.window
    inputs = [graph.tensor(part) for part in (layer.weight, layer.bias) if part is not None]
    x = _mapped(graph, layer, x, layer._taps)  # whatever is not zero around the image
    y = graph.node(
        layer,
        "Conv",
        x,
        *inputs,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=sides(layer._inner.padding),
        dilations=window.dilation,
        group=layer.groups,
    )
    return activated(graph, layer, y)


@exports(ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
def _conv_transpose(graph: Graph, layer: TransposedConvolution, x: str) -> str:
    window = layer.backwards  # its input is what comes out
    extra = [
        size - ((i - 1) * s - before - after + d * (k - 1) + 1)
        for size, i, s, (before, after), d, k in zip(
            window.input, window.output, window.stride, window.padding, window.dilation, window.kernel, strict=True
        )
    ]
    inputs = [graph.tensor(part) for part in (layer.weight, layer.bias) if part is not None]
    y = graph.node(
        layer,
        "ConvTranspose",
        x,
        *inputs,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=sides(window.padding),
        dilations=window.dilation,
        group=layer.groups,
        output_padding=extra,
    )
    return activated(graph, layer, y)


@exports(Concat)
def _concat(graph: Graph, layer: Concat, x: str) -> str:
    return graph.node(layer, "Concat", *(export_layer(graph, branch, x) for branch in layer.branches), axis=1)


def _mapped(graph: Graph, layer: Layer, x: str, maps: Taps) -> str:
    """Maps along axes: a Pad where positions hold a constant, a Gather where each shows one pixel, else a product with
    the map as a matrix."""
    for axis, table in enumerate(maps, start=2):
        if table is None:
            continue
        name = f"{layer.name}.axis{axis}"
        if not all(table.taps):  # a constant before and after the image
            first = next(p for p, taps in enumerate(table.taps) if taps)
            before_after = [first, table.output - first - table.input]
            pads, fill, along = (
                graph.constant(f"{name}.{what}", value)
                for what, value in (
                    ("pads", np.array(before_after, np.int64)),
                    ("fill", np.array(table.fill, np.float32)),
                    ("axis", np.array([axis], np.int64)),
                )
            )
            x = graph.node(layer, "Pad", x, pads, fill, along)
            continue
        if all(len(taps) == 1 and taps[0][1] == 1.0 for taps in table.taps):
            shown = graph.constant(name, np.array([taps[0][0] for taps in table.taps], np.int64))
            x = graph.node(layer, "Gather", x, shown, axis=axis)
            continue
        matrix = np.zeros((table.input, table.output), np.float32)
        for p, taps in enumerate(table.taps):
            for i, weight in taps:
                matrix[i, p] = weight
        order = [*range(len(maps) + 2)]
        order[axis], order[-1] = order[-1], order[axis]  # its own inverse
        x = x if axis == order[axis] else graph.node(layer, "Transpose", x, perm=order)
        x = graph.node(layer, "MatMul", x, graph.constant(name, matrix))
        x = x if axis == order[axis] else graph.node(layer, "Transpose", x, perm=order)
    return x


@exports(AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d)
def _adaptive_average(graph: Graph, layer: Layer, x: str) -> str:
    maps, window = adaptive_average(layer.input_shape[1:], layer.output_shape[1:])
    if window is None:
        return _mapped(graph, layer, x, maps)
    return graph.node(layer, "AveragePool", x, kernel_shape=window.kernel, strides=window.stride)


@exports(AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d)
def _adaptive_maximum(graph: Graph, layer: Layer, x: str) -> str:
    maps, window = adaptive_maximum(layer.input_shape[1:], layer.output_shape[1:])
    x = _mapped(graph, layer, x, maps)
    return graph.node(layer, "MaxPool", x, kernel_shape=window.kernel, strides=window.stride)


@exports(Dense)
def _dense(graph: Graph, layer: Dense, x: str) -> str:
    inputs = [graph.tensor(part) for part in (layer.weight, layer.bias) if part is not None]
    return activated(graph, layer, graph.node(layer, "Gemm", x, *inputs, transB=1))


@exports(BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d)
def _batch_norm(graph: Graph, layer: BatchNorm, x: str) -> str:
    parts = layer.gamma, layer.beta, layer.running_mean, layer.running_var
    y = graph.node(layer, "BatchNormalization", x, *map(graph.tensor, parts), epsilon=layer.eps)
    return activated(graph, layer, y)


@exports(MaxPool1d, MaxPool2d, MaxPool3d)
def _max_pool(graph: Graph, layer: Layer, x: str) -> str:
    window = layer.window
    return graph.node(
        layer,
        "MaxPool",
        x,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=sides(window.padding),
        ceil_mode=int(layer.ceil_mode),
    )


@exports(AvgPool1d, AvgPool2d, AvgPool3d)
def _avg_pool(graph: Graph, layer: Layer, x: str) -> str:
    window = layer.window
    return graph.node(
        layer,
        "AveragePool",
        x,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=sides(window.padding),
        ceil_mode=int(layer.ceil_mode),
        count_include_pad=int(layer.count_include_pad),
    )


@exports(GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d)
def _global_avg_pool(graph: Graph, layer: Layer, x: str) -> str:
    return graph.node(layer, "Flatten", graph.node(layer, "GlobalAveragePool", x), axis=1)


@exports(GlobalMaxPool1d, GlobalMaxPool2d, GlobalMaxPool3d)
def _global_max_pool(graph: Graph, layer: Layer, x: str) -> str:
    return graph.node(layer, "Flatten", graph.node(layer, "GlobalMaxPool", x), axis=1)


@exports(GroupNorm)
def _group_norm(graph: Graph, layer: GroupNorm, x: str) -> str:
    """As an instance norm of the groups, because ONNX's own GroupNormalization scales groups, not channels,
    before 21.
    """
    constants = {"groups": [0, layer.groups, -1], "shape": [-1, *layer.input_shape]}
    groups, shape = (graph.constant(f"{layer.name}.{name}", np.array(v, np.int64)) for name, v in constants.items())
    ones, zeros = (
        graph.constant(f"{layer.name}.{name}", np.full(layer.groups, value, np.float32))
        for name, value in (("ones", 1), ("zeros", 0))
    )
    y = graph.node(
        layer, "InstanceNormalization", graph.node(layer, "Reshape", x, groups), ones, zeros, epsilon=layer.eps
    )
    y = graph.node(layer, "Reshape", y, shape)
    if layer.affine:
        over = (-1, *[1] * (len(layer.input_shape) - 1))
        for operation, part in (("Mul", layer.gamma), ("Add", layer.beta)):
            y = graph.node(layer, operation, y, graph.tensor(part, over))
    return activated(graph, layer, y)


@exports(LayerNorm)
def _layer_norm(graph: Graph, layer: LayerNorm, x: str) -> str:
    parts = [graph.tensor(part) for part in (layer.gamma, layer.beta) if part is not None]
    parts = parts or [graph.constant(f"{layer.name}.ones", np.ones(layer.input_shape, np.float32))]
    return activated(graph, layer, graph.node(layer, "LayerNormalization", x, *parts, axis=1, epsilon=layer.eps))


@exports(Flatten)
def _flatten(graph: Graph, layer: Flatten, x: str) -> str:
    return graph.node(layer, "Flatten", x, axis=1)


@exports(Dropout)
def _dropout(graph: Graph, layer: Dropout, x: str) -> str:
    return x  # the identity in inference


@exports(ReLU, Tanh, Sigmoid, GELU, SiLU)
def _elementwise(graph: Graph, layer: Layer, x: str) -> str:
    return ACTIVATIONS[type(layer).__name__.lower()](graph, layer, x)


@exports(LeakyReLU)
def _leaky_relu(graph: Graph, layer: LeakyReLU, x: str) -> str:
    return graph.node(layer, "LeakyRelu", x, alpha=layer.negative_slope)


@exports(Softmax)
def _softmax(graph: Graph, layer: Softmax, x: str) -> str:
    return graph.node(layer, "Softmax", x, axis=1)
