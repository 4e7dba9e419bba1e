"""Curves, confusion matrix and mistakes."""

import numpy as np
import pytest

from gpucnn import show
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError, DataError, DTypeError, ShapeError
from gpucnn.training import History
from gpucnn.training.doubts import Doubt

NAMES = ["aeroplane", "automobile", "bird", "a very long class name indeed", "frog"]


@pytest.mark.parametrize("classes", [1, 2, 5, 10, 26, 30, 31, 100])
def test_confusion_counts_and_is_readable(drawn, tmp_path, classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 900)
    predicted = np.where(rng.random(900) < 0.7, labels, rng.integers(0, classes, 900))
    names = NAMES if classes == 5 else [str(i) for i in range(classes)]
    counts = show.confusion(labels, predicted, names, tmp_path / "c.png")
    for row in range(classes):
        for column in range(classes):
            assert counts[row, column] == sum(1 for pair in zip(labels, predicted) if pair == (row, column))
    drawn.check(tmp_path / "c.png")
    if classes <= 30:
        written = sorted(int(text.get_text()) for text in drawn.figure.axes[0].texts)
        assert written == sorted(counts[counts > 0])
    right = int((labels == predicted).sum())
    assert drawn.figure.get_suptitle() == f"{right} of 900 right ({right / 900:.2%})"


def test_rows_are_true_and_columns_predicted_classes(drawn, tmp_path):
    assert show.confusion([0, 0, 1], [1, 1, 1], ["a", "b"], tmp_path / "c.png").tolist() == [[0, 2], [0, 1]]
    axes = drawn.figure.axes[0]
    assert axes.get_xlabel() == "predicted class" and axes.get_ylabel() == "true class"
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places == {"2": (1, 0), "1": (1, 1)}  # (column, row)


def test_confusion_refuses(tmp_path):
    with pytest.raises(DataError, match="label 2 of image 1 is out of range"):
        show.confusion([0, 1], [0, 2], ["a", "b"])
    with pytest.raises(ShapeError, match="labels have shape"):
        show.confusion([0, 1], [0], ["a", "b"])
    with pytest.raises(DTypeError, match="give integers"):
        show.confusion([0, 1], [0.0, 1.0], ["a", "b"])
    with pytest.raises(ConfigurationError, match="classes is 2 of type int; give their names"):
        show.confusion([0, 1], [0, 1], 2)
    with pytest.raises(ShapeError, match="no labels"):
        show.confusion(np.zeros(0, int), np.zeros(0, int), ["a", "b"])


def random_predictions(images=40, classes=5):
    rng = np.random.default_rng(7)
    return (
        rng.random((images, 3, 12, 20)).astype(np.float32),
        rng.integers(0, classes, images),
        rng.dirichlet(np.full(classes, 0.3), images),
    )


def test_the_worst_mistakes_come_first(drawn, tmp_path):
    images, labels, p = random_predictions()
    listed = show.mistakes(images, labels, p, NAMES, tmp_path / "m.png", most=7)
    wrong = sorted((i for i in range(40) if p[i].argmax() != labels[i]), key=lambda i: -p[i].max())
    assert [mistake.image for mistake in listed] == wrong[:7]
    for mistake in listed:
        i = mistake.image
        assert (mistake.true, mistake.predicted) == (NAMES[labels[i]], NAMES[p[i].argmax()])
        assert (mistake.probability, mistake.probability_of_true) == (p[i].max(), p[i][labels[i]])
    drawn.check(tmp_path / "m.png")
    assert drawn.figure.get_suptitle() == f"{len(wrong)} mistakes in 40 images: the 7 most confident"


@pytest.mark.parametrize("classes", [range(5), np.arange(5)])
def test_numbers_are_names_of_classes_too(drawn, tmp_path, classes):
    images, labels, p = random_predictions()
    names = ["0", "1", "2", "3", "4"]
    assert show.mistakes(images, labels, p, classes, tmp_path / "m.png") == show.mistakes(images, labels, p, names)
    show.confusion(labels, p.argmax(axis=1), classes, tmp_path / "c.png")
    shown = [text.get_text() for text in drawn.figure.axes[0].get_xticklabels()]
    assert shown == names
    found = [Doubt(2, 1, 4, 0.1, 0.9)]
    show.doubts(images, found, classes, tmp_path / "d.png")
    assert "says 4" in drawn.figure.axes[0].get_title()


def test_mistakes_among_mapped_images(drawn, tmp_path):
    images, labels, p = random_predictions()
    assert show.mistakes(Mapped(images), labels, p, NAMES, tmp_path / "m.png") == show.mistakes(
        images, labels, p, NAMES
    )
    drawn.check(tmp_path / "m.png")


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_few_mistakes_are_readable(drawn, tmp_path, count):
    images, _, p = random_predictions()
    images, labels = images[..., :12], p.argmax(axis=1)  # square
    labels[:count] = (labels[:count] + 1) % 5
    assert len(show.mistakes(images, labels, p, NAMES, tmp_path / "m.png")) == count
    assert (np.asarray(drawn.check(tmp_path / "m.png"))[-2:] == 255).all()  # nothing reaches the edge


def test_mistakes_refuse(tmp_path):
    images, labels, p = random_predictions()
    with pytest.raises(ShapeError, match="one column per class"):
        show.mistakes(images, labels, p[:, :4], NAMES)
    with pytest.raises(ShapeError, match="expected"):
        show.mistakes(images[:, 0], labels, p, NAMES)
    with pytest.raises(DataError, match="NaN or infinity"):
        show.mistakes(images, labels, np.where(p > 0.9, np.nan, p), NAMES)
    for most in (0, "3", 1.5):
        with pytest.raises(ConfigurationError, match=f"most is {most!r}.*; give a positive integer"):
            show.mistakes(images, labels, p, NAMES, most=most)
    with pytest.raises(DataError, match="out of range"):
        show.mistakes(images, labels + 5, p, NAMES)


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("epochs", [1, 3, 60])
def test_curves(drawn, tmp_path, epochs, validation):
    records = [{"epoch": e, "loss": 2 / e, "accuracy": 1 - 0.9 / e} for e in range(1, epochs + 1)]
    if validation:
        records = [{**r, "validation_loss": r["loss"] * 1.1, "validation_accuracy": r["accuracy"]} for r in records]
    show.curves(History(records), tmp_path / "c.png")
    drawn.check(tmp_path / "c.png")
    lines = drawn.figure.axes[0].lines
    assert len(lines) == 1 + validation
    assert all(float(tick).is_integer() for tick in drawn.figure.axes[0].get_xticks())
    assert list(lines[0].get_ydata()) == [2 / e for e in range(1, epochs + 1)]


def test_curves_of_a_regressor_have_no_accuracy(drawn, tmp_path):
    show.curves(History([{"epoch": e, "loss": 1 / e} for e in (1, 2, 3)]), tmp_path / "c.png")
    drawn.check(tmp_path / "c.png")
    assert [axes.get_title() for axes in drawn.figure.axes] == ["loss"]


def test_a_run_without_an_epoch_has_no_curve(tmp_path):
    with pytest.raises(ConfigurationError, match="no epoch yet"):
        show.curves(History([]), tmp_path / "c.png")
    with pytest.raises(ConfigurationError, match="history is .* of type dict; give a training's"):
        show.curves({"loss": [1.0]}, tmp_path / "c.png")
