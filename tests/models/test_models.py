"""Models: sizes, flat buffers, initial weights, files."""

import copy
import hashlib
import json
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pytest

import gpucnn
from gpucnn import arithmetic
from gpucnn.backends import get_backend
from gpucnn.errors import CheckpointError, ConfigurationError, DataError, DTypeError, GpucnnError, ShapeError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, ReLU, Sequential, Tanh
from gpucnn.models import Model, build_model, lenet5, resnet20, vgg_small
from gpucnn.models.files import describe, write_tensors
from tests.models.nets import OF_IMAGES

FAST = get_backend("numpy", "fast")


def small(**settings):
    return Model(Sequential(Conv2d(3, 3, **settings), BatchNorm(), Flatten(), Dense(4)), (2, 5, 5))


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (lenet5((1, 32, 32), 10), 61706),  # FEATURES
        (lenet5((1, 28, 28), 10), 61706),
        (lenet5((3, 32, 32), 100), 156 + 300 + 2416 + 48120 + 10164 + 8500),
        (vgg_small((3, 32, 32), 10), 9 * (96 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 4 * 224 + 20490),
        (resnet20((3, 32, 32), 10), 269722 + 2752),  # He et al.'s 0.27M with option A, and the two projections
    ],
)
def test_parameter_counts(model, parameters):
    assert model.parameter_count == parameters
    assert sum(p.value.size for p in model.parameters) == parameters


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), ((3, 33, 24), 7), ((2, 16, 20), 2)])
def test_ready_made_models_take_any_size_that_fits(name, shape, classes):
    model = build_model(name, shape, classes).initialize(0).place(FAST)
    assert model(np.zeros((3, *shape), np.float32))[0].shape == (3, classes)


def test_models_that_are_unknown_or_do_not_fit_are_refused():
    with pytest.raises(ConfigurationError, match="lenet5, vgg_small, resnet20"):
        build_model("lenet6", (1, 32, 32), 10)
    with pytest.raises(ShapeError, match="16x16 pixels at least, not 14x14"):
        lenet5((1, 14, 14))
    with pytest.raises(ShapeError):
        lenet5((32, 32))
    with pytest.raises(ConfigurationError):
        lenet5((1, 32, 32), 0)


def test_parameters_and_gradients_are_views_of_flat_buffers():
    for model in (small(), small().place(FAST)):
        for flat, name in ((model.values, "value"), (model.grads, "grad")):
            assert flat.ndim == 1 and flat.dtype == np.float32
            flat[...] = np.arange(flat.size)
            starts = [int(getattr(p, name).reshape(-1)[0]) for p in model.parameters]
            assert starts == sorted(starts) and all(start % 16 == 0 for start in starts)
            for p, start in zip(model.parameters, starts):
                view = getattr(p, name)
                assert np.shares_memory(view, flat) and view.shape == p.shape
                assert np.array_equal(view.reshape(-1), np.arange(start, start + view.size))
        assert all(np.shares_memory(s.value, model.statistics) for s in model.running)
        assert [p.name for p in model.parameters] == [
            "0.weight",
            "0.bias",
            "1.gamma",
            "1.beta",
            "3.weight",
            "3.bias",
        ]
        assert [s.name for s in model.running] == ["1.running_mean", "1.running_var"]


def test_initial_weights_are_what_the_contract_says():
    model = small().initialize(7)
    state = model.state_dict()
    for ordinal, (name, fan_in) in {0: ("0.weight", 18), 4: ("3.weight", 27)}.items():
        weights = state[name]
        bound = np.float32(np.sqrt(6 / fan_in))
        words = arithmetic.words(7, np.arange(weights.size), 0, 1, ordinal).astype(np.int64)
        # (2u - 1) * bound with u = (word >> 8) / 2**24; exact in float64 until the one rounding of the product
        expected = (((words >> 8) - 2**23) / 2**23 * np.float64(bound)).astype(np.float32)
        assert np.array_equal(weights.reshape(-1), expected)
        assert np.abs(weights).max() <= bound and np.abs(weights).max() > 0.8 * bound
    for name, value in {"0.bias": 0, "1.gamma": 1, "1.beta": 0, "1.running_mean": 0, "1.running_var": 1}.items():
        assert np.all(state[name] == value)
    assert model.weights_sha256() == small().initialize(7).place(FAST).weights_sha256()
    assert model.weights_sha256() != small().initialize(8).weights_sha256()


@pytest.mark.parametrize(("name", "square"), [("he", 6 / 18), ("glorot", 6 / 45), ("lecun", 3 / 18)])
def test_initializers_by_name(name, square):
    bound = square**0.5
    weights = small(initializer=name).initialize(0).state_dict()["0.weight"]  # fan_in 2*3*3, fan_out 3*3*3
    assert 0.8 * bound < np.abs(weights).max() <= np.float32(bound)
    assert np.all(small(initializer=0.5).initialize(0).state_dict()["0.weight"] == 0.5)


def test_the_hash_is_over_parameters_then_statistics():
    model = small().initialize(1)
    names = ["0.weight", "0.bias", "1.gamma", "1.beta", "3.weight", "3.bias", "1.running_mean", "1.running_var"]
    state = model.state_dict()
    assert list(state) == names
    content = b"".join(state[name].astype("<f4").tobytes() for name in names)
    assert model.weights_sha256() == hashlib.sha256(content).hexdigest()


def test_placing_keeps_the_values():
    model = small().initialize(1)
    digest = model.weights_sha256()
    assert model.place(FAST).weights_sha256() == digest
    assert model.place(get_backend("numpy", "exact")).weights_sha256() == digest


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros((2, 5, 5), np.float32), ShapeError, "(N, 2, 5, 5)"),
        (np.zeros((2, 1, 5, 5), np.float32), ShapeError, "(2, 1, 5, 5)"),
        (np.zeros((0, 2, 5, 5), np.float32), ShapeError, "no images"),
        (np.zeros((1, 2, 5, 5)), DTypeError, "float64"),
        (np.zeros((1, 2, 5, 5), bool), DTypeError, "bool"),
        (np.zeros((1, 2, 5, 5)).tolist(), DTypeError, "convert them: numpy.asarray(images, numpy.float32)"),
        (None, DTypeError, "images is None; give a NumPy array of numpy.float32"),
        (np.full((3, 2, 5, 5), np.nan, np.float32), DataError, "image 0"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, error, words):
    with pytest.raises(error) as caught:
        small().initialize(0).place(FAST)(images)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e300, "beyond float32"), (np.nan, "holds a NaN"), (-np.inf, "holds a NaN"), ("1", "0.bias is <U1; weights are")],
)
def test_weights_that_are_no_finite_numbers_are_refused(value, words):
    model = small().initialize(0)
    before = model.weights_sha256()
    with pytest.raises(CheckpointError, match=words):
        model.load_state_dict(model.state_dict() | {"0.bias": np.array([0, value, 0] if value != "1" else ["1"] * 3)})
    assert model.weights_sha256() == before
    model.load_state_dict(model.state_dict() | {"0.bias": [1, 2, 3]})
    assert model.state_dict()["0.bias"].tolist() == [1, 2, 3]


def test_whole_numbers_that_float32_holds_are_taken():
    model = small().initialize(0).place(FAST)
    x = np.arange(100, dtype=np.uint8).reshape(2, 2, 5, 5)
    assert np.array_equal(model(x)[0].numpy(), model(x.astype(np.float32))[0].numpy())


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back(tmp_path):
    model = lenet5((1, 28, 28), 3).initialize(5).place(FAST)
    model.class_names = ["cat", "dog", "tree"]
    gpucnn.save(model, tmp_path / "m.safetensors")
    back = gpucnn.load(tmp_path / "m.safetensors")
    assert back.name == "lenet5" and back.input_shape == (1, 28, 28) and back.class_names == model.class_names
    assert back.weights_sha256() == model.weights_sha256()
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_names": [0, 1, 2]},  # as np.unique(labels).tolist() gives them
        {"class_names": ["cat", "dog"]},
        {"class_names": ["cat", "dog", "cat"]},  # of which a dictionary by names would have two
        {"class_names": "abc"},
        {"class_names": 3},
        {"image_shape": None},
        {"image_shape": (1, 30.5, 30)},
        {"head": "softmax"},
        {"name": 5},
    ],
    ids=str,
)
def test_what_no_file_could_give_back_is_refused_before_it_is_written(wrong, tmp_path):
    model = lenet5((1, 28, 28), 3).initialize(5)
    for name, value in wrong.items():
        with pytest.raises(ConfigurationError, match=name):
            setattr(model, name, value)
    gpucnn.save(model, tmp_path / "m")
    assert gpucnn.load(tmp_path / "m").weights_sha256() == model.weights_sha256()


def test_names_in_an_array_come_back_as_text(tmp_path):
    model = lenet5((1, 28, 28), 3).initialize(5)
    model.class_names, model.image_shape = np.array(["cat", "dog", "tree"]), [1, 30, np.int64(30)]
    gpucnn.save(model, tmp_path / "m")
    back = gpucnn.load(tmp_path / "m")
    assert back.class_names == ["cat", "dog", "tree"] and back.image_shape == (1, 30, 30)


def test_a_user_defined_model_is_passed_in(tmp_path):
    model = small().initialize(5)
    gpucnn.save(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match="model="):
        gpucnn.load(tmp_path / "m")
    assert gpucnn.load(tmp_path / "m", small()).weights_sha256() == model.weights_sha256()
    for other in (small(activation="tanh"), small(initializer="lecun"), lenet5()):
        with pytest.raises(CheckpointError, match="another model"):
            gpucnn.load(tmp_path / "m", other)


def test_settings_changed_since_the_model_was_built_come_back(tmp_path):
    """Predictions depend on some of them: a file without them would answer otherwise, in silence."""
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 5), np.float32)
    model = small().initialize(5).place(FAST)
    first, norm, _, last = model.layer.layers
    before, first.activation, norm.eps, last.activation = model.predict(x), "tanh", 0.5, "relu"
    after = model.predict(x)
    gpucnn.save(model, tmp_path / "m")
    back = gpucnn.load(tmp_path / "m", small()).place(FAST)
    assert back.changed_settings == {"0": {"activation": "tanh"}, "1": {"eps": 0.5}, "3": {"activation": "relu"}}
    assert not np.array_equal(before, after) and np.array_equal(back.predict(x), after)
    smaller = gpucnn.models.replace_head(back, 2)
    assert smaller.layer.layers[0].activation == "tanh" and smaller.changed_settings == {}  # it was built with them
    ready = lenet5().initialize(5)
    last = list(ready.layer.leaves())[-1]
    last.activation = "relu"
    gpucnn.save(ready, tmp_path / "ready")
    assert gpucnn.load(tmp_path / "ready").changed_settings == {last.name: {"activation": "relu"}}
    assert repr(gpucnn.models.replace_head(ready, 3).layer).endswith("activation='relu', initializer='he'))")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ([], "where an object belongs"),
        ({"1": 0.5}, "its changed_settings is"),
        ({"1": {"eps": [0.5]}}, "layer 1 was built without such a eps"),
        ({"1": {"_trainable": False}}, "layer 1 was built without such a _trainable"),
        ({"7": {"eps": 0.5}}, "layer 7 was built without"),
        ({"0": {"out_channels": 4}}, "was built with out_channels=3"),
        ({"1": {"eps": -1.0}}, "eps is -1.0"),
    ],
)
def test_changed_settings_that_no_model_has_are_refused(tmp_path, changed, words):
    model = small().initialize(5)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_tensors(tmp_path / "m", state, {**describe(model), "changed_settings": changed})
    with pytest.raises(CheckpointError, match=f"damaged.*{words}"):
        gpucnn.load(tmp_path / "m", small())


def test_every_way_of_cutting_or_changing_a_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    gpucnn.save(small().initialize(5), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in [0, 1, 7, 8, 9, 100, len(whole) - 1, *rng.integers(0, len(whole), 20)]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            gpucnn.load(path, small())
    start = 8 + int.from_bytes(whole[:8], "little")  # of the tensors
    for place in rng.integers(start, len(whole), 20):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="altered"):
            gpucnn.load(path, small())
    path.write_bytes(whole + b"more")
    with pytest.raises(CheckpointError):
        gpucnn.load(path, small())
    with pytest.raises(CheckpointError, match="no file"):
        gpucnn.load(tmp_path / "other")
    with pytest.raises(CheckpointError):
        gpucnn.load(tmp_path)


def test_other_versions_and_other_programs_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    gpucnn.save(small().initialize(5), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    about = json.loads(header["__metadata__"]["gpucnn"])
    header["__metadata__"]["gpucnn"] = json.dumps({**about, "version": 99})
    text = json.dumps(header).encode()
    (tmp_path / "m").write_bytes(len(text).to_bytes(8, "little") + text + whole[start:])
    with pytest.raises(CheckpointError, match="version 99"):
        gpucnn.load(tmp_path / "m", small())
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not written by gpucnn"):
        gpucnn.load(tmp_path / "foreign", small())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    gpucnn.save(small().initialize(5), path)
    whole = path.read_bytes()

    def no_room(*_):
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{function}", no_room)
            with pytest.raises(ConfigurationError, match="No space left"):
                gpucnn.save(small().initialize(6), path)
        assert [p.name for p in tmp_path.iterdir()] == ["m"] and path.read_bytes() == whole
    with pytest.raises(ConfigurationError, match="cannot write"):
        gpucnn.save(small().initialize(5), tmp_path / "no" / "such" / "folder")


def test_weights_that_do_not_exist_are_refused(tmp_path):
    x, other = np.zeros((1, 2, 5, 5), np.float32), small().initialize(0)
    for asks in (
        lambda model: gpucnn.save(model, tmp_path / "m"),
        lambda model: model.weights_sha256(),
        lambda model: other.load_state_dict(model.state_dict()),
        lambda model: gpucnn.models.load_matching(model, other),
        lambda model: model.predict(x),
        lambda model: model(x),
        gpucnn.models.to_pytorch,
    ):
        with pytest.raises(ConfigurationError, match=r"custom has no weights yet; draw them with model.initialize"):
            asks(small().place(FAST))
    assert not list(tmp_path.iterdir())
    headless = gpucnn.models.replace_head(small(), 3)
    assert not headless.initialized and headless.output_shape == (3,)
    assert Model(Flatten(), (2, 5, 5)).place(FAST).predict(x).shape == (1, 50)  # it has none
    by_hand = small()
    by_hand.parameters[0].value[...] = 1
    assert len(by_hand.place(FAST).predict(x)) == 1


def test_weights_set_by_hand_are_not_drawn_again():
    def by_hand(*names):
        model = small()
        for parameter in model.parameters:
            parameter.value[...] = 0.5 if parameter.name in names else 0
        model.layer.layers[1].running_mean.value[...] = 2
        return model

    uses = (
        lambda model: gpucnn.Trainer(model, backend=FAST, seed=7, progress=False),
        lambda model: gpucnn.models.load_matching(small().initialize(7), model, "0.bias"),
    )
    for use in uses:
        kept = by_hand("0.weight", "1.gamma", "3.weight")
        before = kept.state_dict()
        use(kept)
        assert all((value == before[name]).all() for name, value in kept.state_dict().items())
        with pytest.raises(
            ConfigurationError, match=r"1.gamma is 0 and other weights were set by hand; call model.ini"
        ):
            use(by_hand("0.weight", "3.weight"))
    assert (gpucnn.models.replace_head(kept, 2).state_dict()["0.weight"] == 0.5).all()


def test_what_is_no_state_no_backend_and_no_batch_is_refused():
    model, x = small().initialize(0).place(FAST), np.zeros((1, 2, 5, 5), np.float32)
    for asks, words in (
        (lambda: model.load_state_dict("m.safetensors"), "state is 'm.safetensors' of type str; give arrays by name"),
        (lambda: model.load_state_dict(list(model.state_dict().items())), "give arrays by name"),
        (lambda: model.place("numba"), "backend is 'numba' of type str; give a backend, such as gpucnn.get_backend"),
        (lambda: model.predict(x, finish=lambda outputs: outputs.numpy()), "what finish returned is array.*a Batch"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            asks()
    assert model.backend is FAST


def test_normalization_is_checked_when_it_is_set():
    model = small().initialize(0).place(FAST)
    x, y = np.ones((4, 2, 5, 5), np.float32), np.zeros(4, np.int64)
    model.mean, model.std = np.float32([1, 0.5]), [1, 2]
    assert (model.mean, model.std) == ((1.0, 0.5), (1.0, 2.0)) and model.predict(x).shape == (4, 4)
    for name, value, words in (
        ("mean", [0.5], r"the model's mean has 1 numbers; give one for each channel, 2 in all"),
        ("mean", 0.5, r"the model's mean is 0.5 of type float; give a number for each channel"),
        ("mean", [0.5, np.nan], r"each number of the model's mean is nan; give a finite number"),
        ("std", (1, 0.0), r"each number of the model's std is 0.0; give a number above 0"),
    ):
        with pytest.raises((ShapeError, ConfigurationError), match=words):
            setattr(model, name, value)
    assert (model.mean, model.std) == ((1.0, 0.5), (1.0, 2.0))
    trainer = gpucnn.Trainer(model, backend=FAST, progress=False)
    model.std = None
    for use, *given in ((model.predict, x), (model, x), (trainer.fit, x, y, 1), (trainer.measure, x, y)):
        with pytest.raises(ConfigurationError, match="the model has a mean but no std; set both, or both to None"):
            use(*given)


def test_settings_that_are_numpy_scalars_are_part_of_the_structure():
    class Scaled(Layer):
        def __init__(self, factor):
            self.factor = factor

    structures = [Model(Scaled(f), (3,)).structure for f in (2.0, np.float32(2), np.float32(5), np.int64(5))]
    assert structures == [f"Scaled(factor={text}); Scaled(factor={text})" for text in ("2.0", "2.0", "5.0", "5")]


@pytest.mark.parametrize("shape", [(1, 20, 20), (1, 31, 64), (3, 40, 40), (1, 40), (1, 32, 32, 32)])
def test_images_that_cannot_be_cropped_to_the_input_are_refused(shape):
    """Kernels would read memory beyond them."""
    model = lenet5().initialize(0)
    words = r"images are cropped to the network's input, so give \(1, 32, 32\), or larger ones with 1 channel"
    with pytest.raises(ShapeError, match=words):
        model.image_shape = shape
    model.image_shape = 1, 32, 40
    assert model.predict(np.zeros((2, 1, 32, 40), np.float32)).shape == (2, 10)


def test_arguments_that_no_file_can_hold_are_refused_before_training(tmp_path):
    with pytest.raises(ConfigurationError, match="arguments cannot be kept in a file: Object of type function is not"):
        Model(Dense(3), (3,), arguments={"act": lambda a: a})
    with pytest.raises(ConfigurationError, match="name is '' of type str; give what files and pictures are to call"):
        Model(Dense(3), (3,), name="")
    model = Model(Dense(3), (3,), name="mine", arguments={"width": np.int64(3), "sizes": np.arange(2)}).initialize(0)
    assert json.dumps(model.arguments) == '{"width": 3, "sizes": [0, 1]}'
    gpucnn.save(model, tmp_path / "m")
    with pytest.raises(ConfigurationError, match="arguments"):
        model.arguments = {"act": {1, 2}}
    with pytest.raises(ConfigurationError, match="arguments is 3 of type int; give a dictionary"):
        model.arguments = 3


def test_a_model_of_ones_own_with_the_name_of_one_of_ours(tmp_path):
    gpucnn.save(Model(Dense(3), (3,), name="lenet5").initialize(0), tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"a model of your own called lenet5: .* call load\(path, model="):
        gpucnn.load(tmp_path / "m")
    assert gpucnn.load(tmp_path / "m", Model(Dense(3), (3,), name="lenet5")).name == "lenet5"


def test_functions_and_objects_in_a_layers_settings_are_the_same_in_another_process(tmp_path):
    """Python shows them by their addresses."""

    class Applied(Layer):
        def __init__(self, *functions):
            self.functions = functions

    model = Model(Sequential(Applied(lambda a: a, object()), Dense(3)), (3,)).initialize(0)
    gpucnn.save(model, tmp_path / "m")
    other = Model(Sequential(Applied(lambda a: a, object()), Dense(3)), (3,))
    assert gpucnn.load(tmp_path / "m", other).weights_sha256() == model.weights_sha256()
    with pytest.raises(CheckpointError, match="another model"):
        gpucnn.load(tmp_path / "m", Model(Sequential(Applied(abs), Dense(3)), (3,)))


class Around(Layer):
    """Layers in another's attribute, list or dictionary, and a setting of any kind."""

    def __init__(self, inner, setting=1):
        self.inner, self.setting = inner, setting

    def build(self, shape):
        for _, child in self.children():
            child.connect(shape)
        return shape

    def __repr__(self):
        return "Around"


class Scaling(Sequential):
    def __init__(self, factor):
        super().__init__(Dense(3))
        self.factor = factor


@dataclass
class Configured:
    factor: float


class Named(Layer):
    """Its own text tells what its attributes hide."""

    def __init__(self, factor):
        self._factor = factor

    def __repr__(self):
        return f"Named({self._factor})"


class Kind(Enum):
    A, B = 1, 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Around(Dropout(0.1)), Around(Dropout(0.2))),
        (Around([ReLU()]), Around([Tanh()])),
        (Around({"a": Dense(3, activation="relu")}), Around({"a": Dense(3, activation="tanh")})),
        (Around(ReLU(), Kind.A), Around(ReLU(), Kind.B)),
        (Around(ReLU(), Configured(0.1)), Around(ReLU(), Configured(0.2))),
        (Around(ReLU(), {"factor": 0.1}), Around(ReLU(), {"factor": 0.2})),
        (Around([ReLU(), 0.1]), Around([ReLU(), 0.2])),
        (Around(ReLU(), {1: 0.1, 2: None}), Around(ReLU(), {1: 0.2, 2: None})),
        (Named(0.1), Named(0.2)),
        (Scaling(0.1), Scaling(0.2)),
    ],
)
def test_what_is_in_a_layer_of_the_users_is_part_of_the_structure(one, other, tmp_path):
    model = Model(Sequential(one, Dense(3)), (3,)).initialize(0)
    gpucnn.save(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match="another model: its structure has"):
        gpucnn.load(tmp_path / "m", Model(Sequential(other, Dense(3)), (3,)))
    gpucnn.load(tmp_path / "m", Model(Sequential(copy.deepcopy(one), Dense(3)), (3,)))


def test_the_order_of_a_dictionary_is_not_part_of_the_structure(tmp_path):
    gpucnn.save(Model(Around(ReLU(), {"a": 1, "b": 2}), (3,)).initialize(0), tmp_path / "m")
    gpucnn.load(tmp_path / "m", Model(Around(ReLU(), {"b": 2, "a": 1}), (3,)))


def test_settings_named_like_the_models_own_are_part_of_the_structure(tmp_path):
    """A model sets `mode` in all its layers: a layer's own setting of that name would be lost."""
    from gpucnn.layers import Pad, Upsample

    for one, other in ((Pad(1, "reflect"), Pad(1, "replicate")), (Upsample(2), Upsample(2, mode="linear"))):
        first, second = Model(one, (1, 4, 4)), Model(other, (1, 4, 4))
        assert first.structure != second.structure
        assert Model(copy.deepcopy(one), (1, 4, 4)).structure == first.structure  # built again
        gpucnn.save(first, tmp_path / "m")
        with pytest.raises(CheckpointError, match="another model"):
            gpucnn.load(tmp_path / "m", second)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_gradient_by_hand_that_does_not_belong_to_the_outputs_is_refused(backend):
    """Kernels would read or write past the ends of arrays."""
    place = get_backend(backend)
    model = lenet5().initialize(0).place(place)
    y, backward = model(np.zeros((20, 1, 32, 32), np.float32))
    other = get_backend("numpy" if backend == "numba" else "numba")
    for wrong, said in (
        (
            place.pack(np.zeros((16, 10), np.float32)),
            r"has shape \(16, 10\); the outputs it belongs to have \(20, 10\)",
        ),
        (
            place.pack(np.zeros((64, 10), np.float32)),
            r"has shape \(64, 10\); the outputs it belongs to have \(20, 10\)",
        ),
        (place.pack(np.zeros((20, 9), np.float32)), r"has shape \(20, 9\); the outputs it belongs to have \(20, 10\)"),
        (
            np.zeros((20, 10), np.float32),
            r"the gradient is .* give a batch of the model's backend, such as y.backend.pack\(array\)",
        ),
        (None, r"the gradient is None; give a batch .*need_input_gradient\(True\)"),
        (other.pack(np.zeros((20, 10), np.float32)), "give a batch of the model's backend"),
        (y.like(y.data.astype(np.float64)), "the gradient is float64; compute it in float32"),
    ):
        with pytest.raises(GpucnnError, match=said):
            backward(wrong)
    assert backward(place.pack(np.ones((20, 10), np.float32))).shape == (20, 1, 32, 32)


def test_a_joined_model_that_computes_no_gradient_of_its_images_is_told_of():
    place = get_backend("numpy")
    first, last = (Model(Dense(3), (3,), head="regressor").initialize(seed).place(place) for seed in (1, 2))
    last.prepare_training()
    y, back = first(place.pack(np.ones((2, 3), np.float32)))
    scores, back_of_last = last(y)
    with pytest.raises(ConfigurationError, match=r"the gradient is None; .*\.need_input_gradient\(True\) of that one"):
        back(back_of_last(scores))
    last.layer.need_input_gradient(True)
    assert back(back_of_last(scores)).shape == (2, 3)


def test_dropout_draws_anew_in_a_loop_that_counts_its_steps():
    model, drawn = Model(Dropout(0.5), (40,)), {}
    with pytest.raises(ConfigurationError, match=r"call model\.place\(backend\) before"):
        model.mode.step = 1
    model.mode.training = True
    for place in map(get_backend, ("numpy", "numba")):
        model.place(place)
        for step in (1, 2, np.int64(1)):
            model.mode.step = step
            drawn.setdefault(int(step), set()).add(model(np.ones((3, 40), np.float32))[0].numpy().tobytes())
    assert len(drawn[1]) == len(drawn[2]) == 1 and drawn[1] != drawn[2]
    with pytest.raises(ConfigurationError, match="step is -1; give"):
        model.mode.step = -1


def test_a_batch_is_printed_in_a_line():
    y, _ = Model(Dense(3), (2,)).initialize(1).place(get_backend("numba"))(np.ones((5, 2), np.float32))
    assert repr(y) == "<Batch (5, 3) on numba; numpy() gives the values>"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_batch_keeps_its_values_when_reshaped(backend):
    values = np.arange(30, dtype=np.float32).reshape(5, 6)
    batch = get_backend(backend).pack(values)
    assert np.array_equal(batch.reshape(2, 3).numpy(), values.reshape(5, 2, 3))
    with pytest.raises(ShapeError, match=r"images of shape \(6,\) cannot be reshaped to \(2, 4\)"):
        batch.reshape(2, 4)


def test_a_mode_has_no_other_settings():
    model = lenet5()
    with pytest.raises(AttributeError, match="Mode has no attribute 'train'; it has training, seed and step"):
        model.mode.train = True
    model.mode.training = True
    assert model.mode.training
