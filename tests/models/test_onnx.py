"""ONNX files, read by onnx's own checker and reference evaluator and by onnxruntime."""

import copy
import json
import math
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError
from gpucnn.layers import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from gpucnn.models import Model, export_onnx
from gpucnn.recordable import declaration
from tests.models.nets import NETWORKS, UNIT, bound, images, leaves, network, randomized

FAST = get_backend("numpy", "fast")
DOUBLE = get_backend("numpy", "fast", dtype=np.float64)


def run(path, x) -> np.ndarray:
    """By onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return session.run(None, {name: x})[0]


def run_in_float64(path, x) -> np.ndarray:
    """By the reference evaluator, which computes in the type of its input."""
    from onnx.reference import ReferenceEvaluator

    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float64), tensor.name))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return ReferenceEvaluator(graph).run(None, {"images": x.astype(np.float64)})[0]


def own_layers() -> Model:
    """Layers that the ready-made networks lack."""
    body = Sequential(
        ReLU(), Conv2d(4, 3, padding=1, groups=2), Tanh(), BatchNorm(activation="sigmoid"), Conv2d(4, 1, bias=False)
    )
    return randomized(
        Model(
            Sequential(
                Conv2d(4, 3, padding=((0, 1), (2, 1)), dilation=(1, 2)),
                Sigmoid(),
                Residual(body, activation="tanh"),
                Dropout(0.5),
                MaxPool2d(3, stride=2, padding=((1, 0), (0, 1))),
                AvgPool2d(2, stride=1, padding=1, count_include_pad=False),
                AvgPool2d((1, 2), padding=((0, 0), (1, 0))),
                GELU(),
                SiLU(),
                Flatten(),
                Dense(6, bias=False, activation="gelu"),
                BatchNorm(activation="silu"),
                Dense(5, activation="leaky_relu"),
                LeakyReLU(0.3),
                Softmax(),
                Dense(3),
            ),
            (2, 9, 9),
        )
    )


def build(name: str) -> Model:
    return own_layers() if name == "own layers" else network(name)


@pytest.fixture(scope="module", params=[*NETWORKS, "own layers"])
def exported(request, tmp_path_factory):
    """(model, path)."""
    model = build(request.param)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path)
    return model, path


def test_the_checker_takes_it_and_it_says_what_it_is(exported):
    model, path = exported
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.opset_import[0].version == 20 and graph.producer_name == "gpucnn"
    (given,), (result,) = graph.graph.input, graph.graph.output
    assert (given.name, result.name) == ("images", "values" if model.head == "regressor" else "scores")
    for value, shape in ((given, model.input_shape), (result, model.output_shape)):
        axes = value.type.tensor_type.shape.dim
        assert axes[0].dim_param == "N" and tuple(axis.dim_value for axis in axes[1:]) == shape
    about = {entry.key: entry.value for entry in graph.metadata_props}
    assert about["model"] == model.name and about["weights_sha256"] == model.weights_sha256()
    assert json.loads(about["arguments"]) == model.arguments
    names = {tensor.name for tensor in graph.graph.initializer}
    assert names == set(model.state_dict())


@pytest.mark.parametrize("count", [1, 5])
def test_the_graph_computes_the_same(exported, count):
    """In float64 on both sides, to a float32 rounding of the largest output: 2**29 times the unit of float64."""
    model, path = exported
    x = images(model, count)
    ours = model.place(DOUBLE)(x.astype(np.float64))[0].numpy()
    assert np.abs(ours - run_in_float64(path, x)).max() <= UNIT * np.abs(ours).max()


@pytest.mark.parametrize("count", [1, 2, 33])
def test_onnxruntime_computes_the_same(exported, count):
    """In float32 through L layers of sums of at most K terms: 16 * L * sqrt(K) * u in the 2-norm, as roundings grow
    where they are independent (Higham 2002, section 2.8)."""
    model, path = exported
    x = images(model, count)
    ours, theirs = model.place(DOUBLE)(x.astype(np.float64))[0].numpy(), run(path, x)
    assert theirs.shape == ours.shape and theirs.dtype == np.float32
    layers = [layer for layer in model.layer.walk() if not isinstance(layer, Sequential)]
    terms = max(math.prod(layer.weight.shape[1:]) for layer in layers if isinstance(layer, (Conv2d, Dense)))
    assert np.linalg.norm(ours - theirs) <= 16 * len(layers) * math.sqrt(terms) * UNIT * np.linalg.norm(ours)
    if model.head == "classifier" and model.name != "custom":
        assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_computes_the_same_in_onnxruntime(name, tmp_path):
    """Both get the same input, so that the bound is the layer's own, without earlier layers' errors."""
    model = network(name).place(FAST)
    for number, (layer, x) in enumerate(leaves(model.layer, FAST.pack(images(model, 3)))):
        if isinstance(layer, Residual):  # its addition, whose graph the whole network's test has run
            continue
        part = Model(copy.copy(layer), layer.input_shape)  # rebuilds what depends on the position in the network
        part.load_state_dict({name: p.value for name, p in (*layer.parameters(), *layer.statistics())})
        export_onnx(part, tmp_path / f"{number}.onnx")
        difference = np.abs(layer(x)[0].numpy() - run(tmp_path / f"{number}.onnx", x.numpy()))
        assert np.all(difference <= bound(layer, x)), layer


def test_every_layer_is_exported_or_has_a_reason():
    """A new layer must define `onnx` or be listed in this test."""
    layers = {kind for kind in vars(gpucnn.layers).values() if isinstance(kind, type) and issubclass(kind, Layer)}
    without = {kind.__name__ for kind in layers if declaration(kind.__new__(kind), "onnx") is None}
    assert without == {"Layer", "GlobalPool"}


def test_images_are_prepared_as_the_model_does(tmp_path):
    """Cropped to the middle, odd sizes included, and normalized."""
    model = network("mlp")
    model.image_shape, model.mean, model.std = (1, 14, 11), (0.25,), (0.5,)
    export_onnx(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).random((3, 1, 14, 11)).astype(np.float32)
    ours = model.place(DOUBLE)(x.astype(np.float64))[0].numpy()
    plain = network("mlp").place(DOUBLE)
    by_hand = plain((x[:, :, 2:11, 1:10].astype(np.float64) - 0.25) * 2)[0].numpy()
    assert np.abs(ours - by_hand).max() <= UNIT * np.abs(ours).max()
    assert np.abs(ours - run_in_float64(tmp_path / "m.onnx", x)).max() <= UNIT * np.abs(ours).max()


class Own(Dense):
    """A subclass that computes something else."""

    def __call__(self, x):
        return super().__call__(x)


def test_a_layer_that_is_not_known_is_named(tmp_path):
    model = Model(Sequential(Flatten(), Own(3)), (1, 4, 4)).initialize(0)
    with pytest.raises(ConfigurationError, match=r"layer 1 \(Own\) has no counterpart in ONNX here: Own\(units=3"):
        gpucnn.export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_own_layer_that_returns_no_name_is_named(tmp_path):
    class Forgetful(Own):
        def onnx(self, graph, x):
            graph.node("Relu", x)

    model = Model(Sequential(Flatten(), Forgetful(3)), (1, 4, 4)).initialize(0)
    with pytest.raises(ConfigurationError, match=r"onnx of layer 1 \(Forgetful\) returned nothing; return the name of"):
        gpucnn.export_onnx(model, tmp_path / "m.onnx")


def test_without_onnx_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigurationError, match="pip install onnx$"):
        export_onnx(network("mlp"), tmp_path / "m.onnx")


def test_class_names_travel_along(tmp_path):
    model = network("mlp")
    model.class_names = list("abcdefghij")
    export_onnx(model, tmp_path / "m.onnx")
    about = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(about["class_names"]) == list("abcdefghij")
