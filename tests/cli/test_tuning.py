"""Fine-tuning, averages, explanations and doubtful labels from the command line."""

import json
import shutil

import numpy as np
import pytest

import gpucnn
from gpucnn import explain
from gpucnn.data import load
from gpucnn.training import load_run


def test_a_run_begins_with_the_weights_of_another(cli, trained, tmp_path):
    options = ("--start", trained[0], "--freeze", "0,2", "--lr-factors", "5=0.5,7=2", "--epochs", 1)
    values = cli.json("train", *options, "--run", tmp_path / "a")
    found, source = (load_run(run).model for run in (tmp_path / "a", trained[0]))
    assert found.frozen == ["0", "2"]
    for name, value in source.state_dict().items():
        assert (value.tobytes() == found.state_dict()[name].tobytes()) == (name[0] in "02"), name
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["lr_factors"] == [["5", 0.5], ["7", 2.0]] and config["frozen"] == ["0", "2"]
    # Resumed, it asks for nothing that it began with.
    moved = tmp_path / "moved"
    shutil.copytree(trained[0], moved)
    cli.json(
        "train",
        "--start",
        moved,
        "--freeze",
        "0,2",
        "--lr-factors",
        "5=0.5,7=2",
        "--epochs",
        1,
        "--run",
        tmp_path / "b",
    )
    shutil.rmtree(moved)
    again = cli.json("train", "--resume", "--run", tmp_path / "b", "--backend", "numba")
    assert again["weights_sha256"] == values["weights_sha256"]


def test_the_average_is_what_is_tested(cli, tmp_path):
    values = cli.json("train", "--epochs", 1, "--ema", 0.9, "--mixup", 0.2, "--erase", 0.2, "--run", tmp_path / "a")
    _, test = load("digits")
    model = load_run(tmp_path / "a").model
    assert model.weights_sha256() == values["weights_sha256"]
    plain = gpucnn.Trainer(model, progress=False)
    assert plain.evaluate(test.images, test.labels)[1] == values["test_accuracy"]
    flipped = cli.json("evaluate", "--run", tmp_path / "a", "--flips")["test_accuracy"]
    assert flipped == (model.predict(test.images, flips=True).argmax(1) == test.labels).mean()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--freeze", "9"), "matches no layer"),
        (("--lr-factors", "0"), "give patterns and numbers"),
        (("--lr-factors", "12=1"), "matches no layer or parameter"),
        (("--ema", 1), "ema is 1"),
        (("--mixup", 2), "mixup is 2"),
        (("--start", "nowhere"), "nowhere"),
    ],
)
def test_refusals(cli, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in cli.refused("train", "--epochs", 1, *options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["saliency", "occlusion", "gradcam"])
def test_explanations(cli, trained, tmp_path, kind):
    _, test = load("digits")
    model = load_run(trained[0]).model
    values = cli.json("show", kind, 7, "--run", trained[0], "--of", 3, "--out", tmp_path / "p.png")
    expected = {
        "saliency": lambda: explain.saliency(model, test.images[7:8], 3)[0],
        "occlusion": lambda: explain.occlusion(model, test.images[7], 3),
        "gradcam": lambda: explain.grad_cam(model, test.images[7:8], 3)[0],
    }[kind]()
    assert np.array_equal(np.array(values["map"], np.float32), expected)
    assert values["class"] == "3" and values["probability"] == model.predict(test.images[7:8])[0, 3]
    assert (values["row"], values["column"]) == np.unravel_index(expected.argmax(), expected.shape)
    text = cli("show", kind, 7, "--run", trained[0], "--of", 3, "--out", tmp_path / "p.png").stdout
    assert f"largest      {expected.max():.4f}\n" in text, "not 0.0"
    assert "classes are 0, 1" in cli.refused("show", kind, 7, "--run", trained[0], "--of", "cat")


def test_doubts(cli, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = rng.integers(0, 60, (60, 16, 16)).astype(np.uint8)
    x[np.arange(60), 2 + 4 * y] = 255
    y[[4, 9]] = (y[[4, 9]] + 1) % 3
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    options = ("--data", tmp_path / "d.npz", "--epochs", 12, "--folds", 3, "--out", tmp_path / "p.png")
    values = cli.json("show", "doubts", *options)
    assert {4, 9} <= {doubt["image"] for doubt in values["doubts"][:5]} and values["images"] == 60
