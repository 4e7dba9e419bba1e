"""ConvTranspose and Concat: gradients, recorded steps with the same bits, the summary's numbers, and errors."""

import numpy as np
import pytest

from gpucnn import Concat as PublicConcat
from gpucnn import functional
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend
from gpucnn.errors import ConfigurationError, DTypeError, ShapeError
from gpucnn.layers import (
    Concat,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
)
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.summary import summary
from gpucnn.training import Trainer
from gpucnn.training.data import Resident
from gpucnn.training.steps import TrainingSteps
from tests.cuda.emulated import needs_emulation
from tests.layers import test_layer_gradients


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


# ---- gradients -------------------------------------------------------------------------------------------------------

GRADIENTS = {
    "transposed": (lambda: ConvTranspose2d(3, 3), (2, 4, 3)),
    "transposed strided padded": (
        lambda: ConvTranspose2d(
            3, (3, 2), stride=(2, 3), padding=(1, (0, 1)), output_padding=(1, 2), activation="tanh"
        ),
        (2, 4, 3),
    ),
    "transposed dilated grouped": (
        lambda: ConvTranspose2d(4, 2, dilation=2, groups=2, activation="sigmoid", output_padding=1),
        (2, 4, 3),
    ),
    "transposed relu": (lambda: ConvTranspose2d(3, 2, stride=2, activation="relu"), (2, 3, 3)),
    "transposed relu without bias": (lambda: ConvTranspose2d(3, 2, stride=2, activation="relu", bias=False), (2, 3, 3)),
    "transposed of a line": (lambda: ConvTranspose1d(3, 3, stride=2, padding=1, output_padding=1), (2, 5)),
    "transposed of a space": (lambda: ConvTranspose3d(2, (2, 1, 3), stride=(1, 2, 2)), (2, 2, 3, 2)),
    "transposed of one pixel": (lambda: ConvTranspose2d(3, 4), (5, 1, 1)),
    "concat": (lambda: Concat(Conv2d(2, 3, padding=1), Conv2d(3, 1, activation="relu"), Sequential()), (2, 4, 4)),
    "concat of one": (lambda: Concat(Tanh()), (2, 3, 3)),
    "concat of flat values": (lambda: Concat(Dense(3), Sequential(), Dense(2, activation="tanh")), (4,)),
    "a small U-net": (
        lambda: Sequential(
            Conv2d(3, 3, padding=1, activation="tanh"),
            Concat(Sequential(), Sequential(MaxPool2d(2), ConvTranspose2d(2, 2, stride=2))),
            Conv2d(2, 3, padding=1),
        ),
        (2, 4, 4),
    ),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GRADIENTS)
def test_backward_agrees_with_central_differences(name, training, monkeypatch):
    monkeypatch.setitem(test_layer_gradients.CASES, name, GRADIENTS[name])
    test_layer_gradients.test_backward_agrees_with_central_differences(name, training)


# ---- what they compute -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_layer_gives_what_the_function_gives(backend, activation):
    settings = dict(stride=2, padding=((1, 0), (0, 1)), output_padding=1, dilation=1, groups=2)
    layer = ConvTranspose2d(6, 3, activation=activation, **settings)
    model = Model(layer, (4, 5, 4)).initialize(1).place(get_backend(backend, "exact"))
    model.load_state_dict({**model.state_dict(), "bias": images(6, seed=7)})
    x, weights = images(17, 4, 5, 4), model.state_dict()
    y, backward = model(x)
    expected = functional.conv_transpose(x, weights["weight"], weights["bias"], **settings, math="exact")
    same_bits(y.numpy(), np.maximum(expected, 0) if activation else expected)
    dy = images(*y.shape, seed=2)
    dx = backward(model.backend.pack(dy)).numpy()
    inner = np.where(expected > 0, dy, np.float32(0)) if activation else dy
    expected = functional.conv_transpose_backward(inner, x, weights["weight"], **settings, math="exact")
    for result, value in zip((dx, layer.weight.grad, layer.bias.grad), expected):
        same_bits(np.array(result), value)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_concat_puts_its_branches_side_by_side_and_adds_their_gradients_in_order(backend):
    branches = Conv2d(2, 3, padding=1, activation="relu"), Sequential(), Conv2d(1, 1)
    model = Model(Concat(*branches), (3, 5, 4)).initialize(1).place(get_backend(backend, "exact"))
    assert model.output_shape == (6, 5, 4) and PublicConcat is Concat
    assert [p.name for p in model.parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    x = model.backend.pack(images(33, 3, 5, 4))
    y, backward = model(x)
    parts = [branch(x) for branch in branches]
    same_bits(y.numpy(), np.concatenate([part.numpy() for part, _ in parts], 1))
    dy = images(33, 6, 5, 4, seed=1)
    dx = backward(model.backend.pack(dy)).numpy()
    first, second, third = (
        step(model.backend.pack(np.ascontiguousarray(dy[:, a:b]))).numpy()
        for (_, step), (a, b) in zip(parts, [(0, 2), (2, 5), (5, 6)])
    )
    same_bits(dx, (first + second) + third)
    assert not np.array_equal(dx, first + (second + third))  # the order shows in these numbers


def test_a_first_layer_need_not_give_the_images_gradient():
    model = Model(Sequential(Concat(Conv2d(2, 1), Conv2d(1, 1)), ConvTranspose2d(2, 2)), (1, 3, 3)).initialize(0)
    model.place(get_backend("numpy", "fast"))
    model.layer.need_input_gradient(False)
    y, backward = model(images(2, 1, 3, 3))
    assert backward(y) is None
    assert all(np.any(p.grad != 0) for p in model.parameters)
    only = Model(ConvTranspose2d(2, 2), (1, 3, 3)).initialize(0).place(get_backend("numpy", "fast"))
    only.layer.need_input_gradient(False)
    y, backward = only(images(2, 1, 3, 3))
    assert backward(y) is None


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("shape", [(17, 4, 3, 5), (33, 4), (1, 4, 1), (3, 4, 2, 1, 3)])
def test_concatenate_takes_flat_and_spatial_arrays(backend, shape):
    arrays = [images(shape[0], c, *shape[2:], seed=c) for c in (1, 3, 2)]
    same_bits(functional.concatenate(arrays, backend=backend), np.concatenate(arrays, 1))
    b = get_backend(backend, "exact")
    for first, count in [(0, 4), (1, 2), (3, 1)]:
        part = b.take_channels(b.pack(images(*shape)), first, count).numpy()
        same_bits(part, np.ascontiguousarray(images(*shape)[:, first : first + count]))


# ---- a step recorded and repeated ------------------------------------------------------------------------------------


def upscaler() -> Model:
    """Down, up again, and both concatenated: 8x8 images of ten classes."""
    deep = Sequential(
        MaxPool2d(2), Conv2d(4, 3, padding=1, activation="tanh"), ConvTranspose2d(3, 2, stride=2, activation="relu")
    )
    layer = Sequential(
        Conv2d(4, 3, padding=1, activation="relu"),
        Concat(Sequential(), deep),
        ConvTranspose2d(3, 3, stride=2, padding=1, output_padding=1, groups=1, bias=False, activation="relu"),
        MaxPool2d(4),
        Flatten(),
        Concat(Dense(5, activation="relu"), Dense(3)),
        Dense(10),
    )
    return Model(layer, (1, 8, 8), "upscaler")


def trained(backend) -> str:
    """The weights after five steps of two sizes, so that recorded steps are repeated."""
    model = upscaler().initialize(2)
    trainer = Trainer(
        model, backend=backend, optimizer=SGD(0.05, momentum=0.9), seed=1, batch_size=18, shift=1, progress=False
    )
    data = np.random.default_rng(3)
    trainer.fit(data.random((80, 1, 8, 8), np.float32), data.integers(0, 10, 80), 1)
    return model.weights_sha256()


@pytest.fixture(scope="module")
def specified():
    return trained(get_backend("numpy", "exact"))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_training_gives_the_same_weights_on_numba(specified, threads):
    assert upscaler().recordable
    assert trained(get_backend("numba", threads=threads)) == specified


@needs_emulation
@pytest.mark.parametrize("order", ["forward", "reversed"])
def test_training_gives_the_same_weights_in_the_emulation(specified, order):
    assert trained(get_emulated_backend(order)) == specified


@needs_emulation
@pytest.mark.parametrize("make", [lambda: get_backend("numba"), get_emulated_backend], ids=["numba", "emulated"])
def test_a_recorded_step_moves_new_data(make):
    """The movement of channels is repeated, not their first values."""
    b = make()
    x, bias = b.array(images(18, 3, 2, 2)), b.array(images(5, seed=1))
    index, total = b.array(np.arange(18)), b.zeros((5,))

    def step():
        batch = b.load_images(x, index, 18)
        both = b.concatenate([batch, b.take_channels(batch, 1, 2)])
        b.bias_gradient(b.add_bias(both, bias, relu=True), total)

    def expected(values):
        y = np.maximum(np.concatenate([values, values[:, 1:]], 1) + images(5, seed=1).reshape(-1, 1, 1), 0)
        return y.astype(np.float64).sum((0, 2, 3))

    again = b.capture(step)
    assert np.allclose(b.host(total), expected(images(18, 3, 2, 2)), rtol=1e-6)
    b.assign(x, images(18, 3, 2, 2, seed=9))
    again()
    b.synchronize()
    assert np.allclose(b.host(total), expected(images(18, 3, 2, 2, seed=9)), rtol=1e-6)


def test_a_recorded_step_is_used(monkeypatch):
    """TrainingSteps records this model on numba and proves it, rather than calling its layers again."""
    calls, call = [], Sequential.__call__
    monkeypatch.setattr(Sequential, "__call__", lambda self, x: calls.append(1) or call(self, x))
    model = upscaler().initialize(0).place(get_backend("numba"))
    model.layer.need_input_gradient(False)
    optimizer = SGD(0.1)
    optimizer.place(model.backend, model.values.size)
    data = Resident(model.backend, images(18, 1, 8, 8), np.zeros(18, np.int32), 18)
    steps = TrainingSteps(model, optimizer, data)
    hashes = set()
    for step in range(5):
        steps.run(np.arange(18), step, 1.0)
        hashes.add(model.weights_sha256())
        calls.append("|")
    recorded, proved, *repeated = "".join(map(str, calls)).split("|")[:5]
    # The first step runs twice: once to find out which kernels it needs.
    assert recorded == 2 * proved != "" and repeated == ["", "", ""] and len(hashes) == 5


# ---- the summary -----------------------------------------------------------------------------------------------------


def test_the_summary_counts_transposed_convolutions():
    layer = Sequential(
        Conv2d(4, 3, stride=2, padding=1), ConvTranspose2d(6, 4, stride=2, padding=1, groups=2), Conv2d(1, 3)
    )
    down, up, last = summary(Model(layer, (1, 8, 8))).rows
    assert (up.output, up.parameters) == ((6, 8, 8), 4 * 3 * 16 + 6)
    assert up.multiply_adds == 4 * 4 * 4 * 3 * 16  # each of 4 x 4 x 4 values meets 3 channels of 16 weights
    assert up.dense_weights == 4 * 4 * 4 * 6 * 8 * 8
    assert down.field == (3, 3)
    assert up.field == (5, 5)  # two neighboring values, 2 pixels apart
    assert last.field == (7, 7)  # three neighbors, half of 2 pixels apart


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(1, 1, 1), (3, 1, 1), (2, 2, 1), (3, 2, 1), (4, 2, 1), (5, 3, 1), (3, 1, 2), (3, 2, 2), (4, 3, 2), (2, 4, 3)],
)
def test_the_receptive_field_is_what_a_value_depends_on(kernel, stride, dilation):
    """The largest span of inputs, first to last, that reach one output."""
    model = Model(Sequential(ConvTranspose1d(1, kernel, stride=stride, dilation=dilation)), (1, 12)).initialize(0)
    model.place(get_backend("numpy", "fast"))
    impulses = model(np.eye(12, dtype=np.float32)[:, None])[0].numpy()[:, 0]  # (input, output)
    (row,) = summary(model).rows
    spans = [np.ptp(np.flatnonzero(column)) + 1 for column in impulses.T if np.any(column)]
    assert row.field == (max(spans),)


def test_the_summary_lists_the_branches_of_a_concat():
    layer = Sequential(Concat(Conv2d(2, 3, padding=1), Sequential(), Conv2d(3, 5, padding=2)), MaxPool2d(2))
    table = summary(Model(layer, (2, 6, 6)))
    assert [(row.name, row.kind, row.output, row.parameters, row.field) for row in table.rows] == [
        ("0.0", "Conv2d", (2, 6, 6), 38, (3, 3)),
        ("0.2", "Conv2d", (3, 6, 6), 153, (5, 5)),
        ("0", "Concat", (7, 6, 6), 0, (5, 5)),
        ("1", "MaxPool2d", (7, 3, 3), 0, (6, 6)),
    ]
    assert table.total.parameters == 191
    assert "Concat" in str(table)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (ConvTranspose2d(2, 3), (4,), r"ConvTranspose2d: needs images of shape \(C, H, W\), not \(4,\)"),
        (ConvTranspose1d(2, 3), (4, 5, 5), r"needs images of shape \(C, W\)"),
        (ConvTranspose3d(2, 3), (4, 5, 5), r"needs images of shape \(C, D, H, W\)"),
        (ConvTranspose2d(2, 3, groups=2), (3, 4, 4), "2 groups do not divide 3 input channels and 2 output"),
        (ConvTranspose2d(3, 3, groups=2), (4, 4, 4), "2 groups do not divide 4 input channels and 3 output"),
        (ConvTranspose2d(2, 3, padding=5), (1, 4, 4), "cuts off all of the 6"),
        (
            Concat(Conv2d(1, 3), Conv2d(1, 1)),
            (1, 4, 4),
            r"branch 0 makes \(1, 2, 2\) of \(1, 4, 4\) and branch 1 \(1, 4, 4\)",
        ),
        (Concat(Flatten(), Sequential()), (1, 2, 2), "branch 0 makes"),
        (Sequential(Concat(ReLU(), Conv2d(1, 9))), (1, 4, 4), "layer 0.1 .Conv2d."),
    ],
)
def test_shapes_that_do_not_fit_are_refused(layer, shape, words):
    with pytest.raises(ShapeError, match=words):
        Model(layer, shape)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigurationError, match="output_padding 2"):
        Model(ConvTranspose2d(2, 3, stride=2, output_padding=2), (1, 4, 4))
    for make in (Concat, lambda: Concat(Conv2d(1, 1), 3), lambda: Concat([Conv2d(1, 1)])):
        with pytest.raises(ConfigurationError, match="Concat"):
            make()
    for make in (
        lambda: ConvTranspose2d(0, 3),
        lambda: ConvTranspose2d(2, 3, groups=0),
        lambda: ConvTranspose2d(2, 3, activation="cube"),
        lambda: ConvTranspose2d(2, 3, initializer="zero"),
    ):
        with pytest.raises(ConfigurationError):
            make()
    model = Model(Concat(Conv2d(1, 1), Sequential()), (1, 4, 4)).initialize(0).place(get_backend("numpy", "fast"))
    with pytest.raises(ShapeError):
        model.layer(model.backend.pack(images(1, 1, 5, 4)))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([], "no arrays"),
        ([(2, 3, 4), (2, 3, 5)], r"arrays\[1\] has shape \(2, 3, 5\) and arrays\[0\] \(2, 3, 4\)"),
        ([(2, 3), (3, 3)], "all sizes but the channels"),
        ([(2, 3), (2, 3, 1)], "all sizes but the channels"),
        ([(3,)], r"expected \(N, C\)"),
        ([(2, 3), (2, 0)], "empty axis"),
    ],
)
def test_arrays_that_do_not_fit_side_by_side_are_refused(shapes, words):
    with pytest.raises(ShapeError, match=words):
        functional.concatenate([np.zeros(shape, np.float32) for shape in shapes])


@pytest.mark.parametrize("arrays", [None, 3, np.zeros((), np.float32)])
def test_only_lists_of_arrays_are_accepted(arrays):
    with pytest.raises(DTypeError, match="give a list of arrays"):
        functional.concatenate(arrays)
