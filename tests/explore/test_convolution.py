"""The convolution panel's numbers beside plain loops, and its refusals."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import gpucnn
from tests.explore.conftest import TOKEN
from tests.oracle import assert_within, conv

RANDOM = np.random.default_rng(5)
SETTINGS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": 2, "dilation": 2},
    {"stride": 3, "padding": 1, "channels": 3},
    {"kernel": 2, "channels": 2},
]


def asked(page, image, weights, **settings):
    body = {"operation": "conv", "stride": 1, "padding": 0, "dilation": 1, "mode": "zeros", **settings}
    return page("convolve", image=image.tolist(), filter=weights.tolist(), **body)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_output_and_products_are_those_of_plain_loops(page, settings):
    settings = dict(settings)
    channels, kernel = settings.pop("channels", 1), settings.pop("kernel", 3)
    image = RANDOM.normal(size=(channels, 8, 9)).astype(np.float32)
    weights = RANDOM.normal(size=(channels, kernel, kernel)).astype(np.float32)
    answer = asked(page, image, weights, **settings)
    stride, padding, dilation = (settings.get(name, d) for name, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
    expected = conv(image[None], weights[None], None, (stride,) * 2, ((padding,) * 2,) * 2, (dilation,) * 2, 1)
    assert_within(answer["output"], expected._replace(value=expected.value[0], magnitude=expected.magnitude[0]))
    height, width = answer["output"].shape[1:]
    padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)])
    assert (answer["padded"] == padded).all()
    for (k, r, c), product in np.ndenumerate(answer["products"]):
        channel, i, j = np.unravel_index(k, weights.shape)
        pixel = padded[channel, r * stride + i * dilation, c * stride + j * dilation]
        assert product == weights[channel, i, j] * pixel  # one rounding, in float32
    for axis, size, output in zip(answer["axes"], (8, 9), (height, width)):
        assert (axis["input"] + axis["before"] + axis["after"] - axis["extent"]) // axis["stride"] + 1 == output
        assert (axis["input"], axis["output"]) == (size, output)


def test_flipped_it_is_the_convolution_of_mathematics(page):
    image = RANDOM.normal(size=(1, 7, 6)).astype(np.float32)
    weights = RANDOM.normal(size=(1, 3, 2)).astype(np.float32)
    answer = asked(page, image, weights, flip=True)
    assert (answer["filter"] == weights[:, ::-1, ::-1]).all()
    expected = gpucnn.convolve(image[0], weights[0], "valid", backend="numpy")
    assert answer["output"][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "numpy_mode"),
    [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap"), ("constant", "constant")],
)
def test_what_lies_outside(page, mode, numpy_mode):
    image = RANDOM.normal(size=(1, 5, 6)).astype(np.float32)
    answer = asked(page, image, np.ones((1, 3, 3)), padding=2, mode=mode, value=0.5)
    more = {"constant_values": 0.5} if mode == "constant" else {}
    padded = np.pad(image, [(0, 0), (2, 2), (2, 2)], mode=numpy_mode, **more)
    assert (answer["padded"] == padded).all()
    r, c = 0, 0
    assert answer["output"][0, r, c] == pytest.approx(padded[0, r : r + 3, c : c + 3].sum(), abs=1e-5)


def test_how_often_each_pixel_is_used(page):
    answer = asked(page, np.zeros((1, 3, 3)), np.ones((1, 2, 2)))
    assert answer["use"].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]  # as on the tour


def test_max_pooling_shows_the_pixel_that_wins(page):
    image = RANDOM.permutation(36).reshape(1, 6, 6).astype(np.float32)
    image[0, 0, 0] = image[0, 0, 1] = 99  # of equals the first
    answer = page("convolve", operation="max", image=image.tolist(), size=3, stride=2, padding=1)
    assert answer["winners"].shape == (3, 3, 1, 6, 6)
    for r, c in np.ndindex(3, 3):
        rows, columns = (range(max(0, p * 2 - 1), min(6, p * 2 + 2)) for p in (r, c))
        best = max((image[0, i, j], -i, -j) for i in rows for j in columns)
        assert answer["output"][0, r, c] == best[0]
        assert np.argwhere(answer["winners"][r, c, 0]).tolist() == [[-best[1], -best[2]]]


def test_average_pooling_says_by_how_many_it_divides(page):
    image = RANDOM.normal(size=(2, 4, 4)).astype(np.float32)
    answer = page("convolve", operation="avg", image=image.tolist(), size=2, stride=2, padding=0)
    assert (answer["counts"] == 4).all()
    assert answer["output"] == pytest.approx(image.reshape(2, 2, 2, 2, 2).mean(axis=(2, 4)), abs=1e-6)


def test_what_does_not_fit_says_what_would(page):
    image, weights = np.zeros((1, 7, 7)), np.ones((1, 3, 3))
    assert "padding 1 or stride 2 or 4 would fit" in asked(page, image, weights, stride=3, strict=True)["refused"]
    assert "larger than the padded input" in asked(page, image[:, :2, :2], weights)["refused"]
    assert "reflect" in asked(page, image[:, :2], weights, padding=3, mode="reflect")["refused"]
    pooled = page("convolve", operation="max", image=image.tolist(), size=2, stride=2, padding=3)
    assert "at most 1" in pooled["refused"]
    assert "channels" in asked(page, np.zeros((2, 4, 4)), weights)["refused"]


def test_presets_fit_the_panel(page):
    presets = page("presets")
    images = {**presets["images"], "digit": page("digit")["image"]}
    for image in images.values():
        for weights in presets["filters"].values():
            channels = np.array(image).shape[0]
            answer = asked(page, np.array(image), np.array([weights] * channels))
            assert "refused" not in answer


def picture(size, mode="RGB") -> bytes:
    file = BytesIO()
    Image.new(mode, size, "red" if mode == "RGB" else 128).save(file, "PNG")
    return file.getvalue()


def uploaded(page, content: bytes, side: int = 12, channels: int = 1):
    return page.client.post(f"/{TOKEN}/api/upload/{side}/{channels}", content=content)


def test_an_uploaded_picture_becomes_small(page):
    image = np.array(uploaded(page, picture((40, 20))).json()["image"])
    assert image.shape == (1, 12, 12)
    assert image == pytest.approx(76 / 255, abs=0.01)  # red as grey, ITU-R 601
    image = np.array(uploaded(page, picture((40, 20)), 9, 3).json()["image"])
    assert image.shape == (3, 9, 9) and (image[0] == 1).all() and (image[1:] == 0).all()


def test_of_a_wide_picture_the_middle_is_taken(page):
    wide, file = Image.new("L", (48, 12)), BytesIO()
    wide.paste(255, (18, 0, 30, 12))  # a square of 12 pixels
    wide.save(file, "PNG")
    assert np.array(uploaded(page, file.getvalue(), 12).json()["image"]).min() == 1
    assert np.array(uploaded(page, file.getvalue(), 4).json()["image"]).min() == 1


def test_an_upload_that_is_no_picture_is_refused_in_a_sentence(page):
    for content in (b"", b"nothing", picture((30, 30))[:60]):
        answer = uploaded(page, content)
        assert answer.status_code == 200
        assert "refused" in answer.json() and "BytesIO" not in answer.json()["refused"]
    file = BytesIO()
    Image.new("1", (10000, 10000)).save(file, "PNG")
    assert "10000x10000 pixels" in uploaded(page, file.getvalue()).json()["refused"]
    assert uploaded(page, picture((4, 4)), 17).status_code == 400
    assert uploaded(page, picture((4, 4)), 4, 2).status_code == 400
