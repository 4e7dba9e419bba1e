"""A run folder belongs to one run and one process; what else lies somewhere stays as it is."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn.cli.runs import fresh_folder
from gpucnn.errors import CheckpointError, ConfigurationError, GpucnnError, ShapeError
from gpucnn.layers import BatchNorm, Dense, Flatten, Layer, Sequential, Whitening2d
from gpucnn.models import Model
from gpucnn.models.files import read_tensors, save
from gpucnn.storage import write_file
from gpucnn.training import Callback, load_run
from gpucnn.training.run import run_folder
from tests.processes import environment
from tests.training import small

X, Y = small.data()


def contents(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "names",
    [
        ["best.safetensors"],
        ["config.json"],
        [".mine.tmp", "metrics.jsonl"],
        ["notes.txt"],
        ["checkpoint.safetensors", "curves.png"],
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_somebody_else_stays_as_it_is(tmp_path, names, resume):
    for name in names:
        (tmp_path / name).write_text('{"mine": 1}')
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match="is no run folder, and not empty: it holds"):
        small.trainer(tmp_path).fit(X, Y, 1, resume=resume)
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_to_a_disk_that_is_not_there_is_named(tmp_path, monkeypatch):
    """Folders of runs often are links to a larger disk: File exists, it was told."""
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to("scratch")
    for run in ("runs", "runs/a/b"):
        with pytest.raises(ConfigurationError, match=r"as a run folder: runs is a link to scratch, which is not there"):
            small.trainer(run).fit(X, Y, 1)
    with pytest.raises(ConfigurationError, match=r"folder in runs: runs is a link to scratch, which is not there"):
        fresh_folder("lenet5")
    Path("scratch").mkdir()
    assert [fresh_folder("lenet5").name for _ in range(2)] == ["lenet5-1", "lenet5-2"]


def test_only_what_a_run_wrote_is_removed(tmp_path):
    """A run that was killed before its first checkpoint: its remains go, a file of the user's stays."""
    small.trainer(tmp_path).fit(X, Y, 1, validation=(X, Y))
    (tmp_path / "checkpoint.safetensors").unlink()
    mine = [tmp_path / ".notes.tmp", tmp_path / ".other.safetensors.0123456789abcdef.tmp", tmp_path / "notes"]
    theirs = tmp_path / ".checkpoint.safetensors.0123456789abcdef.tmp"
    for file in (*mine, theirs):
        file.write_text("half a file")
    small.trainer(tmp_path).fit(X, Y, 1)
    assert all(file.exists() for file in mine) and not theirs.exists()
    assert not (tmp_path / "best.safetensors").exists(), "of the run that was killed"

    (tmp_path / "checkpoint.safetensors").unlink()
    save(small.model().initialize(9), tmp_path / "best.safetensors")
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match="was not written by a run; move it away"):
        small.trainer(tmp_path).fit(X, Y, 1)
    assert contents(tmp_path) == before


class Second(Callback):
    """Tries to train in the same folder while the first does."""

    def __init__(self, folder):
        self.folder, self.said = folder, []

    def on_epoch_end(self, trainer, record):
        for resume in (False, True):
            with pytest.raises(ConfigurationError) as caught:
                small.trainer(self.folder).fit(X, Y, 2, resume=resume)
            self.said.append(str(caught.value))


def test_two_trainers_in_one_process(tmp_path):
    second = Second(tmp_path)
    first = small.trainer(tmp_path, callbacks=[second])
    first.fit(X, Y, 2)
    assert len(second.said) == 4
    assert all(f"is in use by process {os.getpid()}; wait for it" in text for text in second.said)
    assert load_run(tmp_path, small.model()).model.weights_sha256() == first.model.weights_sha256()
    assert not (tmp_path / "run.lock").exists()


HOLD = """
import sys, time
from gpucnn.training import Callback
from tests.training import small

class Wait(Callback):
    def on_epoch_end(self, trainer, record):
        print("training", flush=True)
        time.sleep(600)

images, labels = small.data()
small.trainer(sys.argv[1], callbacks=[Wait()]).fit(images, labels, 2)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_two_processes_and_one_that_was_killed(tmp_path):
    """The second is told of the first by its number; the system releases what a killed one had locked."""
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stdout.readline() == "training\n"
            before = contents(folder)
            with pytest.raises(ConfigurationError, match=f"in use by process {process.pid};"):
                small.trainer(folder).fit(X, Y, 2)
            assert contents(folder) == before
        finally:
            process.send_signal(signal.SIGKILL)
    assert (folder / "run.lock").exists()
    small.trainer(folder).fit(X, Y, 2, resume=True)
    assert sorted(contents(folder)) == ["checkpoint.safetensors", "config.json", "curves.png", "metrics.jsonl"]


def test_many_at_once(tmp_path):
    """Of threads that begin together one trains, or several one after the other; each other one is refused."""
    ended, barrier = [], threading.Barrier(6)

    def train():
        trainer = small.trainer(tmp_path / "run")
        barrier.wait()
        try:
            trainer.fit(X, Y, 2)
            ended.append(trainer.model.weights_sha256())
        except ConfigurationError as error:
            ended.append("in use" in str(error) or "holds a run already" in str(error))

    threads = [threading.Thread(target=train) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended.count(True) == 5 and len(ended) == 6
    assert load_run(tmp_path / "run", small.model()).model.weights_sha256() in ended


@pytest.mark.skipif(os.name == "nt", reason="a folder with an open file is not moved there")
def test_a_folder_that_is_moved_while_a_run_trains_in_it(tmp_path):
    """And another run begins in one of that name: the first went on in it, and took its lock away in the end."""
    folder, away = tmp_path / "run", tmp_path / "away"
    with contextlib.ExitStack() as other:

        class Move(Callback):
            def on_epoch_end(self, trainer, record):
                if record["epoch"] == 2:
                    folder.rename(away)
                    other.enter_context(run_folder(folder)).write_config({"gpucnn": "another"})

        with pytest.raises(ConfigurationError, match=r"^another run is in .*run by now: that folder, or run.lock"):
            small.trainer(folder, callbacks=[Move()]).fit(X, Y, 3)
        assert sorted(contents(folder)) == ["config.json", "run.lock"]
        with pytest.raises(ConfigurationError, match="in use by process"):
            small.trainer(folder).fit(X, Y, 3, resume=True)
    moved, alone = small.trainer(away), small.trainer()
    moved.fit(X, Y, 3, resume=True)
    alone.fit(X, Y, 3)
    assert moved.model.weights_sha256() == alone.model.weights_sha256()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """A child that outlives a killed trainer, a loader's worker perhaps, holds nothing."""

    class Fork(Callback):
        child = 0

        def on_epoch_end(self, trainer, record):
            Fork.child = Fork.child or os.fork()
            if not Fork.child:
                signal.pause()

    small.trainer(tmp_path, callbacks=[Fork()]).fit(X, Y, 1)
    try:
        small.trainer(tmp_path).fit(X, Y, 1, resume=True)
    finally:
        os.kill(Fork.child, signal.SIGKILL)
        os.waitpid(Fork.child, 0)


@pytest.mark.parametrize(
    "settings", [{"seed": 4}, {"batch_size": 15}, {"epochs": 1}, {"model": small.model(width=4)}], ids=str
)
def test_what_is_refused_has_changed_nothing(tmp_path, settings):
    """Neither the folder, which the right settings continue afterwards, nor the model."""
    rates = {"schedule": gpucnn.schedules.Constant()}
    small.trainer(tmp_path, **rates).fit(X, Y, 2)
    before = contents(tmp_path)
    settings = dict(settings)
    epochs = settings.pop("epochs", 2)
    wrong = small.trainer(tmp_path, **rates, **settings)
    weights = wrong.model.weights_sha256()
    with pytest.raises((CheckpointError, ConfigurationError)):
        wrong.fit(X, Y, epochs, resume=True)
    assert contents(tmp_path) == before
    assert wrong.model.weights_sha256() == weights
    small.trainer(tmp_path, **rates).fit(X, Y, 3, resume=True)


def preparation(model):
    return model.image_shape, model.mean, model.std, model.weights_sha256()


def test_a_refused_fit_leaves_the_model_as_it_prepares_images(tmp_path):
    """With a used run, wrong labels and batches; and frozen layers make no run folder."""
    small.trainer(tmp_path / "used").fit(X, Y, 1)
    model = Model(Sequential(Whitening2d(3), Flatten(), Dense(3)), (1, 6, 6))
    for settings in ({"normalize": True}, {"crop": True}):
        trainer = small.trainer(tmp_path / "used", model=model, **settings)
        images = X if "crop" in settings else np.ascontiguousarray(X[..., :6, :6])
        before = preparation(model)
        for labels, words in ((Y, "holds a run already"), (Y[1:], "labels have shape")):
            with pytest.raises(GpucnnError, match=words):
                trainer.fit(images, labels, 1)
            assert preparation(model) == before
    with pytest.raises(ConfigurationError, match="holds a run already"):
        trainer.fit_batches([(X, Y)], 1)
    assert preparation(model) == before
    model.freeze()
    with pytest.raises(ConfigurationError, match="all layers are frozen"):
        small.trainer(tmp_path / "new", model=model).fit(images[..., :6, :6], Y, 1)
    assert not (tmp_path / "new").exists()


def test_a_last_batch_of_one_image_is_refused_before_the_first(tmp_path):
    """Where batch norm would have one value per channel: 45 images in batches of 4, and those without validation."""

    def trainer(run, *layers, **settings):
        model = Model(Sequential(*layers, Flatten(), Dense(4), BatchNorm(), Dense(3)), (1, 8, 8))
        return small.trainer(tmp_path / run, model=model, **settings)

    left = len(X) - sum(int(0.2 * count + 0.5) for count in np.bincount(Y))
    for batch_size, validation in ((4, None), (1, None), (left - 1, 0.2)):
        refused = trainer("refused", batch_size=batch_size)
        weights = refused.model.weights_sha256()
        with pytest.raises(ShapeError, match=r"layer 2 \(BatchNorm\) cannot train on one value per channel"):
            refused.fit(X, Y, 1, validation=validation)
        assert refused.model.weights_sha256() == weights and not (tmp_path / "refused").exists()
    trainer("two left", batch_size=43).fit(X, Y, 1)

    class UnlessOne(Layer):
        """Passes over its batch norm for one image."""

        def __init__(self):
            self.norm = BatchNorm()

        def build(self, shape):
            return self.norm.connect(shape)

        def __call__(self, x):
            return self.norm(x) if x.images > 1 else (x, lambda dy: dy)

    model = Model(Sequential(Flatten(), Dense(4), UnlessOne(), Dense(3)), (1, 8, 8))
    small.trainer(tmp_path / "passed over", model=model, batch_size=4).fit(X, Y, 1)
    frozen = trainer("frozen", batch_size=4)
    frozen.model.freeze("2")
    frozen.fit(X, Y, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "no regular file"), ("folder", "a folder")):
        before = os.lstat(tmp_path / name)
        with pytest.raises(ConfigurationError, match=what):
            write_file(tmp_path / name, b"new")
        with pytest.raises(CheckpointError, match=what):
            gpucnn.load(tmp_path / name)
        assert os.path.samestat(os.lstat(tmp_path / name), before)
    with pytest.raises(ConfigurationError):
        write_file("/dev/null", b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


@pytest.mark.skipif(os.name == "nt", reason="links and permissions of POSIX")
def test_a_link_stays_and_permissions_too(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "there").chmod(0o600)
    (tmp_path / "link").symlink_to("there")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o600


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "a", tmp_path / ("a" * 300), "a\0b", "", 3, b"a", ["a"]):
        with pytest.raises(ConfigurationError):
            write_file(path, b"new")
        with pytest.raises(ConfigurationError):
            small.trainer(path).fit(X, Y, 1)
    with pytest.raises(ConfigurationError, match="No such file"):
        write_file(tmp_path / "none" / "a", b"new")
    with pytest.raises(ConfigurationError, match="a path is of type NoneType"):
        write_file(None, b"new")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="locales of POSIX")
def test_names_in_every_locale(tmp_path):
    """Python takes names for ASCII in old clusters' and programs' environments, and keeps their other bytes."""
    code = "import sys; from gpucnn.storage import write_file; [write_file(name, b'new') for name in sys.argv[1:]]"
    ascii_only = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    names = ["größe.png", "é" * 127]
    subprocess.run([sys.executable, "-c", code, *(str(tmp_path / name) for name in names)], env=ascii_only, check=True)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_addresses_are_no_folders(tmp_path, monkeypatch):
    """Else a run meant for a store elsewhere would lie in a folder `s3:` here, and be lost with the machine."""
    monkeypatch.chdir(tmp_path)
    for path in ("s3://bucket/run", Path("gs://bucket/run"), "file:///run"):
        for use, *given in ((small.trainer(path).fit, X, Y, 1), (write_file, path, b"new"), (load_run, path)):
            with pytest.raises(ConfigurationError, match="an address; give a file or folder of this machine"):
                use(*given)
    assert os.listdir(tmp_path) == []


def test_every_bit_of_a_file_counts(tmp_path):
    """Flipped bits, in what is said of the model as in its weights."""
    model = small.model().initialize(1)
    model.class_names, model.mean, model.std = ["a", "b", "c"], (0.5,), (0.25,)
    save(model, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    about = content.index(b"class_names")
    rng = np.random.default_rng(0)
    places = [*range(about, about + 80), *rng.integers(0, len(content), 200)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            gpucnn.load(tmp_path / "damaged", small.model())
        assert "\n" not in str(caught.value)


def test_files_of_the_format_before_are_refused_with_the_reason(tmp_path):
    from safetensors.numpy import save_file

    about = {"version": 1, "digest": "ab", "model": "lenet5"}
    save_file({"a": np.zeros(1)}, tmp_path / "old", {"gpucnn": json.dumps(about)})
    with pytest.raises(CheckpointError, match="has format version 1; this gpucnn reads version 2, in which a digest"):
        read_tensors(tmp_path / "old")


def test_measurements_are_those_that_the_checkpoint_has_seen(tmp_path):
    """The best epoch and patience go by them."""
    small.trainer(tmp_path).fit(X, Y, 2, validation=(X, Y))
    metrics = tmp_path / "metrics.jsonl"
    text = metrics.read_text()
    for other in (text.replace('"validation_loss": 0.', '"validation_loss": 1.', 1), text.replace("1", "2", 1)):
        metrics.write_text(other)
        with pytest.raises(CheckpointError, match=r"metrics.jsonl does not hold the 2 epochs"):
            load_run(tmp_path, small.model())
        with pytest.raises(CheckpointError, match=r"metrics.jsonl does not hold the 2 epochs"):
            small.trainer(tmp_path).fit(X, Y, 2, validation=(X, Y), resume=True)


def test_a_home_folder_that_no_shell_has_put_in(tmp_path, monkeypatch):
    """Else a folder `~` would be made here, whose removal by that name is one's home's."""
    monkeypatch.chdir(tmp_path)
    for path in ("~", "~/run", Path("~/run/a")):
        for use, *given in ((small.trainer(path).fit, X, Y, 1), (write_file, path, b"new"), (load_run, path)):
            with pytest.raises(ConfigurationError, match=r"whose ~ no shell has replaced.*whole name"):
                use(*given)
    assert os.listdir(tmp_path) == []
    write_file(tmp_path / "~", b"new")
    write_file("~notes", b"new")
    write_file("./~notes", b"new")
