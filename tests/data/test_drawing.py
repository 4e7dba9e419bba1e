"""Drawings become what the training images look like: measured on images whose style is known, and on the digits."""

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import load, load_images
from gpucnn.data.drawing import Style
from gpucnn.errors import DataError


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """Ink (height, width) from 0.5 to 1 that fills its box and leans to one side."""
    ink = np.random.default_rng(seed).uniform(0.5, 1, (height, width))
    ink[: height // 2, : width // 2] *= 0.55
    ink[0, 0] = ink[-1, -1] = 1
    return ink


def centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    """(down, right), written out."""
    total = down = right = 0.0
    for (row, column), value in np.ndenumerate(image.astype(np.float64)):
        total += value
        down += value * (row + 0.5)
        right += value * (column + 0.5)
    return down / total, right / total


def mnist_like(count: int = 40) -> np.ndarray:
    """Images (N, 1, 28, 28) as MNIST's authors made them: longer side 20, centre of mass in the middle."""
    images = np.zeros((count, 1, 28, 28), np.float32)
    for seed, image in enumerate(images[:, 0]):
        height, width = (20, 8 + seed % 9) if seed % 2 else (9 + seed % 8, 20)
        ink = blob(height, width, seed)
        down, right = centre_of_mass(ink)
        top, left = round(14 - down), round(14 - right)
        image[top : top + height, left : left + width] = ink
    return images


def test_the_style_of_mnist_is_found():
    style = Style.of(mnist_like())
    assert style.shape == (1, 28, 28)
    assert (style.paper, style.block, style.longest) == (0.0, 1, 20.0)
    assert style.ink == pytest.approx(1.0)
    for kind, place in style.centre:
        assert kind == "mass"
        assert place == pytest.approx(14, abs=0.3)


def test_the_style_of_the_digits_is_found():
    train, _ = load("digits")
    style = Style.of(train.images)
    assert (style.paper, style.ink, style.block, style.longest) == (0.0, 1.0, 4, 32.0)
    # Every digit fills all 8 rows, so the box's middle never moves; sideways the mass is the steadier of the two.
    assert style.centre[0] == ("box", 16.0)
    assert style.centre[1][0] == "mass"


def test_dark_ink_on_light_paper_is_a_style_too():
    style = Style.of(1 - mnist_like())
    assert (style.paper, style.longest) == (1.0, 20.0)
    assert style.ink == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("size", [14, 40, 90, 200])
@pytest.mark.parametrize("dark", [False, True])
def test_any_ink_size_and_place_come_out_alike(size, dark):
    style = Style.of(mnist_like())
    ink = np.zeros((20, 14))
    ink[:, 4:10] = 1
    ink[15:, :] = 1  # a foot: the mass lies below the middle
    thick = np.asarray(
        Image.fromarray(ink.astype(np.float32)).resize((size * 14 // 20, size), Image.Resampling.NEAREST)
    )
    drawing = np.zeros((260, 280))
    drawing[30 : 30 + size, 11 : 11 + thick.shape[1]] = thick
    prepared = style.prepare(1 - drawing if dark else drawing * 0.3 + 0.1)  # and faint ink on grey paper
    assert prepared.light_ink is not dark
    assert prepared.box == (30, 11, 30 + size, 11 + thick.shape[1])
    assert prepared.scale == pytest.approx(20 / size)
    image = prepared.image[0]
    assert prepared.image.shape == (1, 28, 28) and prepared.image.dtype == np.float32
    assert image.max() == pytest.approx(1, abs=1e-6) and image.min() == pytest.approx(0, abs=1e-6)
    down, right = centre_of_mass(image)
    expected = [place for _, place in style.centre]
    assert [down, right] == pytest.approx(expected, abs=0.25)
    rows = np.flatnonzero((image > 0.25).any(axis=1))
    assert len(rows) in (20, 21)


def test_blocks_are_repeated_and_channels_too():
    train, _ = load("digits")
    style = Style.of(np.repeat(train.images[:50], 3, axis=1))
    drawing = np.zeros((100, 100))
    drawing[20:80, 40:55] = 1
    image = style.prepare(drawing).image
    assert image.shape == (3, 32, 32)
    assert (image == image[:1]).all()
    small = image[0, ::4, ::4]
    assert (small.repeat(4, axis=0).repeat(4, axis=1) == image[0]).all()


def test_how_far_it_moved():
    style = Style.of(mnist_like())
    drawing = np.zeros((56, 56))
    drawing[2:22, 30:50] = 1  # its middle, (12, 40), is at (6, 20) of 28x28
    prepared = style.prepare(drawing)
    goal = [place for _, place in style.centre]
    assert prepared.moved == pytest.approx((goal[0] - 6, goal[1] - 20))


@pytest.mark.parametrize("drawing", [np.zeros((20, 20)), np.full((8, 9), 0.7)])
def test_an_empty_drawing_is_refused(drawing):
    with pytest.raises(DataError, match="nothing is drawn"):
        Style.of(mnist_like()).prepare(drawing)


@pytest.mark.parametrize("drawing", [np.zeros((2, 20, 20)), np.zeros((0, 4)), np.full((4, 4), np.nan)])
def test_what_is_no_drawing_is_refused(drawing):
    with pytest.raises(DataError, match="a drawing has shape"):
        Style.of(mnist_like()).prepare(drawing)


def test_training_images_without_ink_or_with_other_channels_are_refused():
    with pytest.raises(DataError, match="none of the training images has ink"):
        Style.of(np.zeros((4, 1, 8, 8), np.float32))
    with pytest.raises(DataError, match="1 or 3"):
        Style.of(np.zeros((4, 2, 8, 8), np.float32))


def test_redrawn_digits_are_read():
    """Test digits as thick strokes of any size, place and ink: most are read when prepared, few when stretched."""
    from gpucnn import Trainer
    from gpucnn.models import lenet5

    train, test = load("digits")
    model = lenet5((1, 32, 32), 10)
    Trainer(model, seed=0, shift=4, progress=False).fit(train.images, train.labels, 8)
    style, random = Style.of(train.images), np.random.default_rng(3)
    prepared, stretched = [], []
    for number, image in enumerate(test.images[:200, 0, ::4, ::4]):
        size = int(random.integers(60, 200))
        top, left = random.integers(0, 280 - size, 2)
        drawing = np.zeros((280, 280), np.float32)
        smooth = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        drawing[top : top + size, left : left + size] = smooth > 0.5
        drawing = 1 - drawing if number % 2 else drawing
        prepared.append(style.prepare(drawing).image)
        stretched.append(np.asarray(Image.fromarray(drawing).resize((32, 32), Image.Resampling.BILINEAR))[None])
    labels = test.labels[:200]
    right, without = ((model.predict(np.stack(some)).argmax(1) == labels).mean() for some in (prepared, stretched))
    assert right > 0.9
    assert without < 0.4


def lit(drawing: np.ndarray, seed: int = 0) -> np.ndarray:
    """A drawing as a camera sees it: light falls off by 40% to one corner, and the sensor adds noise."""
    down, right = np.mgrid[0 : 1 : drawing.shape[0] * 1j, 0 : 1 : drawing.shape[1] * 1j]
    return drawing * (1 - 0.2 * down - 0.2 * right) + np.random.default_rng(seed).normal(0, 0.015, drawing.shape)


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_the_light_of_a_photo_is_no_ink(share):
    style = Style.of(mnist_like())
    drawing = np.ones((150, 200))
    side = int((share * drawing.size) ** 0.5)
    drawing[20 : 20 + side, 60 : 60 + side] = 0.1
    prepared = style.prepare(lit(drawing))
    assert not prepared.light_ink
    assert prepared.box == (20, 60, 20 + side, 60 + side)
    outside = np.ones_like(drawing, bool)
    outside[20 : 20 + side, 60 : 60 + side] = False
    assert prepared.ink[outside].max() < 0.02
    assert prepared.ink[~outside].min() > 0.5


@pytest.mark.parametrize("wide", [2, 5, 12])
def test_a_thin_pen_is_widened_to_that_of_the_training_images(wide):
    images = np.zeros((8, 1, 28, 28), np.float32)
    images[:, 0, 5:25, 13:17] = 1  # strokes of 4 in 20 pixels, in no squares of equal pixels
    style = Style.of(images)
    assert style.pen == pytest.approx(2 * 80 / 48, rel=0.1)  # twice the area by the outline
    drawing = np.ones((300, 300))
    drawing[50:250, 150 : 150 + wide] = 0
    image = style.prepare(drawing).image[0]
    assert image[9:21].sum(axis=1) == pytest.approx(np.full(12, style.pen), abs=0.6)


def test_what_looks_like_a_training_image_is_known():
    images = mnist_like()
    style = Style.of(images)
    assert all(style.fits(image) for image in images)
    assert not style.fits(1 - images[0])
    assert not style.fits(images[0][:, ::2, ::2])
    assert not style.fits(images[0] * 0.5)
    small = np.zeros_like(images[0])
    small[:, 8:18, 8:18] = images[0][:, 4:24:2, 4:24:2]
    assert not style.fits(small)
    train, test = load("digits")
    digits = Style.of(train.images)
    assert sum(digits.fits(image) for image in test.images[:50]) >= 48
    blurred = (train.images[0] + np.roll(train.images[0], 1, 2)) / 2  # no 4x4 squares any more
    assert not digits.fits(blurred)


def test_colours_and_places_that_tell_something_are_kept(tmp_path):
    """Of fruit on a white ground the colour was taken out, and a tone in a spectrogram was moved to the mean of all."""
    rng = np.random.default_rng(0)
    fruit = np.ones((40, 3, 24, 24), np.float32)
    fruit[:, :, 6:18, 6:18] = rng.permuted(np.tile([0.8, 0.5, 0.1], (40, 1)), axis=1)[:, :, None, None]
    tones = np.zeros((40, 1, 24, 24), np.float32)
    for image, row in zip(tones, rng.integers(1, 22, 40)):
        image[0, row, 2:22] = 1
    for images in (fruit, tones):
        style = Style.of(images)
        assert style.blank > 0.5 and not style.is_of_drawings
        pixels = np.round(images[0] * 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels.squeeze()).save(tmp_path / "one.png")
        read, _, notes = load_images(tmp_path / "one.png", images.shape[1:], style=style)
        assert np.abs(read[0] - images[0]).max() < 0.01 and not notes
    grey = Style.of(np.repeat(mnist_like(), 3, axis=1))
    assert grey.is_of_drawings and grey.coloured == 0, "digits that are stored with three channels"


def test_other_ink_than_the_training_images_is_said():
    images = mnist_like()
    style = Style.of(images)
    assert style.is_of_drawings
    assert style.mismatch(images) is None
    mixed = np.concatenate([images[:3], 1 - images[:2]])
    assert style.mismatch(mixed) == (
        "2 of 5 images are dark ink on light paper, but the network was trained on light ink on dark paper"
    )
    assert "5 of 5 images are light ink on dark" in Style.of(1 - images).mismatch(images[:5])
    photos = Style.of(np.random.default_rng(0).random((20, 1, 16, 16), np.float32))
    assert not photos.is_of_drawings
    assert photos.mismatch(1 - images) is None
