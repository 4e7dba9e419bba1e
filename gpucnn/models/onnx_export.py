"""Models as ONNX files: the inference graph, to which each layer adds its nodes.

Needs the onnx package: pip install onnx.
"""

import json
from typing import Any

import numpy as np

from gpucnn.arguments import a_kind
from gpucnn.errors import ConfigurationError
from gpucnn.extras import install
from gpucnn.layers.base import Layer, Parameter, Shape, Statistic
from gpucnn.layers.counterparts import counterpart
from gpucnn.layers.own import label
from gpucnn.models.files import write_file
from gpucnn.models.heads import CLASSIFIER
from gpucnn.models.model import Model, a_model

OPSET, IR_VERSION = 20, 9  # of onnx 1.15, late 2023; onnxruntime 1.17 and newer read them

INPUT = "images"
OUTPUTS = {True: "scores", False: "values"}  # a classifier's scores, before softmax; a regressor's values


class Graph:
    """The nodes and constants of a graph under construction: gpucnn.layers.counterparts.Graph."""

    def __init__(self, state: dict[str, np.ndarray]):
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._state, self._taken = state, set[str]()
        self._layer: Layer | None = None  # the one that adds its nodes

    def add(self, layer: Layer, x: str) -> str:
        """Add a layer's nodes; returns its output's name. Raises ConfigurationError if it has no counterpart, or one of
        the user's returns something else.
        """
        outer, self._layer = self._layer, layer
        y = counterpart(layer, "onnx", "ONNX")(self, x)
        self._layer = outer
        if not isinstance(y, str):
            raise ConfigurationError(
                f"onnx of {label(layer)} returned {a_kind(y)}; return the name of its output, as graph.node gives it"
            )
        return y

    def tensor(self, part: Parameter | Statistic, shape: Shape | None = None) -> str:
        """The name of a parameter or running statistic, which is its name in the model; reshaped to `shape` if set."""
        value = self._state[part.name].astype(np.float32)  # float64 on some backends
        self.constants[part.name] = np.ascontiguousarray(value.reshape(shape or part.shape))
        return part.name

    def constant(self, name: str, value: np.ndarray | list | float) -> str:
        """The name of a constant, int64 or float32: `name` after the layer's."""
        value = np.asarray(value)
        name = name if self._layer is None else f"{self._layer.name}.{name}"
        self.constants[name] = np.ascontiguousarray(value, np.int64 if value.dtype.kind in "iu" else np.float32)
        return name

    def node(self, operation: str, *inputs: str, **attributes) -> str:
        """Add a node; returns the name of its one output. None attributes are left out."""
        from onnx import helper

        stem = f"{(self._layer and self._layer.name) or 'model'}/{operation}"
        name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 1000))) if n not in self._taken)
        self._taken.add(name)
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operation, list(inputs), [name], name=name, **attributes))
        return name


def export_onnx(model: Model, path) -> None:
    """Write `model` to `path` as an ONNX inference graph.

    Input "images", float32 (N, *image_shape) with any N, which the graph crops and normalizes as the model does; output
    "scores" (N, classes), before softmax, or "values" (N, outputs) of a regressor. The metadata hold the model's name,
    arguments, class names and the weights' SHA-256. Raises ConfigurationError for a layer without a counterpart,
    naming it, and if the onnx package is missing.
    """
    a_model(model)
    try:
        import onnx
    except ImportError as error:
        raise ConfigurationError(f"onnx cannot be imported ({error}): {install('onnx')}") from None
    from onnx import TensorProto, helper, numpy_helper

    graph = Graph(model.state_dict())
    output = OUTPUTS[model.head == CLASSIFIER]
    last = graph.add(model.layer, _prepared(graph, model))
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
    """Add the model's preprocessing, Model.preparation: crop and normalization."""
    x, (channels, *sizes) = INPUT, model.input_shape
    if model.image_shape != model.input_shape:
        firsts = [(whole - kept) // 2 for whole, kept in zip(model.image_shape[1:], sizes, strict=True)]
        limits = {
            "starts": firsts,
            "ends": [first + kept for first, kept in zip(firsts, sizes, strict=True)],
            "axes": [*range(2, 2 + len(sizes))],
        }
        x = graph.node("Slice", x, *(graph.constant(f"crop.{name}", limit) for name, limit in limits.items()))
    if model.mean is not None:
        mean, factor = (part.reshape(-1, *[1] * len(sizes)) for part in model.preparation.constants(channels))
        x = graph.node("Sub", x, graph.constant("mean", mean))
        x = graph.node("Mul", x, graph.constant("1/std", factor))
    return x
