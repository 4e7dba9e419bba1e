"""What a drawing gets: probabilities, gradients and occlusion beside what they are by definition."""

import base64

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.explain import input_gradient, occlusion
from gpucnn.explore.server import Explorer
from gpucnn.models import lenet5
from gpucnn.training import load_run
from tests.explore.conftest import Page, folders_in


def three(dark: bool = False, shift: int = 0) -> dict:
    """A drawing that is something like a 3."""
    pixels = np.zeros((160, 140), np.uint8)
    for top in (20, 55, 90):
        pixels[top + shift : top + 8 + shift, 40:80] = 255
    pixels[20 + shift : 98 + shift, 72:80] = 255
    return sent(255 - pixels if dark else pixels)


def sent(pixels: np.ndarray) -> dict:
    height, width = pixels.shape
    return {"height": height, "width": width, "bytes": base64.b64encode(pixels.tobytes()).decode()}


def test_probabilities_are_the_networks_of_the_prepared_image(page, run):
    answer = page("draw", run=0, drawing=three())
    model = load_run(run).model.place(get_backend("numba"))
    expected = model.predict(answer["image"][None])[0]
    assert answer["probabilities"] == expected.tolist()
    assert answer["unprepared"] == model.predict(answer["plain"][None])[0].tolist()
    assert answer["of"] == int(expected.argmax())
    assert [step["name"] for step in answer["maps"]] == ["", "0", "1", "2", "3", "5", "6", "7"]
    logits = answer["maps"][-1]["values"].astype(np.float64)
    assert np.exp(logits) / np.exp(logits).sum() == pytest.approx(expected, abs=1e-5)
    assert answer["classes"] == [str(n) for n in range(10)]


def test_the_ink_and_the_place_do_not_matter(page):
    first, other = page("draw", run=0, drawing=three()), page("draw", run=0, drawing=three(dark=True, shift=30))
    assert first["light_ink"] is True and other["light_ink"] is False
    assert other["image"] == pytest.approx(first["image"], abs=1e-5)
    assert first["box"] == {"top": 20, "left": 40, "bottom": 98, "right": 80}


def test_a_class_can_be_chosen(page):
    answer = page("draw", run=0, drawing=three(), of=7)
    assert answer["of"] == 7
    assert not np.array_equal(answer["gradient"], page("draw", run=0, drawing=three(), of=3)["gradient"])


def test_the_input_gradient_is_that_of_differences():
    backend = get_backend("numpy", "fast", dtype=np.float64)
    model = lenet5((1, 16, 16), 4, variant="1998").initialize(3).place(backend)  # tanh and means: smooth everywhere
    image = np.random.default_rng(2).random((1, 16, 16))
    gradient = input_gradient(model, image[None], 2)[0]
    assert gradient.shape == (1, 16, 16)

    def logit(image: np.ndarray) -> float:
        return float(backend.unpack(model(image[None])[0])[0, 2])

    for row, column in ((0, 0), (5, 9), (8, 8), (15, 3)):
        step = np.zeros_like(image)
        step[0, row, column] = 1e-5
        difference = (logit(image + step) - logit(image - step)) / 2e-5
        assert gradient[0, row, column] == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_training_can_follow_an_input_gradient(run):
    """Asking for the gradient leaves the model as it was: in inference, with the same weights."""
    backend = get_backend("numba")
    model = load_run(run).model.place(backend)
    before = model.weights_sha256()
    input_gradient(model, np.zeros((1, 1, 32, 32), np.float32), 0)
    assert model.weights_sha256() == before
    assert not model.mode.training


def test_occlusion_is_what_blanking_costs(page, run):
    model = load_run(run).model.place(get_backend("numba"))
    image = page("draw", run=0, drawing=three())["image"]
    found = occlusion(model, image, 3)
    assert found.shape == (15, 15)  # squares of 4 pixels, 2 apart, on 32
    whole = model.predict(image[None])[0, 3]
    for p, q in ((0, 0), (3, 8), (14, 14)):
        masked = image.copy()
        masked[:, 2 * p : 2 * p + 4, 2 * q : 2 * q + 4] = 0
        assert found[p, q] == pytest.approx(whole - model.predict(masked[None])[0, 3], abs=1e-7)


def test_an_empty_pad_is_refused_in_a_sentence(page):
    answer = page("draw", run=0, drawing=sent(np.zeros((50, 50), np.uint8)))
    assert answer == {"refused": "nothing is drawn: every pixel has the same value"}


def test_without_a_run_it_says_so(empty):
    assert "train a network first" in empty("draw", run=0, drawing=three())["refused"]
    assert "train a network first" in empty("example", run=0, image=0)["refused"]


def test_a_network_of_values_up_to_255_gets_the_drawing_in_them(wide, engine, tmp_path):
    page = Page(Explorer([wide], folders_in(tmp_path), engine))
    pixels = np.zeros((80, 200), np.uint8)
    pixels[10:70, 80:100] = 255
    answer = page("draw", run=0, drawing=sent(pixels))
    assert answer["plain"].shape == (1, 8, 20)
    assert answer["plain"][0, 4].tolist() == pytest.approx([255.0 * (k in (8, 9)) for k in range(20)], abs=40)
    assert answer["unprepared"] == load_run(wide).model.predict(answer["plain"][None])[0].tolist()
    example = page("example", run=0, image=0)["image"]
    assert example.shape == (8, 20) and set(example.ravel()) == {0, 1}


def test_examples_are_test_images(page):
    first, last = page("example", run=0, image=0), page("example", run=0, image=359)
    assert first["number"] == last["number"] == 0  # 359 of them, then from the beginning
    assert first["image"].shape == (32, 32)
