"""Validation, networks' options and --no-graph from the command line."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.models import lenet5
from gpucnn.training import load_run
from tests.cli.test_refusals import sentence

SMALL = ("--model", "mlp", "--hidden", "12", "--batch-size", 256, "--optimizer", "sgd", "--schedule", "constant")


@pytest.fixture(scope="module")
def validated(cli, tmp_path_factory):
    """(run folder, what train printed): a perceptron whose best epoch is not its last,
    because the rate is too large.
    """
    folder = tmp_path_factory.mktemp("validated") / "run"
    made = cli.json(
        "train",
        *SMALL,
        "--lr",
        1.5,
        "--epochs",
        12,
        "--validation",
        0.2,
        "--run",
        folder,
        "--backend",
        "numpy",
    )
    assert made["best_epoch"] < 12, "the tests need a run whose best epoch is not the last"
    return folder, made


def test_train_tests_the_best_epoch(cli, validated):
    folder, made = validated
    run = load_run(folder, best=True)
    assert run.epoch == made["best_epoch"] == run.history.best_epoch()
    assert made["weights_sha256"] == run.model.weights_sha256() != load_run(folder).model.weights_sha256()
    assert made["validation_loss"] == min(run.history["validation_loss"])
    assert len(run.history) == 12 and (folder / "best.safetensors").is_file()


def test_evaluate_and_predict_take_the_best_and_say_so(cli, validated, tmp_path):
    folder, made = validated
    common = ("--run", folder, "--backend", "numpy")
    result = cli("evaluate", *common, "--json")
    assert f"using the weights of epoch {made['best_epoch']} of 12, the best in validation" in result.stderr
    best = json.loads(result.stdout)
    assert (best["test_loss"], best["weights_sha256"]) == (made["test_loss"], made["weights_sha256"])
    result = cli("evaluate", *common, "--weights", "last", "--json")
    assert "the best in validation" not in result.stderr
    assert json.loads(result.stdout)["weights_sha256"] == load_run(folder).model.weights_sha256()
    Image.fromarray(np.tri(32, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    answers = [
        cli.json("predict", tmp_path / "a.png", *common, "--weights", which)["predictions"][0]["probabilities"]
        for which in ("best", "last")
    ]
    assert answers[0] != answers[1]
    assert "use best or last" in sentence(cli.refused("evaluate", *common, "--weights", "first"))
    assert "leave out --weights" in sentence(
        cli.refused("evaluate", "--run", folder / "best.safetensors", "--weights", "best", "--data", "digits")
    )


def test_a_run_whose_best_file_is_gone_says_what_it_uses(cli, validated, tmp_path):
    run = shutil.copytree(validated[0], tmp_path / "run")
    (run / "best.safetensors").unlink()
    result = cli("evaluate", "--run", run, "--backend", "numpy")
    assert "has lost best.safetensors, the best epoch's weights: using those of the last, 12" in result.stderr
    assert "lost" not in cli("evaluate", "--run", run, "--backend", "numpy", "--weights", "last").stderr


def test_a_run_without_validation_has_no_best(cli, trained):
    assert "no best epoch" in sentence(cli.refused("evaluate", "--run", trained[0], "--weights", "best"))


def test_patience_stops_and_resumes_to_the_same(cli, tmp_path):
    train = ("train", *SMALL, "--lr", 1.5, "--validation", 0.2, "--backend", "numpy", "--run", tmp_path / "run")
    result = cli(*train, "--epochs", 60, "--patience", 2, "--monitor", "accuracy", "--json")
    assert "no better validation accuracy since epoch" in result.stderr
    made = json.loads(result.stdout)
    assert made["epochs"] == made["best_epoch"] + 2 < 60
    assert cli.json("train", "--resume", "--run", tmp_path / "run", "--backend", "numpy") == {
        **made,
        **{key: pytest.approx(made[key]) for key in ("seconds", "images_per_second")},
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--validation", 1), "above 0 and below 1"),
        (("--patience", 3), "needs validation"),
        (("--monitor", "accuracy"), "needs --validation"),
        (("--validation", 0.1, "--monitor", "speed"), "use one of loss, accuracy"),
        (("--model", "mlp", "--variant", "1998"), "lenet5 has it"),
        (("--model", "mlp", "--hidden", "many"), "such as 300,100"),
        (("--variant", "1999"), "modern, 1998"),
    ],
)
def test_wrong_settings(cli, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert words in sentence(cli.refused("train", *options))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_networks_options(cli, tmp_path):
    run = tmp_path / "run"
    cli.json("train", "--variant", "1998", "--epochs", 1, "--batch-size", 512, "--run", run, "--backend", "numpy")
    model = load_run(run).model
    assert model.arguments["variant"] == "1998" and "tanh" in model.structure
    assert cli.json("evaluate", "--run", run, "--backend", "numpy")["images"] == 359
    assert cli.json("train", "--resume", "--run", run, "--backend", "numpy")["epochs"] == 1
    assert cli.json("summary", "--run", run)["rows"] == cli.json("summary", "--variant", "1998")["rows"]
    rows = cli.json("summary", "--variant", "1998")["rows"]
    assert [row["kind"] for row in rows][1] == "AvgPool2d"
    assert cli.json("summary", "--model", "mlp", "--hidden", "7", "--classes", 3)["total"]["parameters"] == 7199
    assert cli.json("summary", "--model", "mlp", "--hidden", "", "--outputs", 2)["total"]["parameters"] == 2050
    assert "exclude each other" in sentence(cli.refused("summary", "--classes", 2, "--outputs", 2))


def test_predict_with_a_regressor(cli, tmp_path):
    model = lenet5((1, 16, 16), outputs=2).initialize(0).place(get_backend("numpy"))
    gpucnn.save(model, tmp_path / "m.safetensors")
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / "a.png")
    common = (tmp_path / "a.png", "--run", tmp_path / "m.safetensors", "--backend", "numpy")
    values = cli.json("predict", *common)["predictions"][0]["values"]
    assert values == model.predict(np.ones((1, 1, 16, 16), np.float32))[0].tolist()
    assert f"{values[0]:g}" in cli("predict", *common).stdout
    assert "is a regressor" in sentence(
        cli.refused("evaluate", "--run", tmp_path / "m.safetensors", "--data", "digits")
    )


def test_no_graph(cli, trained, tmp_path):
    result = cli("evaluate", "--run", trained[0], "--no-graph", "--json")
    assert json.loads(result.stdout)["test_loss"] == trained[1]["test_loss"]
    if json.loads(result.stdout)["backend"] == "numba":
        assert "--no-graph" not in result.stderr
    result = cli("evaluate", "--run", trained[0], "--no-graph", "--backend", "numpy", "--json")
    assert "numpy records no steps: --no-graph changes nothing on it" in result.stderr
    again = cli.json("train", "--epochs", 2, "--no-graph", "--run", tmp_path / "run")
    assert again["weights_sha256"] == trained[1]["weights_sha256"]
