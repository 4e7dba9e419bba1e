"""gpucnn train with label smoothing, class weights and clipping."""

import json

import numpy as np
import pytest

from gpucnn.cli.settings import measuring
from gpucnn.layers import Conv2d
from gpucnn.losses import Dice
from gpucnn.models import Model
from gpucnn.training import Trainer

COMMON = ("train", "--epochs", 1, "--batch-size", 512)
WEIGHTS = "1,2,1,1,1,1,1,1,1,0.5"


@pytest.fixture(scope="module")
def plain(cli, tmp_path_factory):
    return cli.json(*COMMON, "--run", tmp_path_factory.mktemp("plain") / "run")


def test_each_option_changes_the_weights_and_evaluate_agrees_with_train(cli, tmp_path, plain):
    variants = [
        ("--label-smoothing", 0.1),
        ("--class-weights", "balanced"),
        ("--class-weights", WEIGHTS),
        ("--clip-norm", 0.05),
        ("--clip-value", 0.001),
    ]
    hashes = {plain["weights_sha256"]}
    for number, variant in enumerate(variants):
        values = cli.json(*COMMON, *variant, "--run", tmp_path / str(number))
        hashes.add(values["weights_sha256"])
        # The plain loss, whatever it was trained with.
        again = cli.json("evaluate", "--run", tmp_path / str(number))
        assert (again["test_loss"], again["test_accuracy"]) == (values["test_loss"], values["test_accuracy"])
    assert len(hashes) == len(variants) + 1


def test_limits_that_nothing_reaches_change_nothing(cli, tmp_path, plain):
    values = cli.json(*COMMON, "--clip-norm", 1e6, "--clip-value", 1e6, "--run", tmp_path / "run")
    assert values["weights_sha256"] == plain["weights_sha256"]


def test_resume_takes_the_runs_settings(cli, tmp_path):
    given = (
        "--batch-size",
        512,
        "--schedule",
        "constant",
        "--label-smoothing",
        0.1,
        "--class-weights",
        "balanced",
        "--clip-norm",
        0.5,
    )
    whole = cli.json("train", "--epochs", 2, *given, "--run", tmp_path / "whole")
    cli.json("train", "--epochs", 1, *given, "--run", tmp_path / "cut")
    resumed = cli.json("train", "--epochs", 2, "--resume", "--run", tmp_path / "cut")
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["loss"]["label_smoothing"] == 0.1 and len(config["loss"]["class_weights"]) == 10
    assert config["clip"] == {"norm": 0.5, "value": None} and config["train"]["class_weights"] == "balanced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-smoothing", "1"], "label_smoothing is 1.0"),
        (["--class-weights", "1,2"], "2 numbers"),
        (["--class-weights", "heavy"], "give balanced, or a number for each class"),
        (["--class-weights", "0,1,1,1,1,1,1,1,1,1"], "above 0"),
        (["--clip-norm", "0"], "clip_norm is 0.0"),
        (["--clip-value", "-1"], "clip_value is -1.0"),
        (["--clip-norm", "nan"], "clip_norm is nan"),
    ],
)
def test_refusals(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    last = cli.refused("train", *arguments).splitlines()[-1]
    assert last.startswith("gpucnn: ") and message in last
    assert not list(tmp_path.iterdir())  # and leaves nothing behind


def test_what_was_trained_with_dice_is_measured_with_dice():
    """The loss without smoothing and weights, of the kind that was trained; accuracy too, which Dice does not have."""
    model, rng = Model(Conv2d(3, 1), (1, 4, 4)), np.random.default_rng(0)
    images, labels = rng.random((9, 1, 4, 4), np.float32), rng.integers(0, 3, (9, 4, 4))
    trainer = Trainer(model, backend="numpy", loss=Dice(), metrics=["iou", "accuracy"], progress=False)
    found = measuring(model, trainer.backend, "dice", ["iou"]).measure(images, labels)
    assert found == trainer.measure(images, labels) and set(found) == {"loss", "accuracy", "iou"}
    plain = Trainer(model, backend="numpy", progress=False).measure(images, labels)
    assert measuring(model, trainer.backend, "cross-entropy", ["accuracy"]).measure(images, labels) == plain
