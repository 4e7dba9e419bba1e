"""What each command does and prints when the input is right."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.cli.output import print_measured
from gpucnn.data import load
from gpucnn.models import mlp, unet_small

TRAIN_KEYS = [
    "backend",
    "math",
    "epochs",
    "test_accuracy",
    "test_loss",
    "seconds",
    "images_per_second",
    "weights_sha256",
    "run",
]


def test_train_prints_its_keys_and_learns(trained):
    folder, values = trained
    assert list(values) == TRAIN_KEYS
    assert values["epochs"] == 2
    assert values["math"] == "exact"
    assert values["test_accuracy"] > 0.8
    assert 0 < values["test_loss"] < 1
    assert values["seconds"] > 0
    assert values["images_per_second"] > 0
    assert values["run"] == str(folder)
    assert (folder / "checkpoint.safetensors").is_file()


def test_train_for_people(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("train", "--epochs", 1, "--batch-size", 512)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == TRAIN_KEYS
    assert "exact math" in result.stderr
    assert "compiles kernels" in result.stderr
    assert (tmp_path / "runs" / "lenet5-digits-1" / "checkpoint.safetensors").is_file()
    again = cli.json("train", "--epochs", 1, "--batch-size", 512)
    assert again["run"] == "runs/lenet5-digits-2"
    assert again["weights_sha256"] in result.stdout  # same seed, same weights


@pytest.mark.slow
def test_seed_and_options_change_the_weights(cli, tmp_path):
    common = ("train", "--epochs", 1, "--batch-size", 512)
    variants = (
        (),
        ("--seed", 1),
        ("--shift", 0),
        ("--lr", 0.003),
        ("--optimizer", "sgd"),
        ("--schedule", "one-cycle"),
        ("--schedule", "step", "--optimizer", "adam"),
        ("--weight-decay", 0),
    )
    hashes = {
        cli.json(*common, *variant, "--run", tmp_path / str(i))["weights_sha256"] for i, variant in enumerate(variants)
    }
    assert len(hashes) == len(variants)


def test_threads_do_not_change_the_weights(cli, tmp_path, trained):
    values = cli.json("train", "--epochs", 2, "--threads", 1, "--run", tmp_path / "run")
    assert values["weights_sha256"] == trained[1]["weights_sha256"]


def test_resume_with_the_runs_own_settings(cli, tmp_path):
    """Interrupted after one of three epochs: a copy of the folder as it was then, continued with --resume alone."""
    settings = ("--batch-size", 256, "--lr", 0.003, "--seed", 7, "--schedule", "constant", "--shift", 1)
    whole = cli.json("train", "--epochs", 3, *settings, "--run", tmp_path / "whole")
    cli.json("train", "--epochs", 1, *settings, "--run", tmp_path / "part")
    resumed = cli.json("train", "--resume", "--epochs", 3, "--run", tmp_path / "part")
    assert resumed["epochs"] == 3
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert cli.json("train", "--resume", "--run", tmp_path / "part")["weights_sha256"] == whole["weights_sha256"]


def test_resume_of_a_run_killed_before_its_first_checkpoint(cli, tmp_path, trained):
    copy = tmp_path / "run"
    copy.mkdir()
    shutil.copy(trained[0] / "config.json", copy)
    assert cli.json("train", "--resume", "--run", copy)["weights_sha256"] == trained[1]["weights_sha256"]


def test_a_checkpoint_without_its_settings_is_not_continued_with_others(cli, tmp_path, trained):
    copy = tmp_path / "run"
    copy.mkdir()
    shutil.copy(trained[0] / "checkpoint.safetensors", copy)
    words = "holds a checkpoint but no config.json, which says how the run was started; put that file back"
    assert words in cli.refused("train", "--resume", "--epochs", 3, "--run", copy).replace("\n", " ")


def test_resume_of_a_run_killed_before_it_wrote_anything(cli, tmp_path, trained):
    result = cli("train", "--resume", "--epochs", 2, "--run", tmp_path / "run", "--json")
    assert "holds no run yet: starting from the first epoch" in result.stderr
    assert json.loads(result.stdout)["weights_sha256"] == trained[1]["weights_sha256"]


def test_train_on_files(cli, tmp_path, monkeypatch):
    train, _ = load("digits")
    np.savez(tmp_path / "small.npz", images=train.images[:200, 0, ::2, ::2], labels=train.labels[:200])
    monkeypatch.chdir(tmp_path)
    values = cli.json("train", "--data", "small.npz", "--epochs", 1, "--run", "run")
    monkeypatch.chdir("/")  # the run knows its data from anywhere
    evaluated = cli.json("evaluate", "--run", tmp_path / "run")
    assert evaluated["test_loss"] == values["test_loss"]
    assert evaluated["images"] == 40


def test_evaluate_agrees_with_train(cli, trained):
    folder, values = trained
    evaluated = cli.json("evaluate", "--run", folder)
    assert list(evaluated) == [
        "backend",
        "math",
        "data",
        "images",
        "test_accuracy",
        "test_loss",
        "seconds",
        "images_per_second",
        "weights_sha256",
        "run",
    ]
    for key in ("backend", "math", "test_accuracy", "test_loss", "weights_sha256", "run"):
        assert evaluated[key] == values[key]
    assert evaluated["data"] == "digits"
    assert evaluated["images"] == 359


@pytest.mark.parametrize("maps", [False, True])
def test_all_that_evaluate_says_with_flips_is_of_both(cli, tmp_path, maps):
    random, shape = np.random.default_rng(0), (1, 8, 8)
    model = unet_small(shape, classes=3) if maps else mlp(shape, classes=3, hidden=[4])
    images = random.random((20, *shape), np.float32)
    labels = random.integers(0, 3, (20, 8, 8) if maps else 20)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays, classes=np.array(["a", "b", "c"]))
    gpucnn.save(model.initialize(0), tmp_path / "m.safetensors")
    options = ("--run", tmp_path / "m.safetensors", "--data", tmp_path / "data.npz", "--backend", "numpy")
    said = cli.json("evaluate", *options, "--flips", "--metrics", "confusion")
    p = model.place(get_backend("numpy")).predict(images, flips=True)
    hits = p.argmax(1) == labels
    own = np.take_along_axis(p, labels[:, None], 1)
    assert said["test_accuracy"] == hits.mean() and said["test_loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert np.trace(said["test_confusion"]) == hits.sum() and np.sum(said["test_confusion"]) == labels.size


def test_evaluate_on_another_backend(cli, trained):
    evaluated = cli.json("evaluate", "--run", trained[0], "--backend", "numpy", "--math", "fast")
    assert (evaluated["backend"], evaluated["math"]) == ("numpy", "fast")
    assert evaluated["test_accuracy"] == pytest.approx(trained[1]["test_accuracy"], abs=2 / 359)
    assert evaluated["test_loss"] == pytest.approx(trained[1]["test_loss"], rel=1e-4)


def test_evaluate_a_saved_model(cli, trained, tmp_path):
    model = gpucnn.load(trained[0] / "checkpoint.safetensors")
    gpucnn.save(model, tmp_path / "model.safetensors")
    evaluate = ("evaluate", "--run", tmp_path / "model.safetensors")
    assert cli.json(*evaluate, "--data", "digits")["test_loss"] == trained[1]["test_loss"]
    assert "does not say what it was trained on; give --data" in cli.refused(*evaluate)


def test_predict_a_file_and_a_folder(cli, trained, tmp_path):
    """Test images of the digits, written at their original 8x8 pixels, get the network's own answers."""
    _, test = load("digits")
    model = gpucnn.load(trained[0] / "checkpoint.safetensors")
    expected = gpucnn.Trainer(model, progress=False).predict(test.images[:4])
    for i in range(4):
        pixels = (test.images[i, 0, ::4, ::4] * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    values = cli.json("predict", tmp_path, "--run", trained[0])
    assert list(values) == ["backend", "math", "run", "notes", "refused", "predictions"]
    assert values["notes"] == ["resized from 8x8 to 32x32 pixels, each pixel repeated"]
    for i, prediction in enumerate(values["predictions"]):
        assert prediction["file"] == str(tmp_path / f"{i}.png")
        assert prediction["class"] == str(expected[i].argmax())
        # a pixel is at most half of 1/255 away from its sixteenth
        assert list(prediction["probabilities"].values()) == pytest.approx(expected[i].tolist(), abs=0.02)
        assert prediction["probability"] == max(prediction["probabilities"].values())
    several = cli.json("predict", tmp_path / "2.png", tmp_path / "1.png", tmp_path, "--run", trained[0])
    assert [Path(found["file"]).name for found in several["predictions"]] == ["2.png", "1.png", "0.png", "3.png"]
    missing = cli.refused("predict", tmp_path / "0.png", tmp_path / "9.png", "--run", trained[0])
    assert "9.png does not exist; give an image file, or a folder of them" in missing
    result = cli("predict", tmp_path / "0.png", "--run", trained[0])
    assert result.exit_code == 0
    assert values["predictions"][0]["class"] in result.stdout
    assert "resized from 8x8 to 32x32" in result.stderr


def test_a_network_that_gives_nan_has_no_answer(cli, tmp_path):
    """It was the class 0, nan% likely, in JSON that other programs do not read."""
    train, test = gpucnn.data.load("digits")
    settings = {
        "optimizer": gpucnn.optimizers.SGD(1e13),
        "run": tmp_path / "run",
        "about": {"train": {"data": "digits"}},
    }
    trainer = gpucnn.Trainer(gpucnn.models.lenet5(), backend="numba", progress=False, **settings)
    trainer.fit(train.images[:64], train.labels[:64], 1)
    Image.fromarray((255 * test.images[0, 0]).astype(np.uint8)).save(tmp_path / "a.png")
    picture = ("--out", tmp_path / "picture.png")
    words = "train it with a smaller learning rate, or prepare them alike\n"
    for command in (
        ("predict", tmp_path / "a.png"),
        ("evaluate",),
        ("evaluate", "--flips"),
        ("show", "confusion", *picture),
        ("show", "mistakes", *picture),
    ):
        refused = cli.refused(*command, "--run", tmp_path / "run")
        assert "run gives NaN or infinity: its weights have become too large, or " in refused and refused.endswith(
            words
        )
    assert "the network's answers hold" in cli.refused("show", "scores", "--run", tmp_path / "run", *picture)
    one_step = ("--optimizer", "sgd", "--lr", 1e13, "--epochs", 1, "--batch-size", 2000)
    assert cli.refused("train", *one_step, "--run", tmp_path / "another run").endswith(words)
    assert not (tmp_path / "picture.png").exists()


def test_newest_run_is_the_default(cli, trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    result = cli("evaluate", "--json")
    assert "using runs/mine, the newest run" in result.stderr
    assert json.loads(result.stdout)["run"] == "runs/mine"


def test_backends(cli):
    rows = {row["name"]: row for row in cli.json("backends")["backends"]}
    assert set(rows) >= {"numpy", "numba"}
    for row in rows.values():
        assert set(row) >= {"name", "usable", "reason", "math", "default", "device", "threads"}
        assert row["usable"] == (row["reason"] is None)
    assert [row["name"] for row in cli.json("backends", "--backend", "numpy")["backends"]] == ["numpy"]
    assert "numba" not in {row["name"] for row in cli.json("backends", "--math", "fast")["backends"]}
    shown = cli("backends").stdout
    assert "numba" in shown
    assert "exact (default)" in " ".join(shown.split())


def test_summary(cli):
    values = cli.json("summary")
    assert values["total"]["parameters"] == 61_706
    assert values["rows"][0]["output"] == [6, 28, 28]
    assert {"backend", "math"} <= set(values)
    assert cli.json("summary", "--input-shape", "1x28x28")["total"]["parameters"] == 61_706
    assert "61,706" in cli("summary", "--model", "lenet5").stdout
    assert cli("summary", "--model", "resnet20", "--input-shape", "3x32x32").exit_code == 0


def test_summary_of_a_file(cli, tmp_path):
    file = tmp_path / "net.safetensors"
    gpucnn.save(mlp((1, 4, 4), hidden=[5], classes=3).initialize(0), file)
    assert cli.json("summary", "--run", file)["total"]["parameters"] == 17 * 5 + 6 * 3
    refused = cli.refused("summary", "--run", file, "--hidden", "5")
    assert "--hidden exclude each other" in " ".join(refused.split())
    assert "none" in cli.refused("summary", "--run", tmp_path / "none")


def test_check_reports_and_fails_on_a_difference(cli, monkeypatch):
    importlib.import_module("gpucnn.check")
    report = {
        "passed": True,
        "operations": [{"name": "conv", "backend": "numba", "values": 1200, "differing": 0}],
        "training": [{"network": "lenet5", "backend": "numba", "weights_sha256": "ab", "expected_sha256": "ab"}],
        "differences": [],
    }
    asked = []

    def check(backends, *, threads=None, progress=None, emulate=False, graph=True, processes=None):
        asked.append((backends, threads, emulate, graph))
        progress("working")
        return report

    monkeypatch.setattr(sys.modules["gpucnn.check"], "check", check)
    assert cli.json("check") == report
    assert cli("check", "--backends", "numba,numpy", "--threads", 1).exit_code == 0
    assert cli("check", "--emulate", "--no-graph").exit_code == 0
    assert asked == [(None, None, False, True), (["numba", "numpy"], 1, False, True), (None, None, True, False)]
    report = {**report, "passed": False, "differences": ["conv: index (0, 1) is 1.0 on numpy and 1.5 on numba"]}
    result = cli("check", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == report
    result = cli("check")
    assert result.exit_code == 1
    assert "index (0, 1) is 1.0 on numpy and 1.5 on numba" in " ".join(result.stdout.split())


def test_data_with_some_of_the_classes(cli, tmp_path):
    """Classes are known by their names, as of folders, whatever number they have."""
    train, _ = load("digits")
    for place, kept in (("all", "0123"), ("some", "13")):
        for i, (image, label) in enumerate(zip(train.images[:300], train.labels)):
            if str(label) in kept:
                (tmp_path / place / f"n{label}").mkdir(parents=True, exist_ok=True)
                Image.fromarray((image[0] * 255).astype(np.uint8)).save(tmp_path / place / f"n{label}" / f"{i}.png")
    run = ("--run", tmp_path / "run")
    cli.json("train", "--data", tmp_path / "all", "--model", "mlp", "--hidden", 16, "--epochs", 30, *run)
    found = cli("evaluate", *run, "--data", tmp_path / "some", "--json")
    assert "there is no test image of class n0, n2" in found.stderr
    assert json.loads(found.stdout)["test_accuracy"] > 0.8
    counts = cli.json("show", "confusion", *run, "--data", tmp_path / "some", "--out", tmp_path / "a.png")["counts"]
    assert [sum(row) > 0 for row in counts] == [False, True, False, True]


def test_data_that_was_prepared_otherwise_is_noted(cli, tmp_path):
    images, labels = np.random.default_rng(0).random((40, 8, 8), np.float32), np.arange(40) % 2
    for name, factor in (("a", 1), ("b", 1), ("c", 255)):
        np.savez(tmp_path / f"{name}.npz", images=images * np.float32(factor), labels=labels)
    run = ("--run", tmp_path / "run")
    cli.json("train", "--data", tmp_path / "a.npz", "--model", "mlp", "--hidden", 4, "--epochs", 1, *run)
    for name in "bc":
        said = cli("evaluate", *run, "--data", tmp_path / f"{name}.npz").stderr
        assert ("prepare both alike, such as images / 255" in said) == (name == "c")


def test_values_for_each_class_stand_beside_its_name(cli, trained):
    metrics = ("evaluate", "--run", trained[0], "--metrics", "f1_per_class,confusion,top3")
    found = cli.json(*metrics)
    assert found["classes"] == [str(n) for n in range(10)] and len(found["test_confusion"]) == 10
    lines = [line.split() for line in cli(*metrics).stdout.splitlines()]
    for name, value, row in zip(found["classes"], found["test_f1_per_class"], found["test_confusion"]):
        assert [name, f"{value:.4f}"] in lines and [name, *map(str, row)] in lines
    assert ["test_top3", f"{found['test_top3']:.4f}"] in lines
    assert "classes" not in cli.json("evaluate", "--run", trained[0], "--metrics", "top3")


def test_names_of_classes_do_not_steer_the_terminal_from_a_heading(capsys):
    print_measured({"loss": 1.0, "test_confusion": [[3, 1], [0, 2]]}, ["a\x1b[31mb", "\u202ec"], json=False)
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said
    assert said.count("\\x1b[31m") == said.count("\\u202ec") == 2  # above its column and before its row


def test_a_confusion_matrix_that_no_terminal_shows_is_not_printed(capsys):
    print_measured({"loss": 1.0, "test_confusion": [[0] * 30] * 30}, [f"n{i}" for i in range(30)], json=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "test_confusion: --json prints the 30 rows, and gpucnn show confusion draws them"
    ]
