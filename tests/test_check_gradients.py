"""gpucnn.check_gradients: right gradients pass, planted wrong ones fail and are named,
kinks are skipped and counted.
"""

import inspect
import math

import numpy as np
import pytest

import gpucnn
from gpucnn import check_gradients, functional, losses
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, DataError, DTypeError, ShapeError
from gpucnn.layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    Layer,
    MaxPool2d,
    Parameter,
    ReLU,
    Sequential,
    image_mask,
)
from gpucnn.losses import BinaryCrossEntropy, Dice, Loss, MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import Model, lenet5

# ---- the example of docs/adding-an-operation.md ----------------------------------------------------------------------


class Swish(Layer):
    """A user's own layer, in the array module alone: y = x * sigmoid(s * x), one learned s."""

    wrong = ""

    def build(self, shape):
        self.slope = Parameter((1,), 1.0)
        return shape

    def __call__(self, x):
        xp, s = x.backend.xp, self.slope
        gate = 1 / (1 + xp.exp(-s.value * x.data))

        def backward(dy):
            inner = x.data * gate * (1 - gate)
            by_slope = xp.sum(dy.data * x.data * inner * (1 if self.wrong == "mask" else image_mask(x)))
            if self.wrong == "added":
                s.grad += by_slope
            elif self.wrong != "never written":
                s.grad[...] = by_slope * (1.001 if self.wrong == "slope" else 1)
            if self.wrong == "none":
                return None
            dx = gate + s.value * inner
            if self.wrong == "input":
                dx = gate + inner  # right for the slope that a new layer has, and for no other
            return dy.like(dy.data * dx)

        return x.like(x.data * gate), backward


class Centered(Layer):
    """x minus its mean along an axis of the array."""

    def __init__(self, axis):
        self.axis = axis

    def __call__(self, x):
        def centered(batch):
            return batch.like(batch.data - batch.data.mean(axis=self.axis, keepdims=True))

        return centered(x), centered


def planted(wrong):
    layer = Swish()
    layer.wrong = wrong
    return layer


def test_a_layer_of_ones_own_passes():
    report = check_gradients(Swish(), shape=(3, 4, 5))
    assert report.passed
    assert [(t.name, t.shape, t.checked, t.skipped) for t in report.tensors] == [
        ("input", (4, 3, 4, 5), 3, 0),
        ("slope", (1,), 3, 0),
    ]
    assert all(t.error < 1e-9 for t in report.tensors)
    assert str(report).endswith("passed: relative errors up to 1e-07 are allowed")


@pytest.mark.parametrize(
    ("wrong", "tensor", "words"),
    [
        ("input", "input", "not the derivative"),
        ("slope", "slope", "not the derivative"),
        ("added", "slope", "write gradients whole, not add"),
        ("never written", "slope", "write gradients whole"),
    ],
)
def test_a_planted_error_is_found_and_named(wrong, tensor, words):
    report = check_gradients(planted(wrong), shape=(3, 4, 5))
    assert not report.passed
    assert [t.name for t in report.tensors if not t.passed] == [tensor]
    (line,) = (line for line in str(report).splitlines() if line.startswith(tensor))
    assert "WRONG" in line and words in line
    assert "FAILED" in str(report)


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (planted("mask"), "the gradient of slope"),
        (Centered(0), "the output"),  # blocks, which are images on numpy alone
        (Centered(-1), "the output"),  # lanes, which are columns nowhere
    ],
)
def test_what_holds_on_numpy_alone_is_found(layer, what):
    for subject, shape in ((layer, (3, 4, 5)), (Model(Sequential(Conv2d(2, 3), layer), (1, 6, 6)), None)):
        report = check_gradients(subject, shape=shape)
        *others, last = report.tensors
        assert all(tensor.passed for tensor in others) and not report.passed
        assert last.name == "on numba" and last.problem.startswith(
            f"{what if shape else what.replace('slope', '1.slope')} "
        )


def test_what_is_changed_in_place_is_refused():
    """Tanh before such a layer computes its gradient from an output that is no longer its own."""

    class Doubled(Layer):
        def __init__(self, place):
            self.place = place

        def __call__(self, x):
            def twice(batch, what):
                if what != self.place:
                    return batch.like(batch.data * 2)
                batch.data[...] *= 2
                return batch

            return twice(x, "x"), lambda dy: twice(dy, "dy")

    assert check_gradients(Doubled("nowhere"), shape=(3,)).passed
    for place in ("x", "dy"):
        with pytest.raises(
            ConfigurationError, match=rf"^{place}\.data is changed in place.*make a new array: {place}\.like"
        ):
            check_gradients(Doubled(place), shape=(3,))


def test_a_loss_that_holds_on_numpy_alone_is_found():
    class Squares(Loss):
        """Their sum divided by how many values there are, lanes without an image included, or not."""

        def __init__(self, of_images):
            self.of_images = of_images

        def __call__(self, outputs, targets, totals=None):
            difference = (outputs.data - targets.data) * image_mask(outputs)
            count = outputs.images * outputs.channels if self.of_images else difference.size
            return (difference**2).sum().reshape(1) / count, outputs.like(2 * difference / count)

    outputs, targets = np.random.default_rng(0).standard_normal((2, 4, 3))
    assert check_gradients(Squares(True), outputs, targets).passed
    outputs_alone, on_numba = check_gradients(Squares(False), outputs, targets).tensors
    assert (
        outputs_alone.passed and not on_numba.passed and on_numba.problem.startswith("the loss is not what numpy gives")
    )


def test_what_cannot_be_tried_with_other_images_or_overflows_everywhere_passes():
    class Exp(Layer):
        def __call__(self, x):
            with np.errstate(over="ignore"):
                y = x.like(np.exp(x.data))
            return y, lambda dy: dy.like(dy.data * y.data)

    class EachImage(Loss):
        """With a weight for each of two images."""

        def __call__(self, outputs, targets, totals=None):
            difference, weights = outputs.data - targets.data, np.array([1, 2], np.float32).reshape(2, 1, 1)
            return (weights * difference**2).sum().reshape(1), outputs.like(2 * weights * difference)

    assert check_gradients(Exp(), np.random.default_rng(0).standard_normal((2, 3)) - 3, shape=(3,)).passed
    with np.errstate(over="ignore", invalid="ignore"):
        report = check_gradients(Exp(), np.full((2, 3), 100.0), shape=(3,))
    assert all(tensor.name != "on numba" or tensor.passed for tensor in report.tensors)
    outputs, targets = np.random.default_rng(0).standard_normal((2, 2, 3))
    assert check_gradients(EachImage(), outputs, targets).passed


def test_what_is_the_same_up_to_rounding_passes():
    """Gradients that are zero but for rounding, random numbers and statistics included."""
    network = Sequential(Conv2d(3, 3), BatchNorm(), Swish(), Dropout(0.5), Centered(2), Centered((2, 3)))
    assert check_gradients(network, shape=(2, 6, 6)).passed
    assert check_gradients(network, shape=(2, 6, 6), training=False).passed


def test_no_gradient_at_all_is_named():
    with pytest.raises(ConfigurationError, match="Swish returned nothing from its backward pass"):
        check_gradients(planted("none"), shape=(3, 4, 5))
    (report,) = check_gradients(lambda x: (x, lambda dy: None), np.array([0.7])).tensors
    assert not report.passed
    assert "gave no gradient" in report.problem


@pytest.mark.parametrize("part", [1e-2, -1e-4, 1e-6])
def test_how_small_an_error_is_found(part):
    """The relative error that it reports is the one planted, down to the tolerance."""

    def cube(x, factor):
        return x**3, lambda dy: 3 * x**2 * dy * factor

    x = np.array([0.7])
    report = check_gradients(lambda x: cube(x, 1 + part), x)
    assert not report.passed
    assert math.isclose(report.tensors[0].error, abs(part) / max(1, 1 + part), rel_tol=1e-3)
    assert check_gradients(lambda x: cube(x, 1 + 1e-9), x).passed
    assert not check_gradients(lambda x: cube(x, 1 + 1e-8), x, tolerance=1e-9).passed


def test_one_wrong_value_of_a_thousand_is_found():
    x = np.random.default_rng(0).standard_normal((10, 100))

    def sine(x):
        def backward(dy):
            dx = np.cos(x) * dy
            dx[3, 17] = 0
            return dx

        return np.sin(x), backward

    assert not check_gradients(sine, x).passed


# ---- kinks -----------------------------------------------------------------------------------------------------------


def rectify(x):
    return np.maximum(x, 0), lambda dy: np.where(x > 0, dy, 0.0)


def test_a_kink_at_the_input_itself_is_skipped_and_counted():
    x = np.array([0.0, 1.0, -1.0])
    report = check_gradients(rectify, x)
    assert (report.tensors[0].checked, report.passed) == (0, False)
    assert report.tensors[0].skipped == 12
    assert "every direction meets a kink" in str(report)
    tie = np.array([[0.5, 0.5]])
    assert (
        check_gradients(lambda x: (x.max(1), lambda dy: np.where([[True, False]], dy[:, None], 0)), tie)
        .tensors[0]
        .checked
        == 0
    )


@pytest.mark.parametrize("distance", [1e-4, 1e-5, 3e-6, -1e-5])
def test_a_kink_nearby_is_stepped_around(distance):
    x = np.array([distance, 0.3, -0.8])
    report = check_gradients(rectify, x, directions=20)
    assert report.passed and report.tensors[0].checked == 20


def test_kinks_are_in_the_function_and_never_excuse_a_gradient():
    """The gradient of abs is -1 below 0: one that says +1 is wrong, and no direction counts as a kink for it."""
    x = np.array([-0.5, 0.25, 2.0])
    report = check_gradients(lambda x: (np.abs(x), lambda dy: dy), x)
    assert not report.passed and report.tensors[0].skipped == 0 and report.tensors[0].error > 0.1


@pytest.mark.parametrize("height", [1.0, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.25, 1 / 3, 0.45, 0.5, 0.75, 0.99])
def test_small_kinks_at_any_place_do_no_harm(place, height):
    """A kink inside the steps, of any height: each direction is right or skipped, never wrong."""
    for step in (2.0**-13, 2.0**-16, 2.0**-19):

        def bent(x, at=place * step):
            return x + height * np.maximum(x - at, 0), lambda dy: dy * (1 + height * (x > at))

        assert all(t.error <= 1e-7 for t in check_gradients(bent, np.zeros(1), directions=10).tensors)


def test_networks_with_many_kinks_pass():
    layers = (
        Conv2d(6, 3, padding=1, activation="relu"),
        MaxPool2d(2),
        GroupNorm(3, activation="relu"),
        Flatten(),
        Dense(5),
        ReLU(),
    )
    report = check_gradients(Sequential(*layers), shape=(2, 8, 8), directions=10)
    assert report.passed, str(report)
    assert all(t.checked == 10 for t in report.tensors)


# ---- models, functions, settings -------------------------------------------------------------------------------------


def test_what_is_checked_stays_as_it_was():
    model = Model(Sequential(Conv2d(3, 3), BatchNorm(), Flatten(), Dense(2)), (1, 5, 5)).initialize(4)
    model.place(get_backend("numba"))
    digest, grads, backend = model.weights_sha256(), model.grads.copy(), model.backend
    report = check_gradients(model, training=True)
    assert report.passed, str(report)
    assert [t.name for t in report.tensors] == ["input", *(p.name for p in model.parameters)]
    assert model.weights_sha256() == digest and np.array_equal(model.grads, grads) and model.backend is backend
    layer = Dense(3)
    assert check_gradients(layer, shape=(4,)).passed
    assert not hasattr(layer, "weight")


def test_a_shipped_network_passes():
    report = check_gradients(lenet5((1, 16, 16), 4), images=2, directions=1)
    assert report.passed, str(report)


def test_dropout_and_inference():
    assert check_gradients(Sequential(Dense(6), Dropout(0.5)), shape=(5,)).passed
    assert check_gradients(Sequential(Dense(6), Dropout(0.5), BatchNorm()), shape=(5,), training=False).passed


def test_an_input_of_ones_own():
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4))
    assert check_gradients(Conv2d(2, 3), x, shape=(3, 4, 4)).tensors[0].shape == (2, 3, 4, 4)
    assert np.array_equal(x, np.random.default_rng(1).standard_normal((2, 3, 4, 4)))


def test_a_function_of_several_arrays():
    rng = np.random.default_rng(2)
    x, w, b = rng.standard_normal((2, 2, 5, 5)), rng.standard_normal((3, 2, 3, 3)), rng.standard_normal(3)

    fast = {"backend": "numpy", "math": "fast"}

    def convolution(x, w, b):
        return functional.conv(x, w, b, **fast), lambda dy: functional.conv_backward(dy, x, w, **fast)

    report = check_gradients(convolution, x, w, b)
    assert report.passed and [t.name for t in report.tensors] == ["argument 0", "argument 1", "argument 2"]
    assert gpucnn.gradients.check_gradients is check_gradients


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: check_gradients(Dense(3)), ConfigurationError, "shape of one image"),
        (lambda: check_gradients(Dense(3), shape=(2, 2)), ShapeError, "Flatten"),
        (lambda: check_gradients(lenet5(), shape=(1, 32, 32)), ConfigurationError, "knows its shape"),
        (lambda: check_gradients(Dense(3), np.ones((2, 5)), shape=(4,)), ShapeError, r"\(2, 5\); expected \(N, 4\)"),
        (lambda: check_gradients(Dense(3), X, X, shape=(4,)), ConfigurationError, "one input, not 2"),
        (lambda: check_gradients(rectify), ConfigurationError, "on arrays"),
        (lambda: check_gradients(rectify, X, shape=(4,)), ConfigurationError, "without shape"),
        (lambda: check_gradients("relu", X), ConfigurationError, "cannot check a str"),
        (lambda: check_gradients(rectify, X, tolerance=0), ConfigurationError, "tolerance is 0"),
        (lambda: check_gradients(rectify, X, tolerance="1"), ConfigurationError, "tolerance is '1'"),
        (lambda: check_gradients(rectify, X, directions=0), ConfigurationError, "directions is 0"),
        (lambda: check_gradients(Dense(3), shape=(4,), images=0), ConfigurationError, "images is 0"),
        (lambda: check_gradients(lambda x: (x, lambda dy: [dy, dy]), X), ShapeError, "2 gradients for 1 arrays"),
        (lambda: check_gradients(lambda x: (x, lambda dy: dy[:1]), X), ShapeError, r"argument 0 has shape \(1, 4\)"),
        (lambda: check_gradients(lambda x: (x + NOISE.random(), lambda dy: dy), X), ConfigurationError, "two results"),
        (lambda: check_gradients(lambda x: (x * np.nan, lambda dy: dy), X), ConfigurationError, "NaN or infinity"),
    ],
)
def test_what_cannot_be_checked_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


X, NOISE = np.ones((2, 4)), np.random.default_rng(3)


class _Steep(MeanSquared):
    """A gradient one percent too large, or a value in float32."""

    def __init__(self, value=np.float64):
        self._value = value

    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets, totals)
        return loss.astype(self._value), gradient.like(gradient.data * 1.01)


def _offered(kind) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Loss) and kind not in (Loss, losses.ValueLoss)


@pytest.mark.parametrize("kind", [kind for kind in vars(losses).values() if _offered(kind)])
def test_every_loss_has_the_right_gradient(kind):
    rng = np.random.default_rng(1)
    outputs, labels = rng.standard_normal((3, 4, 3, 2)), rng.integers(0, 4, (3, 3, 2))
    report = check_gradients(kind(), outputs, labels if kind.targets == "classes" else rng.random(outputs.shape))
    assert report.passed, str(report)


def test_losses_of_outputs_and_targets():
    rng = np.random.default_rng(0)
    outputs, labels, values = rng.standard_normal((6, 4)), np.array([0, 1, 2, 3, 1, 1]), rng.random((6, 4))
    maps = rng.standard_normal((2, 4, 3, 3)), rng.integers(0, 4, (2, 3, 3))
    for loss, x, targets in (
        (SoftmaxCrossEntropy(0.1, [1, 2, 3, 4]), outputs, labels),
        (SoftmaxCrossEntropy(ignore_index=1), outputs, labels),
        (BinaryCrossEntropy(), outputs, values.astype(np.float32)),
        (Dice(), *maps),
    ):
        assert check_gradients(loss, x, targets).passed
    report = check_gradients(_Steep(), outputs, values)
    assert not report.passed and report.tensors[0].name == "outputs" and 0.005 < report.tensors[0].error < 0.02
    with pytest.raises(DTypeError, match="_Steep returned a loss of float32, too coarse to compare"):
        check_gradients(_Steep(np.float32), outputs, values)
    for inputs in ((outputs,), (), (outputs, values, values)):
        with pytest.raises(ConfigurationError, match=r"check_gradients\(MeanSquared\(\), outputs, targets\)"):
            check_gradients(MeanSquared(), *inputs)
    with pytest.raises(DataError, match="label 4 of image 1 is out of range"):
        check_gradients(SoftmaxCrossEntropy(), outputs, labels + 3)
