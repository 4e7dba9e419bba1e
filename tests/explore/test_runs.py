"""Runs as the page sees them: finished, in progress, interrupted, damaged; and what is inside them."""

import base64
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gpucnn.data import load
from gpucnn.explore.server import Explorer
from gpucnn.models import lenet5, unet_small
from gpucnn.optimizers import SGD
from gpucnn.training import Callback, Trainer, load_run
from tests.explore.conftest import Page, folders_in


def of(folder, engine, tmp_path) -> Page:
    return Page(Explorer([folder], folders_in(tmp_path / "new"), engine))


def test_the_list_and_the_curves_are_the_runs_own(page, run):
    (listed,) = page("status")["runs"]
    assert (listed["name"], listed["model"], listed["data"]) == ("four-epochs", "lenet5", "digits")
    assert (listed["epochs"], listed["planned"], listed["live"], listed["ready"]) == (4, 4, False, True)
    (curves,) = page("curves", runs=[{"run": 0}])["runs"]
    assert curves["history"] == load_run(run).history.epochs
    assert {"loss", "accuracy", "validation_loss", "learning_rate", "images_per_second"} <= curves["history"][0].keys()


def test_filters_and_maps_of_each_epoch(page, run):
    answer = page("look", run=0, epoch=None, image=5)
    assert answer["epochs"] == [1, 2, 3, 4]
    weights = load_run(run).model.state_dict()["0.weight"]
    assert np.array_equal(answer["filters"], weights)
    _, test = load("digits")
    assert np.array_equal(answer["maps"][0]["values"], test.images[5])
    assert answer["label"] == test.classes[test.labels[5]]
    before = page("look", run=0, epoch=1, image=5)["filters"]
    assert not np.array_equal(before, weights)
    assert np.array_equal(page("look", run=0, epoch=4, image=5)["filters"], weights)
    assert "no weights of epoch 9" in page("look", run=0, epoch=9)["refused"]


def test_confusion_and_mistakes(page, run):
    answer = page("results", run=0)
    _, test = load("digits")
    said = load_run(run).model.predict(test.images).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    for true, predicted in zip(test.labels, said):
        expected[true, predicted] += 1
    assert answer["counts"] == expected.tolist()
    assert answer["right"] == int((said == test.labels).sum()) and answer["total"] == 359
    chances = [mistake["probability"] for mistake in answer["mistakes"]]
    assert chances == sorted(chances, reverse=True)
    for mistake in answer["mistakes"]:
        assert mistake["true"] != mistake["predicted"]
        assert np.array_equal(mistake["pixels"], test.images[mistake["image"]])


def test_a_run_in_progress_is_read_as_it_stands(copied, engine, tmp_path):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "epochs": 9}))
    metrics = copied / "metrics.jsonl"
    metrics.touch()
    page = of(copied, engine, tmp_path)
    (listed,) = page("status")["runs"]
    assert (listed["epochs"], listed["planned"], listed["live"]) == (4, 9, True)
    metrics.write_text(metrics.read_text() + json.dumps({**load_run(copied).history.last, "epoch": 5}) + "\n")
    assert len(page("curves", runs=[{"run": 0}])["runs"][0]["history"]) == 5
    assert page("look", run=0)["filters"].shape == (6, 1, 5, 5)  # metrics are ahead of the checkpoint


def test_an_epoch_may_take_as_long_as_it_likes(engine, tmp_path):
    """A run is in progress before its first epoch, and long after its last; not after its process has ended."""
    digits, _ = load("digits")
    folder, live = tmp_path / "slow", []
    page = of(folder, engine, tmp_path)

    class Late(Callback):
        def on_epoch_end(self, trainer, record):
            if (folder / "metrics.jsonl").exists():
                os.utime(folder / "metrics.jsonl", (0, 0))
            live.append(page("status")["runs"][0]["live"])

    trainer = Trainer(lenet5((1, 32, 32), 10), run=folder, backend="numba", progress=False, callbacks=[Late()])
    trainer.fit(digits.images[:64], digits.labels[:64], 2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "epochs": 9}))
    os.utime(folder / "metrics.jsonl", (0, 0))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for text in ("", "nonsense", f"process {ended.pid} on {platform.node()}\n", "process 1 on another machine\n"):
        live.append(page("status")["runs"][0]["live"])
        (folder / "run.lock").write_text(text)
    assert live == [True, True, False, False, False, False]
    assert not page("status")["runs"][0]["live"]


def test_a_run_started_elsewhere_is_remembered_as_it_goes_on(engine, tmp_path):
    """It keeps its newest weights only; the page keeps those that it has seen."""
    digits, _ = load("digits")
    folder, filters = tmp_path / "elsewhere", {}
    page = of(folder, engine, tmp_path)

    class Watched(Callback):
        def __init__(self, first):
            self.first = first

        def on_epoch_end(self, trainer, record):
            filters[record["epoch"]] = trainer.model.state_dict()["0.weight"]
            if record["epoch"] > self.first:  # before this epoch's checkpoint is written
                page("look", run=0)

    def train(seed, first):
        filters.clear()
        settings = {"run": folder, "about": {"train": {"data": "digits"}}, "callbacks": [Watched(first)], "seed": seed}
        trainer = Trainer(lenet5(digits.images.shape[1:], 10), backend="numba", progress=False, **settings)
        trainer.fit(digits.images[:64], digits.labels[:64], 4)

    def check(first):
        assert page("look", run=0, epoch=None)["epochs"] == [*range(first, 5)]
        for epoch in range(first, 5):
            assert np.array_equal(page("look", run=0, epoch=epoch)["filters"], filters[epoch])

    for seed, first in enumerate((1, 1, 3)):
        train(seed, first)  # in a folder of the same name: nothing of the one before is shown
        check(first)
        shutil.rmtree(folder)


def test_a_run_before_its_first_epoch(tmp_path, engine):
    folder = tmp_path / "begun"
    folder.mkdir()
    page = of(folder, engine, tmp_path)
    (listed,) = page("status")["runs"]
    assert (listed["epochs"], listed["ready"], listed["live"]) == (0, False, False)
    assert page("curves", runs=[{"run": 0}])["runs"][0]["history"] == []
    assert "has not finished an epoch" in page("look", run=0)["refused"]


def test_a_run_that_gives_a_class_to_each_pixel(tmp_path, engine):
    train, _ = load("shapes")
    about = {"train": {"data": "shapes"}}
    trainer = Trainer(unet_small(classes=4), run=tmp_path / "pixels", about=about, backend="numba", progress=False)
    trainer.fit(train.images[:32], train.labels[:32], 1)
    page = of(tmp_path / "pixels", engine, tmp_path)
    assert len(page("curves", runs=[{"run": 0}])["runs"][0]["history"]) == 1
    drawing = {"height": 8, "width": 8, "bytes": "A" * 86 + "=="}
    for name, body in {"look": {}, "results": {}, "example": {"image": 0}, "draw": {"drawing": drawing}}.items():
        assert "pixels gives a class to each pixel, not to an image" in page(name, run=0, **body)["refused"]


DAMAGED = (
    "",
    "{",
    "[1]",
    '{"train": 3, "epochs": "many"}',
    '{"train": {"data": ["x"]}}',
    '{"model": {}, "backend": 3, "train": {"data": 5}}',
    "[" * 100_000,
)


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: content[:40])
def test_a_damaged_config_takes_nothing_down(copied, engine, tmp_path, content):
    (copied / "config.json").write_text(content)
    page = of(copied, engine, tmp_path)
    (listed,) = page("status")["runs"]
    assert listed["epochs"] == 4 and listed["model"] is listed["backend"] is None
    assert listed["data"] is None  # the page looks for slashes in it
    assert "refused" in page("look", run=0)
    assert "refused" in page("draw", run=0, drawing={"height": 8, "width": 8, "bytes": "A" * 86 + "=="})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_pipes_in_a_run_folder_are_not_waited_for(copied, engine, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (copied / name).unlink()
        os.mkfifo(copied / name)
    page, found = of(copied, engine, tmp_path), []
    thread = threading.Thread(target=lambda: found.extend(page("status")["runs"]), daemon=True)
    thread.start()
    thread.join(60)
    assert found and (found[0]["epochs"], found[0]["ready"]) == (0, True)


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "snapshots/0002.safetensors"])
def test_a_damaged_checkpoint_is_told_in_a_sentence(copied, engine, tmp_path, file):
    content = (copied / file).read_bytes()
    (copied / file).write_bytes(content[: len(content) // 2])
    page = of(copied, engine, tmp_path)
    epoch = 2 if "0002" in file else None
    assert "cannot be read" in page("look", run=0, epoch=epoch)["refused"]


def test_a_network_whose_weights_have_exploded(engine, tmp_path):
    """They are finite, as the loss was, and what it computes is not."""
    digits, _ = load("digits")
    settings = {"optimizer": SGD(1e13), "run": tmp_path / "run", "about": {"train": {"data": "digits"}}}
    trainer = Trainer(lenet5(), backend="numba", batch_size=64, progress=False, **settings)
    trainer.fit(digits.images[:64], digits.labels[:64], 1)
    page = of(tmp_path / "run", engine, tmp_path)
    pixels = np.zeros((50, 50), np.uint8)
    pixels[10:40, 20:30] = 255
    drawing = {"height": 50, "width": 50, "bytes": base64.b64encode(pixels.tobytes()).decode()}
    for name, body in {"look": {}, "results": {}, "draw": {"drawing": drawing}}.items():
        assert "NaN or infinity" in page(name, run=0, **body)["refused"]


def test_damaged_metrics_are_no_curve(copied, engine, tmp_path):
    (copied / "metrics.jsonl").write_text('{"epoch": 1\n')
    page = of(copied, engine, tmp_path)
    assert page("curves", runs=[{"run": 0}])["runs"][0]["history"] == []
    (copied / "metrics.jsonl").write_text('{"epoch": 1, "loss": NaN, "accuracy": -Infinity, "seconds": 1e999}\n')
    epoch = {"epoch": 1, "loss": None, "accuracy": None, "seconds": None}
    assert page("curves", runs=[{"run": 0}])["runs"][0]["history"] == [epoch]


def test_a_run_of_the_page_is_one_of_the_command_too(copied):
    """`gpucnn train --resume` takes it for its own: here there is nothing left to train, and it is tested."""
    from tests.cli.conftest import Cli

    answer = Cli().json("train", "--resume", "--run", copied)
    assert answer["epochs"] == 4
    assert answer["weights_sha256"] in [load_run(copied, best=best).model.weights_sha256() for best in (True, False)]


@pytest.mark.slow
def test_training_from_the_page(empty):
    """A process of its own trains; the page sees the run grow, and may stop it."""
    assert empty("status")["runs"] == []
    started = empty("train")
    assert started == {"run": 0}
    assert empty("train") == {"run": 0}  # one at a time
    deadline, seen = time.monotonic() + 240, 0
    while seen < 2:
        assert time.monotonic() < deadline
        (found,) = empty("curves", runs=[{"run": 0}])["runs"]
        seen = len(found["history"])
        assert found["live"] or seen == found["planned"]
        time.sleep(0.05)
    empty("stop")
    (found,) = empty("status")["runs"]
    assert empty("look", run=0)["epochs"][:2] == [1, 2]
    assert not empty.explorer.process.trains(empty.explorer.runs.folders[0])
    assert found["ready"]


class Ending:
    """A process that takes a moment to be gone."""

    asked = threading.Event()

    def __init__(self, *_, **__):
        self.code = None

    def poll(self):
        return self.code

    def terminate(self):
        self.code = -15
        self.asked.set()

    def wait(self, seconds):
        time.sleep(0.5)


def test_a_training_that_begins_while_another_is_stopped_is_the_pages(empty, monkeypatch):
    """It was forgotten: a third one could begin beside it, and it outlived the page."""
    monkeypatch.setattr(subprocess, "Popen", Ending)
    monkeypatch.setattr(Ending, "asked", threading.Event())
    empty("train")
    stopping = threading.Thread(target=empty, args=("stop",))
    stopping.start()
    assert Ending.asked.wait(60)
    started = empty("train")["run"]
    stopping.join()
    assert empty.explorer.process.trains(empty.explorer.runs.folders[started])


def test_a_training_that_the_system_refuses_is_told(empty, tmp_path, monkeypatch):
    """It was an error of the server, and the page said nothing."""

    def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert "refuses to start a training (Resource temporarily unavailable)" in empty("train")["refused"]
    assert empty("status")["runs"] == [] and not any(entry.is_dir() for entry in tmp_path.iterdir())


def test_a_training_that_was_stopped_is_in_progress_no_more(empty, monkeypatch):
    """For 20 seconds it was, as one of another machine is, and the page kept offering to stop it."""
    monkeypatch.setattr(subprocess, "Popen", Ending)
    empty("train")
    (folder,) = empty.explorer.runs.folders
    (folder / "config.json").write_text('{"epochs": 9}')
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
    live = [empty("status")["runs"][0]["live"]]
    empty("stop")
    live.append(empty("status")["runs"][0]["live"])
    assert live == [True, False]


def test_a_name_that_is_used_again_is_listed_once(empty, tmp_path, monkeypatch):
    monkeypatch.setattr(empty.explorer, "_new_run", folders_in(tmp_path))
    assert empty("train") == {"run": 0}
    empty("stop")
    shutil.rmtree(empty.explorer.runs.folders[0])  # by hand, while the page is open
    monkeypatch.setattr(empty.explorer, "_new_run", folders_in(tmp_path))
    assert empty("train") == {"run": 0}
    assert len(empty("status")["runs"]) == 1
