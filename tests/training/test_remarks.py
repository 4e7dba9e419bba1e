"""What the Trainer remarks and refuses, in the words of someone who comes from another library."""

import re

import numpy as np
import pytest

from gpucnn import Model, Trainer, get_backend
from gpucnn.errors import ConfigurationError, DataError, DTypeError, ShapeError
from gpucnn.layers import Conv1d, Conv2d, Dense, Dropout, Flatten, LeakyReLU, ReLU, Sequential, Sigmoid, Softmax
from gpucnn.losses import BinaryCrossEntropy, MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import at_size, mlp
from gpucnn.optimizers import Optimizer
from gpucnn.schedules import Cosine
from gpucnn.training import Quiet
from gpucnn.training.progress import Bar
from gpucnn.training.remarks import slowness
from gpucnn.training.validation import split

X = np.random.default_rng(0).random((20, 3, 4, 6), np.float32)
Y = np.arange(20) % 3


class Remarks(Quiet):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def fitted(images, labels, channels: int = 3, **settings) -> list[str]:
    """What was said while a small network trained for an epoch."""
    remarks = Remarks()
    settings = {"backend": "numpy", "math": "fast", **settings}
    model = mlp((channels, 4, 6), 3, hidden=[4])
    Trainer(model, progress=remarks, **settings).fit(images, labels, 1)
    return remarks.said


@pytest.mark.parametrize("images", [X * 255, (X * 255).astype(np.uint8), -X * 100], ids=["floats", "bytes", "negative"])
def test_values_far_above_1_are_remarked_once(images):
    about = [text for text in fitted(images, Y) if "taken as they are" in text]
    largest = np.abs(images.astype(np.float32)).max()
    assert len(about) == 1
    assert about[0].startswith(f"images have values up to {largest:g},")
    assert not any("taken as they are" in text for text in fitted(images, Y, normalize=True))


def test_usual_values_are_not_remarked():
    for images in (X, 4 * X - 2):
        assert not any("taken as they are" in text for text in fitted(images, Y))


@pytest.mark.parametrize(
    ("shape", "remarked"),
    [
        ((16, 16, 13), True),  # (H, W, C): bands of a satellite
        ((64, 48, 6), True),
        ((128, 9), True),  # (L, C): windows of sensors
        ((8, 8, 8, 4), True),
        ((13, 16, 16), False),
        ((3, 3, 2), False),
        ((1, 28, 28), False),
        ((16, 4, 4), False),
        ((40, 30), False),  # sound: 40 coefficients
        ((8, 8, 8, 8), False),
        ((784,), False),
    ],
)
def test_a_last_axis_that_looks_like_channels_is_remarked(shape, remarked):
    said, images = Remarks(), np.zeros((6, *shape), np.float32)
    settings = {"backend": "numpy", "math": "fast", "progress": said}
    Trainer(mlp(shape, 3, hidden=[2]), **settings).fit(images, np.arange(6) % 3, epochs=1)
    assert (
        any("if its last axis counts the channels, give numpy.moveaxis(images, -1, 1)" in text for text in said.said)
        == remarked
    )


@pytest.mark.parametrize(
    ("end", "loss", "remarked"),
    [
        ([Dense(3), Softmax()], SoftmaxCrossEntropy(), True),
        ([Dense(3), Sequential(Sigmoid())], BinaryCrossEntropy(), True),
        ([Dense(3, activation="sigmoid")], BinaryCrossEntropy(), True),
        ([Dense(3), Sigmoid()], SoftmaxCrossEntropy(), False),
        ([Softmax(), Dense(3)], SoftmaxCrossEntropy(), False),
        ([Dense(3), Softmax()], MeanSquared(), False),
    ],
)
def test_what_the_loss_applies_once_more_is_remarked(end, loss, remarked):
    classed, remarks = isinstance(loss, SoftmaxCrossEntropy), Remarks()
    model = Model(Sequential(Flatten(), *end), (3, 4, 6), head="classifier" if classed else "regressor")
    trainer = Trainer(model, loss=loss, backend="numpy", math="fast", progress=remarks)
    trainer.fit(X, Y if classed else np.eye(3, dtype=np.float32)[Y], 1)
    name = "softmax" if classed else "sigmoid"
    assert any(text.startswith(f"the network ends in {name}, which") for text in remarks.said) == remarked


@pytest.mark.parametrize(
    ("last", "loss", "name"),
    [
        (ReLU(), SoftmaxCrossEntropy(), "relu"),
        (Sigmoid(), SoftmaxCrossEntropy(), "sigmoid"),
        (Dense(3, activation="tanh"), SoftmaxCrossEntropy(), "tanh"),
        (Dropout(0.5), BinaryCrossEntropy(), "dropout"),
        (ReLU(), MeanSquared(), None),
        (LeakyReLU(), SoftmaxCrossEntropy(), None),
    ],
)
def test_what_limits_the_scores_is_remarked(last, loss, name):
    classed, remarks = isinstance(loss, SoftmaxCrossEntropy), Remarks()
    model = Model(Sequential(Flatten(), Dense(3), last), (3, 4, 6), head="classifier" if classed else "regressor")
    trainer = Trainer(model, loss=loss, backend="numpy", math="fast", progress=remarks)
    trainer.fit(X, Y if classed else np.eye(3, dtype=np.float32)[Y], 1)
    about = [text for text in remarks.said if text.startswith("the network ends in")]
    assert [re.search("ends in (.*), which .* out$", text)[1] for text in about] == [name] * (name is not None)


def test_images_that_were_prepared_otherwise_are_remarked():
    remarks = Remarks()
    trainer = Trainer(mlp((3, 4, 6), 3, hidden=[4]), backend="numpy", math="fast", progress=remarks)
    trainer.evaluate(X * 255, Y)  # trained on nothing yet
    trainer.fit(X, Y, 1, validation=(X[::-1] * 255, Y[::-1]))
    trainer.evaluate(X * 0.5, Y)
    trainer.evaluate(np.concatenate([X[:1] * 255, X[1:]]), Y)  # an outlier
    middle = np.median(X.max(axis=(1, 2, 3)))
    assert [text for text in remarks.said if "prepare both alike" in text] == [
        f"these images have values up to {255 * middle:g}, those that the network was trained on up to {middle:g}: "
        "prepare both alike, such as images / 255"
    ]
    for _ in range(2):
        trainer.measure(X / 255, Y)
    assert sum("prepare both alike" in text for text in remarks.said) == 2, "validation's, and evaluation's once"


def test_images_to_predict_that_were_prepared_otherwise_are_remarked():
    """As a camera's bytes for a network that was trained on values from 0 to 1: the classes would be as good as any."""
    remarks = Remarks()
    trainer = Trainer(mlp((3, 4, 6), 3, hidden=[4]), backend="numpy", math="fast", progress=remarks)
    trainer.fit(X, Y, 1)
    trainer.predict(X[:1])
    assert not any("prepare both alike" in text for text in remarks.said)
    for _ in range(2):
        trainer.predict((X[:1] * 255).astype(np.uint8))
    assert sum("prepare both alike, such as images / 255" in text for text in remarks.said) == 1


def test_training_images_in_validation_are_remarked():
    def said(validation) -> list[str]:
        remarks = Remarks()
        trainer = Trainer(mlp((3, 4, 6), 3, hidden=[4]), backend="numpy", math="fast", progress=remarks)
        for _ in range(2):
            trainer.fit(X[:15], Y[:15], 1, validation=validation)
        return [text for text in remarks.said if "training images too" in text]

    assert said((X[10:], Y[10:])) == [
        "5 of the 10 validation images are training images too, so they say too little about new ones"
    ]
    assert said((X[15:], Y[15:])) == said(0.2) == []


def test_a_remark_before_training_reaches_a_terminal(capsys):
    bar = Bar()
    bar.say("early")
    assert "early" in capsys.readouterr().err


def test_labels_from_1():
    with pytest.raises(DataError, match=r"a model of 3 classes takes 0 to 2; these count from 1: give labels - 1$"):
        fitted(X, Y + 1)
    with pytest.raises(DataError, match=r"takes 0 to 2; numpy.unique.* numbers the 3 values that occur$"):
        fitted(X, Y * 2)
    with pytest.raises(DataError, match="takes 0 to 2$"):
        fitted(X, Y * 2 % 3 * 2 + (Y == 0) * np.arange(20))


def test_a_shape_with_the_channels_last_that_no_layer_fits():
    with pytest.raises(ShapeError, match=r"if the channels are last in \(28, 28, 1\), give \(1, 28, 28\)"):
        Model(Sequential(Conv2d(4, 3), Flatten(), Dense(10)), (28, 28, 1))
    with pytest.raises(ShapeError, match="would fit$"):
        Model(Sequential(Conv2d(4, 9), Flatten(), Dense(10)), (3, 4, 4))


def test_fast_math_says_what_it_costs():
    (about,) = fitted(X, Y)
    assert about.startswith("fast math is faster than numpy's exact math alone: an epoch will take less than 1 s; ")
    assert 'backend="numba" in exact math (--backend numba) is many times faster' in about
    (about,) = fitted(X, Y, math="exact")
    assert "numpy's exact math is the specification, and slow" in about
    assert about.endswith('; backend="numba" (--backend numba) gives the same bits sooner')
    assert "an epoch will take about 1,234 s; " in slowness(get_backend("numpy"), 1234)


def test_without_numba_the_reason_is_said(monkeypatch):
    monkeypatch.setattr("gpucnn.training.remarks.get_backend", lambda: get_backend("numpy"))
    about = slowness(get_backend("numpy"), 2.0)
    assert about.endswith("about 2 s; numba, which gives the same bits sooner, is not usable here")


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (X.transpose(0, 2, 3, 1), "the channels are last; images.transpose(0, 3, 1, 2) brings them to the front"),
        (X.reshape(20, -1), "images.reshape(-1, 3, 4, 6) has that shape"),
        (X[0], "a single image is images[None]"),
    ],
)
def test_the_layout_that_was_meant_is_said_and_fits(images, hint):
    with pytest.raises(ShapeError) as caught:
        fitted(images, Y)
    assert str(caught.value).endswith(f"this model takes (N, 3, 4, 6): {hint}")
    code = next(part.split(" brings")[0].split(" has")[0] for part in hint.split("; ")[-1:])
    meant = eval(code.removeprefix("a single image is "), {"images": images})
    assert np.array_equal(meant, X if len(meant) == 20 else X[:1])


def test_images_of_another_size_are_told_of_a_model_that_fits():
    model = Model(Conv2d(3, 1), (3, 4, 6)).initialize(0)
    with pytest.raises(ShapeError) as caught:
        model.predict(np.tile(X, (1, 1, 2, 3)))
    advice = "gpucnn.models.at_size(model, (3, 8, 18))"
    assert str(caught.value).endswith(f": resize or crop them; where no weight depends on the size, {advice} fits")
    assert np.array_equal(
        at_size(model, (3, 8, 18)).predict(np.tile(X, (1, 1, 2, 3))), np.tile(model.predict(X), (1, 1, 2, 3))
    )


def test_a_missing_channel_axis_is_said():
    with pytest.raises(ShapeError, match=r"axis of the channel is missing; images\[:, None\] adds it$"):
        fitted(X[:, 0], Y, channels=1)
    with pytest.raises(ShapeError, match=r"takes \(N, 3, 4, 6\)$"):  # nothing is guessed
        fitted(X[:, :2], Y)


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (Y[:, None], "numpy.ravel(labels) has it"),
        (Y[:, None] * 1.0, "numpy.ravel(labels) has it"),
        (np.eye(3)[Y], "of one-hot rows numpy.argmax(labels, axis=1) has it"),
    ],
)
def test_labels_as_other_libraries_take_them(labels, hint):
    for given in (labels, labels.tolist(), Tensor(labels)):
        with pytest.raises(ShapeError) as caught:
            fitted(X, given)
        assert str(caught.value) == f"labels have shape {labels.shape}; 20 images need shape (20,): {hint}"
        advice = hint.removeprefix("of one-hot rows ").removesuffix(" has it")
        assert fitted(X, eval(advice, {"labels": given, "numpy": np}).astype(int))


class Tensor:
    """As PyTorch's: an array that has neither astype nor a transpose of all axes."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return self._values if dtype is None else self._values.astype(dtype)

    def permute(self, *axes):
        return self._values.transpose(axes)


def test_what_tensors_lack_is_not_advised():
    for images, labels in (
        (Tensor(X.transpose(0, 2, 3, 1)), Y),
        (Tensor(X.astype(np.float64)), Y),
        (X, Tensor(Y.astype(np.float32))),
        (X.tolist(), Y),
    ):
        with pytest.raises((ShapeError, DTypeError)) as caught:
            fitted(images, labels)
        advice = re.search(r"(?:images|numpy)\.\w+\(.*?\)", str(caught.value))[0]
        given = {"images": images, "labels": labels, "numpy": np}
        right = {**given, "images" if "images" in advice else "labels": eval(advice, given)}
        assert fitted(np.asarray(right["images"], np.float32), right["labels"])
    targets, model = Tensor(np.eye(3)[Y]), mlp((3, 4, 6), outputs=3, hidden=[4])
    with pytest.raises(DTypeError, match=r"convert them: numpy.asarray\(targets, numpy.float32\)"):
        Trainer(model, progress=False).fit(X, targets, 1)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat", "dog", "tree"])[Y],
        np.array(["007", "7", "true"])[Y],  # as numbers two would be one
        np.array(["cat", "dog", "tree"], object)[Y],  # as pandas has them
        np.array(["2026-01-01", "2026-01-02", "2027-01-01"], "datetime64[D]")[Y],
        np.array(["cat", "dog", "tree"])[Y].tolist(),
    ],
    ids=["names", "digits", "objects", "dates", "list"],
)
def test_labels_that_are_names_are_advised_to_be_numbered(labels):
    with pytest.raises(DTypeError, match="give integers, such as those of classes, numbers = ") as caught:
        fitted(X, labels)
    _, numbers = eval(str(caught.value).partition(" = ")[2], {"labels": labels, "numpy": np})
    assert np.array_equal(numbers, Y) and fitted(X, numbers)


@pytest.mark.parametrize("labels", [Y + 0.5, np.eye(3)[Y] * 0.8 + 0.1])
def test_fractions_are_not_advised_to_be_cut_off(labels):
    with pytest.raises(
        DTypeError, match=r"not all whole numbers; give the number of a class .* outputs= or head=\"regressor\""
    ):
        fitted(X, labels)


@pytest.mark.parametrize("labels", [None, 1, {0, 1}, {0: 1}, (n for n in Y), map(int, Y), "012"])
def test_labels_that_are_no_array_are_shown(labels):
    for what, loss in (("labels", SoftmaxCrossEntropy()), ("targets", MeanSquared())):
        with pytest.raises(DTypeError, match=f"^{what} is .*; give an array or a list with an entry for each image$"):
            loss.check(labels, len(X), (3,), np.float32)


def test_one_output_makes_no_two_classes():
    model = Model(Sequential(Flatten(), Dense(1)), (3, 4, 6))
    with pytest.raises(DataError, match="takes 0 to 0; give it an output for each class, or one, as a regressor, with"):
        Trainer(model, progress=False).fit(X, Y % 2, 1)


@pytest.mark.parametrize("maps", [False, True])
def test_black_and_white_masks_are_not_advised_to_be_ignored(maps):
    labels = (X[:, 0] > 0.5 if maps else Y > 0) * np.uint8(255)
    model = Model(Sequential(Conv2d(3, 1), *([] if maps else [Flatten(), Dense(3)])), (3, 4, 6))
    trainer = Trainer(model, progress=False, backend="numpy")
    with pytest.raises(DataError, match="0 to 2; 0 and 255 stand for two classes: give labels // 255$"):
        trainer.fit(X, labels, 1)
    trainer.fit(X, labels // 255, 1)
    labels[3] = 254
    with pytest.raises(DataError, match="0 to 2; (if the 3 values|numpy.unique)"):
        trainer.fit(X, labels, 1)


def test_labels_that_are_classes_of_other_numbers_are_not_advised_to_be_ignored():
    """Who ignored the last class of all that is out of range would train without it, and never see why."""
    model = Model(Conv2d(3, 1), (3, 4, 6))
    maps = np.arange(20 * 24).reshape(20, 4, 6) % 3

    def refused(labels, **settings) -> str:
        with pytest.raises(DataError) as caught:
            Trainer(model, progress=False, loss=SoftmaxCrossEntropy(**settings)).fit(X, labels, 1)
        return str(caught.value).partition(" takes 0 to 2; ")[2]

    assert refused(maps + 1) == "these count from 1: give labels - 1"
    bordered = maps + 1
    bordered[:, 0] = 0
    assert refused(bordered, ignore_index=0) == "these count from 1: give labels - 1, and ignore_index=-1"
    Trainer(model, progress=False, loss=SoftmaxCrossEntropy(ignore_index=-1)).fit(X, bordered - 1, 1)
    grey = maps * np.uint8(120)
    numbers = "numpy.unique(labels, return_inverse=True)[1]"
    assert np.array_equal(eval(numbers, {"labels": grey, "numpy": np}), maps)
    expected = (
        f"if the 3 values that occur are the classes, {numbers} numbers them, and if not, ignore_index=120 ignores"
    )
    assert refused(grey).startswith(expected)
    assert refused(np.where(maps == 0, 7, maps)).endswith("if not, ignore_index=7 ignores such labels")
    assert refused(np.where(maps == 2, -1, maps)) == "ignore_index=-1 ignores such labels"
    assert refused(np.where(maps == 2, 255, maps), ignore_index=-1).startswith("-1 alone is ignored: give such a pos")


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda maps: maps[:, None], "numpy.squeeze(labels, 1) has it"),
        (lambda maps: maps[..., None], "numpy.squeeze(labels, -1) has it"),
        (lambda maps: np.eye(3, dtype=int)[maps], "of one-hot values numpy.argmax(labels, -1) has it"),
        (
            lambda maps: np.eye(3, dtype=int)[maps].transpose(0, 3, 1, 2),
            "of one-hot values numpy.argmax(labels, 1) has it",
        ),
        (lambda maps: np.stack([maps] * 3, axis=-1), ""),
    ],
)
def test_maps_as_other_libraries_take_them(change, hint):
    trainer, maps = Trainer(Model(Conv2d(3, 1), (3, 4, 6)), progress=False), np.arange(20 * 24).reshape(20, 4, 6) % 3
    for given in (labels := change(maps), labels.tolist()):
        with pytest.raises(
            ShapeError, match=rf"class for each position, \(20, 4, 6\){': ' * bool(hint)}{re.escape(hint)}$"
        ):
            trainer.fit(X, given, 1)
        if hint:
            advice = hint.removeprefix("of one-hot values ").removesuffix(" has it")
            assert np.array_equal(eval(advice, {"labels": given, "numpy": np}), maps)


def test_data_sets_as_other_libraries_take_them():
    pairs = list(zip(X, Y))
    with pytest.raises(DTypeError, match=r"; take its tuples apart, as images, labels = zip\(\*pairs\) does$"):
        fitted(pairs, None)
    assert fitted(*zip(*pairs))
    for batches in (((X, Y) for _ in range(2)), map(tuple, [])):
        with pytest.raises(
            DTypeError, match=r"give a NumPy array of numpy.float32; batches are for Trainer.fit_batches$"
        ):
            fitted(batches, None)
    with pytest.raises(DTypeError, match=r"of type object; give a NumPy array of numpy.float32$"):
        fitted(object(), Y)


def test_a_label_too_few_is_no_map():
    with pytest.raises(ShapeError, match=r"takes a class for each position, \(20,\)$"):
        fitted(X, Y[1:], loss=SoftmaxCrossEntropy(ignore_index=7))


def test_what_a_conversion_would_lose_is_not_advised():
    """Spectra are complex; a column of a table is an array of arrays."""
    spectra = X * (1 + 2j)
    for given in (spectra, spectra.tolist()):
        with pytest.raises(
            DTypeError, match=r"convert them: numpy.asarray\(numpy.abs\(images\), numpy.float32\), or real"
        ):
            fitted(given, Y)
    column = np.empty(20, object)
    column[:] = list(X)
    with pytest.raises(DTypeError, match=r"numpy.float32, such as numpy.stack\(images\) makes of a column of arrays$"):
        fitted(column, Y)
    assert fitted(np.stack(column), Y)


def test_labels_that_pytorch_ignores():
    with pytest.raises(DataError, match=r"0 to 2; SoftmaxCrossEntropy\(ignore_index=-100\) ignores such labels"):
        fitted(X, np.where(np.arange(20) == 3, -100, Y))
    assert fitted(X, np.where(np.arange(20) == 3, -100, Y), loss=SoftmaxCrossEntropy(ignore_index=-100))


def test_classes_without_a_validation_image_are_named():
    def said(labels, kept):
        remarks = Remarks()
        Trainer(mlp((3, 4, 6), 3), backend="numpy", math="fast", progress=remarks).fit(X, labels, 1, validation=kept)
        return [text for text in remarks.said if text.endswith("no validation image")]

    rare = np.where(np.arange(20) < 18, 0, [1, 2] * 10)
    assert said(rare, 0.2) == ["2 of the 3 classes, such as class 1, have no validation image"]
    assert said(rare, (X, np.where(Y == 2, 0, Y))) == ["class 2 has no validation image"]
    assert said(rare, (X, Y)) == []


def test_labels_that_are_all_ignored():
    blank, loss = np.full(20, 7), SoftmaxCrossEntropy(ignore_index=7)
    one = np.where(np.arange(20) == split(np.zeros(20), 0.1, 0)[1][0], 1, 7)  # which is kept for validation
    trainer = Trainer(mlp((3, 4, 6), 3), loss=loss, progress=False)
    for part, attempt in (
        ("training", lambda: trainer.fit(X, blank, 1)),
        ("training", lambda: trainer.fit(X, one, 1, validation=0.1)),
        ("validation", lambda: trainer.fit(X, Y, 1, validation=(X, blank))),
        ("the", lambda: trainer.measure(X, blank)),
    ):
        with pytest.raises(DataError, match=f"all {part} labels are 7, which ignore_index leaves out; some must be"):
            attempt()
    assert trainer.train_step(X, blank)["loss"] == 0  # a batch of them may come


def test_batches_that_only_know_their_length_when_asked():
    class Loader:
        """As a DataLoader of an IterableDataset."""

        def __len__(self):
            raise TypeError("object of type 'Stream' has no len()")

        def __iter__(self):
            return iter([(X, Y)] * 2)

    with pytest.raises(ConfigurationError, match="the batches have no length; say how many make an epoch: steps=100"):
        Trainer(mlp((3, 4, 6), 3), progress=False).fit_batches(Loader(), 1)
    assert Trainer(mlp((3, 4, 6), 3), progress=False).fit_batches(Loader(), 2, steps=2)["step"] == [2, 4]


def test_layers_as_other_libraries_take_them():
    layers = [Flatten(), Dense(3)]
    with pytest.raises(ConfigurationError, match=r"write Model\(Sequential\(\*layers\), \.\.\.\)$"):
        Model(layers, (3, 4, 6))
    with pytest.raises(ConfigurationError, match=r"write Sequential\(\*layers\)$"):
        Sequential(layers)
    for kind in (Conv1d, Conv2d):
        name = kind.__name__
        with pytest.raises(ConfigurationError) as caught:
            kind(3, 16, 3)
        assert str(caught.value).startswith(
            f"{name}(3, 16, 3): input channels are those of the images: write {name}(16, 3)"
        )


def test_print_shows_the_layers():
    lines = str(Model(Sequential(Conv2d(2, 3), Flatten(), Dense(3)), (3, 4, 6))).splitlines()
    assert [line.split("(")[0].split() for line in lines[1:]] == [["0", "Conv2d"], ["1", "Flatten"], ["2", "Dense"]]


@pytest.mark.parametrize("splits", [True, False])
def test_the_title_says_in_the_users_words_why_steps_are_not_recorded(capsys, monkeypatch, splits):
    """A backend that splits recordings calls the user's code between its kernels."""
    backend = get_backend("numba")
    monkeypatch.setattr(backend, "splits", splits)
    Trainer(mlp((3, 4, 6), 3, hidden=[4]), backend=backend, augment=lambda images, rng: images).fit(X, Y, 1)
    said = "; steps are not recorded, since augment is code of yours\n" in capsys.readouterr().err
    assert said is not splits


class Plain(Optimizer):
    def update(self, weights, gradients):
        weights -= self.hyper[0] * gradients


class Rebinding(Optimizer):
    """Gives its own name another array, which nobody sees."""

    def update(self, weights, gradients):
        weights = weights - self.hyper[0] * gradients


def test_an_optimizer_that_changes_no_weight_is_remarked():
    for optimizer, remarked in ((Rebinding(0.1), True), (Rebinding(0), False), (Plain(0.1), False)):
        said = [text for text in fitted(X, Y, optimizer=optimizer) if "no weight" in text]
        assert len(said) == remarked
        assert all("update must do it in place: weights -= ..." in text for text in said)


@pytest.mark.parametrize(
    ("rate", "settings", "remarked"),
    [
        ("lr", {"schedule": Cosine()}, True),
        ("lr", {"lr_factors": {"1": 0.5}}, True),
        ("lr", {}, False),
        ("hyper", {"schedule": Cosine()}, False),
    ],
)
def test_an_optimizer_that_no_schedule_reaches_is_remarked(rate, settings, remarked):
    class Own(Optimizer):
        def update(self, weights, gradients):
            weights -= self.lr * gradients

    class Reached(Optimizer):
        def update(self, weights, gradients):
            weights -= self.hyper[0] * gradients

    remarks, optimizer = Remarks(), (Own if rate == "lr" else Reached)(0.1)
    model = Model(Sequential(Flatten(), Dense(3)), (3, 4, 6))
    Trainer(model, optimizer=optimizer, backend="numba", progress=remarks, **settings).fit(X, Y, 1)
    assert any("Own.update reads self.lr, which neither a schedule" in text for text in remarks.said) == remarked
