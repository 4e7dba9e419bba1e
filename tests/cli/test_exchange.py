"""`gpucnn export` and `gpucnn import`."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

import gpucnn
from gpucnn.data import load
from gpucnn.models import lenet5, mlp, save_pytorch, to_pytorch
from tests.cli.test_refusals import sentence


def test_export_to_onnx(cli, trained, tmp_path):
    folder, made = trained
    values = cli.json("export", tmp_path / "m.onnx", "--run", folder)
    assert values == {
        "file": str(tmp_path / "m.onnx"),
        "format": "ONNX graph",
        "model": "lenet5",
        "weights_sha256": made["weights_sha256"],
        "run": str(folder),
    }
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    _, test = load("digits")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    scores = session.run(None, {"images": test.images.astype(np.float32)})[0]
    assert abs(np.mean(scores.argmax(axis=1) == test.labels) - made["test_accuracy"]) <= 1 / 359  # one tie at most


def test_there_and_back(cli, trained, tmp_path):
    folder, made = trained
    values = cli.json("export", tmp_path / "w.safetensors", "--run", folder)
    assert values["format"] == "PyTorch state dict"
    assert set(load_file(tmp_path / "w.safetensors")) == set(to_pytorch(lenet5().initialize(0)))
    back = cli.json(
        "import",
        tmp_path / "w.safetensors",
        "--to",
        tmp_path / "back.safetensors",
        "--model",
        "lenet5",
        "--input-shape",
        "1x32x32",
    )
    assert back["weights_sha256"] == made["weights_sha256"]
    evaluated = cli.json("evaluate", "--run", tmp_path / "back.safetensors", "--data", "digits")
    assert evaluated["test_loss"] == made["test_loss"]
    assert cli("export", tmp_path / "again.onnx", "--run", tmp_path / "back.safetensors").exit_code == 0


def test_an_export_replaces_no_file(cli, trained, tmp_path):
    """Not even the run that it is of."""
    source = shutil.copytree(trained[0], tmp_path / "run") / "checkpoint.safetensors"
    before = source.read_bytes()
    refusal = sentence(cli.refused("export", source, "--run", tmp_path / "run"))
    assert refusal == f"gpucnn: {source} exists already; choose another name, or remove it"
    assert source.read_bytes() == before


def test_a_state_dict_of_a_normalised_network_says_what_it_lacks(cli, tmp_path):
    model = lenet5().initialize(0)
    model.mean, model.std = (0.25,), (0.5,)
    gpucnn.save(model, tmp_path / "m.safetensors")
    result = cli("export", tmp_path / "w.safetensors", "--run", tmp_path / "m.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "normalise images first, with mean 0.25 and deviation 0.5" in result.stderr
    result = cli("export", tmp_path / "w.onnx", "--run", tmp_path / "m.safetensors")  # the graph normalises by itself
    assert result.exit_code == 0 and "normalise" not in result.stderr


def test_import_of_options(cli, tmp_path):
    model = mlp((3, 4, 5), outputs=2, hidden=(6,)).initialize(1)
    save_pytorch(model, tmp_path / "w.safetensors")
    made = cli.json(
        "import",
        tmp_path / "w.safetensors",
        "--to",
        tmp_path / "m.safetensors",
        "--model",
        "mlp",
        "--input-shape",
        "3x4x5",
        "--outputs",
        2,
        "--hidden",
        "6",
    )
    assert made["weights_sha256"] == model.weights_sha256()
    assert gpucnn.load(tmp_path / "m.safetensors").head == "regressor"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "m.pt"], "does not tell the format; end it in .onnx"),
        (["export", "m.onnx"], "there is no trained network"),
        (["import", "w.pt", "--to", "m", "--model", "lenet5", "--input-shape", "1x32x32"], "no file w.pt"),
        (["import", "n.onnx", "--to", "m", "--model", "lenet5", "--input-shape", "1x32x32"], "does not read"),
        (
            ["import", "w.pt", "--to", "m", "--model", "lenet", "--input-shape", "1x32x32"],
            "model is 'lenet'; use one of",
        ),
        (["import", "w.pt", "--to", "m", "--model", "lenet5", "--input-shape", "32"], "such as 1x32x32"),
    ],
)
def test_refusals(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in sentence(cli.refused(*arguments))
    assert not list(tmp_path.iterdir())


def test_pickles_and_other_networks_are_refused(cli, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04" + bytes(30))
    to = ("--to", tmp_path / "m", "--model", "mlp", "--input-shape", "1x8x8")
    assert "convert it where you trust it" in sentence(cli.refused("import", tmp_path / "w.pt", *to))
    save_pytorch(lenet5().initialize(0), tmp_path / "w.safetensors")
    assert "is not of a network like this mlp" in sentence(cli.refused("import", tmp_path / "w.safetensors", *to))
    (tmp_path / "m").write_text("mine")
    assert "exists already" in sentence(cli.refused("import", tmp_path / "w.safetensors", *to))
    assert (tmp_path / "m").read_text() == "mine"
