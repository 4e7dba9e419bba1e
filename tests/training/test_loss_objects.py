"""Training with losses other than the plain one, and with clipped gradients."""

import copy
import io
import json

import numpy as np
import pytest

from gpucnn import losses
from gpucnn.backends import get_backend
from gpucnn.check.small_networks import SMALL_NETWORKS, train_small
from gpucnn.data.mapped import Mapped
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import CheckpointError, ConfigurationError, DataError, DTypeError, ShapeError
from gpucnn.layers import Conv2d, Dense, Flatten, Sequential, Softmax
from gpucnn.losses import BinaryCrossEntropy, Huber, Loss, MeanAbsolute, MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Adam
from gpucnn.schedules import Constant
from gpucnn.summary import summary
from gpucnn.training import Bar, Callback, History, Lines, Trainer, load_run
from gpucnn.training.clipping import Clipping
from gpucnn.training.curves import draw_curves
from gpucnn.training.validation import split
from tests.training import small

X, Y = small.data()
# Two values of each image: means of its halves.
VALUES = np.ascontiguousarray(X.reshape(45, 2, 32).mean(axis=2) * 4).astype(np.float32)
ONES = np.eye(3, dtype=np.float32)[Y]
# A new one for each trainer, as a script has it.
SMOOTHED = lambda: SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=[1, 2, 0.5])  # noqa: E731


def regressor(activation="gelu", outputs=2, head="regressor"):
    layers = Sequential(Conv2d(3, 3, stride=2, activation=activation), Flatten(), Dense(outputs))
    return Model(layers, (1, 8, 8), head=head)


def trainer(run=None, **settings):
    settings = {"model": regressor(), "loss": Huber(0.5), "optimizer": Adam(0.01), "shift": 0, **settings}
    return small.trainer(run, **settings)


# ---- what is learned and measured ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [MeanSquared(), MeanAbsolute(), Huber(0.5)], ids=lambda loss: type(loss).__name__)
def test_a_regressor_learns(loss):
    it = trainer(loss=loss, schedule=Constant())
    history = it.fit(X, VALUES, 40, validation=(X[:20], VALUES[:20]))
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    found, accuracy = it.evaluate(X, VALUES)
    assert accuracy is None and history["accuracy"] == [None] * 40 == history["validation_accuracy"]
    predicted = it.predict(X)
    d = predicted.astype(np.float64) - VALUES
    a = np.abs(d)
    wanted = {"MeanSquared": d**2, "MeanAbsolute": a, "Huber": np.where(a <= 0.5, d**2 / 2, 0.5 * (a - 0.25))}
    assert np.isclose(found, wanted[type(loss).__name__].mean(), rtol=1e-5)
    assert np.isclose(history.last["validation_loss"], it.evaluate(X[:20], VALUES[:20])[0])


def test_binary_cross_entropy_learns_and_predicts_probabilities():
    it = trainer(model=regressor(outputs=3), loss=BinaryCrossEntropy(), schedule=Constant())
    it.fit(X, ONES, 60)
    probabilities = it.predict(X).astype(np.float64)
    assert ((probabilities > 0) & (probabilities < 1)).all() and np.mean((probabilities > 0.5) == ONES) > 0.95
    wanted = -np.mean(ONES * np.log(probabilities) + (1 - ONES) * np.log(1 - probabilities))
    assert np.isclose(it.evaluate(X, ONES)[0], wanted, rtol=1e-4)


def test_smoothing_and_weights_are_measured_over_the_whole_set():
    it = small.trainer(loss=SMOOTHED())
    history = it.fit(X, Y, 3, validation=(X, Y))
    loss, accuracy = it.evaluate(X, Y)
    log = np.log(it.predict(X).astype(np.float64))
    w = np.array([1, 2, 0.5])
    nll, spread = -w[Y] * log[np.arange(45), Y], -(log * w).sum(axis=1)
    # Not the mean of the batches' means: the weights of all images together.
    assert np.isclose(loss, (0.9 * nll + 0.1 / 3 * spread).sum() / w[Y].sum(), rtol=1e-5)
    assert accuracy == np.mean(log.argmax(axis=1) == Y) == history.last["validation_accuracy"]
    assert history.last["validation_loss"] == loss


@pytest.mark.parametrize("math", ["fast", "exact"])
def test_a_clipped_step_is_what_the_pieces_say(math):
    """One step of linear regression by hand in float64: mean squared error, both clippings, SGD."""
    model = Model(Sequential(Flatten(), Dense(2)), (1, 8, 8), head="regressor").initialize(1)
    w, b = (model.state_dict()[f"1.{name}"].astype(np.float64) for name in ("weight", "bias"))
    Trainer(
        model,
        backend=get_backend("numpy", math),
        optimizer=SGD(0.5, momentum=0),
        batch_size=45,
        progress=False,
        loss=MeanSquared(),
        clip_value=0.05,
        clip_norm=0.2,
    ).fit(X, VALUES, 1)
    x = X.reshape(45, 64).astype(np.float64)
    d = 2 * (x @ w.T + b - VALUES) / VALUES.size
    gradients = [np.clip(g, -0.05, 0.05) for g in (d.T @ x, d.sum(axis=0))]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert norm > 0.2 and any((np.abs(g) == 0.05).any() for g in gradients)
    for name, before, g in zip(("weight", "bias"), (w, b), gradients, strict=True):
        assert np.allclose(model.state_dict()[f"1.{name}"], before - 0.5 * g * (0.2 / norm), atol=1e-6)


# ---- the same bits everywhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["small smoothed", "small regression"])
def test_small_networks_give_the_same_weights(network):
    wanted = train_small(network, get_backend("numpy", "exact"))
    for threads in (1, 2):
        assert train_small(network, get_backend("numba", threads=threads)) == wanted
    if why_not() is None:
        for order in ("forward", "reversed"):
            assert train_small(network, get_emulated_backend(order, guard="end")) == wanted


@pytest.mark.parametrize("network", ["small smoothed", "small regression"])
def test_every_part_of_the_small_networks_matters(network, monkeypatch):
    """Without clipping, smoothing or weights the bits are others: the comparison above looks at something."""
    build = SMALL_NETWORKS[network]
    _model, settings = build()
    found = {train_small(network, get_backend("numpy", "exact"))}
    for change in (
        {"clip_norm": None},
        {"clip_value": 1e-4},
        {"loss": Huber() if "reg" in network else SoftmaxCrossEntropy(0.1)},
    ):
        monkeypatch.setitem(SMALL_NETWORKS, network, lambda change=change: (build()[0], {**settings, **change}))
        found.add(train_small(network, get_backend("numpy", "exact")))
    assert len(found) == 4


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_resuming_gives_the_same_bits(backend, tmp_path):
    def fresh(run, **settings):
        given = {"math": "exact", "backend": backend, "clip_norm": 0.1, "clip_value": 0.05}
        return trainer(run, **{**given, **settings})

    cut = fresh(tmp_path / "cut", schedule=Constant())
    whole = fresh(None, schedule=Constant())
    whole.fit(X, VALUES, 4)
    cut.fit(X, VALUES, 2)
    other = "numba" if backend == "numpy" else "numpy"
    resumed = fresh(tmp_path / "cut", schedule=Constant(), backend=other)
    resumed.fit(X, VALUES, 4, resume=True)
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()
    assert load_run(tmp_path / "cut", regressor()).config["clip"] == {"norm": 0.1, "value": 0.05}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": Huber(0.25)}, "loss's delta was 0.5 there and is 0.25 now"),
        ({"loss": MeanSquared()}, "loss was Huber there and is MeanSquared now"),
        ({"clip_norm": 1.0}, "clip's norm was None there and is 1.0 now"),
        ({"clip_value": None}, "clip's value was 0.5 there and is None now"),
    ],
)
def test_another_loss_or_clipping_is_refused(settings, words, tmp_path):
    trainer(tmp_path, clip_value=0.5).fit(X, VALUES, 1)
    with pytest.raises(CheckpointError, match=words):
        trainer(tmp_path, **{"clip_value": 0.5, **settings}).fit(X, VALUES, 1, resume=True)


def test_other_targets_are_refused(tmp_path):
    trainer(tmp_path).fit(X, VALUES, 1)
    with pytest.raises(CheckpointError, match="data_sha256"):
        trainer(tmp_path).fit(X, VALUES + 1, 1, resume=True)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_streamed_images_bring_their_values(backend):
    """Images that stay on the host: the values of a batch come with them."""
    found = set()
    for images in (X, Mapped(X)):
        it = trainer(backend=backend, math="exact", clip_norm=0.1)
        it.fit(images, VALUES, 2)
        found.add((it.model.weights_sha256(), it.evaluate(images, VALUES)))
    assert len(found) == 1


def test_one_loss_serves_trainers_on_several_backends():
    loss = SMOOTHED()
    digests = set()
    for backend in ("numpy", "numba", "numpy"):
        it = small.trainer(loss=loss, backend=backend, math="exact")
        it.fit(X, Y, 1)
        digests.add(it.model.weights_sha256())
    assert len(digests) == 1


# ---- what is written and said ----------------------------------------------------------------------------------------


def test_the_run_folder_of_a_regressor(tmp_path):
    history = trainer(tmp_path, clip_norm=1.0).fit(X, VALUES, 2, validation=(X, VALUES))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["loss"] == {"name": "Huber", "delta": 0.5} and config["clip"] == {"norm": 1.0, "value": None}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.epochs and "accuracy" not in lines[0] and "validation_loss" in lines[0]
    assert load_run(tmp_path, regressor()).history.epochs == history.epochs


def test_curves_without_accuracy_are_one_picture():
    from PIL import Image

    epochs = [{"epoch": i, "loss": 1 / i, "validation_loss": 2 / i} for i in (1, 2, 3)]
    with_accuracy = [{**e, "accuracy": 0.5} for e in epochs]
    narrow, wide = (Image.open(io.BytesIO(draw_curves(History(e)))).size for e in (epochs, with_accuracy))
    assert 1.8 < wide[0] / narrow[0] < 2.2 and wide[1] == narrow[1]


@pytest.mark.parametrize("losses", [(0.0, 0.0), (1.0, -2.0), (-3.0, None)])
def test_curves_of_losses_that_are_not_above_0(losses, recwarn):
    draw_curves(History([{"epoch": i, "loss": loss} for i, loss in enumerate(losses)]))
    assert not recwarn.list


@pytest.mark.parametrize("progress", [Lines(), Bar()])
def test_progress_without_accuracy(progress, capsys):
    progress.interval = 0.0
    trainer(progress=progress).fit(X, VALUES, 2, validation=(X, VALUES))
    err = capsys.readouterr().err
    assert "epoch 2/2" in err and "loss" in err and "validation" in err and "accuracy" not in err


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "targets", "error", "words"),
    [
        (MeanSquared(), VALUES[:-1], ShapeError, "(45, 2)"),
        (MeanSquared(), VALUES[:, :1], ShapeError, "(45, 2)"),
        (MeanSquared(), VALUES[:, 0], ShapeError, "(45, 2)"),
        (Huber(), Y, DTypeError, "targets.astype(numpy.float32)"),
        (Huber(), VALUES.astype(np.float64), DTypeError, "float64"),
        (Huber(), np.where(np.arange(45)[:, None] == 7, np.nan, VALUES).astype(np.float32), DataError, "image 7"),
        (BinaryCrossEntropy(), VALUES + 1, DataError, "0 to 1"),
        (SoftmaxCrossEntropy(), VALUES, DTypeError, "labels"),
    ],
)
def test_unfit_targets_are_refused_before_any_work(loss, targets, error, words, tmp_path):
    head = "classifier" if isinstance(loss, SoftmaxCrossEntropy) else "regressor"
    it = trainer(tmp_path / "run", loss=loss, model=regressor(head=head))
    for call in (lambda: it.fit(X, targets, 1), lambda: it.evaluate(X, targets)):
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "huber"},
        {"loss": Huber},
        {"clip_norm": 0},
        {"clip_norm": -1.0},
        {"clip_value": float("inf")},
        {"clip_value": "1"},
        {"clip_norm": True},
        {"loss": SoftmaxCrossEntropy(class_weights=[1, 2, 3])},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ConfigurationError):
        trainer(**settings)


def test_a_loss_without_a_call_says_so():
    with pytest.raises(NotImplementedError, match="__call__"):
        Loss()(None, None)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("size", [(), (2, 3)], ids=["labels", "maps"])
def test_one_loss_serves_models_of_any_number_of_classes(backend, size):
    """Its weights on the device had as many numbers as the first model has classes, and kernels read beyond them."""
    device, rng, loss = get_backend(backend), np.random.default_rng(0), SoftmaxCrossEntropy(label_smoothing=0.1)
    for classes in (3, 40, 2, 40):
        logits = device.pack(rng.standard_normal((5, classes, *size)).astype(np.float32))
        labels = rng.integers(0, classes, (5, *size))
        (value, gradient), (expected, slopes) = (
            one(logits, labels) for one in (loss, SoftmaxCrossEntropy(label_smoothing=0.1))
        )
        assert value.tobytes() == expected.tobytes() and np.array_equal(gradient.numpy(), slopes.numpy()), classes
    with pytest.raises(ConfigurationError, match="class_weights holds 2 numbers, but the model has 40 classes"):
        SoftmaxCrossEntropy(class_weights=[1, 2]).place(device, 40)


def test_pieces_share_a_loss_with_models_of_other_classes():
    loss, found = SoftmaxCrossEntropy(label_smoothing=0.1), []
    for pieces in (1, 2):
        for outputs in (5, 3):
            it = trainer(model=regressor(outputs=outputs, head="classifier"), loss=loss, batch_size=45, pieces=pieces)
            it.fit(X, Y, 1)
            found.append(it.model.weights_sha256())
    assert found[:2] == found[2:]


def test_balanced_weights():
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = losses.balanced_weights(labels, 3)
    assert weights == [6 / 9, 2.0, 1.0] and np.isclose(np.mean(np.array(weights)[labels]), 1)
    with pytest.raises(DataError, match="class 3"):
        losses.balanced_weights(labels, 4)


@pytest.mark.parametrize("validation", [None, 0.3])
def test_balanced_weights_count_the_images_that_are_trained_on(validation, tmp_path):
    images, labels = small.data()
    chosen = split(labels.astype(np.int32), validation, 3)[0] if validation else np.arange(len(labels))
    counted = losses.balanced_weights(labels[chosen], 3)
    assert validation is None or counted != losses.balanced_weights(labels, 3)
    runs = [
        small.trainer(tmp_path / str(i), loss=losses.SoftmaxCrossEntropy(0.1, weights))
        for i, weights in enumerate(("balanced", counted))
    ]
    for run in runs:
        run.fit(images, labels, 1, validation=validation)
    assert runs[0].model.weights_sha256() == runs[1].model.weights_sha256()
    assert load_run(tmp_path / "0", small.model()).config["loss"]["class_weights"] == counted
    assert runs[0].evaluate(images, labels) == runs[1].evaluate(images, labels)


def test_a_loss_that_another_trainer_has_balanced_is_refused(tmp_path):
    images, labels = small.data()
    loss = losses.SoftmaxCrossEntropy(class_weights="balanced")
    first, second = (small.trainer(loss=loss, schedule=Constant()) for _ in range(2))
    first.fit(images, labels, 1)
    second.fit(images, labels, 1)  # of the same labels: nothing has changed
    measured = first.evaluate(images, labels)
    second.fit(images[:30], labels[:30], 1)
    for call in (first.evaluate, first.train_step):
        with pytest.raises(ConfigurationError, match="give each Trainer a loss of its own"):
            call(images, labels)
    first.fit(images, labels, 1)  # counts them anew
    assert first.evaluate(images, labels) != measured

    class Meanwhile(Callback):
        """What a trainer in another thread may do at any moment."""

        def on_train_batch_end(self, trainer, step):
            if step == 5:
                second.fit(images[:30], labels[:30], 1)

    third = small.trainer(tmp_path, loss=loss, callbacks=[Meanwhile()])
    with pytest.raises(ConfigurationError, match="give each Trainer a loss of its own"):
        third.fit(images, labels, 3)
    assert load_run(tmp_path, small.model()).epoch == 1


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_step_without_labels_to_balance_by_changes_nothing(backend):
    """Batch norm had moved its running statistics before the loss refused."""
    images, labels = small.data()
    it = small.trainer(None, backend, loss=SoftmaxCrossEntropy(class_weights="balanced"), schedule=Constant())
    before = it.model.weights_sha256()
    with pytest.raises(ConfigurationError, match="no training labels were seen yet"):
        it.train_step(images, labels)
    assert it.model.weights_sha256() == before
    it.loss.learn(labels, 3)
    assert it.train_step(images, labels)["step"] == 1


def test_a_refused_fit_leaves_the_balance_as_it_was():
    images, labels = small.data()
    it = small.trainer(loss=SoftmaxCrossEntropy(class_weights="balanced"), schedule=Constant())
    it.fit(images, labels, 1, validation=0.2)
    before = it.loss.settings(), it.evaluate(images, labels)
    with pytest.raises(ConfigurationError, match="validation or monitor are not those"):
        it.fit(images[:20], labels[:20], 1, validation=0.4)
    assert (it.loss.settings(), it.evaluate(images, labels)) == before
    it.train_step(images, labels)


def test_a_loss_that_is_not_the_models_is_refused():
    """The model's predictions would be the softmax of what the loss takes for values."""
    for loss in (BinaryCrossEntropy(), Largest()):
        with pytest.raises(
            ConfigurationError, match=f'{type(loss).__name__} compares .* make it with head="regressor"'
        ):
            trainer(loss=loss, model=regressor(head="classifier"))
    it = trainer(loss=BinaryCrossEntropy())
    probabilities = it.model.predict(X, finish=BinaryCrossEntropy().predict)
    assert np.array_equal(it.predict(X), probabilities)
    assert np.array_equal(it.model.predict(X) > 0, probabilities > 0.5)

    class SoftTargets(Largest):
        """A loss that says itself what predictions are."""

        def predict(self, outputs):
            return outputs.backend.softmax(outputs)

    model = regressor(head="classifier")
    assert np.array_equal(trainer(loss=SoftTargets(), model=model).predict(X), model.predict(X))


def test_balanced_weights_need_labels():
    images, labels = small.data()
    with pytest.raises(ConfigurationError, match='class_weights is "balanced", but no training labels were seen yet'):
        small.trainer(loss=losses.SoftmaxCrossEntropy(class_weights="balanced")).evaluate(images, labels)
    for pieces in (1, 2):
        model, loss = regressor(outputs=3, head="classifier"), SoftmaxCrossEntropy(class_weights="balanced")
        it = trainer(model=model, loss=loss, schedule=Constant(), pieces=pieces)
        with pytest.raises(ConfigurationError, match="no training labels were seen yet"):
            it.train_step(images, labels)
    with pytest.raises(DataError, match="class 2 has no images"):
        small.trainer(loss=losses.SoftmaxCrossEntropy(class_weights="balanced")).fit(images, labels % 2, 1)


def test_clipping_nothing_does_nothing():
    Clipping()(None, None)
    assert Clipping(1.0, 2.0).settings() == {"norm": 1.0, "value": 2.0}


# ---- a loss of one's own, the layers in a summary --------------------------------------------------------------------


class Largest(MeanSquared):
    """Twice the mean squared error, made of the operations that are there."""

    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets, totals)
        return loss, outputs.backend.add(gradient, gradient)


def test_a_loss_of_ones_own():
    plain, own = trainer(loss=MeanSquared(), optimizer=SGD(0.02)), trainer(loss=Largest(), optimizer=SGD(0.01))
    for it in (plain, own):
        it.fit(X, VALUES, 2)
    assert np.allclose(plain.model.values, own.model.values, rtol=1e-5, atol=1e-7)


def test_summary_knows_the_activations():
    from gpucnn.layers import GELU, LeakyReLU, SiLU

    layers = [LeakyReLU(), GELU(), SiLU(), Softmax()]
    table = summary(Model(Sequential(Conv2d(2, 3), *layers), (1, 8, 8)))
    assert [row.kind for row in table.rows[1:]] == ["LeakyReLU", "GELU", "SiLU", "Softmax"]
    for row in table.rows[1:]:
        assert (row.output, row.parameters, row.multiply_adds, row.field) == ((2, 6, 6), 0, 0, (3, 3))
    flat = Model(Sequential(*copy.deepcopy(layers)), (3,))
    assert flat.structure.startswith("Sequential(LeakyReLU(negative_slope=0.01), GELU()")
