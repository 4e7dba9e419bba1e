"""`gpucnn data`, training on fetched sets by name, and the augmentation options of `train`."""

import gzip
import hashlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import KNOWN, load
from gpucnn.data.known import File, KnownSet
from gpucnn.training import load_run
from tests.data.loopback import serving
from tests.data.test_idx import encode


@pytest.fixture
def mnist(monkeypatch, tmp_path):
    """A server that has a small MNIST, which is what `mnist` means here; an empty cache for data, the kernels' kept."""
    train, test = load("digits")
    contents = {}
    for part, data, count in (("train", train, 200), ("t10k", test, 50)):
        images = np.round(data.images[:count, 0] * 255)
        contents[f"/{part}-images-idx3-ubyte.gz"] = gzip.compress(encode(images))
        contents[f"/{part}-labels-idx1-ubyte.gz"] = gzip.compress(encode(data.labels[:count]))
    for module in ("known", "load", "fetch"):  # gpucnn.data has functions of these names
        monkeypatch.setattr(sys.modules[f"gpucnn.data.{module}"], "home", lambda: tmp_path / "home")
    with serving(contents) as server:
        files = tuple(
            File(path[1:], len(data), hashlib.md5(data).hexdigest(), (server.url + path[1:],))
            for path, data in contents.items()
        )
        monkeypatch.setitem(KNOWN, "mnist", KnownSet("mnist", "a small MNIST", files))
        yield server


def test_fetch_list_and_train_by_name(cli, mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "fetch it with `gpucnn data fetch mnist`" in cli.refused("train", "--data", "mnist", "--epochs", 1)
    assert {row["name"]: row["here"] for row in cli.json("data", "list")["sets"]} == {
        "digits": True,
        "shapes": True,
        "mnist": False,
        "fashion-mnist": False,
        "cifar-10": False,
        "cifar-100": False,
    }
    result = cli("data", "fetch", "mnist", "--json")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert values == {"data": "mnist", "folder": str(tmp_path / "home" / "mnist"), "use": "gpucnn train --data mnist"}
    assert "train-images-idx3-ubyte.gz: fetching" in result.stderr and "its digest is being checked" in result.stderr
    assert cli.json("data", "list")["sets"][1]["here"]
    assert "mnist" in cli("data", "list").stdout
    trained = cli.json("train", "--data", "mnist", "--epochs", 1, "--run", "run")
    assert cli.json("evaluate", "--run", "run")["test_loss"] == trained["test_loss"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["data"] == "mnist"


def test_fetch_into_a_folder(cli, mnist, tmp_path):
    values = cli.json("data", "fetch", "mnist", "--to", tmp_path / "over here")
    assert values["use"] == f"gpucnn train --data '{tmp_path / 'over here'}'", "as a shell takes it"
    assert len(load(tmp_path / "over here")[0].images) == 200


def test_fetch_refused(cli, mnist, tmp_path):
    assert "there is no data set 'mnits' to fetch" in cli.refused("data", "fetch", "mnits")
    mnist.status = 404
    assert "the server says 404" in cli.refused("data", "fetch", "mnist").splitlines()[-1]
    assert "Usage: gpucnn data fetch" in cli.refused("data", "fetch")


AUGMENTED = ("--crop", 28, "--flip", "--cutout", 6, "--normalize", "--batch-size", 256)


@pytest.fixture(scope="module")
def augmented(cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented") / "run"
    return folder, cli.json("train", "--epochs", 2, *AUGMENTED, "--schedule", "constant", "--run", folder)


def test_evaluate_and_predict_know_how_images_come_in(cli, augmented, tmp_path):
    folder, values = augmented
    model = load_run(folder).model
    assert model.input_shape == (1, 28, 28) and model.image_shape == (1, 32, 32) and len(model.mean) == 1
    assert cli.json("evaluate", "--run", folder)["test_loss"] == values["test_loss"]
    _, test = load("digits")
    pixels = np.round(test.images[0, 0, ::4, ::4] * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    predicted = cli.json("predict", tmp_path / "digit.png", "--run", folder)
    assert predicted["notes"] == ["resized from 8x8 to 32x32 pixels, each pixel repeated"]
    seen = (pixels.repeat(4, 0).repeat(4, 1) / np.float32(255))[2:30, 2:30]
    seen = (seen - np.float32(model.mean[0])) * (np.float32(1) / np.float32(model.std[0]))
    model.image_shape, model.mean, model.std = model.input_shape, None, None
    from gpucnn.training import Trainer

    expected = Trainer(model, backend=predicted["backend"], progress=False).predict(seen[None, None])
    assert list(predicted["predictions"][0]["probabilities"].values()) == expected[0].tolist()


def test_an_augmented_run_resumes_with_its_own_settings(cli, augmented, tmp_path):
    settings = (*AUGMENTED, "--schedule", "constant", "--run", tmp_path / "part")
    cli.json("train", "--epochs", 1, *settings)
    resumed = cli.json("train", "--resume", "--epochs", 2, "--run", tmp_path / "part")
    assert resumed["weights_sha256"] == augmented[1]["weights_sha256"]
    assert "flip" in cli.refused("train", "--resume", "--run", tmp_path / "part", "--no-flip").splitlines()[-1]


def test_wrong_augmentation(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "crop is 33, but the images have 32x32 pixels" in cli.refused("train", "--crop", 33)
    assert "cutout is 40" in cli.refused("train", "--cutout", 40)
    assert "Usage" in cli.refused("train", "--crop", 0)
    assert not list(tmp_path.iterdir())
    np.savez("flat.npz", images=np.zeros((10, 2, 64), np.uint8), labels=np.arange(10) % 2)
    refused = cli.refused("train", "--model", "mlp", "--data", "flat.npz")
    assert "shift is 2 (2 unless given), but the images have 2x64 pixels; give --shift 0, or less than" in refused


def test_classes_that_no_test_image_is_of_are_said(cli, tmp_path):
    file, run = tmp_path / "rare.npz", tmp_path / "run"
    np.savez(file, images=np.zeros((21, 8, 8), np.uint8), labels=[0] * 20 + [1], classes=["usual", "rare"])
    said = "there is no test image of class rare: what the test measures says nothing about that"
    settings = ("--model", "mlp", "--hidden", 4, "--epochs", 1, "--run", run)
    assert said in cli("train", "--data", file, *settings).stderr
    assert said in cli("evaluate", "--run", run).stderr
    np.savez(file, images=np.zeros((26, 8, 8), np.uint8), labels=[0] * 20 + [1] * 6, classes=["usual", "rare"])
    assert "no test image" not in cli("evaluate", "--run", run).stderr


def test_training_on_mapped_files(cli, tmp_path):
    train, _ = load("digits")
    images, labels = np.round(train.images[:200] * 255).astype(np.uint8), train.labels[:200]
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "same.npz", images=images, labels=labels)
    digests = {
        cli.json("train", "--data", path, "--epochs", 1, "--run", tmp_path / f"run{i}")["weights_sha256"]
        for i, path in enumerate((tmp_path, tmp_path / "same.npz"))
    }
    assert len(digests) == 1


def test_test_images_that_are_trained_on_are_noted(cli, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    labels = np.arange(40) % 2
    for name, test in (("own", slice(30, 40)), ("known", slice(20, 40))):
        np.savez(
            tmp_path / f"{name}.npz", x_train=images[:30], y_train=labels[:30], x_test=images[test], y_test=labels[test]
        )
        run = cli(
            "train",
            "--data",
            tmp_path / f"{name}.npz",
            "--model",
            "mlp",
            "--hidden",
            4,
            "--epochs",
            1,
            "--run",
            tmp_path / name,
        )
        assert ("10 of the 20 test images are training images too" in run.stderr) == (name == "known")
