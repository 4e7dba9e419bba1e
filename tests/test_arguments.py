"""Odd values for every parameter of every public constructor and function: each works or is refused by an error of
gpucnn.errors, and a boolean never passes for a number, nor text for a boolean.
"""

import dataclasses
import inspect
import types
from fractions import Fraction
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pytest

import gpucnn
from gpucnn import (
    arguments,
    backends,
    data,
    functional,
    geometry,
    gradients,
    layers,
    losses,
    models,
    optimizers,
    schedules,
)
from gpucnn.errors import ConfigurationError, DataError, DTypeError, GpucnnError, ShapeError
from gpucnn.layers import Dense, Flatten, Layer, Sequential
from gpucnn.models import Model
from gpucnn.training import Trainer, load_run
from gpucnn.training.clipping import Clipping
from gpucnn.training.progress import Quiet
from tests.training import small

ODD = {
    "None": None,
    "True": True,
    "numpy.True_": np.True_,
    "no": "no",
    "a": "a",
    "bytes": b"a",
    "-1": -1,
    "0": 0,
    "1": 1,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "10**400": 10**400,
    "10**5000": 10**5000,
    "1e-60": 1e-60,
    "[]": [],
    "()": (),
    "{}": {},
    "set": {1},
    "ragged": [[1], [1, 2]],
    "numpy.int64": np.int64(1),
    "numpy.float32": np.float32(0.5),
    "numpy.complex64": np.complex64(1),
    "array of 0 axes": np.array(1),
    "array": np.ones(2, np.float32),
    "array of integers": np.ones(2, np.int64),
    "array of objects": np.array([None, "a"], object),
    "object": object(),
    "class": int,
    "function": len,
    "layer": Flatten(),
}
TRUTHS = ("True", "numpy.True_")

F4 = np.float32
IMAGES, FILTERS, CHANNELS, FLAT = (
    np.ones((2, 4, 6, 6), F4),
    np.ones((6, 4, 3, 3), F4),
    np.ones(4, F4),
    np.ones((3, 5), F4),
)
X, Y = small.data()


def layer_calls():
    """(what, callable, the arguments that work) of every layer; the callable builds it in a model."""
    needed = {
        "out_channels": 4,
        "kernel_size": 3,
        "units": 3,
        "size": 2,
        "output_size": 2,
        "groups": 2,
        "padding": 1,
        "body": Sequential(),
        "shape": (2,),
    }
    own = {"Upsample": {"scale": 2, "mode": "linear"}, "Parameter": {"shape": (2,)}, "Statistic": {"shape": (2,)}}
    for name in layers.__all__:
        kind = getattr(layers, name)
        if not inspect.isclass(kind) or kind in (Layer, layers.Mode, layers.TorchModule):  # unchecked records
            continue
        parameters = inspect.signature(kind.__init__).parameters.values()
        required = {
            p.name: needed[p.name]
            for p in parameters
            if p.name in needed and p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
        }
        yield name, kind, {**required, **own.get(name, {})}


def build(made):
    """Build a layer for the first kind of images that its axes and rank allow; raises what the last attempt raises."""
    if not isinstance(made, Layer):
        return
    for shape in ((4, 6), (4, 6, 6), (4, 6, 6, 6), (4,)):
        try:
            return Model(made, shape)
        except ShapeError:
            continue


def functional_calls():
    """Every function of gpucnn.functional with arrays that fit."""
    y = functional.conv(IMAGES, FILTERS)
    pooled = functional.max_pool(IMAGES, 2)
    keywords = {
        "conv": {"x": IMAGES, "w": FILTERS},
        "conv_backward": {"dy": y, "x": IMAGES, "w": FILTERS},
        "conv_transpose": {"x": IMAGES, "w": FILTERS[:4]},
        "conv_transpose_backward": {"dy": np.ones((2, 4, 8, 8), F4), "x": IMAGES, "w": FILTERS[:4]},
        "convolve": {"x": FLAT, "kernel": FLAT},
        "convolve_backward": {"dy": np.ones((5, 9), F4), "x": FLAT, "kernel": FLAT},
        "concatenate": {"arrays": [FLAT, FLAT]},
        "concatenate_backward": {"dy": np.ones((3, 10), F4), "arrays": [FLAT, FLAT]},
        "dense": {"x": FLAT, "w": FLAT},
        "dense_backward": {"dy": np.ones((3, 3), F4), "x": FLAT, "w": FLAT},
        "dropout_backward": {"dy": FLAT},
        "softmax_cross_entropy": {"logits": FLAT, "labels": np.array([0, 1, 4])},
        "dice": {"logits": IMAGES, "labels": np.ones((len(IMAGES), *IMAGES.shape[2:]), np.int64)},
        "binary_cross_entropy": {"logits": FLAT, "targets": FLAT},
        "pad_backward": {"dy": np.ones((2, 4, 8, 8), F4), "x": IMAGES, "padding": 1},
        "upsample_backward": {"dy": np.ones((2, 4, 12, 12), F4), "x": IMAGES, "scale": 2, "mode": "linear"},
        "upsample": {"x": IMAGES, "scale": 2, "mode": "linear"},
    }
    sizes = {"size": 2, "output_size": 3, "padding": 1, "groups": 2}
    for name in functional.__all__:
        arguments_of = inspect.signature(getattr(functional, name)).parameters
        if name not in keywords:
            dy = IMAGES
            if "pool" in name:
                dy = pooled if "global" not in name else IMAGES[:, :, 0, 0]
            one = IMAGES[0] if "layer" in name else CHANNELS
            values = {"x": IMAGES, "dy": dy, "gamma": one, "beta": one, "targets": IMAGES, **sizes}
            keywords[name] = {
                p.name: values[p.name] for p in arguments_of.values() if p.default is p.empty and p.name in values
            }
        yield f"functional.{name}", getattr(functional, name), keywords[name]


def other_calls():
    for module in (losses, optimizers, schedules):
        for name, kind in vars(module).items():
            base = (losses.Loss, optimizers.Optimizer, schedules.Schedule)
            if inspect.isclass(kind) and issubclass(kind, base) and kind.__module__ == module.__name__:
                needed = {"lr": 0.1, "every": 1, "steps": 1}
                own = inspect.signature(kind).parameters.values()
                yield name, kind, {p.name: needed[p.name] for p in own if p.default is p.empty and p.name in needed}
    yield "Clipping", Clipping, {}
    for name, make in models.MODELS.items():
        yield name, make, {"input_shape": (1, 32, 32)}
    yield "build_model", models.build_model, {"name": "mlp", "input_shape": (1, 32, 32)}
    yield "Model", Model, {"layer": Sequential(Flatten(), Dense(2)), "input_shape": (2, 3)}
    yield "initialize", small.model().initialize, {"seed": 0}
    yield "predict", lambda **keywords: small.model().initialize(0).predict(**keywords), {"images": X}
    yield "get_backend", backends.get_backend, {"name": "numpy"}
    yield "window", geometry.window, {"input": (6, 6), "kernel": 3}
    yield "transposed_window", geometry.transposed_window, {"input": (6, 6), "kernel": 3}
    yield "pool_window", geometry.pool_window, {"input": (6, 6), "size": 2}
    yield "Trainer", Trainer, {"model": small.model(), "backend": "numpy", "progress": False}


SIGNATURES = {
    "Model": Model,
    "predict": Model.predict,
    "fit": Trainer.fit,
    "check_gradients": gradients.check_gradients,
    "evaluate": Trainer.evaluate,
    "load": gpucnn.load,
    "load_run": load_run,
}


def slow_calls():
    """Those that compute: once for each parameter and value, on little data."""

    def fit(**keywords):  # the current folder is the test's own
        return small.trainer("run", math="fast", progress=False).fit(**keywords)

    yield "fit", fit, {"images": X[:8], "labels": Y[:8], "epochs": 1}

    def reload(**keywords):
        gpucnn.save(small.model(), "model.safetensors")
        return gpucnn.load(**keywords)

    def resume(**keywords):
        if not Path("run").exists():
            small.trainer("run", math="fast").fit(X, Y, 1, validation=0.2)
        return load_run(**keywords)

    dataset = {"images": X, "labels": Y, "classes": list("abc"), "name": "it"}
    yield "save", gpucnn.save, {"model": small.model(), "path": "model.safetensors"}
    yield "load", reload, {"path": "model.safetensors", "model": small.model()}
    yield "load_run", resume, {"path": "run", "model": small.model()}
    yield "data.load", data.load, {"name_or_path": "no.npz"}
    yield "data.fetch", data.fetch, {"name": "none"}
    yield "Dataset", data.Dataset, dataset
    yield (
        "evaluate",
        lambda **options: small.trainer(math="fast").evaluate(**options),
        {"images": X[:8], "labels": Y[:8]},
    )
    checked = {"subject": Dense(2), "shape": (3,), "directions": 1}
    yield "check_gradients", gradients.check_gradients, checked


CALLS = [*layer_calls(), *functional_calls(), *other_calls(), *slow_calls()]
PARAMETERS = [
    (what, call, keywords, parameter.name)
    for what, call, keywords in CALLS
    for parameter in inspect.signature(SIGNATURES.get(what, call)).parameters.values()
    if parameter.name not in ("self", "finish")
    and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
]

WORDS = {"mode", "padding_mode", "activation", "initializer", "variant", "name", "backend", "math", "head", "monitor"}
# Text that is a path, and objects that are duck-typed.
TAKES_TEXT = WORDS | {"run", "path", "to", "name_or_path", "classes"}


def expected(call, name) -> type | None:
    """bool or float, where the default or the annotation of the parameter is one."""
    parameter = inspect.signature(call).parameters[name]
    if isinstance(parameter.default, bool):
        return bool
    if name in ("progress", "resume") or "bool" in str(parameter.annotation):
        return bool if name != "progress" else None
    numbers = isinstance(parameter.default, (int, float)) or parameter.annotation in ("int", int, "float", float)
    return float if numbers else None


@pytest.mark.parametrize(
    ("what", "call", "keywords", "name"), PARAMETERS, ids=[f"{what}-{name}" for what, _, _, name in PARAMETERS]
)
def test_an_odd_value_works_or_is_refused_in_one_sentence(what, call, keywords, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a run folder called "a" may be made
    kind = expected(SIGNATURES.get(what, call), name)
    passed, sentences = [], []
    for label, value in ODD.items():
        try:
            build(call(**{**keywords, name: value}))
        except GpucnnError as error:
            sentences.append(str(error))
        except Exception as error:
            raise AssertionError(f"{what}({name}={label}): {type(error).__name__}: {error}") from error
        else:
            passed.append(label)
    assert not [text for text in sentences if "\n" in text or len(text) > 1000]
    if kind is float:
        assert not {*TRUTHS, "no", "a", "nan", "inf", "10**400", "numpy.complex64", "array"} & {*passed}, passed
    if kind is bool:
        assert {*passed} <= {*TRUTHS}, passed
        assert {*TRUTHS} & {*passed}, "numpy's booleans are booleans"
    if name not in TAKES_TEXT:
        assert "no" not in passed, passed


def test_the_values_of_numpy_are_taken_for_what_they_are():
    assert optimizers.SGD(lr=np.float32(0.1)).lr == np.float32(0.1)
    assert small.trainer(seed=np.int64(1)).seed == 1
    assert schedules.Step(every=np.uint8(2)).every == 2
    layer = layers.Conv2d(np.int32(4), np.array([3, 3]), bias=np.False_, padding=np.array([[0, 1], [1, 0]]))
    assert (layer.out_channels, layer.kernel_size, layer.use_bias) == (4, (3, 3), False)
    assert layer.padding == ((0, 1), (1, 0))
    assert losses.SoftmaxCrossEntropy(class_weights=np.float32([1, 2])).class_weights == [1.0, 2.0]
    for part in (layer.out_channels, *layer.kernel_size, layer.use_bias):
        assert type(part) in (int, bool)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: layers.Dropout("a"), ConfigurationError, "rate is 'a' of type str; give a number from 0 up to"),
        (lambda: layers.Conv2d(2, 3, bias="no"), ConfigurationError, "bias is 'no' of type str; give True or False"),
        (lambda: optimizers.SGD(lr=True), ConfigurationError, "lr is True, a boolean; give a number of 0 or more"),
        (lambda: optimizers.SGD(lr=1e39), ConfigurationError, "within the range of float32"),
        (lambda: optimizers.Adam(eps=0), ConfigurationError, "eps is 0; give a number above 0"),
        (lambda: optimizers.Adam(eps=1e-60), ConfigurationError, "which is 0 in float32; give a number above 0"),
        (lambda: optimizers.Adam(beta2=1 - 1e-12), ConfigurationError, "which is 1 in float32; .* not including, 1"),
        (lambda: layers.Dense(10**400), ConfigurationError, r"units is 1000.*\.\.\.; give a positive .*2\*\*31 - 1"),
        (lambda: layers.Dense(10**5000), ConfigurationError, "units is a int that cannot be printed"),
        (lambda: small.trainer(seed=-1), ConfigurationError, r"seed is -1; give an integer from 0 to 2\*\*64 - 1"),
        (lambda: layers.Conv2d(2, (3, 3, 3)), ShapeError, "kernel_size .* has 3 entries for 2 spatial axes"),
        (
            lambda: layers.Conv2d(2, {3}),
            ConfigurationError,
            r"kernel_size is \{3\} of type set; give a positive integer",
        ),
        (lambda: arguments.array("x", [[1], [1, 2]]), DTypeError, r"x is a list .*\(.*\); bring its entries to one"),
        (lambda: arguments.array("x", np.ma.masked_equal([1, 2], 2)), DataError, "x is a masked array, whose mask"),
    ],
)
def test_a_refusal_says_what_arrived_and_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()


class Series(list):
    """As pandas has it: a column of a table, whose rows have numbers or names."""

    def __init__(self, values, index):
        super().__init__(values)
        self.index = index


@pytest.mark.parametrize("index", [[1, 0], ["dog", "cat"], np.array([1, 2])])
def test_a_column_in_another_order_is_not_taken_by_its_places(index):
    """The frequencies of classes, by pandas' value_counts, have the most frequent first."""
    words = r"class_weights is a Series with the index .* give a list, in the order of the numbers from 0"
    with pytest.raises(ConfigurationError, match=words):
        losses.SoftmaxCrossEntropy(class_weights=Series([0.5, 2.0], index))
    assert losses.SoftmaxCrossEntropy(class_weights=Series([0.5, 2.0], np.arange(2))).class_weights == [0.5, 2.0]


def test_numbers_are_checked_as_float32_has_them():
    assert arguments.number("x", Fraction(1, 2), above=0, below=1) == 0.5
    assert arguments.number("x", np.float16(0.5)) == 0.5
    assert type(arguments.integer("n", np.uint8(3))) is int
    assert type(arguments.array("x", np.ma.array([1, 2]))) is np.ndarray
    with pytest.raises(ConfigurationError):
        arguments.number("x", 1 - 1e-9, below=1)


def test_an_object_whose_repr_fails_is_refused_like_any_other():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(ConfigurationError, match="units is a Broken that cannot be printed"):
        Dense(Broken())


def test_progress_is_an_object_like_quiet():
    assert small.trainer(progress=Quiet()).progress.interval == float("inf")
    for wrong in (3, "bar", Quiet):
        with pytest.raises(ConfigurationError, match="progress is"):
            small.trainer(progress=wrong)


def test_settings_are_shown_as_the_call_that_makes_them():
    """As a grid search lists them, in place of addresses."""
    from gpucnn.losses import SoftmaxCrossEntropy
    from gpucnn.optimizers import SGD
    from gpucnn.schedules import Constant, Cosine, WarmUp

    class Mine(SGD):
        def __init__(self, lr, unkept=None, of=("a",)):
            super().__init__(lr)
            self.of, self._own = of, 3

    optimizer = SGD(0.1)
    optimizer.lr = 0.2
    model = Model(Dense(3), (2,))
    Trainer(model, optimizer=optimizer, backend="numpy", progress=False).train_step(np.ones((1, 2), np.float32), [0])
    for settings, text in (
        (optimizer, "SGD(lr=0.2, momentum=0.9, weight_decay=0.0, nesterov=False)"),
        (WarmUp(3, Cosine()), "WarmUp(steps=3, then=Cosine(final=0.0))"),
        (SoftmaxCrossEntropy(0.1), "SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=None, ignore_index=None)"),
        (Constant(), "Constant()"),
        (Mine(1), "Mine(lr=1.0, of=('a',))"),
        (model.parameters, "[<Parameter weight (3, 2)>, <Parameter bias (3,)>]"),
        (layers.Parameter((3,)), "<Parameter (3,)>"),
    ):
        assert repr(settings) == text


@pytest.mark.parametrize("wrong", [None, "file.safetensors", 3, ["a"]], ids=str)
def test_what_is_no_model_or_path_is_refused_by_all_that_draw_explain_and_export(wrong, tmp_path):
    image, shape = np.zeros((1, 8, 8), np.float32), (1, 9, 9)
    for call in (
        lambda: gpucnn.export_onnx(wrong, tmp_path / "a.onnx"),
        lambda: gpucnn.summary.summary(wrong),
        lambda: gpucnn.explain.saliency(wrong, image[None]),
        lambda: gpucnn.explain.occlusion(wrong, image),
        lambda: models.fully_convolutional(wrong, shape),
        lambda: models.sliding_window(wrong, shape),
        lambda: gpucnn.show.maps(wrong, image),
        lambda: gpucnn.show.saliency(wrong, image),
        lambda: gpucnn.show.gradcam(wrong, image),
        lambda: gpucnn.show.scores(wrong, image),
    ):
        with pytest.raises(ConfigurationError, match="model is .*; give a gpucnn.Model"):
            call()
    lenet = models.lenet5()
    for call in (lambda: models.fully_convolutional(lenet, wrong), lambda: models.sliding_window(lenet, wrong)):
        with pytest.raises((ConfigurationError, ShapeError), match="input_shape"):
            call()
    if not isinstance(wrong, str):
        for call in (
            lambda: gpucnn.show.curves(gpucnn.training.History([{"loss": 1.0}]), wrong),
            lambda: gpucnn.training.compare([wrong]),
        ):
            with pytest.raises(ConfigurationError, match="a path is of type"):
                call()


@pytest.mark.parametrize("base", [layers.Layer, losses.Loss, optimizers.Optimizer, schedules.Schedule])
def test_slots_of_a_class_are_refused_where_it_is_written(base):
    mixin = type("Mixin", (), {"__slots__": ("k",)})
    for bases, slots in (((base,), ("k",)), ((base,), "k"), ((mixin, base), ())):
        with pytest.raises(
            ConfigurationError, match="Own has a slot k, where no model, copy or checkpoint looks; leav"
        ):
            type("Own", bases, {"__slots__": slots})
    with pytest.raises(ConfigurationError, match="Own has a slot k"):
        dataclasses.make_dataclass("Own", [("k", float, 1.0)], bases=(base,), slots=True)
    assert types.new_class("Own", (base, Generic[TypeVar("T")]), {}, lambda entries: entries.update(__slots__=()))
    assert dataclasses.make_dataclass("Own", [("k", float, 1.0)], bases=(base,))(k=2.0).k == 2.0


@pytest.mark.parametrize("base", [layers.Layer, optimizers.Optimizer])
def test_a_frozen_dataclass_is_refused_where_a_model_or_trainer_writes_to_it(base):
    own = dataclasses.make_dataclass("Own", [("k", float, 1.0)], bases=(base,), frozen=True)
    with pytest.raises(ConfigurationError, match="Own is a frozen dataclass, .*; leave out frozen=True"):
        own()
    mixin = dataclasses.make_dataclass("Mixin", [("k", float, 1.0)], frozen=True)
    assert type("Own", (base, mixin), {"__init__": lambda self: None})().k == 1.0
