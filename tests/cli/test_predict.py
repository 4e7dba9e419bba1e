"""`gpucnn predict` with drawings: dark ink on white, photos of it, and the options that leave images alone."""

import json

import numpy as np
import pytest
from PIL import Image

import gpucnn
from gpucnn.errors import ConfigurationError
from gpucnn.storage import refuse_input
from tests.drawings import drawn


def saved(folder, count: int = 40, seed: int = 0) -> list[int]:
    """Writes drawings into the folder; returns what each is, in the order of the names."""
    folder.mkdir()
    pictures = drawn(count, seed)
    for number, (_, picture) in enumerate(pictures):
        picture.save(folder / f"{number:03}.{'jpg' if number % 2 else 'png'}")
    return [digit for digit, _ in pictures]


@pytest.mark.slow
def test_the_default_run_reads_digits_drawn_on_white(cli, tmp_path):
    run = tmp_path / "run"
    cli.json("train", "--run", run)
    for seed in range(3):
        digits = saved(tmp_path / str(seed), seed=seed)
        values = cli.json("predict", tmp_path / str(seed), "--run", run)
        right = sum(found["class"] == str(digit) for found, digit in zip(values["predictions"], digits, strict=True))
        assert right >= 36, f"{right} of 40 with seed {seed}"
    assert values["notes"][0].startswith("brought to what the training images look like: dark ink made light")


def test_a_drawing_is_what_python_makes_of_it(cli, trained, tmp_path):
    saved(tmp_path / "drawn", 3)
    train, _ = gpucnn.data.load("digits")
    style = gpucnn.data.Style.of(train.images)
    images, files, _ = gpucnn.data.load_images(tmp_path / "drawn", (1, 32, 32), style=style)
    expected = gpucnn.training.load_run(trained[0]).model.predict(images)
    values = cli.json("predict", tmp_path / "drawn", "--run", trained[0], "--picture", tmp_path / "shown.png")
    assert [found["file"] for found in values["predictions"]] == list(map(str, files))
    for found, row in zip(values["predictions"], expected, strict=True):
        assert list(found["probabilities"].values()) == row.tolist()
    with Image.open(tmp_path / "shown.png") as picture:
        assert picture.width > 500


def test_as_is_and_invert(cli, trained, tmp_path):
    _, test = gpucnn.data.load("digits")
    dark = ((1 - test.images[5, 0]) * 255).round().astype(np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    model = gpucnn.training.load_run(trained[0]).model

    def probabilities(*options):
        values = cli.json("predict", tmp_path / "dark.png", "--run", trained[0], *options)
        return list(values["predictions"][0]["probabilities"].values()), values["notes"]

    seen = (dark / np.float32(255))[None, None]
    found, notes = probabilities("--as-is")
    assert found == model.predict(seen)[0].tolist()
    assert notes[0].endswith("light ink on dark paper: leave out --as-is, or add --invert")
    found, notes = probabilities("--as-is", "--invert")
    assert found == model.predict(1 - seen)[0].tolist()
    assert notes == []
    assert probabilities("--invert")[0] == found  # the negative looks like a training image


def test_a_file_without_its_training_images(cli, trained, tmp_path):
    saved(tmp_path / "drawn", 1)
    gpucnn.save(gpucnn.training.load_run(trained[0]).model, tmp_path / "model.safetensors")
    common = ("predict", tmp_path / "drawn", "--run", tmp_path / "model.safetensors")
    plain, known = cli.json(*common), cli.json(*common, "--data", "digits")
    assert plain["notes"][0].startswith("resized from 180x240")
    assert known["notes"][0].startswith("brought to what the training images look like")
    assert "it has no meaning with --as-is" in cli.refused(*common, "--data", "digits", "--as-is")
    assert "is neither a built-in data set" in cli.refused(*common, "--data", "none")


def test_files_get_the_range_of_the_training_images(cli, tmp_path):
    """Float images from 0 to 255, of which a file's pixels are a part unscaled; and another range, which is refused."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "bright.npz", images=images, labels=np.arange(40) // 5 % 2)
    model = gpucnn.models.mlp((3, 32, 32), classes=2, hidden=(4,)).initialize(0)
    gpucnn.save(model, tmp_path / "model.safetensors")
    Image.fromarray(images[0].transpose(1, 2, 0).astype(np.uint8)).save(tmp_path / "a.png")
    common = ("predict", tmp_path / "a.png", "--run", tmp_path / "model.safetensors", "--data")
    for options, seen in (((), images[:1]), (("--invert",), 255 - images[:1])):
        values = cli.json(*common, tmp_path / "bright.npz", *options)
        assert list(values["predictions"][0]["probabilities"].values()) == model.predict(seen)[0].tolist()
    np.savez(tmp_path / "other.npz", images=images / 128 - 1, labels=np.arange(40) // 5 % 2)
    refusal = cli.refused(*common, tmp_path / "other.npz")
    assert "have values from -1 to 0.992188, and which of them is white cannot be known; store them as uint8" in refusal


def test_a_damaged_file_costs_no_result_of_another(cli, trained, tmp_path):
    saved(tmp_path / "drawn", 2)
    whole = cli.json("predict", tmp_path / "drawn", "--run", trained[0])
    (tmp_path / "drawn" / "000.5.png").write_text("hello")
    result = cli("predict", tmp_path / "drawn", "--run", trained[0], "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["predictions"] == whole["predictions"]
    (refused,) = found["refused"]
    assert "000.5.png as a PNG" in refused
    assert result.stderr.splitlines()[-1] == f"gpucnn: 1 of 3 files have no result: {refused}"


def test_an_empty_page_is_refused_by_name(cli, trained, tmp_path):
    Image.new("L", (90, 70), 250).save(tmp_path / "empty.png")
    assert "empty.png: nothing is drawn" in cli.refused("predict", tmp_path / "empty.png", "--run", trained[0])


def test_the_picture_is_checked_first(cli, tmp_path):
    assert "must end in .png" in cli.refused("predict", "a.png", "--picture", tmp_path / "shown.txt")


def test_a_picture_that_cannot_be_written_costs_no_result(cli, trained, tmp_path, monkeypatch):
    saved(tmp_path / "drawn", 2)
    out = tmp_path / "shown.png"

    def full(path, content):
        raise ConfigurationError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(gpucnn.figures, "write_file", full)
    result = cli("predict", tmp_path / "drawn", "--run", trained[0], "--json", "--picture", out)
    assert result.exit_code == 2 and len(json.loads(result.stdout)["predictions"]) == 2
    assert result.stderr.splitlines()[-1] == f"gpucnn: cannot write {out}: No space left on device"


def test_a_picture_never_replaces_what_is_read(cli, trained, tmp_path):
    """By its own name, by a link, as a file of the folder, and as a file of the set that the network is for."""
    saved(tmp_path / "drawn", 3)
    files = {"drawn": tmp_path / "drawn" / "000.png", "link": tmp_path / "link.png", "hard": tmp_path / "hard.png"}
    files["link"].symlink_to(files["drawn"])
    files["hard"].hardlink_to(files["drawn"])
    before = files["drawn"].read_bytes()
    run = ("--run", trained[0])
    for out in files.values():
        said = "is what is to be read, "
        assert said in cli.refused("predict", files["drawn"], "--picture", out, *run)
        assert said in cli.refused("predict", tmp_path / "drawn", "--picture", out, *run)
        for command in ("maps", "saliency", "occlusion", "gradcam", "scores"):
            assert said in cli.refused("show", command, files["drawn"], "--out", out, *run)
        assert said in cli.refused("show", "match", files["drawn"], "--pattern", "1", "--out", out)
        for command in ("confusion", "mistakes"):
            assert said in cli.refused("show", command, "--data", tmp_path, "--out", out, *run)
        assert said in cli.refused("show", "doubts", "--data", tmp_path, "--out", out)
    assert files["drawn"].read_bytes() == before
    with pytest.raises(gpucnn.errors.ConfigurationError, match="is what is to be read"):
        gpucnn.show.inputs([files["drawn"]], np.zeros((1, 1, 4, 4)), files["link"])


def test_a_picture_may_replace_one_in_a_folder_called_like_a_set(cli, trained, tmp_path, monkeypatch):
    """And one that is beside the folders of a set's classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "set").mkdir()
    saved(tmp_path / "set" / "class", 1)
    for out in ("digits/filters.png", "set/filters.png") * 2:
        cli.json("show", "filters", "--run", trained[0], "--out", out)
    refuse_input("set/filters.png", tmp_path / "set")


def test_pictures_of_inputs_need_as_many_files_as_images(tmp_path):
    with pytest.raises(gpucnn.errors.ShapeError, match="1 files, 1 titles and images of shape"):
        gpucnn.show.inputs(["a.png"], np.zeros((2, 1, 4, 4)), tmp_path / "a.png")
