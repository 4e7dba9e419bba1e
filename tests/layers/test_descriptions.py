"""What layers declare about themselves, tested with user-defined layers, which nothing outside their classes knows."""

import copy

import numpy as np
import pytest

import gpucnn
from gpucnn import check_gradients, layers, show
from gpucnn.errors import ConfigurationError, DTypeError, ShapeError
from gpucnn.layers import (
    Concat,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LayerNorm,
    MaxPool2d,
    Parameter,
    ReLU,
    Residual,
    Sequential,
    Statistic,
    TorchModule,
    image_mask,
)
from gpucnn.models import (
    Model,
    conv_to_dense,
    dense_to_conv,
    export_onnx,
    fully_convolutional,
    pytorch_module,
    pytorch_names,
    sliding_window,
)
from gpucnn.recordable import is_recordable
from gpucnn.summary import summary


class Mix(Layer):
    """y[o] = sum over c of weight[o, c] * x[c] at every other pixel: a 1x1 convolution of stride 2."""

    local = True

    def __init__(self, out):
        self.out = out

    def build(self, shape):
        channels, *size = shape
        self.weight = Parameter((self.out, channels, 1, 1), "he", channels, self.out)
        self.reach, self.step = (1, 1), (2, 2)
        return (self.out, *(-(-pixels // 2) for pixels in size))

    def __call__(self, x):
        xp, w = x.backend.xp, self.weight.value[..., 0, 0]
        seen = x.data[:, :, ::2, ::2]

        def backward(dy):
            dx = xp.zeros_like(x.data)
            dx[:, :, ::2, ::2] = xp.einsum("oc,bohwl->bchwl", w, dy.data)
            gradient = xp.einsum("bohwl,bchwl->oc", dy.data * image_mask(x), seen)
            self.weight.grad[...] = gradient[..., None, None]
            return dy.like(dx)

        return x.like(xp.einsum("oc,bchwl->bohwl", w, seen)), backward

    def multiply_adds(self):
        return self.input_shape[0] * np.prod(self.output_shape).item()

    def filter_weights(self, state):
        return state[self.weight.name]

    def onnx(self, graph, x):
        bias = graph.constant("zeros", np.zeros(self.out))
        return graph.node("Conv", x, graph.tensor(self.weight), bias, kernel_shape=[1, 1], strides=[2, 2])

    def pytorch(self):
        channels, out = self.input_shape[0], self.out
        arguments = {"in_channels": channels, "out_channels": out, "kernel_size": 1, "stride": 2, "bias": False}
        return [TorchModule("Conv2d", arguments, {"weight": self.weight})]


def mixed():
    """(model, images, its float64 outputs for them)."""
    model = Model(Sequential(Mix(3), Flatten(), Dense(2, bias=False)), (2, 5, 4)).initialize(1)
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 4)).astype(np.float32)
    weights = {name: value.astype(np.float64) for name, value in model.state_dict().items()}
    y = np.einsum("oc,nchw->nohw", weights["0.weight"][..., 0, 0], x[:, :, ::2, ::2])
    return model, x, y, y.reshape(3, -1) @ weights["2.weight"].T


def test_gradients():
    assert check_gradients(Mix(3), shape=(2, 5, 4)).passed


def test_summary():
    row, _, last = summary(mixed()[0]).rows
    assert (row.kind, row.output, row.parameters, row.field) == ("Mix", (3, 3, 2), 6, (1, 1))
    assert row.multiply_adds == 2 * 3 * 3 * 2 and row.dense_weights == (2 * 5 * 4) * (3 * 3 * 2)
    assert last.field == (5, 4)
    (_, after) = summary(Model(Sequential(Mix(3), MaxPool2d(2)), (2, 5, 5))).rows
    assert after.field == (3, 3)  # 1 pixel, and one 2 pixels away


def test_onnx_and_pytorch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x, _, expected = mixed()
    export_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"images": x})[0], expected, rtol=1e-5, atol=1e-5)
    torch = pytest.importorskip("torch", reason="PyTorch, a test oracle, is not installed")
    assert pytorch_names(model) == {"0.weight": "0.weight", "2.weight": "2.weight"}
    with torch.no_grad():
        outputs = pytorch_module(model)(torch.from_numpy(x)).numpy()
    assert np.allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_show():
    model, x, maps, _ = mixed()
    _, step, _ = show.maps(model, x[0], backend="numpy", math="fast")[0]
    assert (step.name, step.kind) == ("0", "Mix")
    assert np.allclose(step.values, maps[0], rtol=1e-5, atol=1e-5)
    assert np.array_equal(show.filters(model), model.state_dict()["0.weight"])


def test_it_slides():
    model = mixed()[0]
    larger = np.random.default_rng(1).standard_normal((1, 2, 9, 8)).astype(np.float32)
    slid, window = fully_convolutional(model, (2, 9, 8)), sliding_window(model, (2, 9, 8))
    assert (window.stride, window.output) == ((2, 2), (3, 3))
    scores = slid.predict(larger, finish=lambda y: y)
    crop = larger[:, :, 2:7, 4:8]
    assert np.allclose(scores[0, :, 1, 2], model.predict(crop, finish=lambda y: y)[0], rtol=1e-5, atol=1e-6)


# ---- a subclass ------------------------------------------------------------------------------------------------------


class Renamed(Conv2d):
    """A convolution under another name."""

    def __init__(self, out):
        super().__init__(out, 3)


class Doubled(Conv2d):
    """A convolution that computes something else."""

    recordable = True

    def __call__(self, x):
        y, backward = super().__call__(x)
        return y.backend.add(y, y), lambda dy: backward(dy.backend.add(dy, dy))


class Told(Doubled):
    """Doubled with its own counterparts."""

    def onnx(self, graph, x):
        y = super().onnx(graph, x)
        return graph.node("Add", y, y)


class Backwards(LayerNorm):
    """Overrides a helper that runs in a step."""

    def _seen(self, x):
        return super()._seen(x)


class Skip(Sequential):
    """No longer a chain."""

    def __call__(self, x):
        y, backward = super().__call__(x)
        return x.backend.add(x, y), lambda dy: dy.backend.add(dy, backward(dy))


class Twice(Dense):
    def __call__(self, x):
        y, backward = super().__call__(x)
        return y.backend.add(y, y), lambda dy: backward(dy.backend.add(dy, dy))


def run(model, tmp_path, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x})[0]


def test_a_subclass_that_computes_the_same_has_its_bases_counterparts(tmp_path):
    model = Model(Sequential(Renamed(2)), (1, 5, 5)).initialize(0)
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5)).astype(np.float32)
    ours = model.predict(x, finish=lambda y: y)
    assert np.allclose(run(model, tmp_path, x), ours, rtol=1e-5, atol=1e-6)
    assert pytorch_names(model) == {"0.weight": "0.weight", "0.bias": "0.bias"}


def test_a_subclass_that_computes_something_else_declares_its_counterparts_again(tmp_path):
    replaced = ReLU()
    object.__setattr__(replaced, "check", lambda x: None)
    for layer in (Doubled(2, 3), Backwards(), Skip(ReLU()), replaced):
        model = Model(layer, (1, 5, 5)).initialize(0)
        kind = type(layer).__name__
        with pytest.raises(ConfigurationError, match=rf"{kind} has no counterpart in ONNX here"):
            export_onnx(model, tmp_path / "m.onnx")
        with pytest.raises(ConfigurationError, match=rf"{kind} has no counterpart in PyTorch here"):
            pytorch_names(model)
    model = Model(Told(2, 3), (1, 5, 5)).initialize(0)
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5)).astype(np.float32)
    single = Model(Conv2d(2, 3), (1, 5, 5))
    single.load_state_dict(model.state_dict())
    assert np.allclose(run(model, tmp_path, x), 2 * single.predict(x, finish=lambda y: y), rtol=1e-5, atol=1e-6)
    assert is_recordable(model.layer)  # a counterpart does not run in a step
    with pytest.raises(ConfigurationError, match="no counterpart in PyTorch"):
        pytorch_names(model)


def test_what_computes_something_else_does_not_slide():
    for layer in (Doubled(2, 3), Residual(Doubled(1, 3, padding=1)), Skip(ReLU())):
        model = Model(Sequential(layer, Flatten(), Dense(2)), (1, 5, 5)).initialize(0)
        with pytest.raises(ConfigurationError, match="cannot slide"):
            fully_convolutional(model, (1, 9, 9))
    model = Model(Sequential(GlobalAvgPool2d(), Twice(3)), (1, 5, 5)).initialize(0)
    with pytest.raises(ConfigurationError, match="cannot slide"):
        fully_convolutional(model, (1, 9, 9))
    with pytest.raises(ConfigurationError, match="dense_to_conv takes a Dense layer, not Twice"):
        dense_to_conv(model.layer.layers[1], (1, 1, 1))
    with pytest.raises(ConfigurationError, match="conv_to_dense takes a convolution, not Doubled"):
        conv_to_dense(Model(Doubled(2, 3), (1, 5, 5)).initialize(0).layer)


# ---- layers within layers --------------------------------------------------------------------------------------------


class Blocks(Layer):
    """Layers in a list, a tuple and a dictionary."""

    def __init__(self):
        self.blocks = [Conv2d(2, 3, padding=1, activation="tanh"), Conv2d(2, 1)]
        self.rest = ([Conv2d(2, 1)], 3)
        self.named = {"last": Conv2d(1, 1)}

    def build(self, shape):
        for _, layer in self.children():
            shape = layer.connect(shape)
        return shape

    def __call__(self, x):
        backwards = []
        for _, layer in self.children():
            x, backward = layer(x)
            backwards.append(backward)

        def backward(dy):
            for step in reversed(backwards):
                dy = step(dy)
            return dy

        return x, backward


def test_layers_in_collections_are_found_and_train():
    model = Model(Sequential(ReLU(), Blocks()), (2, 4, 4))
    places = ["1.blocks.0", "1.blocks.1", "1.rest.0.0", "1.named.last"]
    assert [p.name for p in model.parameters] == [f"{at}.{name}" for at in places for name in ("weight", "bias")]
    assert [layer.name for layer in model.layer.layers[1].walk()] == ["1", *places]
    assert check_gradients(Blocks(), shape=(2, 4, 4)).passed
    with pytest.raises(ValueError, match=r"layer 0.blocks.0 \(Conv2d\)"):
        Model(Sequential(Blocks()), (2,))


def test_what_a_parameter_does_not_know_is_refused():
    model = Model(Conv2d(2, 3), (1, 5, 5))
    with pytest.raises(AttributeError, match="a Parameter has no 'trainable'; freeze its layer"):
        model.parameters[0].trainable = False
    with pytest.raises(AttributeError, match="a Statistic has no 'momentum'; it has initial"):
        Statistic((3,)).momentum = 0.5


class Assigned(Layer):
    """A weight per channel, whose gradient is assigned as an array of its own."""

    def build(self, shape):
        self.w = Parameter(shape[:1], 1.0)
        return shape

    def __call__(self, x):
        def backward(dy):
            self.w.grad = (dy.data * x.data * image_mask(x)).sum(axis=(0, -1))
            return dy.like(dy.data * self.w.value[:, None])

        return x.like(x.data * self.w.value[:, None]), backward


def test_arrays_assigned_to_a_parameter_are_copied_into_the_model():
    assert check_gradients(Assigned(), shape=(3,)).passed
    model = Model(Sequential(Assigned(), Dense(2)), (3,)).initialize(0)
    weight, x = model.layer.layers[0].w, np.ones((4, 3), np.float32)
    gpucnn.Trainer(model, backend="numpy", progress=False).fit(x, np.array([0, 1, 1, 1]), epochs=1)
    assert not np.array_equal(weight.value, np.ones(3)) and np.shares_memory(weight.grad, model.grads)
    weight.value = np.float32([2, 3, 4])
    weight.value *= np.float32(2)
    assert np.array_equal(model.state_dict()["0.w"], [4, 6, 8]) and np.shares_memory(weight.value, model.values)
    for wrong, error in ((np.ones((3, 1), np.float32), ShapeError), (np.ones(3), DTypeError), (None, ShapeError)):
        with pytest.raises(error, match=r"0\.w\.value would be .*; assign float32 of shape \(3,\)"):
            weight.value = wrong
    assert np.array_equal(weight.value, [4, 6, 8])


# ---- layers and models -----------------------------------------------------------------------------------------------


def test_a_layer_belongs_to_one_model():
    layer = Dense(2)
    first = Model(Sequential(layer), (3,)).initialize(0)
    before = first.weights_sha256()
    with pytest.raises(ConfigurationError, match=r"layer 0 \(Dense\) is part of a model already.*copy.deepcopy"):
        Model(Sequential(ReLU(), layer), (3,))
    with pytest.raises(ConfigurationError, match="part of a model already"):
        Model(first.layer, (3,))
    assert layer.name == "0" and layer.mode is first.mode and first.weights_sha256() == before
    for copied in (copy.deepcopy(first.layer), Sequential(copy.copy(layer))):
        second = Model(copied, (3,)).initialize(1)
        assert first.weights_sha256() == before != second.weights_sha256()
    with pytest.raises(ConfigurationError, match="part of a model already"):
        Model(copied, (3,))


def test_layers_of_no_model_share_nothing():
    one, other = Conv2d(2, 3), Conv2d(2, 3)
    assert one.mode is not other.mode
    shared = [name for name, value in vars(one).items() if value is vars(other)[name] and hasattr(value, "__dict__")]
    assert shared == []
    kinds = {kind for layer in vars(layers).values() if isinstance(layer, type) for kind in layer.__mro__}
    attributes = [(name, value) for kind in kinds for name, value in vars(kind).items() if name[:2] != "__"]
    attributes = [(name, value) for name, value in attributes if name != "_checks"]  # of settings: nobody changes it
    assert [name for name, value in attributes if isinstance(value, (list, dict, set, np.ndarray))] == []


def test_a_model_prints_its_layers():
    body = Sequential(Conv2d(2, 3, padding=1, bias=False))
    text = str(Model(Sequential(Residual(body, activation=None), Blocks(), Concat(ReLU()), Flatten()), (2, 4, 5)))
    assert text.splitlines() == [
        "custom, images of 2x4x5, 89 parameters",
        "  0             Residual(activation=None)",
        "  0.body.0      Conv2d(out_channels=2, kernel_size=3, padding=1, bias=False)",
        "  1             Blocks()",
        "  1.blocks.0    Conv2d(out_channels=2, kernel_size=3, padding=1, activation='tanh')",
        "  1.blocks.1    Conv2d(out_channels=2, kernel_size=1)",
        "  1.rest.0.0    Conv2d(out_channels=2, kernel_size=1)",
        "  1.named.last  Conv2d(out_channels=1, kernel_size=1)",
        "  2             Concat()",
        "  2.0           ReLU()",
        "  3             Flatten()",
    ]


def test_a_layer_is_described_as_it_is_written():
    written = (
        'Pad(padding=1, mode="reflect")',
        'Upsample(scale=2, mode="linear")',
        "Conv2d(out_channels=4, kernel_size=3)",
        "ConvTranspose2d(out_channels=4, kernel_size=2, stride=2, bias=False)",
        "Dense(units=3, bias=False)",
    )
    for text in written:
        layer = eval(text, vars(gpucnn.layers))
        Model(layer, (4,) if text.startswith("Dense") else (4, 8, 8))
        assert layer.describe() == text.replace('"', "'")
        assert repr(eval(repr(layer), vars(gpucnn.layers))) == repr(layer)
