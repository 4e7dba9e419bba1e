"""A run that was interrupted ends in the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn.backends import backends
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.losses import SoftmaxCrossEntropy
from gpucnn.models.files import read_tensors
from gpucnn.optimizers import SGD, Adam, AdamW
from gpucnn.schedules import Constant, Cosine, Step, WarmUp
from gpucnn.training import Callback, Quiet, load_run
from tests.training import small

X, Y = small.data()
ROOT = Path(gpucnn.__file__).resolve().parent.parent


class StopAfter(Quiet):
    """Ctrl-C at the end of an epoch, or, with `inside`, in its middle."""

    interval = 0.0

    def __init__(self, epoch, inside=False):
        self.epoch, self.inside = epoch, inside

    def update(self, epoch, images, measured):
        if self.inside and epoch == self.epoch and images > 16:
            raise KeyboardInterrupt

    def end_epoch(self, record):
        if not self.inside and record["epoch"] == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("make", [lambda: SGD(0.05), lambda: Adam(0.01), lambda: AdamW(0.01, weight_decay=0.1)])
def test_resuming_gives_the_same_bits(make, inside, tmp_path):
    whole = small.trainer(tmp_path / "whole", optimizer=make())
    history = whole.fit(X, Y, 5, validation=(X, Y))
    for stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            small.trainer(tmp_path / "cut", optimizer=make(), progress=StopAfter(stop, inside)).fit(
                X, Y, 5, validation=(X, Y), resume=True
            )
        assert len(load_run(tmp_path / "cut", small.model()).history) == stop - inside
    resumed = small.trainer(tmp_path / "cut", optimizer=make())
    again = resumed.fit(X, Y, 5, validation=(X, Y), resume=True)
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()
    timeless = [[{k: v for k, v in e.items() if "second" not in k} for e in h.epochs] for h in (history, again)]
    assert timeless[0] == timeless[1]
    ours, theirs = (read_tensors(tmp_path / run / "checkpoint.safetensors")[0] for run in ("whole", "cut"))
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


class Halve(Callback):
    """Changes settings of what takes part in training; keeps nothing itself."""

    def on_epoch_end(self, trainer, record):
        trainer.optimizer.lr /= 2
        trainer.optimizer.momentum = np.float32(0.5)
        trainer.loss.label_smoothing = 0.1 * record["epoch"]


@pytest.mark.parametrize("schedule", [Constant(), Step(2)])
def test_what_a_callback_has_changed_is_resumed(tmp_path, schedule):
    """The rate that the callback has come to, not the one that the optimizer is made with; another one is refused."""

    def make(name, lr=0.1):
        return small.trainer(tmp_path / name, schedule=schedule, optimizer=SGD(lr), callbacks=[Halve()])

    whole = make("whole")
    history = whole.fit(X, Y, 4)
    make("cut").fit(X, Y, 2)
    with pytest.raises(CheckpointError, match="lr was 0.1 there and is 0.025 now"):
        make("cut", 0.025).fit(X, Y, 4, resume=True)
    resumed = make("cut")
    assert resumed.fit(X, Y, 4, resume=True)["learning_rate"] == history["learning_rate"]
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()
    assert resumed.optimizer.momentum == 0.5 and resumed.loss.label_smoothing == whole.loss.label_smoothing


class Anneal(Callback):
    """Changes settings of layers, and those of an optimizer that count from the first step."""

    def on_epoch_end(self, trainer, record):
        dropout = trainer.model.layer.layers[4]
        dropout.rate, trainer.optimizer.beta1 = dropout.rate / 2, 0.9 - 0.1 * record["epoch"]


def test_changed_layers_and_betas_are_resumed(tmp_path):
    def make(name):
        settings = {"schedule": Constant(), "optimizer": Adam(0.01), "callbacks": [Anneal()]}
        return small.trainer(tmp_path / name, **settings)

    whole, resumed = make("whole"), make("cut")
    whole.fit(X, Y, 4)
    make("cut").fit(X, Y, 2)
    resumed.fit(X, Y, 4, resume=True)
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()
    assert resumed.model.changed_settings == {"4": {"rate": 0.25 / 16}}
    assert load_run(tmp_path / "cut", small.model()).model.changed_settings == {"4": {"rate": 0.25 / 16}}


def test_records_of_callbacks_are_kept_as_json_has_them(tmp_path):
    """NumPy's numbers are; what JSON has not is refused once the epoch is kept, with or without a run folder."""

    class Adds(Callback):
        def on_epoch_end(self, trainer, record):
            record |= {"single": np.float32(0.5), "counts": np.array([3, 4])}
            if record["epoch"] == 2:
                record["layer"] = trainer.model.layer

    for run in (None, tmp_path / "run"):
        trainer = small.trainer(run, callbacks=[Adds()], schedule=Constant())
        with pytest.raises(ConfigurationError, match="record has layer = Sequential.*which JSON has not"):
            trainer.fit(X, Y, 3)
        assert trainer.history["single"] == [0.5, 0.5] and trainer.history["counts"] == [[3, 4]] * 2
    again = small.trainer(tmp_path / "run", schedule=Constant()).fit(X, Y, 3, resume=True)
    assert again["single"] == [0.5, 0.5, None]


def test_a_runs_folder_is_no_model_file(tmp_path):
    small.trainer(tmp_path / "run").fit(X, Y, 1)
    for read in (lambda: gpucnn.load(tmp_path / "run"), lambda: gpucnn.load_matching(tmp_path / "run", small.model())):
        with pytest.raises(CheckpointError, match=r"is a run's folder; its network is gpucnn.training.load_run\("):
            read()


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = small.trainer(tmp_path)
    history = first.fit(X, Y, 2)
    again = small.trainer(tmp_path)
    assert again.fit(X, Y, 2, resume=True).epochs == history.epochs
    assert again.model.weights_sha256() == first.model.weights_sha256()


def test_a_run_whose_rates_do_not_depend_on_its_length_can_be_extended(tmp_path):
    whole = small.trainer(schedule=Constant())
    whole.fit(X, Y, 4)
    small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 2)
    longer = small.trainer(tmp_path, schedule=Constant())
    assert len(longer.fit(X, Y, 4, resume=True)) == 4
    assert longer.model.weights_sha256() == whole.model.weights_sha256()
    with pytest.raises(ConfigurationError, match="4 epochs already"):
        small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 3, resume=True)


def test_resuming_on_another_backend_gives_the_same_bits(tmp_path):
    """numpy and numba in turn, if numba is usable here; the exact math of each is the same."""
    other = next((b["name"] for b in backends() if b["usable"] and b["name"] != "numpy"), None)
    if other is None:
        pytest.skip("numpy is the only backend that is usable here")
    whole = small.trainer(tmp_path / "whole", math="exact")
    whole.fit(X, Y, 4)
    for epochs, backend in enumerate(("numpy", other, "numpy"), 1):
        with pytest.raises(KeyboardInterrupt):
            small.trainer(tmp_path / "cut", backend=backend, math="exact", progress=StopAfter(epochs)).fit(
                X, Y, 4, resume=True
            )
    last = small.trainer(tmp_path / "cut", backend=other, math="exact")
    last.fit(X, Y, 4, resume=True)
    assert last.model.weights_sha256() == whole.model.weights_sha256()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 4}, "seed was 3"),
        ({"batch_size": 15}, "batch_size"),
        ({"shift": 0}, "shift"),
        ({"math": "fast"}, "math was exact"),
        ({"optimizer": SGD(0.1)}, "optimizer's lr was"),
        ({"optimizer": Adam()}, "optimizer was SGD there and is Adam now"),
        ({"schedule": Cosine(0.5)}, "schedule's final was 0.0 there and is 0.5 now"),
        ({"model": small.model(width=4)}, "another model"),
    ],
)
def test_another_model_or_other_settings_are_refused(settings, words, tmp_path):
    small.trainer(tmp_path).fit(X, Y, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError) as caught:
        small.trainer(tmp_path, **settings).fit(X, Y, 1, resume=True)
    assert words in str(caught.value) and len(str(caught.value)) < 600
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Weighted(SoftmaxCrossEntropy):
    """A loss of the user's with a setting of its own."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight


class Raised(WarmUp):
    """A schedule of the user's with a setting of its own."""

    def __init__(self, factor):
        super().__init__(2)
        self.factor = factor


def lighter(images, rng, by):
    return images.like(images.data * np.float32(by))


def scaled(by, images, rng):
    return lighter(images, rng, by[0])


class Lighter:
    """With what is no setting: a table, a hidden number and a counter."""

    def __init__(self, by):
        self.by, self.table, self._last, self.calls = by, np.ones(2), None, 0

    def __call__(self, images, rng):
        self.calls += 1
        return lighter(images, rng, self.by)


@dataclass(slots=True)
class Slotted:
    by: float

    def go(self, images, rng):
        return lighter(images, rng, self.by)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Lighter, r"Lighter\(by={}\)"),
        (lambda by: Slotted(by).go, r"Slotted.go\(by={}\)"),
        (lambda by: partial(lighter, by=by), r"partial lighter\(by={}\)"),
        (lambda by: partial(scaled, (by, 1)), r"partial scaled\(argument 1=\[{}, 1\]\)"),
        (lambda by: partial(Lighter(by)), r"partial Lighter\(by={}\)\(\)"),
    ],
)
def test_the_settings_of_an_augmentation_are_compared(kind, text, tmp_path):
    augment = kind(np.float32(0.5))
    small.trainer(tmp_path, augment=augment).fit(X, Y, 1)
    with pytest.raises(CheckpointError, match=f"augment was {text.format(0.5)} there and is {text.format(0.25)} now"):
        small.trainer(tmp_path, augment=kind(0.25)).fit(X, Y, 1, resume=True)
    small.trainer(tmp_path, augment=kind(0.5)).fit(X, Y, 1, resume=True)
    small.trainer(tmp_path, augment=augment).fit(X, Y, 1, resume=True)


def test_what_a_callback_adds_to_an_earlier_epoch_is_kept(tmp_path):
    class Late(Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] > 1:
                trainer.history.epochs[0].setdefault("epochs", []).append(record["epoch"])

    small.trainer(tmp_path, callbacks=[Late()]).fit(X, Y, 3)
    trainer = small.trainer(tmp_path)
    trainer.fit(X, Y, 3, resume=True)
    assert trainer.history.epochs[0]["epochs"] == [2, 3] and "epochs" not in trainer.history.last


@pytest.mark.parametrize(("part", "kind", "name"), [("loss", Weighted, "weight"), ("schedule", Raised, "factor")])
def test_settings_that_a_class_adds_to_one_of_ours_are_compared(part, kind, name, tmp_path):
    small.trainer(tmp_path, **{part: kind(1.0)}).fit(X, Y, 1)
    with pytest.raises(CheckpointError, match=f"{part}'s {name} was 1.0 there and is 2.0 now"):
        small.trainer(tmp_path, **{part: kind(2.0)}).fit(X, Y, 1, resume=True)
    if part == "schedule":
        with pytest.raises(CheckpointError, match="schedule was Raised there and is WarmUp now"):
            small.trainer(tmp_path, schedule=WarmUp(2)).fit(X, Y, 1, resume=True)


def test_other_data_and_another_length_are_refused(tmp_path):
    small.trainer(tmp_path).fit(X, Y, 1)
    for images, labels, epochs, word in (
        (X, (Y + 1) % 3, 1, "data_sha256"),
        (*small.data(5), 1, "data_sha256"),
        (X, Y, 2, "epochs"),
    ):
        with pytest.raises(CheckpointError, match=word):
            small.trainer(tmp_path).fit(images, labels, epochs, resume=True)


def test_a_trainer_goes_on_after_a_refused_resume(tmp_path):
    """It has its epochs, its optimizer's state and its average still."""
    whole, it = (
        small.trainer(run, schedule=Constant(), ema=0.9, loss=SoftmaxCrossEntropy(class_weights="balanced"))
        for run in (None, tmp_path)
    )
    whole.fit(X, Y, 3, validation=0.3)
    it.fit(X, Y, 2, validation=0.3)
    for images, labels, epochs, validation in ((X, Y, 1, 0.3), (X, (Y + 1) % 3, 4, 0.3), (X, Y, 4, 0.4)):
        with pytest.raises((CheckpointError, ConfigurationError), match="epochs already|other settings"):
            it.fit(images, labels, epochs, validation=validation, resume=True)
        assert len(it.history) == 2
    it.fit(X, Y, 1, validation=0.3)
    assert it.history["validation_loss"] == whole.history["validation_loss"]
    for one in (whole, it):
        one.restore_average()
    assert it.model.weights_sha256() == whole.model.weights_sha256()


def test_a_damaged_run_is_refused(tmp_path):
    small.trainer(tmp_path).fit(X, Y, 2)
    checkpoint, metrics = tmp_path / "checkpoint.safetensors", tmp_path / "metrics.jsonl"
    whole, lines = checkpoint.read_bytes(), metrics.read_text()
    for content in (b"", whole[:100], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        checkpoint.write_bytes(content)
        with pytest.raises(CheckpointError):
            small.trainer(tmp_path).fit(X, Y, 2, resume=True)
        with pytest.raises(CheckpointError):
            load_run(tmp_path, small.model())
    checkpoint.write_bytes(whole)
    for text in (lines.splitlines()[0] + "\n", "{", "[]\n[]\n"):
        metrics.write_text(text)
        with pytest.raises(CheckpointError, match="metrics"):
            small.trainer(tmp_path).fit(X, Y, 2, resume=True)
    with pytest.raises(CheckpointError, match="there is no file or folder"):
        load_run(tmp_path / "nothing")


def test_what_the_user_changed_is_named_before_what_follows_from_it(tmp_path):
    """The length of the run is a setting because of the schedule; other images have another digest."""
    small.trainer(tmp_path, schedule=Constant()).fit(X, Y, 1)
    with pytest.raises(CheckpointError, match=r"schedule was Constant there and is Cosine now"):
        small.trainer(tmp_path, schedule=Cosine()).fit(X, Y, 1, resume=True)
    with pytest.raises(CheckpointError, match=rf"images was {len(X)} there and is {len(X) - 1} now"):
        small.trainer(tmp_path, schedule=Constant()).fit(X[1:], Y[1:], 1, resume=True)


def test_killed_between_metrics_and_checkpoint(tmp_path):
    """One line too many is ignored and measured again."""
    whole = small.trainer(tmp_path / "whole")
    whole.fit(X, Y, 3)
    with pytest.raises(KeyboardInterrupt):
        small.trainer(tmp_path / "cut", progress=StopAfter(2)).fit(X, Y, 3)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": 3, "loss": 0}\n')
    resumed = small.trainer(tmp_path / "cut")
    assert resumed.fit(X, Y, 3, resume=True)["loss"][2] > 0
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()


def test_killed_at_random_moments(tmp_path):
    """SIGKILL again and again; after each, every file is whole, and in the end the weights are the same bits."""
    epochs = 60
    whole = small.trainer()
    started = time.perf_counter()
    whole.fit(X, Y, epochs)
    about = time.perf_counter() - started
    rng = np.random.default_rng(1)
    command = [sys.executable, small.__file__, str(tmp_path / "run"), str(epochs)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    killed = 0
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, about / 2))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        folder = tmp_path / "run"
        for name, read in {
            "config.json": lambda path: json.loads(path.read_text()),
            "metrics.jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
            "checkpoint.safetensors": read_tensors,
        }.items():
            if (folder / name).exists():
                read(folder / name)
    assert killed >= 2, "the process ended before it was killed: nothing was tested"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout.split() == ["ready", whole.model.weights_sha256()], done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "curves.png",
        "metrics.jsonl",
    ]
