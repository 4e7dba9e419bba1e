"""gpucnn.functional is complete: every operation of the backends has its function, with its gradient."""

import inspect
import re

import numpy as np
import pytest

from gpucnn import check_gradients, functional, layers
from gpucnn.backends import get_backend
from gpucnn.backends.protocol import Backend
from gpucnn.errors import DTypeError, ShapeError
from gpucnn.layers.activation import ACTIVATIONS
from tests.float64 import functional as in_float64

# Operations of the protocol that are no functions of arrays, or parts and fused forms of those that are.
NO_FUNCTION = {
    "zeros array assign host host_into staging memory pack unpack rows",  # data
    "pack_labels load_images load_labels load_batch",  # likewise
    "capture capture_step prepare arrivals general synchronize elapsed plan images_at_once",
    "sgd adam watch clip_value clip_norm update_running optimize end_step",  # training
    "batch_norm_statistics batch_norm_moving_statistics batch_norm_training group_norm_statistics",  # parts
    "conv_inference batch_norm_inference",  # fused forms of prediction
    "batch_norm_add batch_norm_add_gradient bias_gradient add_bias add",  # parts; a sum is NumPy's
    "resample_axis",  # a part of pad and upsample
    "batch_norm_gradient_by_means channel_sums finish_statistics between",  # of a part of a batch
    "label_weights label_map_weights",  # likewise
    "elementwise elementwise_gradient",  # each activation has its own, see below
}
FUNCTIONS = {
    "conv_input_gradient": "conv_backward",
    "conv_input_gradient_add": "conv_backward",
    "conv_weight_gradient": "conv_backward",
    "dense_input_gradient": "dense_backward",
    "dense_weight_gradient": "dense_backward",
    "dense_gradients": "dense_backward",
    "batch_norm_input_gradient": "batch_norm_backward",
    "resample": "pad",
    "resample_gradient": "pad_backward",
    "take_channels": "concatenate_backward",
    "weighted_cross_entropy": "softmax_cross_entropy",
    "map_cross_entropy": "softmax_cross_entropy",
    "value_loss": "mean_squared",
}
# Losses return both.
WITHOUT_BACKWARD = {"softmax_cross_entropy", "mean_squared", "mean_absolute", "huber", "binary_cross_entropy", "dice"}


def functions():
    return {name for name in functional.__all__ if not name.endswith("_backward")}


def test_every_operation_of_the_backends_has_a_function():
    for name, operation in inspect.getmembers(Backend, inspect.isfunction):
        fused = "_relu_" in name or "max_pool_gradient" in name or name.endswith("_max_pool")
        if name[0] == "_" or name in " ".join(NO_FUNCTION).split() or (fused and name.startswith(("conv", "batch"))):
            continue
        found = FUNCTIONS.get(name, name.removesuffix("_gradient") + "_backward" * name.endswith("_gradient"))
        assert found in functional.__all__, f"{name}: {operation.__doc__}"


def test_every_activation_and_layer_has_a_function():
    assert {*ACTIVATIONS} | {f"{name}_backward" for name in ACTIVATIONS} <= {*functional.__all__}
    kinds = {re.sub("[123]d$", "", name) for name in layers.__all__ if inspect.isclass(getattr(layers, name))}
    containers = {"Layer", "Mode", "Parameter", "Statistic", "Sequential", "Residual", "GlobalPool", "Flatten"}
    containers |= {"Activation", "TorchModule"}
    own = {"Convolution", "TransposedConvolution", "Concat", "Whitening"}  # conv, conv_transpose, concatenate, conv
    for kind in kinds - containers - own:
        # Conv -> conv, AdaptiveMaxPool -> adaptive_max_pool, ReLU -> relu
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind)[1:]
        assert {name, kind.lower(), kind.replace("ReLU", "_relu").lower()} & functions(), kind


def test_every_function_has_its_backward():
    assert {f"{name}_backward" for name in functions() - WITHOUT_BACKWARD} == {*functional.__all__} - functions()


def test_all_functions_are_documented_and_end_with_backend_and_math():
    for name in functional.__all__:
        function = getattr(functional, name)
        assert function.__doc__ and [*inspect.signature(function).parameters][-2:] == ["backend", "math"], name


# ---- what was added: backward functions of activations, dropout, concatenation, convolution --------------------------

SHAPES = [(), (7,), (3, 5), (2, 3, 4, 5)]


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_activations(name, shape):
    rng = np.random.default_rng(0)
    forward, backward = (getattr(in_float64, name + end) for end in ("", "_backward"))
    x = np.asarray(rng.standard_normal(shape))
    check_gradients(lambda x: (forward(x), lambda dy: backward(dy, x)), x).passed or pytest.fail(name)
    with pytest.raises(ShapeError, match="the shape of x"):
        backward(np.zeros((9, 9)), x)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "gelu", "silu", "leaky_relu", "softmax"])
def test_an_activations_gradient_has_the_bits_of_its_layer(name, backend):
    x, dy = np.random.default_rng(1).standard_normal((2, 17, 3, 4)).astype(np.float32)
    kind = next(getattr(layers, n) for n in layers.__all__ if n.lower() == name.replace("_", ""))
    engine = get_backend(backend)
    _, backward = kind()(engine.pack(x))
    dx = getattr(functional, f"{name}_backward")(dy, x, backend=backend)
    assert np.array_equal(dx.view(np.uint32), engine.unpack(backward(engine.pack(dy))).view(np.uint32))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_is_that_of_the_layer(backend, shape):
    x = np.asarray(np.random.default_rng(2).standard_normal(shape), np.float32) + np.float32(9)
    settings = {"seed": 5, "step": 7, "layer": 3, "backend": backend}
    y = functional.dropout(x, 0.5, **settings)
    assert y.shape == shape and set(np.unique(y / x)) <= {0.0, 2.0}
    assert np.array_equal(functional.dropout_backward(x, 0.5, **settings), y)
    assert np.array_equal(functional.dropout(x, 0, **settings), x)
    large = np.ones((64, 33), np.float32)
    kept = functional.dropout(large, 0.25, **settings)
    assert 0.7 < np.count_nonzero(kept) / kept.size < 0.8
    for other in ({"seed": 6}, {"step": 8}, {"layer": 4}):
        assert not np.array_equal(functional.dropout(large, 0.25, **{**settings, **other}), kept)


def test_the_gradient_of_concatenate_is_dy_cut_apart():
    rng = np.random.default_rng(3)
    for spatial in ((), (4,), (2, 3)):
        arrays = [rng.standard_normal((17, channels, *spatial)).astype(np.float32) for channels in (2, 1, 3)]
        dy = rng.standard_normal((17, 6, *spatial)).astype(np.float32)
        found = functional.concatenate_backward(dy, arrays)
        for got, part in zip(found, np.split(dy, [2, 3], axis=1), strict=True):
            assert np.array_equal(got, part)
        assert np.array_equal(functional.concatenate(found), dy)
    with pytest.raises(ShapeError, match="the shape of concatenate's output"):
        functional.concatenate_backward(dy[:, :5], arrays)
    with pytest.raises(DTypeError, match="float64"):
        functional.concatenate_backward(dy.astype(np.float64), arrays)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(
    ("x", "kernel"),
    [((5,), (3,)), ((3,), (5,)), ((4, 6), (3, 2)), ((2, 3, 4), (2, 2, 4)), ((3, 2, 3, 2, 4), (2, 1, 2, 2, 3))],
)
def test_the_gradient_of_convolve(x, kernel, mode):
    rng = np.random.default_rng(4)

    def function(x, kernel):
        y = in_float64.convolve(x, kernel, mode)
        return y, lambda dy: in_float64.convolve_backward(dy, x, kernel, mode)

    report = check_gradients(function, rng.standard_normal(x), rng.standard_normal(kernel))
    assert report.passed, str(report)


def test_a_gradient_of_another_shape_than_convolves_output_is_refused():
    ones = np.ones(4, np.float32)
    with pytest.raises(ShapeError, match="the shape of convolve's output"):
        functional.convolve_backward(ones, ones, ones)


def test_balanced_weights_are_those_of_the_labels():
    logits = np.random.default_rng(5).standard_normal((6, 3)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 2])
    balanced = functional.softmax_cross_entropy(logits, labels, class_weights="balanced")
    weighted = functional.softmax_cross_entropy(logits, labels, class_weights=[2 / 3, 1, 2])
    assert balanced[0] == weighted[0] and np.array_equal(balanced[1], weighted[1])
