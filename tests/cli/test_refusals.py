"""Wrong input ends with exit code 2 and one sentence on stderr; nothing on stdout, no traceback."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image


def sentence(stderr: str) -> str:
    """The last line, which must be gpucnn's one sentence."""
    line = stderr.splitlines()[-1]
    assert line.startswith("gpucnn: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model", "lenet6"], "lenet6"),
        (["train", "--backend", "cuda"], "there is no backend 'cuda'; there are: cupy"),
        (["train", "--math", "quick"], "has no math 'quick'"),
        (["train", "--backend", "numba", "--math", "fast"], "backend 'numba' has no math 'fast'; it has: exact"),
        (["train", "--data", "no-such-set"], "no-such-set is neither a built-in data set nor a path"),
        (["train", "--optimizer", "adagrad"], "no optimizer 'adagrad'; use one of sgd, adam, adamw"),
        (["train", "--schedule", "linear"], "no schedule 'linear'; use one of constant, step, cosine, one-cycle"),
        (["train", "--lr", "-1"], "lr is -1.0; give a number of 0 or more"),
        (["train", "--lr", "nan"], "lr is nan"),
        (["train", "--weight-decay", "-1"], "weight_decay is -1.0"),
        (["train", "--shift", "32"], "shift is 32"),
        (["train", "--seed", str(2**64)], "seed is"),
        (["train", "--resume"], "--resume needs --run FOLDER"),
        (["train", "--run", "/dev/null/run", "--epochs", "1"], "cannot use /dev/null/run as a run folder"),
        (["train", "--validation", "0.00001"], "leaves none to validate with"),
        (["evaluate"], "there is no trained network in runs/; run `gpucnn train` first"),
        (["train", "--run", ""], "a path is ''; give the name of a file or folder"),
        (["train", "--run", "s3://bucket/run"], "a path is 's3://bucket/run', an address; give a file or folder"),
        (["train", "--data", ""], "a path is ''; give the name of a file or folder"),
        (["evaluate", "--run", "nowhere"], "there is no file or folder nowhere; give"),
        (["predict", "a.png"], "there is no trained network"),
        (["summary", "--model", "lenet6"], "model is 'lenet6'; use one of lenet5"),
        (["summary", "--input-shape", "32"], "expected two to four whole numbers such as 1x32x32"),
        (["summary", "--input-shape", "1x4x4"], "4"),
        (["summary", "--input-shape", "1x99999999x99999999"], "there is not enough memory for this"),
        (["summary", "--backend", "cuda"], "there is no backend 'cuda'"),
        (
            ["tune", "vgg_small", "--backend", "numba"],
            "tiles are measured on the backend cupy; numba's kernels have none",
        ),
        (["tune", "vgg"], "model is 'vgg'; use one of lenet5"),
        (["tune", "lenet5", "--input-shape", "32"], "expected two to four whole numbers such as 1x32x32"),
        (["check", "--math", "fast"], "check compares bits"),
        (["check", "--backend", "cuda"], "there is no backend 'cuda'"),
        (["backends", "--backend", "cuda"], "there is no backend 'cuda'; there are: cupy, numba, numba-cuda, numpy"),
        (["backends", "--math", "quick"], "no backend has math 'quick'; math is exact or fast"),
    ],
)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_wrong_setting(cli, tmp_path, monkeypatch, arguments, message, json):
    monkeypatch.chdir(tmp_path)
    assert message in sentence(cli.refused(*arguments, *json))
    assert not list(tmp_path.iterdir())  # and leaves nothing behind


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["train", "--fly"],
        ["train", "--epochs", "0"],
        ["train", "--epochs", "x"],
        ["predict"],
        ["evaluate", "x"],
    ],
)
def test_usage_errors(cli, arguments):
    assert "Usage: gpucnn" in cli.refused(*arguments)


def test_a_used_run_folder_is_not_overwritten(cli, trained):
    assert "holds a run already" in sentence(cli.refused("train", "--epochs", 1, "--run", trained[0]))


def test_resume_with_other_settings(cli, trained, tmp_path):
    copy = shutil.copytree(trained[0], tmp_path / "run")
    for option, value, named in (
        ("--seed", 1, "seed was 0 there and is 1 now"),
        ("--model", "vgg_small", "another model"),
        ("--batch-size", 32, "batch_size was 64"),
        ("--epochs", 3, "epochs was 2"),  # the cosine's length
    ):
        assert named in sentence(cli.refused("train", "--resume", "--run", copy, option, value))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
@pytest.mark.parametrize("command", [["evaluate"], ["predict", "digit.png"], ["train", "--resume"]])
def test_checkpoint_cut_short(cli, trained, tmp_path, monkeypatch, command, keep):
    copy = shutil.copytree(trained[0], tmp_path / "run")
    file = copy / "checkpoint.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save("digit.png")
    assert "checkpoint.safetensors cannot be read: cut short" in sentence(cli.refused(*command, "--run", copy))


def test_run_folders_that_are_none(cli, trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    assert "config.json cannot be read" in sentence(cli.refused("train", "--resume", "--run", tmp_path / "run"))
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "not a run of `gpucnn train`" in sentence(cli.refused("train", "--resume", "--run", tmp_path / "run"))
    (tmp_path / "file").write_text("x")
    assert "cannot be read" in sentence(cli.refused("evaluate", "--run", tmp_path / "file"))
    assert "file" in sentence(cli.refused("train", "--epochs", 1, "--run", tmp_path / "file"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "all of it is [] where an object belongs"),
        ({"train": 3}, "train is 3"),
        ({"train": {"data": 3}}, "data is 3"),
        ({"train": {"optimizer": ["sgd"]}}, 'optimizer is ["sgd"]'),
        ({"train": {"epochs": "x"}}, 'epochs is "x"'),
    ],
)
def test_a_configuration_that_somebody_edited(cli, trained, tmp_path, config, message):
    copy = shutil.copytree(trained[0], tmp_path / "run")
    (copy / "config.json").write_text(json.dumps(config))
    assert message in sentence(cli.refused("evaluate", "--run", copy))
    line = sentence(cli.refused("train", "--resume", "--run", copy))
    assert message in line or (not isinstance(config.get("train") if config else None, dict) and "not a run" in line)


def test_images_that_cannot_be_predicted(cli, trained, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    run = ("--run", trained[0])
    assert "text.png as a PNG, JPEG, WebP, BMP, TIFF or GIF image" in sentence(
        cli.refused("predict", tmp_path / "text.png", *run)
    )
    assert "does not exist" in sentence(cli.refused("predict", tmp_path / "none.png", *run))
    (tmp_path / "empty").mkdir()
    assert "holds no PNG, JPEG, WebP, BMP, TIFF or GIF image" in sentence(
        cli.refused("predict", tmp_path / "empty", *run)
    )


def test_data_of_other_sizes_or_classes(cli, trained, tmp_path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "size.npz", images=random.random((20, 28, 28)), labels=np.arange(20) % 10)
    message = sentence(cli.refused("evaluate", "--run", trained[0], "--data", tmp_path / "size.npz"))
    assert "no image of class" in message or "28" in message
    np.savez(tmp_path / "classes.npz", images=random.random((60, 32, 32)), labels=np.arange(60) % 12)
    message = sentence(cli.refused("evaluate", "--run", trained[0], "--data", tmp_path / "classes.npz"))
    assert "classes that the network does not know: 10, 11; it knows 0, 1, 2, 3, 4, ..." in message


def test_data_that_a_run_was_trained_on_and_that_has_moved(cli, tmp_path):
    labels = np.arange(40) % 2
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).random((40, 8, 8)), labels=labels)
    run = ("--run", tmp_path / "run")
    small = ("--model", "mlp", "--hidden", 4, "--shift", 0, "--schedule", "constant")
    cli.json("train", "--data", tmp_path / "a.npz", *small, "--epochs", 1, *run)
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    for arguments in (("evaluate",), ("show", "confusion"), ("train", "--resume", "--epochs", 2)):
        message = sentence(cli.refused(*arguments, *run))
        assert message.endswith(f"a.npz, which {tmp_path / 'run'} was trained on, is not there any more; give --data")
    assert "any more; give an image file" in sentence(cli.refused("show", "saliency", 3, *run))
    assert cli.json("train", "--resume", "--epochs", 2, *run, "--data", tmp_path / "b.npz")["epochs"] == 2


def test_nan_in_the_images(cli, tmp_path):
    images = np.zeros((20, 32, 32), np.float32)
    images[3, 4, 5] = np.nan
    np.savez(tmp_path / "nan.npz", images=images, labels=np.arange(20) % 2)
    message = sentence(cli.refused("train", "--data", tmp_path / "nan.npz", "--run", tmp_path / "run"))
    assert "the first is image 3" in message


def test_training_that_diverges(cli, tmp_path):
    message = sentence(
        cli.refused("train", "--lr", "1e30", "--optimizer", "sgd", "--epochs", 2, "--run", tmp_path / "run")
    )
    assert "epoch 1, step" in message


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
def test_folders_that_are_no_run_folders(cli, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "best.safetensors").write_text("mine")
    (tmp_path / "file").write_text("x")
    short = ["train", "--epochs", "1", "--model", "mlp", "--hidden", "8"]
    for folder in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("x" * 300), mine, "/dev/null", "/proc"):
        for command in (short, [*short, "--resume"], ["evaluate"]):
            sentence(cli.refused(*command, "--run", folder))
    for command in (["predict", tmp_path / "file"], ["export", tmp_path / "a.onnx"]):
        sentence(cli.refused(*command, "--run", mine))
    assert (mine / "best.safetensors").read_text() == "mine"
