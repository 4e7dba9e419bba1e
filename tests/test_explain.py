"""gpucnn.explain: gradients against differences, Grad-CAM and embeddings against their definitions in plain NumPy."""

import numpy as np
import pytest

from gpucnn import explain, functional
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import ConfigurationError, DataError, ShapeError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, MaxPool2d, Residual, Sequential
from gpucnn.models import Model, lenet5, mlp
from gpucnn.training import doubtful_labels, out_of_fold
from gpucnn.training.doubts import _parts
from tests.training import small

IMAGES = np.random.default_rng(0).random((5, 2, 12, 10), dtype=np.float32)


def network():
    body = Sequential(Conv2d(3, 3, padding=1), BatchNorm(activation="relu"))
    return Model(
        Sequential(Conv2d(3, 3, activation="relu"), Residual(body), MaxPool2d(2), Flatten(), Dense(4)), (2, 12, 10)
    ).initialize(1)


def everything(model):
    yield explain.input_gradient(model, IMAGES)
    yield explain.saliency(model, IMAGES, 2)
    yield explain.occlusion(model, IMAGES[0], 1, side=3, stride=2, fill=0.5)
    yield explain.grad_cam(model, IMAGES)
    yield explain.grad_cam(model, IMAGES, 1, layer="1.body.0")
    yield explain.embeddings(model, IMAGES, "1.body", batch_size=2)
    yield model.predict(IMAGES, flips=True)


def test_every_backend_gives_the_same_bits():
    devices = [get_backend("numpy"), get_backend("numba")] + ([get_emulated_backend()] if why_not() is None else [])
    results = [[values.tobytes() for values in everything(network().place(device))] for device in devices]
    assert all(other == results[0] for other in results[1:])


def test_the_model_stays_as_it_was():
    model = network().place(get_backend("numba"))
    model.freeze("0")
    before, grads = model.weights_sha256(), model.grads.copy()
    model.mode.training = True
    list(everything(model))
    assert model.weights_sha256() == before and model.frozen == ["0"] and model.grads.tobytes() == grads.tobytes()
    assert model.mode.training and type(model.layer.layers[1].body) is Sequential


def test_the_input_gradient_is_that_of_differences():
    model = lenet5((1, 16, 16), 4, variant="1998").initialize(3).place(get_backend("numpy", "fast", dtype=np.float64))
    images = np.random.default_rng(2).random((2, 1, 16, 16))
    gradients = explain.input_gradient(model, images)
    assert np.array_equal(explain.saliency(model, images), abs(gradients).max(axis=1))

    def score(image, of):
        return float(model(image[None])[0].numpy()[0, of])

    for image, gradient in zip(images, gradients, strict=True):
        of = int(model(image[None])[0].numpy().argmax())
        for row, column in ((0, 0), (5, 9), (15, 3)):
            step = np.zeros_like(image)
            step[0, row, column] = 1e-5
            difference = (score(image + step, of) - score(image - step, of)) / 2e-5
            assert gradient[0, row, column] == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_grad_cam_is_its_definition():
    """Of the first layer, from the gradient of a network that begins after it, by differences of a linear head."""
    model = Model(Sequential(Conv2d(3, 3, activation="relu"), Flatten(), Dense(4)), (2, 12, 10)).initialize(1)
    weights = model.state_dict()
    maps = functional.conv(IMAGES, weights["0.weight"], weights["0.bias"], backend="numpy")
    maps = functional.relu(maps, backend="numpy")
    found = explain.grad_cam(model, IMAGES, 2, layer="0")
    slopes = weights["2.weight"][2].reshape(maps.shape[1:])  # the gradient of a dense layer's output 2
    cam = np.maximum(np.einsum("c,nchw->nhw", slopes.astype(float).mean(axis=(1, 2)), maps.astype(float)), 0)
    enlarged = functional.upsample(cam[:, None].astype(np.float32), size=(12, 10), mode="linear", backend="numpy")[:, 0]
    np.testing.assert_allclose(found, enlarged, rtol=1e-5, atol=1e-6)
    assert found.any() and (found >= 0).all()


def test_occlusion_is_what_blanking_costs():
    model = network()
    found = explain.occlusion(model, IMAGES[0], 1, side=3, stride=2, fill=0.5)
    whole = model.predict(IMAGES[:1])[0, 1]
    assert found.shape == (5, 4)
    for p, q in np.ndindex(5, 4):
        blanked = IMAGES[:1].copy()
        blanked[..., 2 * p : 2 * p + 3, 2 * q : 2 * q + 3] = 0.5
        assert found[p, q] == pytest.approx(whole - model.predict(blanked)[0, 1], abs=1e-7)
    assert explain.occlusion(model, IMAGES[0]).shape == (11, 9)  # squares of 2, 1 apart, of the likeliest class
    line = Model(Sequential(Flatten(), Dense(2)), (1, 1, 9)).initialize(0)
    assert explain.occlusion(line, np.ones((1, 1, 9), np.float32)).shape == (1, 9)  # of 1: there is no second row


def test_embeddings_are_what_the_layers_give():
    model = network()
    assert explain.embeddings(model, IMAGES, "4").tobytes() == model(IMAGES)[0].numpy().tobytes()
    w = model.state_dict()
    first = functional.relu(functional.conv(IMAGES, w["0.weight"], w["0.bias"], backend="numpy"), backend="numpy")
    assert explain.embeddings(model, IMAGES, "0", batch_size=2).tobytes() == first.tobytes()
    inner = functional.conv(first, w["1.body.0.weight"], w["1.body.0.bias"], padding=1, backend="numpy")
    assert explain.embeddings(model, IMAGES, "1.body.0").tobytes() == inner.tobytes()


def test_maps_of_mirror_images_are_mirrored_back():
    model = (
        Model(Sequential(Conv2d(3, 3, padding=1), MaxPool2d(2)), (1, 6, 8)).initialize(0).place(get_backend("numpy"))
    )
    x = np.random.default_rng(0).random((2, 1, 6, 8), np.float32)
    mirrored = np.ascontiguousarray(x[..., ::-1])
    both = (model.predict(x) + model.predict(mirrored)[..., ::-1]) * np.float32(0.5)
    assert model.predict(x, flips=True).tobytes() == both.tobytes()
    assert model.predict(mirrored, flips=True)[..., ::-1].tobytes() == both.tobytes()
    trainer = small.trainer(model=model, backend="numpy", shift=0)
    assert trainer.predict(x, flips=True).tobytes() == both.tobytes()


def test_flips_are_the_mean_of_both():
    model = network()
    both = (model.predict(IMAGES) + model.predict(np.ascontiguousarray(IMAGES[..., ::-1]))) * np.float32(0.5)
    assert model.predict(IMAGES, flips=True).tobytes() == both.tobytes()
    trainer = small.trainer(model=model, backend="numpy", shift=0)
    assert trainer.predict(IMAGES, flips=True).tobytes() == both.tobytes()
    with pytest.raises(ConfigurationError, match="flips need images"):
        Model(Dense(2), (3,)).predict(np.ones((2, 3), np.float32), flips=True)


def test_what_does_not_fit_is_refused():
    model = network()
    for refused, match in (
        (lambda: explain.saliency(model, IMAGES, 4), "of is 4"),
        (lambda: explain.embeddings(model, IMAGES, 1), "layer is 1 of type int; give its name, which is text"),
        (lambda: explain.embeddings(model, IMAGES, "9"), "no layer called '9'; it has 0, 1, 1.body"),
        (lambda: explain.grad_cam(model, IMAGES, layer="3"), "values without positions"),
        (lambda: explain.grad_cam(Model(Dense(2), (3,)), np.ones((1, 3), np.float32)), "gives maps"),
        (lambda: explain.occlusion(model, IMAGES[0], side=11), "side is 11"),
        (
            lambda: explain.input_gradient(Model(Conv2d(2, 3), (1, 5, 5)), np.ones((1, 1, 5, 5), np.float32)),
            "output is",
        ),
    ):
        with pytest.raises(ConfigurationError, match=match):
            refused()
    with pytest.raises(ShapeError):
        explain.saliency(model, IMAGES[0])


# ---- doubtful labels -------------------------------------------------------------------------------------------------


def doubts_by_hand(p, labels):
    """Northcutt et al., definition by definition, with a loop over images."""
    classes = p.shape[1]
    least = [np.mean([p[i, c] for i in range(len(p)) if labels[i] == c]) for c in range(classes)]
    found = []
    for i, row in enumerate(p):
        possible = [c for c in range(classes) if row[c] >= least[c]]
        if possible:
            best = max(possible, key=lambda c: row[c])
            if best != labels[i]:
                found.append((row[labels[i]] - row[best], i, int(labels[i]), best))
    return [(i, label, best) for _, i, label, best in sorted(found)]


def test_doubtful_labels_are_the_definitions():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.6] * 4, 200)
    labels = np.where(rng.random(200) < 0.7, p.argmax(axis=1), rng.integers(0, 4, 200))
    found = doubtful_labels(p, labels)
    assert [(d.image, d.label, d.suggested) for d in found] == doubts_by_hand(p, labels)
    assert all(d.probability == p[d.image, d.suggested] > d.probability_of_label for d in found)
    with pytest.raises(ShapeError):
        doubtful_labels(p[0], labels)


def test_equally_likely_classes_are_no_reason_to_doubt():
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert doubtful_labels(np.full((6, 3), 0.25), labels) == []
    halves = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]] * 2)
    assert doubtful_labels(halves, labels) == []


@pytest.mark.parametrize("wrong", [-0.5, 1.5, np.nan, np.inf])
def test_scores_are_not_taken_for_probabilities(wrong):
    p = np.eye(3)
    p[1, 0] = wrong
    with pytest.raises(
        DataError, match="the probabilities run from .* give numbers from 0 to 1, .* of scores the softmax"
    ):
        doubtful_labels(p, np.arange(3))


@pytest.mark.slow
def test_wrong_labels_are_found_by_networks_that_did_not_see_them():
    x, y = small.data()
    wrong = y.copy()
    wrong[[3, 17, 30]] = (y[[3, 17, 30]] + 1) % 3
    p = out_of_fold(lambda: small.model(8), x, wrong, 25, folds=3, backend="numba", progress=False, batch_size=8)
    assert {3, 17, 30} <= {d.image for d in doubtful_labels(p, wrong)[:6]}
    part = _parts(y, 3, 0)
    counts = np.array([np.bincount(part[y == c], minlength=3) for c in range(3)])
    assert counts.max() - counts.min() <= np.ptp(np.bincount(y)) / 3 + 1 and np.ptp(counts, axis=1).max() <= 1


def test_a_model_that_has_seen_the_images_is_refused():
    (x, y), model = small.data(), small.model()
    for make, words in ((lambda: model, "the same model twice"), (model, "make_model is .*; give a function")):
        with pytest.raises(ConfigurationError, match=words):
            out_of_fold(make, x, y, 1, folds=3, progress=False)
    assert not model.initialized


def test_folds_take_any_seed_and_no_run_folder(tmp_path):
    (x, y), model = small.data(), lambda: mlp((1, 8, 8), 3, hidden=())
    with pytest.raises(ConfigurationError, match="2 trainings do not fit into one run folder; leave out run"):
        out_of_fold(model, x, y, 1, folds=2, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    found = out_of_fold(model, x, y, 1, folds=2, seed=2**63, backend="numpy", progress=False, run=None)
    assert found.shape == (45, 3)
