"""`gpucnn show`: each picture from the command line, what it prints, and what it refuses."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import gpucnn
from gpucnn.data import load
from gpucnn.models import unet_small
from tests.training import small

COMMANDS = ["filters", "maps", "match", "pixel-use", "curves", "confusion", "mistakes", "saliency"]
COMMANDS += ["occlusion", "gradcam", "doubts", "scores"]
PATTERN = "1,-1,-1;-1,1,-1;-1,-1,1"


@pytest.fixture
def show(cli, tmp_path, monkeypatch):
    """`gpucnn show ... --json` in an empty folder; the values, after a look at the picture."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out=None):
        values = cli.json("show", *arguments, *(() if out is None else ("--out", out)))
        assert values["picture"] == str(out or f"{arguments[0]}.png")
        with Image.open(values["picture"]) as picture:
            picture.load()
            assert picture.format == "PNG" and min(picture.size) > 100
        return values

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_each_has_help_and_the_common_options(cli, command):
    result = cli("show", command, "--help")
    assert result.exit_code == 0
    assert "--out" in result.stdout and "--json" in result.stdout


def test_the_list_of_pictures(cli):
    result = cli("show", "--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


def test_filters(show, trained):
    values = show("filters", "--run", trained[0])
    assert (values["layer"], values["shape"]) == ("0", [6, 1, 5, 5])
    values = show("filters", "--run", trained[0], "--layer", "2", out="second.png")
    assert (values["layer"], values["shape"]) == ("2", [16, 6, 5, 5])


def test_maps_of_a_test_image_and_of_a_file(show, trained, tmp_path):
    _, test = load("digits")
    model = gpucnn.load(trained[0] / "checkpoint.safetensors")
    expected = gpucnn.Trainer(model, progress=False).predict(test.images[7:8])[0]
    values = show("maps", 7, "--run", trained[0])
    assert values["image"] == f"test image 7: {test.classes[test.labels[7]]}"
    assert list(values["probabilities"].values()) == expected.tolist()
    assert values["class"] == str(expected.argmax()) and values["probability"] == expected.max()
    assert [layer["name"] for layer in values["layers"]] == ["", "0", "1", "2", "3", "5", "6", "7"]
    assert values["layers"][1]["shape"] == [6, 28, 28]
    Image.fromarray((test.images[7, 0] * 255).round().astype(np.uint8)).save(tmp_path / "digit.png")
    again = show("maps", tmp_path / "digit.png", "--run", trained[0])
    assert again["image"] == "digit.png"
    # a pixel is at most half of 1/255 away from its sixteenth
    assert list(again["probabilities"].values()) == pytest.approx(expected.tolist(), abs=0.02)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_match_of_numbers(show, backend):
    """The worked example: 7/9, and 1/9 for the other piece."""
    values = show("match", "-1,-1,-1;-1,1,-1;-1,-1,1", "--pattern", PATTERN, "--backend", backend)
    assert (values["row"], values["column"], values["score"], values["box"]) == (0, 0, 7 / 9, [0, 0, 3, 3])
    assert values["backend"] == backend
    values = show("match", "-1,-1,-1;1,-1,-1;-1,1,1", "--pattern", PATTERN, "--backend", backend)
    assert values["scores"] == [[1 / 9]]
    values = show("match", "1,2;3,4/5,6;7,8/0,0;0,1", "--pattern", "1;2/-1;1/3;-3", "--backend", backend)
    # first column 1 + 6 - 5 + 7 + 0, second 2 + 8 - 6 + 8 - 3, each of six products
    assert values["scores"] == [[9 / 6, 9 / 6]] and values["box"] == [0, 0, 2, 1]


@pytest.mark.slow
def test_match_of_images(show, trained, tmp_path):
    _, test = load("digits")
    weights = gpucnn.load(trained[0] / "checkpoint.safetensors").state_dict()["0.weight"]
    expected = gpucnn.show.match(test.images[3], weights[2], stride=2, padding=1)
    values = show("match", 3, "--filter", 2, "--run", trained[0], "--stride", 2, "--padding", "1x1")
    assert values["scores"] == expected.scores.tolist() and values["box"] == list(expected.box)
    assert show("match", 3, "--pattern", "1,1", "--padding", "same")["image"] == "test image 3"
    rgb = np.zeros((6, 8, 3), np.uint8)
    rgb[2:4, 5] = 255
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    values = show("match", "rgb.png", "--pattern", "1;1")
    assert (values["row"], values["column"], values["score"]) == (2, 5, 1.0)
    rgb[2, 1] = 255, 0, 0  # red counts, green and blue count against it
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    values = show("match", "rgb.png", "--pattern", "1/-1/-1", "--signed")
    assert (values["row"], values["column"], values["score"]) == (2, 1, 1.0)


def test_pixel_use(show):
    values = show("pixel-use", "--input", 3, "--kernel", 2, "--stride", 1, "--padding", 0)
    assert values["use"] == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    values = show(
        "pixel-use", "--input", "7x9", "--kernel", "3x2", "--stride", "2x3", "--dilation", "1x2", "--padding", "same"
    )
    assert values["output"] == [4, 3]


def test_curves_of_a_run_with_a_network_of_ones_own(show, tmp_path):
    it = small.trainer(tmp_path / "own")
    it.fit(*small.data(), 2)
    assert show("curves", "--run", tmp_path / "own") == {
        "picture": "curves.png",
        "run": str(tmp_path / "own"),
        "epochs": 2,
        "loss": it.history.last["loss"],
    }


def test_curves_confusion_and_mistakes(show, trained):
    folder, trained_values = trained
    assert show("curves", "--run", folder)["epochs"] == 2
    values = show("confusion", "--run", folder)
    counts = np.array(values["counts"])
    assert values["right"] == counts.trace() and counts.sum() == values["images"] == 359
    assert values["right"] / 359 == pytest.approx(trained_values["test_accuracy"])
    assert values["classes"] == [str(i) for i in range(10)]
    values = show("mistakes", "--run", folder, "--most", 3)
    assert values["wrong"] == 359 - counts.trace()
    worst = values["mistakes"]
    assert len(worst) == 3 and worst[0]["probability"] >= worst[1]["probability"] >= worst[2]["probability"]


@pytest.mark.slow
def test_scores(show, trained, tmp_path):
    values = show("scores", "--run", trained[0], "--threshold", 0.8)
    assert (values["places"], values["stride"]) == ([57, 93], [4, 4])
    assert all(found["probability"] >= 0.8 for found in values["found"])
    _, test = load("digits")
    page = np.zeros((40, 80), np.uint8)
    page[4:36, 20:52] = (test.images[0, 0] * 255).round()
    Image.fromarray(page).save(tmp_path / "page.png")
    values = show("scores", tmp_path / "page.png", "--run", trained[0], "--threshold", 0.5)
    assert values["places"] == [3, 13]
    # page.png read again is what scores.py gets, so the best of its places is the best found
    best = gpucnn.show.scores(
        gpucnn.load(trained[0] / "checkpoint.safetensors"), page[None] / np.float32(255), threshold=0.5
    ).found
    assert [found["box"] for found in values["found"]] == [list(found.box) for found in best]


def test_the_best_weights_or_the_last(cli, show, tmp_path):
    cli.json("train", "--epochs", 2, "--validation", 0.2, "--run", tmp_path / "run")
    for weights, file in (("best", "best"), ("last", "checkpoint")):
        model = gpucnn.load(tmp_path / "run" / f"{file}.safetensors")
        _, test = load("digits")
        values = show("maps", 0, "--run", tmp_path / "run", "--weights", weights)
        assert list(values["probabilities"].values()) == model.predict(test.images[:1])[0].tolist()


def test_the_newest_run_is_the_default_and_text_is_for_people(cli, trained, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained[0])
    monkeypatch.chdir(tmp_path)
    for command in (["filters"], ["curves"], ["maps", "0"], ["match", "0", "--filter", "1"]):
        result = cli("show", *command)
        assert result.exit_code == 0, result.stderr
        assert "the newest run" in result.stderr
        assert result.stdout.startswith("picture") and not result.stdout.startswith("{")
        if command[0] == "maps":
            assert re.search(r"^probability +\d+\.\d%$", result.stdout, re.MULTILINE)


def test_an_old_picture_is_replaced_whole(show, trained, tmp_path):
    (tmp_path / "filters.png").write_text("not a picture")
    show("filters", "--run", trained[0])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["filters.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filters"], "there is no trained network in runs/; run `gpucnn train` first"),
        (["filters", "--run", "nowhere"], "there is no file or folder nowhere; give"),
        (["filters", "--run", "RUN", "--layer", "1"], "no convolution called '1'; it has 0, 2"),
        (["filters", "--run", "RUN", "--out", "f.jpg"], "cannot write a picture to f.jpg; its name must end in .png"),
        (["filters", "--run", "RUN", "--out", "no/f.png"], "there is no folder no"),
        (["filters", "--run", "RUN", "--weights", "best"], "has no best epoch"),
        (["filters", "--run", "RUN", "--weights", "good"], "--weights is 'good'; use best or last"),
        (["maps", "359", "--run", "RUN"], "there is no test image 359; they run from 0 to 358"),
        (["maps", "no.png", "--run", "RUN"], "no.png does not exist"),
        (["maps", "0", "--run", "RUN", "--backend", "cuda"], "there is no backend 'cuda'"),
        (["match", "0"], "give either --pattern"),
        (["match", "0", "--pattern", "1", "--filter", "0"], "give either --pattern"),
        (["match", "0", "--pattern", "1", "--layer", "0"], "--layer 0 names where --filter is; it has no meaning"),
        (["match", "0", "--pattern", "1", "--weights", "best"], "--weights best are those of --filter"),
        (["match", "0", "--pattern", "1,2;3"], "--pattern is '1,2;3'; expected rows of equally many numbers"),
        (["match", "0", "--pattern", "a"], "--pattern is 'a'"),
        (["match", "1,x", "--pattern", "1"], "IMAGE is '1,x'"),
        (["match", "1,1", "--pattern", "1,2/3"], "--pattern is '1,2/3', channels of 1x2, 1x1 numbers; they must be"),
        (["match", "1,1", "--pattern", "1/1"], "the pattern has 2 channels and the image 1"),
        (["match", "1,1/", "--pattern", "1/1"], "IMAGE is ''; expected rows of equally many numbers"),
        (["match", "1,nan", "--pattern", "1"], "the values of the image hold 1 values that are NaN"),
        (["match", "1,2", "--pattern", "inf"], "the values of the pattern hold 1 values"),
        (["match", "1,2", "--pattern", "1;1"], "larger than the padded input"),
        (["match", "0", "--filter", "6", "--run", "RUN"], "layer 0 has no filter 6; they run from 0 to 5"),
        (["match", "0", "--filter", "0", "--layer", "2", "--run", "RUN"], "look at the maps of the layers before it"),
        (["match", "0", "--pattern", "1", "--stride", "0"], "stride"),
        (["match", "0", "--pattern", "1", "--stride", "fast"], "--stride is 'fast'"),
        (["match", "0", "--pattern", "1", "--padding", "some"], "same or valid"),
        (["match", "999", "--pattern", "1"], "there is no test image 999"),
        (["match", "0", "--pattern", "1", "--math", "slow"], "has no math 'slow'"),
        (["pixel-use", "--input", "3", "--kernel", "4"], "a kernel of 4 is larger"),
        (["pixel-use", "--input", "3x3x3", "--kernel", "2"], "3 axes"),
        (["pixel-use", "--input", "x", "--kernel", "2"], "--input is 'x'"),
        (["pixel-use", "--input", "-3", "--kernel", "2"], "input"),
        (["pixel-use", "--input", "2147483647", "--kernel", "2"], "a picture can show 4096 a side"),
        (["pixel-use", "--input", "4096", "--kernel", "2", "--padding", "1"], "is 4098 x 4098 pixels"),
        (["curves"], "there is no trained network"),
        (["curves", "--run", "MODEL"], "is a model without its history"),
        (["confusion", "--run", "RUN", "--data", "no-such-set"], "no-such-set is neither"),
        (["confusion", "--run", "MODEL"], "does not say what it was trained on; give --data"),
        (["mistakes", "--run", "RUN", "--out", "m.txt"], "must end in .png"),
        (["scores", "no.png", "--run", "RUN"], "there is no file no.png"),
        (["scores", "--run", "MODEL"], "does not say what it was trained on; give an image file instead"),
        (["scores", "small.png", "--run", "RUN"], "cannot slide over images"),
    ],
)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_refusals(cli, trained, tmp_path, monkeypatch, arguments, message, json):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("small.png")
    model = trained[0] / "checkpoint.safetensors"
    arguments = [{"RUN": trained[0], "MODEL": model}.get(argument, argument) for argument in arguments]
    line = cli.refused("show", *arguments, *json).splitlines()[-1]
    assert line.startswith("gpucnn: ") and message in line
    assert [file.name for file in tmp_path.iterdir()] == ["small.png"]


@pytest.mark.parametrize("picture", ["maps", "saliency", "occlusion", "gradcam"])
def test_pictures_of_one_answer_refuse_a_class_for_each_pixel(cli, tmp_path, picture):
    gpucnn.save(unet_small((1, 8, 8)).initialize(0), tmp_path / "m")
    line = cli.refused("show", picture, 7, "--run", tmp_path / "m", "--out", tmp_path / "a.png")
    assert "gives a class to each pixel, not to an image" in line and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["cats"],
        ["maps"],
        ["match"],
        ["pixel-use"],
        ["scores", "--threshold", "2"],
        ["mistakes", "--most", "0"],
        ["match", "0", "--fly", "1"],
    ],
)
def test_usage_errors(cli, arguments):
    assert "Usage: gpucnn show" in cli.refused("show", *arguments)


def test_json_is_one_object(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("show", "pixel-use", "--input", 3, "--kernel", 2, "--json")
    assert json.loads(result.stdout)["largest"] == 4
