"""The validation split, the best epoch, early stopping: exact, also across interruptions and backends."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpucnn
from gpucnn.arithmetic import philox4x32
from gpucnn.backends import backends
from gpucnn.errors import CheckpointError, ConfigurationError, DataError, NonFiniteError
from gpucnn.layers import Dense, Flatten, Layer, Sequential
from gpucnn.losses import MeanSquared, SoftmaxCrossEntropy
from gpucnn.models import Model, mlp
from gpucnn.models.files import read_tensors, write_tensors
from gpucnn.optimizers import SGD, Adam
from gpucnn.schedules import Constant
from gpucnn.training import History, Lines, Quiet, load_run
from gpucnn.training.validation import split, why_stop
from tests.training import small

X, Y = small.data()


class StopAfter(Quiet):
    def __init__(self, epoch):
        self.epoch = epoch

    def end_epoch(self, record):
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt


# ---- the split -------------------------------------------------------------------------------------------------------


def split_by_hand(labels, fraction, seed):
    """The contract's words, one image at a time."""
    low = [philox4x32((i, 0, 0, 5 << 16), (seed & 0xFFFFFFFF, seed >> 32))[:2] for i in range(len(labels))]
    draw = [int(first) | int(second) << 32 for first, second in low]
    kept = set()
    for label in set(labels.tolist()):
        members = sorted((i for i in range(len(labels)) if labels[i] == label), key=lambda i: (draw[i], i))
        kept |= set(members[: int(fraction * len(members) + 0.5)])
    return [i for i in range(len(labels)) if i not in kept], sorted(kept)


@given(
    st.lists(st.integers(0, 3), min_size=20, max_size=60),
    st.floats(0.1, 0.7),
    st.sampled_from([0, 7, 2**33 + 1]),
)
def test_the_split_is_the_contracts(labels, fraction, seed):
    labels = np.array(labels, np.int32)
    training, kept = split_by_hand(labels, fraction, seed)
    if not kept or not training:
        with pytest.raises(DataError):
            split(labels, fraction, seed)
        return
    ours = split(labels, fraction, seed)
    assert ours[0].tolist() == training and ours[1].tolist() == kept
    for label in np.unique(labels):  # every class gives its part, to half an image
        assert abs(np.sum(labels[ours[1]] == label) - fraction * np.sum(labels == label)) <= 0.5


def test_values_are_split_as_one_class():
    values = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    training, kept = split(values, 0.1, 3)
    assert len(kept) == 5 and sorted([*training, *kept]) == list(range(50))


@pytest.mark.parametrize(("fraction", "words"), [(0.001, "none to validate with"), (0.999, "none to train on")])
def test_a_split_without_one_part_is_refused(fraction, words):
    with pytest.raises(DataError, match=words):
        small.trainer().fit(X, Y, 1, validation=fraction)


@pytest.mark.parametrize(("images", "fraction"), [(1, 0.5), (2, 0.75), (3, 0.9)])
def test_a_split_that_leaves_a_class_nothing_to_train_on_is_refused(images, fraction, tmp_path):
    rare = np.where(np.arange(len(Y)) < images, 2, Y % 2)
    words = f"leaves no image of label 2 to train on, which has {images}; give a smaller part"
    with pytest.raises(DataError, match=words):
        small.trainer(tmp_path / "run").fit(X, rare, 1, validation=fraction)
    assert not (tmp_path / "run").exists()
    small.trainer().fit(X, rare, 1, validation=0.1)  # none to validate with is no harm


def test_a_part_too_small_for_every_class_says_that_classes_are_rounded():
    words = "validation = 0.1 of 45 images, rounded class by class, leaves none to validate with"
    with pytest.raises(DataError, match=words):
        split(np.arange(45) // 3, 0.1, 0)
    with pytest.raises(DataError, match=r"of 4 images leaves none"):
        split(np.zeros((4, 2), np.float32), 0.1, 0)


def test_a_part_trains_like_the_two_sets_it_makes():
    training, kept = split(Y.astype(np.int32), 0.2, 3)
    parted, given_apart = small.trainer(), small.trainer()
    one = parted.fit(X, Y, 3, validation=0.2)
    two = given_apart.fit(X[training], Y[training], 3, validation=(X[kept], Y[kept]))
    assert parted.model.weights_sha256() == given_apart.model.weights_sha256()
    for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert one[key] == two[key] and None not in one[key]
    other = small.trainer(seed=4)
    assert split(Y.astype(np.int32), 0.2, 4)[1].tolist() != kept.tolist()
    other.fit(X, Y, 1, validation=0.2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"validation": 0}, "above 0 and below 1"),
        ({"validation": 1.0}, "above 0 and below 1"),
        ({"validation": float("nan")}, "above 0"),
        ({"validation": "0.1"}, "such as 0.1"),
        ({"validation": True}, "such as 0.1"),
        ({"validation": (X,)}, r"1 entries; give a pair \(images, labels\)"),
        ({"validation": (X, Y, Y)}, "3 entries"),
        ({"validation": 0.1, "monitor": "speed"}, "monitor is 'speed'; use one of loss, accuracy"),
        ({"validation": 0.1, "patience": 0}, "patience is 0"),
        ({"patience": 3}, "needs validation"),
    ],
)
def test_wrong_settings_are_refused(settings, words, tmp_path):
    with pytest.raises(ConfigurationError, match=words):
        small.trainer(tmp_path / "run").fit(X, Y, 1, **settings)
    assert not (tmp_path / "run").exists()


def test_a_history_is_shown_in_one_line():
    assert repr(History()) == "<History of 0 epochs>"
    record = {"epoch": 2, "step": 46, "loss": 1.57646, "f1": [0.5], "validation_accuracy": 0.25, "seconds": 1.5}
    assert repr(History([{}, record])) == "<History of 2 epochs, loss 1.576, validation_accuracy 0.25>"


def test_a_history_is_a_list_of_epochs_with_columns():
    epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "f1": 0.5}]
    history = History(epochs)
    assert list(history) == epochs and len(history) == 2
    assert "f1" in history and "validation_loss" not in history
    for wrong in (0, -1, slice(1), None):
        with pytest.raises(ConfigurationError, match=r'such as history\["loss"\]; an epoch is one of history.epochs'):
            history[wrong]


# ---- the best epoch --------------------------------------------------------------------------------------------------


def history(*losses, accuracies=None):
    accuracies = accuracies or [0.5] * len(losses)
    return History([{"validation_loss": x, "validation_accuracy": a} for x, a in zip(losses, accuracies, strict=True)])


def test_the_best_epoch_is_the_first_of_equal_ones():
    assert history(3.0, 1.0, 2.0, 1.0).best_epoch() == 2
    assert history(3.0, 1.0, 2.0, accuracies=[0.1, 0.2, 0.2]).best_epoch("accuracy") == 2
    assert History([{"loss": 1.0}]).best_epoch() is None and History().best_epoch() is None


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_the_best_epoch_is_kept(tmp_path, monitor):
    """A rate so large that the last epoch is not the best one."""
    trainer = small.trainer(tmp_path, optimizer=SGD(0.6), schedule=Constant())
    states = {}

    class Keep(Quiet):
        def end_epoch(self, record):
            states[record["epoch"]] = trainer.model.weights_sha256()

    trainer.progress = Keep()
    found = trainer.fit(X, Y, 8, validation=0.3, monitor=monitor)
    column = found[f"validation_{monitor}"]
    best = column.index(min(column) if monitor == "loss" else max(column)) + 1
    assert found.best_epoch(monitor) == best < 8, "the test needs a run whose best epoch is not the last"
    assert trainer.model.weights_sha256() == states[8]
    last, kept = load_run(tmp_path, small.model()), load_run(tmp_path, small.model(), best=True)
    assert (last.epoch, kept.epoch) == (8, best)
    assert (last.model.weights_sha256(), kept.model.weights_sha256()) == (states[8], states[best])
    assert gpucnn.load(tmp_path / "best.safetensors", small.model()).weights_sha256() == states[best]
    assert trainer.restore_best() == best and trainer.model.weights_sha256() == states[best]
    assert read_tensors(tmp_path / "best.safetensors")[1]["measured"] == found.epochs[best - 1]
    assert kept.history.epochs == found.epochs


def test_without_a_run_folder_the_best_is_kept_in_memory():
    trainer = small.trainer(optimizer=SGD(0.4), schedule=Constant())
    found = trainer.fit(X, Y, 8, validation=0.3)
    assert trainer.restore_best() == found.best_epoch()
    _training, kept = split(Y.astype(np.int32), 0.3, 3)
    assert trainer.evaluate(X[kept], Y[kept])[0] == min(found["validation_loss"])


def test_where_nothing_was_validated_there_is_no_best(tmp_path):
    trainer = small.trainer(tmp_path)
    trainer.fit(X, Y, 1)
    with pytest.raises(ConfigurationError, match="nothing was validated"):
        trainer.restore_best()
    with pytest.raises(CheckpointError, match="no best epoch"):
        load_run(tmp_path, small.model(), best=True)


# ---- early stopping --------------------------------------------------------------------------------------------------


def test_patience_counts_epochs_since_the_best():
    assert why_stop(history(3, 2, 1), "loss", 1) is None
    assert why_stop(history(3, 1, 2), "loss", 2) is None
    assert "after epoch 3" in why_stop(history(3, 1, 2), "loss", 1)
    assert "since epoch 2" in why_stop(history(3, 1, 2, 1), "loss", 2)
    assert why_stop(history(3, 1, 2, 1), "loss", None) is None
    assert why_stop(History(), "loss", 1) is None


def test_a_metric_that_cannot_be_computed_is_nothing_to_wait_for():
    """Of labels of one class there is no area under the curve."""
    said = []
    progress = type("Kept", (Quiet,), {"say": lambda self, text: said.append(text)})()
    trainer = small.trainer(metrics=["auc"], progress=progress)
    found = trainer.fit(X, Y, 9, validation=(X[Y == 1], Y[Y == 1]), monitor="auc", patience=2)
    assert found["validation_auc"] == [None, None]
    with pytest.raises(ConfigurationError, match="what `monitor` names could not be computed"):
        trainer.restore_best()
    assert said[-1] == (
        "stopped after epoch 2: no validation auc could be computed, so that no epoch is the best, and patience is 2 "
        "epochs"
    )


def test_training_stops_early_and_says_so(capsys, tmp_path):
    endless = small.trainer(optimizer=SGD(0.4), schedule=Constant())
    everything = endless.fit(X, Y, 30, validation=0.3)
    for patience in (1, 2, 4):
        stops = next(n for n in range(1, 31) if n - History(everything.epochs[:n]).best_epoch() >= patience)
        assert stops < 30
        run = tmp_path / str(patience)
        trainer = small.trainer(run, optimizer=SGD(0.4), schedule=Constant(), progress=Lines())
        found = trainer.fit(X, Y, 30, validation=0.3, patience=patience)
        assert len(found) == stops and found["validation_loss"] == everything["validation_loss"][:stops]
        assert f"stopped after epoch {stops}" in capsys.readouterr().err
        # Resuming a run that has stopped changes nothing, not even with a larger number of epochs.
        again = small.trainer(run, optimizer=SGD(0.4), schedule=Constant())
        assert again.fit(X, Y, 40, validation=0.3, patience=patience, resume=True).epochs == found.epochs
        assert again.model.weights_sha256() == trainer.model.weights_sha256()
        assert again.restore_best() == found.best_epoch()


# ---- interruptions ---------------------------------------------------------------------------------------------------


def timeless(found):
    return [{k: v for k, v in epoch.items() if "second" not in k} for epoch in found.epochs]


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_interrupted_at_every_epoch_and_on_another_backend(tmp_path, monitor):
    """Best epoch, early stop, weights and history are those of the run that nothing interrupted."""
    other = next((b["name"] for b in backends() if b["usable"] and b["name"] != "numpy"), None)
    if other is None:
        pytest.skip("numpy is the only backend that is usable here")
    make = {"optimizer": SGD(0.4), "schedule": Constant(), "math": "exact"}
    fit = {"validation": 0.3, "monitor": monitor, "patience": 3}
    whole = small.trainer(tmp_path / "whole", **make)
    found = whole.fit(X, Y, 30, **fit)
    assert len(found) < 30
    for epoch in range(1, len(found)):
        with pytest.raises(KeyboardInterrupt):
            small.trainer(tmp_path / "cut", backend=("numpy", other)[epoch % 2], progress=StopAfter(epoch), **make).fit(
                X, Y, 30, resume=True, **fit
            )
    last = small.trainer(tmp_path / "cut", backend=other, **make)
    again = last.fit(X, Y, 30, resume=True, **fit)
    assert timeless(again) == timeless(found)
    assert last.model.weights_sha256() == whole.model.weights_sha256()
    assert last.restore_best() == whole.restore_best()
    assert last.model.weights_sha256() == whole.model.weights_sha256()
    ours, theirs = (read_tensors(tmp_path / run / "best.safetensors")[0] for run in ("whole", "cut"))
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_killed_between_the_best_and_the_checkpoint(tmp_path):
    """As if the process had died there in the third epoch, the best one so far."""
    fit = {"validation": 0.3, "monitor": "loss"}
    make = {"optimizer": Adam(0.005), "schedule": Constant(), "shift": 0}
    whole = small.trainer(tmp_path / "whole", **make)
    found = whole.fit(X, Y, 3, **fit)
    assert found.best_epoch() == 3
    small.trainer(tmp_path / "cut", **make).fit(X, Y, 2, **fit)
    shutil.copy(tmp_path / "whole" / "best.safetensors", tmp_path / "cut")
    assert load_run(tmp_path / "cut", small.model(), best=True).epoch == 3
    resumed = small.trainer(tmp_path / "cut", **make)
    resumed.fit(X, Y, 3, resume=True, **fit)
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()
    assert resumed.restore_best() == 3


def test_a_best_file_left_by_a_run_without_a_checkpoint_is_removed(tmp_path):
    small.trainer(tmp_path).fit(X, Y, 1, validation=0.3)
    (tmp_path / "checkpoint.safetensors").unlink()
    small.trainer(tmp_path).fit(X, Y, 1)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_missing_or_foreign_best_file_is_refused(tmp_path):
    fit = {"validation": 0.3, "resume": True}
    small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 2, validation=0.3)
    best = tmp_path / "best.safetensors"
    whole = best.read_bytes()
    best.unlink()
    with pytest.raises(
        CheckpointError, match=r"has lost best.safetensors, .* put that file back, or start a new run fo"
    ):
        small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 3, **fit)
    with pytest.raises(
        CheckpointError, match=r"has lost best.safetensors, the best epoch's weights; take the last one$"
    ):
        load_run(tmp_path, small.model(), best=True)
    best.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 3, **fit)
    best.write_bytes(whole)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    epoch = History(lines).best_epoch()
    lines[epoch - 1]["validation_loss"], lines[2 - epoch]["validation_loss"] = 9.0, 0.0
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    tensors, about = read_tensors(tmp_path / "checkpoint.safetensors")
    about["metrics_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    write_tensors(tmp_path / "checkpoint.safetensors", tensors, about)
    if epoch == 2:  # else the file could be of an epoch that a kill cut off
        with pytest.raises(CheckpointError, match="is of epoch 2"):
            small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 3, **fit)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "validation was 0.3 by loss there and is None"),
        ({"validation": 0.2}, "validation was 0.3"),
        ({"validation": (X, Y)}, "validation was 0.3"),
        ({"validation": 0.3, "monitor": "accuracy"}, "0.3 by loss there and is 0.3 by acc"),
    ],
)
def test_resuming_with_another_validation_is_refused(tmp_path, settings, word):
    small.trainer(tmp_path).fit(X, Y, 1, validation=0.3)
    with pytest.raises(CheckpointError, match=word):
        small.trainer(tmp_path).fit(X, Y, 1, resume=True, **settings)


def test_resuming_with_other_validation_images_is_refused(tmp_path):
    small.trainer(tmp_path).fit(X, Y, 1, validation=(X[:9], Y[:9]))
    small.trainer(tmp_path).fit(X, Y, 1, validation=(X[:9], Y[:9]), resume=True)
    with pytest.raises(CheckpointError, match="validation was"):
        small.trainer(tmp_path).fit(X, Y, 1, validation=(X[:10], Y[:10]), resume=True)


# ---- numbers that are not finite -------------------------------------------------------------------------------------


class Blind(Layer):
    """The identity in training; NaN in inference from the `at`-th time on."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self, x):
        self.calls += not self.mode.training
        bad = not self.mode.training and self.calls >= self.at
        return (x.like(x.data * np.float32("nan")) if bad else x), lambda dy: dy


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path):
    def build(at):
        return Model(Sequential(Flatten(), Blind(at), Dense(3)), (1, 8, 8))

    trainer = small.trainer(tmp_path, model=build(3))
    with pytest.raises(NonFiniteError, match="the validation loss .* epoch 3") as caught:
        trainer.fit(X, Y, 5, validation=(X, Y))
    assert caught.value.epoch == 3
    run = load_run(tmp_path, build(3), best=True)
    assert len(run.history) == 2 and run.epoch in (1, 2)
    assert trainer.restore_best() == run.epoch


# ---- regressors ------------------------------------------------------------------------------------------------------


def values():
    """Where the bright row is, and how much ink there is."""
    return np.stack([Y, X.mean(axis=(1, 2, 3))], axis=1).astype(np.float32)


def test_a_regressor_trains_validates_and_resumes(tmp_path):
    def trainer(**settings):
        made = mlp((1, 8, 8), outputs=2, hidden=(16,))
        return small.trainer(model=made, optimizer=Adam(0.01), schedule=Constant(), shift=0, **settings)

    targets = values()
    whole = trainer(run=tmp_path / "whole")
    assert isinstance(whole.loss, MeanSquared)
    found = whole.fit(X, targets, 20, validation=0.2)
    assert found["validation_loss"][-1] < 0.5 * found["validation_loss"][0] and found["accuracy"] == [None] * 20
    best = load_run(tmp_path / "whole", best=True)
    assert best.epoch == found.best_epoch() == whole.restore_best()
    _given, kept = split(targets, 0.2, 3)
    wanted = np.mean((whole.predict(X[kept], batch_size=4).astype(np.float64) - targets[kept]) ** 2)
    assert np.isclose(min(found["validation_loss"]), wanted, rtol=1e-5)
    assert np.array_equal(best.model.place(whole.backend).predict(X), whole.predict(X))
    with pytest.raises(KeyboardInterrupt):
        trainer(run=tmp_path / "cut", progress=StopAfter(7)).fit(X, targets, 20, validation=0.2)
    last = trainer(run=tmp_path / "cut")
    last.fit(X, targets, 20, validation=0.2, resume=True)
    last.restore_best()
    assert last.model.weights_sha256() == whole.model.weights_sha256()


def test_a_regressor_has_no_classes_and_no_accuracy():
    trainer = small.trainer(model=mlp((1, 8, 8), outputs=2))
    with pytest.raises(ConfigurationError, match="MeanSquared has no accuracy"):
        trainer.fit(X, values(), 1, validation=0.2, monitor="accuracy")
    with pytest.raises(ConfigurationError, match="SoftmaxCrossEntropy is for classes"):
        small.trainer(model=mlp((1, 8, 8), outputs=2), loss=SoftmaxCrossEntropy())
