"""Losses of the user's own: for classes and pixels, and what they report."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.layers import Conv2d, Dense, Flatten, Sequential, image_mask
from gpucnn.losses import Dice, Loss, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.training import Quiet
from tests.training.small import data, trainer


class Focal(Loss):
    """As docs/your-own.md has it."""

    targets = "classes"

    def __call__(self, outputs, labels, totals=None):
        b, xp = outputs.backend, outputs.backend.xp
        p, images = b.softmax(outputs).data, np.float32(outputs.images)
        hot = labels[:, None] == xp.arange(outputs.channels)[:, None]
        right = xp.sum(p * hot, axis=1, keepdims=True)  # the probability of the label
        log = xp.log(xp.maximum(right, 1e-30))
        total = xp.sum((1 - right) ** 2 * -log * image_mask(outputs), dtype=np.float64)
        if totals is not None:
            totals[0] += total
        weight = (1 - right) ** 2 - 2 * right * (1 - right) * log
        return (total / images).reshape(1), outputs.like(weight * (p - hot) / images)

    def measure(self, totals, images, outputs):
        return {"loss": float(totals[0]) / images}


def test_unknown_targets_are_refused_where_they_are_written():
    with pytest.raises(ConfigurationError, match=r"Wrong\.targets.*klasses.*classes, labels, values"):
        type("Wrong", (Loss,), {"targets": "klasses"})


def test_for_classes(tmp_path):
    """Labels are whole numbers, and checked; predictions are probabilities; metrics count."""
    hashes = set()
    for backend in ("numpy", "numba"):
        settings = {"loss": Focal(), "metrics": ["accuracy", "f1"], "backend": backend, "run": tmp_path / backend}
        it = trainer(**settings)
        history = it.fit(*data(), 3, validation=0.2)
        assert 0 < history["validation_accuracy"][-1] <= 1
        assert np.allclose(it.predict(data()[0]).sum(1), 1, atol=1e-6)
        again = trainer(**settings)
        again.fit(*data(), 3, validation=0.2, resume=True)
        hashes |= {it.model.weights_sha256(), again.model.weights_sha256()}
    assert len(hashes) == 1
    images, labels = data()
    with pytest.raises(ShapeError, match=r"numpy.ravel\(labels\) has it"):
        trainer(loss=Focal()).fit(images, labels[:, None], 1)
    with pytest.raises(DataError, match="label 7 of image 2 is out of range"):
        trainer(loss=Focal()).fit(images, np.where(np.arange(len(labels)) == 2, 7, labels), 1)


class Areas(Loss):
    """Dice, from the base of all losses."""

    targets = "classes"
    measure = Dice.measure

    def __call__(self, outputs, targets, totals=None):
        return Dice()(outputs, targets, totals)


def test_for_a_class_a_pixel():
    images, found = data()[0], set()
    labels = (images[:, 0] > 0.5).astype(int)
    for loss in (Dice(), Areas()):
        model = Model(Sequential(Conv2d(2, 3, padding=1)), (1, 8, 8))
        it = trainer(model=model, loss=loss, metrics=["iou"], flip=True)
        found.add((it.fit(images, labels, 2)["iou"][-1], it.model.weights_sha256()))
    assert len(found) == 1


class Told(Quiet):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


class Distance(Loss):
    """The mean squared error; adds what `add` makes of the sum over all values and the loss."""

    def __init__(self, add):
        self._add = add

    def __call__(self, outputs, targets, totals=None):
        difference = (outputs.data - targets.data) * image_mask(outputs)
        count = np.float32(outputs.images * outputs.channels)
        total = np.sum(difference * difference, dtype=np.float64)
        if totals is not None:
            totals[0] += self._add(total, total / count)
        return (total / count).reshape(1), outputs.like(2 * difference / count)


class Doubled(SoftmaxCrossEntropy):
    """Counts no right labels."""

    def __call__(self, outputs, targets, totals=None):
        loss, gradient = super().__call__(outputs, targets)
        if totals is not None:
            totals[0] += 2 * float(loss[0]) * outputs.images
        return 2 * loss, outputs.backend.add(gradient, gradient)


def misreported(loss, labels, backend="numba", **settings) -> list[str]:
    said = Told()
    head = "classifier" if loss.targets == "classes" else "regressor"
    model = Model(Sequential(Flatten(), Dense(3)), (1, 8, 8), head=head)
    it = trainer(model=model, loss=loss, progress=said, backend=backend, **settings)
    it.fit(data()[0], labels, 2, validation=0.2)
    it.fit(data()[0], labels, 1)
    return [text for text in said.said if "totals" in text]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_a_loss_reports_is_compared_once_with_what_it_returned(backend):
    values = np.eye(3, dtype=np.float32)[data()[1]]
    assert misreported(Distance(lambda total, mean: total), values, backend) == []
    assert misreported(Focal(), data()[1], backend, mixup=0.2) == []
    assert misreported(SoftmaxCrossEntropy(), data()[1], backend) == []
    for add in (lambda total, mean: 0, lambda total, mean: mean):
        (said,) = misreported(Distance(add), values, backend)
        assert "Distance returned a loss of " in said and "add the mean times images * outputs" in said
    (said,) = misreported(Doubled(), data()[1], backend)
    assert said.startswith("Doubled reports an accuracy of 0.00% where it is ")


def test_the_documents_loss_is_right_where_the_label_is_all_but_impossible():
    """Against differences in float64; a probability that float32 rounds to 0 has the gradient of cross-entropy."""
    backend, loss = get_backend("numba"), Focal()
    logits = np.float32([[2, -1, 0.5], [-40, 200, 3], [0, 0, 0]])
    labels = np.array([1, 0, 2])
    value, gradient = loss(backend.pack(logits), backend.pack_labels(labels))

    def focal(z):
        log = z - np.log(np.exp(z).sum(1, keepdims=True))
        log = np.take_along_axis(log, labels[:, None], 1)
        return (-((1 - np.exp(log)) ** 2) * np.maximum(log, np.log(1e-30))).mean()

    z, numeric = logits.astype(np.float64), np.zeros((3, 3))
    for place in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[place] = 1e-5
        numeric[place] = (focal(z + step) - focal(z - step)) / 2e-5
    numeric[1] = np.array([-1, 1, 0]) / 3
    assert np.isclose(float(value[0]), focal(z), rtol=1e-5)
    assert np.allclose(gradient.numpy(), numeric, atol=1e-5)
