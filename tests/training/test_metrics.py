"""Metrics against scikit-learn and plain loops; in training the history, files, progress, monitor, recorded steps."""

import io
import json
import threading

import numpy as np
import pytest
from sklearn import metrics as oracle

import gpucnn
from gpucnn import metrics
from gpucnn.errors import ConfigurationError
from gpucnn.layers import Conv2d, Dense, Flatten, Sequential
from gpucnn.losses import BinaryCrossEntropy, Dice, MeanSquared, SoftmaxCrossEntropy
from gpucnn.metrics import named
from gpucnn.models import Model, mlp
from gpucnn.training import Trainer, compare, load_run
from gpucnn.training.progress import Lines

RNG = np.random.default_rng(5)


def measured(name, predictions, targets, parts=3):
    """A metric's result over uneven batches."""
    metric = named(name)
    metric.reset()
    for p, t in zip(np.array_split(predictions, parts), np.array_split(targets, parts), strict=True):
        metric.update(p, t)
    return metric.result()


def classes(n=200, k=5, absent=()):
    """Scores with ties, and labels without the classes in `absent`."""
    scores = np.round(RNG.random((n, k)), 1).astype(np.float32)
    labels = RNG.choice([c for c in range(k) if c not in absent], n)
    return scores, labels


@pytest.mark.parametrize("absent", [(), (1, 3)])
def test_single_labels(absent):
    scores, labels = classes(absent=absent)
    predicted = scores.argmax(1)
    settings = {"average": None, "zero_division": 0, "labels": [*range(5)]}
    for name, function in (
        ("precision", oracle.precision_score),
        ("recall", oracle.recall_score),
        ("f1", oracle.f1_score),
        ("iou", oracle.jaccard_score),
    ):
        assert measured(f"{name}_per_class", scores, labels) == pytest.approx(function(labels, predicted, **settings))
        mean = function(labels, predicted, average="macro", zero_division=0)
        assert measured(name, scores, labels) == pytest.approx(mean, rel=1e-14)
    assert measured("confusion", scores, labels) == oracle.confusion_matrix(labels, predicted, labels=range(5)).tolist()
    assert measured("accuracy", scores, labels) == oracle.accuracy_score(labels, predicted)
    areas = measured("auc_per_class", scores, labels)
    for c, area in enumerate(areas):
        if c in absent:
            assert area is None
        else:
            assert area == pytest.approx(oracle.roc_auc_score(labels == c, scores[:, c]), rel=1e-13)
    assert measured("auc", scores, labels) == pytest.approx(np.mean([a for a in areas if a is not None]), rel=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_first_of_equal_outputs_is_the_largest(k):
    scores, labels = classes()
    ranked = [sorted(range(5), key=lambda c: (-row[c], c))[:k] for row in scores.tolist()]
    assert measured(f"top{k}", scores, labels) == np.mean([t in row for t, row in zip(labels, ranked, strict=True)])
    if k == 1:
        assert measured("top1", scores, labels) == measured("accuracy", scores, labels)


def test_several_labels():
    scores, targets = RNG.random((150, 4)).astype(np.float32), (RNG.random((150, 4)) < 0.3).astype(np.float32)
    scores[:10] = 0.5  # not above one half
    targets[:, 3] = 0
    predicted = scores > 0.5
    for name, function in (
        ("precision", oracle.precision_score),
        ("recall", oracle.recall_score),
        ("f1", oracle.f1_score),
        ("iou", oracle.jaccard_score),
    ):
        expected = function(targets, predicted, average=None, zero_division=0)
        assert measured(f"{name}_per_class", scores, targets) == pytest.approx(expected)
    assert measured("accuracy", scores, targets) == np.mean(predicted == targets)
    areas = measured("auc_per_class", scores, targets)
    assert areas[:3] == pytest.approx([oracle.roc_auc_score(targets[:, c], scores[:, c]) for c in range(3)])
    assert areas[3] is None


def test_maps_count_their_pixels_and_ignored_ones_do_not():
    scores, labels = RNG.random((6, 3, 4, 5)).astype(np.float32), RNG.integers(-1, 3, (6, 4, 5))
    flat, truth = np.moveaxis(scores, 1, -1).reshape(-1, 3), labels.reshape(-1)
    for name in ("iou_per_class", "confusion", "top2", "auc", "accuracy"):
        assert measured(name, scores, labels, parts=2) == measured(name, flat[truth >= 0], truth[truth >= 0])
    nothing = np.full_like(labels, -1)
    for name in ("iou", "top2", "auc", "accuracy"):
        assert measured(name, scores, nothing) is None


# ---- in training -----------------------------------------------------------------------------------------------------

X, Y = RNG.random((90, 1, 4, 4), np.float32), RNG.integers(0, 3, 90)


def right(predictions, targets):
    return (predictions.argmax(1) == targets).mean()


class Seen(metrics.Metric):
    """Keeps what it gets."""

    name, larger_is_better = "seen", False

    def reset(self):
        self.batches = []

    def update(self, predictions, targets):
        self.batches.append((predictions.copy(), targets.copy()))

    def result(self):
        return sum(len(targets) for _, targets in self.batches) + 0.5


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_training_measures_what_it_sees(backend, tmp_path):
    """Every step's own outputs, recorded ones too: the accuracy by the metrics is the loss's."""
    model = mlp((1, 4, 4), 3, hidden=(6,))
    own = ["top1", right, Seen()]
    trainer = Trainer(model, backend=backend, batch_size=20, metrics=own, progress=False, run=tmp_path)
    history = trainer.fit(X, Y, 4, validation=0.2, monitor="seen")
    for prefix in ("", "validation_"):
        accuracy = history[f"{prefix}accuracy"]
        assert history[f"{prefix}top1"] == accuracy == pytest.approx(history[f"{prefix}right"], rel=1e-15)
    assert history["seen"] == [72.5] * 4 and history["validation_seen"] == [18.5] * 4
    assert history.best_epoch("seen") == 1
    assert history.best_epoch("top1") == int(np.argmax(history["validation_top1"])) + 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.epochs
    again = Trainer(mlp((1, 4, 4), 3, hidden=(6,)), backend=backend, batch_size=20, progress=False)
    plain = again.fit(X, Y, 4, validation=0.2)
    assert plain["loss"] == history["loss"] and again.model.weights_sha256() == model.weights_sha256()
    found = trainer.measure(X, Y)
    assert (found["loss"], found["accuracy"]) == trainer.evaluate(X, Y) and found["top1"] == found["accuracy"]


@pytest.mark.parametrize("larger", [True, False])
def test_a_function_says_which_epoch_is_the_best(larger, tmp_path):
    """In training, in what is read of the run, and in a comparison; while it has not said so, nobody guesses."""
    sign = -1 if larger else 1
    distances = iter([9, 16, 9, 4, 9, 1, 9, 4, 9, 16, 9, 4, 9, 2, 9, 4])  # of training, validation, training ...

    def turning(predictions, targets):
        return sign * next(distances)

    def trainer(units):
        model = mlp((1, 4, 4), 3, hidden=(units,))
        return Trainer(model, metrics={"turn": turning}, progress=False, run=tmp_path / str(units))

    with pytest.raises(ConfigurationError, match="nobody has said what is better"):
        trainer(1).fit(X, Y, 4, validation=0.2, monitor="turn")
    turning.larger_is_better = larger
    for units in (1, 2):
        run = trainer(units)
        run.fit(X, Y, 4, validation=0.2, monitor="turn")
        assert run.restore_best() == load_run(run.run, best=True).epoch == 3
        assert load_run(run.run).history.best_epoch("turn") == 3
    found = compare([tmp_path / "2", tmp_path / "1"], monitor="turn")
    assert [group.mean("turn") for group in found] == [sign, 2 * sign]


def test_a_metric_sees_predictions_and_labels():
    seen = Seen()
    trainer = Trainer(mlp((1, 4, 4), 3, hidden=()), backend="numba", metrics=[seen], progress=False)
    expected = trainer.predict(X)
    evaluation = trainer._evaluation(*trainer._checked(X, Y))
    evaluation.run()
    ((predictions, targets),) = evaluation._measuring._metrics[0].batches
    assert np.array_equal(predictions, expected) and np.array_equal(targets, Y)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(ignore_index=9), Dice(ignore_index=9)])
def test_label_maps_that_move(loss):
    """Shifted in training, the metric's labels are the loss's: by both, the part of pixels that are right."""
    labels = np.where(RNG.random((20, 4, 4)) < 0.2, 9, RNG.integers(0, 3, (20, 4, 4)))
    model = Model(Conv2d(3, 3, padding=1), (1, 4, 4))
    metrics_ = ["top1", "iou"] if isinstance(loss, SoftmaxCrossEntropy) else ["accuracy", "iou"]
    history = Trainer(model, loss=loss, shift=1, flip=True, metrics=metrics_, batch_size=8, progress=False).fit(
        X[:20], labels, 2, validation=(X[20:40], labels)
    )
    assert all(0 < value < 1 for value in history["iou"] + history["validation_iou"])
    if "top1" in metrics_:
        assert history["top1"] == history["accuracy"] and history["validation_top1"] == history["validation_accuracy"]


def test_no_metric_changes_what_another_sees():
    class Blanks(Seen):
        def update(self, predictions, targets):
            predictions[:] = 0

    for metrics_ in ([Blanks(), "top1"], {"mine": right, "blank": Blanks()}):
        with pytest.raises(ValueError, match="read-only"):
            Trainer(mlp((1, 4, 4), 3, hidden=()), metrics=metrics_, progress=False).measure(X, Y)


def test_the_progress_shows_numbers_not_lists(monkeypatch):
    monkeypatch.setattr("sys.stderr", text := io.StringIO())
    trainer = Trainer(mlp((1, 4, 4), 3, hidden=()), metrics={"mine": right, "f": "f1_per_class"}, progress=Lines())
    trainer.fit(X, Y, 1, validation=0.2)
    line = text.getvalue().splitlines()[-1]
    assert line.count("mine 0.") == 2 and "f1" not in line


def test_a_dictionary_names_every_kind_of_metric():
    given = {"mine": right, "quality": "f1", "hits": metrics.TopK(2), "seen": Seen()}
    trainer = Trainer(mlp((1, 4, 4), 3, hidden=()), metrics=given, progress=False)
    assert {"mine", "quality", "hits", "seen"} < trainer.measure(X, Y).keys() and given["hits"].name == "top2"
    plain = Trainer(trainer.model, metrics=["f1"], progress=False)
    assert trainer.measure(X, Y)["quality"] == plain.measure(X, Y)["f1"]
    assert Trainer(trainer.model, metrics={}, progress=False).metrics == []
    for wrong in ({"f 1": "f1"}, {None: right}):
        with pytest.raises(ConfigurationError, match="a metric is called .*; give it a name of letters"):
            Trainer(trainer.model, metrics=wrong, progress=False)


def test_an_accuracy_that_nothing_tells_is_none(monkeypatch, tmp_path):
    """Of the images so far all labels are ignored."""
    monkeypatch.setattr("sys.stderr", text := io.StringIO())
    lines = Lines()
    lines.interval = 0.0
    maps = np.full((30, 4, 4), 255)
    maps[0] = 1
    model = Model(Sequential(Conv2d(3, 1)), (1, 4, 4))
    loss = Dice(ignore_index=255)
    trainer = Trainer(model, loss=loss, metrics=["accuracy"], batch_size=1, progress=lines, run=tmp_path)
    trainer.fit_batches([(X[:1], maps[1:2])] * 8 + [(X[:1], maps[:1])], 1)
    assert "%  loss" in text.getvalue()
    trainer.fit_batches([(X[:1], maps[1:2])], 1)
    assert load_run(tmp_path, model).history["accuracy"][1] is None


class Pair(metrics.Confusion):
    """Its result is a list, which it does not declare."""

    def __init__(self):
        super().__init__()
        self.name, self.single = "pair", True


def test_what_is_no_metric_is_refused():
    model = mlp((1, 4, 4), 3, hidden=())
    for given, words in (
        (["f2"], "f1, iou"),
        (["top0"], "top3"),
        (["top3"], "top3 is always 1 where there are 3 classes"),
        ([metrics.TopK(5)], "top5 is always 1 where there are 3 classes"),
        ([Seen], "each of metrics"),
        ([lambda p, t: 0.0], r"a metric is called .<lambda>.; give it a name of letters"),
        (["accuracy"], "something else in the history"),
        (["f1", "f1"], "something else in the history"),
        ({"step": right}, "metric step has the name of something else"),
        ({"learning_rate": right}, "something else in the history"),
        ({"validation_loss": right}, "something else in the history"),
        (5, "metrics"),
        ("f1", "metrics"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Trainer(model, metrics=given, progress=False)
    with pytest.raises(ConfigurationError, match="compares values"):
        Trainer(mlp((1, 4, 4), outputs=2), metrics=["f1"], progress=False)
    with pytest.raises(ConfigurationError, match="monitor is 'f1'"):
        Trainer(model, progress=False).fit(X, Y, 1, validation=0.2, monitor="f1")
    for metric in ("confusion", "recall_per_class", "auc_per_class"):
        with pytest.raises(ConfigurationError, match=f"monitor is '{metric}', a list"):
            Trainer(model, metrics=[metric], progress=False).fit(X, Y, 1, validation=0.2, monitor=metric)
    with pytest.raises(ConfigurationError, match="validation_pair is .* of type list; give a finite number"):
        Trainer(model, metrics=[Pair()], progress=False).fit(X, Y, 1, validation=0.2, monitor="pair")
    with pytest.raises(ConfigurationError, match="result of the metric bad"):
        Trainer(model, metrics={"bad": lambda p, t: "x"}, progress=False).fit(X, Y, 1)


def test_labels_of_several_outputs_and_values():
    several = (RNG.random((90, 2)) < 0.5).astype(np.float32)
    layer = Sequential(Flatten(), Dense(2))
    model = Model(layer, (1, 4, 4), head="regressor")
    trainer = Trainer(model, loss=BinaryCrossEntropy(), metrics=["auc", "accuracy"], progress=False)
    trainer.fit(X, several, 1)
    found, p = trainer.measure(X, several), trainer.predict(X)
    assert found["accuracy"] == np.mean((p > 0.5) == several)
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(several, p))

    def largest_error(predictions, targets):
        return np.abs(predictions - targets).max()

    trainer = Trainer(mlp((1, 4, 4), outputs=2), loss=MeanSquared(), metrics=[largest_error], progress=False)
    assert trainer.measure(X, several)["largest_error"] == pytest.approx(np.abs(trainer.predict(X) - several).max())


def test_metrics_are_documented():
    for name in ("top3", "precision", "confusion", "auc_per_class"):
        assert name.removesuffix("_per_class") in gpucnn.metrics.__doc__


class Locked(Seen):
    def __init__(self):
        self._lock = threading.Lock()


def test_a_metric_that_cannot_be_copied_is_refused():
    it = Trainer(mlp((4,), 3), metrics=[Locked()], progress=False)
    with pytest.raises(ConfigurationError, match=r"the metric \w+ cannot be copied \(.*lock.*\); it is, to count"):
        it.fit(np.zeros((6, 4), np.float32), np.arange(6) % 3, 1)
