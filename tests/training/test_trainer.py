"""Training: what it learns, measures, writes, and refuses."""

import copy
import gc
import json
import pickle
import subprocess
import sys
import threading
import weakref
from operator import neg
from pathlib import Path

import joblib
import numpy as np
import pytest

from gpucnn import arithmetic
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, DataError, DTypeError, NonFiniteError, ShapeError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, GroupNorm, Layer, MaxPool2d, Sequential
from gpucnn.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import SGD, Adam
from gpucnn.schedules import Constant
from gpucnn.training import Bar, Callback, Lines, Quiet, Trainer, load_run, loop, steps
from tests.processes import PACKAGE
from tests.training import small

X, Y = small.data()


def test_it_learns():
    trainer = small.trainer(shift=0, optimizer=Adam(0.02))
    history = trainer.fit(X, Y, 15)
    assert len(history) == 15 and history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["validation_loss"] == [None] * 15, "not measured"
    with pytest.raises(
        ConfigurationError, match=r"history\['val_loss'\]: no epoch has it; the last one has epoch, step, "
    ):
        history["val_loss"]
    loss, accuracy = trainer.evaluate(X, Y)
    assert accuracy > 0.95
    probabilities = trainer.predict(X)
    assert probabilities.shape == (45, 3) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert accuracy == np.mean(probabilities.argmax(axis=1) == Y)
    assert np.isclose(loss, -np.mean(np.log(probabilities[np.arange(45), Y].astype(np.float64))))


@pytest.mark.parametrize("math", ["fast", "exact"])
def test_a_step_is_what_the_pieces_say(math):
    """Softmax regression by hand in float64: order of the images, mean gradient, SGD with momentum, counts."""
    backend = get_backend("numpy", math)
    model = Model(Sequential(Flatten(), Dense(3)), (1, 8, 8)).initialize(1)
    w, b = (model.state_dict()[f"1.{name}"].astype(np.float64) for name in ("weight", "bias"))
    trainer = Trainer(model, backend=backend, optimizer=SGD(0.1, momentum=0.5), seed=9, batch_size=16, progress=Quiet())
    history = trainer.fit(X, Y, 2)
    x, v = X.reshape(45, 64).astype(np.float64), [0.0, 0.0]
    for epoch in range(2):
        order, loss, right = arithmetic.permutation(9, 45, epoch), 0.0, 0
        assert sorted(order) == list(range(45))
        for some in (order[:16], order[16:32], order[32:]):
            z = x[some] @ w.T + b
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            loss -= np.log(p[np.arange(len(some)), Y[some]]).sum()
            right += np.sum(z.argmax(axis=1) == Y[some])
            d = (p - np.eye(3)[Y[some]]) / len(some)
            v = [0.5 * v[0] + d.T @ x[some], 0.5 * v[1] + d.sum(axis=0)]
            w, b = w - 0.1 * v[0], b - 0.1 * v[1]
        record = history.epochs[epoch]
        assert np.isclose(record["loss"], loss / 45, rtol=1e-5) and record["accuracy"] == right / 45
        assert record["epoch"] == epoch + 1 and record["step"] == 3 * (epoch + 1)
    # 6 steps of sums of 64 + 16 products, values below 4: k * 2**-24 * sum(|x||w|) with room for none but those
    assert np.abs(model.state_dict()["1.weight"] - w).max() < 6 * 80 * 2**-24 * 4
    assert np.abs(model.state_dict()["1.bias"] - b).max() < 6 * 80 * 2**-24 * 4


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    def digest(**settings):
        trainer = small.trainer(**settings)
        trainer.fit(X, Y, 2)
        return trainer.model.weights_sha256()

    assert digest() == digest()
    assert len({digest(), digest(seed=4), digest(shift=0), digest(batch_size=15), digest(schedule=Constant())}) == 5


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_dropout_draws_by_the_trainers_seed(backend):
    """Contract rule 10; with a model for both, each trainer by its own."""
    model = Model(Sequential(Flatten(), Dropout(0.5), Dense(3)), (1, 8, 8)).initialize(0).place(get_backend(backend))
    expected = []
    for seed in (0, 1, 2**63):
        model.mode.training, model.mode.seed = True, seed
        expected.append(float(SoftmaxCrossEntropy()(model(X)[0], Y)[0][0]))
        model.mode.training = False
    assert len(set(expected)) == 3
    trainers = [
        small.trainer(None, backend, model=model, seed=s, optimizer=SGD(0.0), shift=0, schedule=Constant())
        for s in (0, 1, 2**63)
    ]
    found = [one.train_step(X, Y)["loss"] for one in trainers]
    assert found == pytest.approx(expected, rel=1e-6)
    for _ in range(3):  # recorded
        found = [one.train_step(X, Y)["loss"] for one in trainers]
    assert len(set(found)) == 3


def test_validation_is_measured_and_changes_nothing():
    plain, watched = small.trainer(), small.trainer()
    plain.fit(X, Y, 2)
    history = watched.fit(X, Y, 2, validation=(X[:20], Y[:20]))
    assert plain.model.weights_sha256() == watched.model.weights_sha256()
    loss, accuracy = watched.evaluate(X[:20], Y[:20])
    assert (history.last["validation_loss"], history.last["validation_accuracy"]) == (loss, accuracy)


def test_the_run_folder(tmp_path):
    trainer = small.trainer(tmp_path / "a" / "run", about={"data": "noise"})
    history = trainer.fit(X, Y, 3, validation=(X, Y))
    folder = tmp_path / "a" / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "checkpoint.safetensors",
        "config.json",
        "curves.png",
        "metrics.jsonl",
    ]
    config = json.loads((folder / "config.json").read_text())
    wanted = {"data": "noise", "epochs": 3, "backend": "numpy", "math": "exact"}
    assert {key: config[key] for key in wanted} == wanted
    assert config["optimizer"] == {"name": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001, "nesterov": True}
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == history.epochs
    assert set(history.last) == {
        "epoch",
        "step",
        "loss",
        "accuracy",
        "images_per_second",
        "learning_rate",
        "validation_loss",
        "validation_accuracy",
        "seconds",
    }
    assert history.seconds > 0 and history.images_per_second > 0
    run = load_run(folder, small.model())
    assert run.model.weights_sha256() == trainer.model.weights_sha256()
    assert run.history.epochs == history.epochs and run.config == config
    from PIL import Image

    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 600


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"seed": 7}, "about has 'seed', which a run's config.json says itself"),
        ({"gpucnn": "0.1"}, "about has 'gpucnn'"),
        ({"patience": 1}, "about has 'patience'"),
        ({"model": "first try"}, "about has 'model'"),
        ({"folder": Path()}, "about cannot be written to config.json: .*Path is not JSON"),
        ({"best": float("nan")}, "about cannot be written to config.json: .*JSON compliant"),
    ],
    ids=str,
)
def test_an_about_that_would_hide_what_a_run_says_is_refused(about, words, tmp_path):
    """A `seed` there would have been taken for the run's when runs are compared."""
    run = small.trainer(tmp_path / "run", about=about)
    for fit in (lambda: run.fit(*small.data(), 1), lambda: run.fit_batches([small.data()], 1)):
        with pytest.raises(ConfigurationError, match=words):
            fit()
    assert not (tmp_path / "run").exists()


def test_a_used_run_folder_is_not_overwritten(tmp_path):
    small.trainer(tmp_path).fit(X, Y, 1)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ConfigurationError, match="resume=True"):
        small.trainer(tmp_path).fit(X, Y, 1)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="run folder"):
        small.trainer(tmp_path / "file").fit(X, Y, 1)


@pytest.mark.parametrize(
    ("images", "labels", "error", "words"),
    [
        (X[:, 0], Y, ShapeError, "(N, 1, 8, 8)"),
        (X[:0], Y[:0], ShapeError, "no images"),
        (X.astype(np.float64), Y, DTypeError, "float64"),
        (np.where(np.arange(45)[:, None, None, None] == 7, np.nan, X).astype(np.float32), Y, DataError, "image 7"),
        (np.where(np.arange(45)[:, None, None, None] == 7, -np.inf, X).astype(np.float32), Y, DataError, "image 7"),
        (X, Y[:-1], ShapeError, "(45,)"),
        (X, Y.astype(np.float32), DTypeError, "integers"),
        (X, np.where(np.arange(45) == 5, 3, Y), DataError, "image 5"),
        (X, np.where(np.arange(45) == 5, -1, Y), DataError, "0 to 2"),
    ],
)
def test_unfit_data_is_refused_before_any_work(images, labels, error, words, tmp_path):
    trainer = small.trainer(tmp_path / "run")
    digest = trainer.model.weights_sha256()
    for call in (
        lambda: trainer.fit(images, labels, 2),
        lambda: trainer.evaluate(images, labels),
        lambda: trainer.fit(X, Y, 2, validation=(images, labels)),
    ):
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)
    assert trainer.model.weights_sha256() == digest and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": -1},
        {"seed": 0.5},
        {"batch_size": 0},
        {"shift": -1},
        {"shift": 8},
        {"model": Model(MaxPool2d(2), (1, 8, 8))},
        {"model": "lenet5"},
        {"optimizer": "sgd"},
        {"schedule": "cosine"},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ConfigurationError):
        small.trainer(**settings)


def test_a_batch_that_is_refused_is_named_and_none_is_left_unused():
    images, labels = small.data()
    pairs = [(images[i : i + 8], labels[i : i + 8]) for i in (0, 8, 16)]
    for wrong, error, words in (
        ((images[:8].astype(float), labels[:8]), DTypeError, "batch 3 of the epoch: images are float64"),
        ((images[:8], labels[:7]), ShapeError, "batch 3 of the epoch: "),
        ((images[:8, :, 1:], labels[:8]), ShapeError, "batch 3 of the epoch: images have shape"),
    ):
        with pytest.raises(error, match=words):
            small.trainer().fit_batches([*pairs[:2], wrong], 1)
    with pytest.raises(ConfigurationError, match="steps is 2, but there are 3 batches, of which the others"):
        small.trainer().fit_batches(pairs, 1, steps=2)
    with pytest.raises(DataError, match="there are no batches; give at least one"):
        small.trainer().fit_batches([], 1)
    assert small.trainer().fit_batches(iter(pairs), 1, steps=2).last["step"] == 2


def test_resume_without_a_folder_and_no_epochs_are_refused():
    with pytest.raises(ConfigurationError, match="run folder"):
        small.trainer().fit(X, Y, 1, resume=True)
    with pytest.raises(ConfigurationError, match="epochs"):
        small.trainer().fit(X, Y, 0)


def test_a_model_that_has_weights_keeps_them():
    model = small.model().initialize(99)
    digest = model.weights_sha256()
    assert small.trainer(model=model).model.weights_sha256() == digest != small.trainer().model.weights_sha256()


# ---- numbers that are not finite -------------------------------------------------------------------------------------


class Bomb(Layer):
    """The identity, until call number `at` in training multiplies by NaN; before a ReLU the loss stays finite."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self, x):
        self.calls += self.mode.training
        if self.mode.training and self.calls == self.at:
            return x.like(x.data * np.float32("nan")), lambda dy: dy
        return x, lambda dy: dy


def test_the_first_bad_step_is_named_and_the_last_good_checkpoint_stays(tmp_path):
    def build(at):
        return Model(Sequential(Flatten(), Bomb(at), Dense(5, activation="relu"), Dense(3)), (1, 8, 8))

    good = small.trainer(model=build(-1))
    good.fit(X, Y, 6)
    trainer = small.trainer(tmp_path, model=build(8))  # three steps an epoch: step 8 is in epoch 3
    with pytest.raises(NonFiniteError, match="epoch 3, step 8") as caught:
        trainer.fit(X, Y, 6)
    assert (caught.value.epoch, caught.value.step) == (3, 8)
    sent = pickle.loads(pickle.dumps(caught.value))  # as by a worker process
    assert (str(sent), sent.epoch, sent.step) == (str(caught.value), 3, 8)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    run = load_run(tmp_path, build(8))
    assert all(np.isfinite(value).all() for value in run.model.state_dict().values())
    assert len(run.history) == 2


def test_a_clock_that_a_test_has_stopped(monkeypatch, capsys):
    for module in (loop, steps):
        monkeypatch.setattr(module, "perf_counter", lambda: 0.0)
    history = small.trainer(progress=Lines()).fit(X, Y, 2)
    assert history["seconds"] == [0, 0] and "epoch 2/2" in capsys.readouterr().err


def test_a_diverging_run_stops():
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(NonFiniteError):
        small.trainer(optimizer=SGD(1e38), schedule=Constant()).fit(X, Y, 5)


@pytest.mark.parametrize("run", [None, "run"])
@pytest.mark.parametrize(
    ("layers", "what"),
    [([BatchNorm(), Flatten(), Dense(3)], "model.0.running_var"), ([Flatten(), Dense(3)], "optimizer.square.1.weight")],
)
def test_what_no_loss_shows_stops_training_too(tmp_path, run, layers, what):
    """Squares exceed float32. An infinite variance makes outputs 0, Adam's infinite `square` steps of 0."""
    model = Model(Sequential(*copy.deepcopy(layers)), (1, 8, 8))
    trainer = small.trainer(run and tmp_path / run, model=model, optimizer=Adam())
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(NonFiniteError, match=f"^{what} became infinite"):
        trainer.fit(X * np.float32(3e30), Y, 2)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


# ---- a layer of one's own, and progress ------------------------------------------------------------------------------


class Negative(Layer):
    """-x twice: changes nothing, computes outside the backend's operations."""

    def __call__(self, x):
        return x.like(neg(neg(x.data))), lambda dy: dy.like(neg(neg(dy.data)))


def test_what_training_allocated_is_freed_with_the_trainer():
    """At once, without the garbage collector, to which a device's memory weighs nothing."""
    gc.collect()
    gc.disable()
    try:
        model = small.model()
        trainer = Trainer(model, backend="numba", batch_size=8, progress=False)
        trainer.fit(*small.data(), 2, validation=0.25)
        parts = [weakref.ref(part) for part in (model, trainer, *model.layer.walk())]
        del model, trainer
        assert [part() for part in parts] == [None] * len(parts)
    finally:
        gc.enable()


def test_a_layer_of_ones_own_trains():
    plain = Model(Sequential(Flatten(), Dense(3)), (1, 8, 8))
    own = Model(Sequential(Flatten(), Negative(), Dense(3)), (1, 8, 8))
    for model in (plain, own):
        small.trainer(model=model).fit(X, Y, 2)
    assert np.array_equal(plain.values, own.values)


class Recording(Quiet):
    interval = 0.0

    def __init__(self):
        self.calls = []

    def begin(self, title, epochs, images, done):
        self.calls.append(("begin", epochs, images, done))

    def update(self, epoch, images, measured):
        assert set(measured) == {"loss", "accuracy", "images_per_second"}
        self.calls.append(("update", epoch, images))

    def end_epoch(self, record):
        self.calls.append(("end", record["epoch"]))

    def close(self):
        self.calls.append(("close",))


def test_progress_is_told_everything_in_order():
    progress = Recording()
    small.trainer(progress=progress).fit(X, Y, 2)
    assert progress.calls == [
        ("begin", 2, 45, 0),
        # The first step compiles: its speed would foretell hours.
        ("update", 1, 32),
        ("update", 1, 45),
        ("end", 1),
        ("update", 2, 16),
        ("update", 2, 32),
        ("update", 2, 45),
        ("end", 2),
        ("close",),
    ]


@pytest.mark.parametrize("progress", [Lines(), Bar()])
def test_progress_speaks_on_stderr_alone(progress, capsys):
    progress.interval = 0.0
    small.trainer(progress=progress).fit(X, Y, 2, validation=(X, Y))
    out, err = capsys.readouterr()
    assert out == ""
    for word in (
        "numpy",
        "exact",
        "specification, and slow",
        "epoch 2/2",
        "loss",
        "accuracy",
        "images/s",
        "validation",
    ):
        assert word in " ".join(err.split())
    assert err.count("specification") == 1
    assert "left" in err or isinstance(progress, Bar)  # rich draws no bar where nobody watches


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_trainer_can_be_pickled_and_goes_on(backend):
    """As joblib and multiprocessing send it; on a backend of the same name and number of threads."""
    trainer = small.trainer(backend=backend, progress=False)
    trainer.fit(X, Y, 1)
    other = pickle.loads(pickle.dumps(trainer))
    assert other.evaluate(X, Y) == trainer.evaluate(X, Y)
    for one in (trainer, other):
        one.fit(X, Y, 1)
    assert (
        other.history["loss"] == trainer.history["loss"]
        and other.model.weights_sha256() == trainer.model.weights_sha256()
    )
    chosen = get_backend(backend, threads=1, graph=False)
    sent = pickle.loads(pickle.dumps(chosen))
    assert (sent.name, sent.threads, sent.graph) == (backend, 1, False)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_trainer_whose_arrays_came_in_a_mapped_file_goes_on(mode, tmp_path):
    """As joblib sends large arrays to its workers: read-only, or shared with all others that load them."""
    loss = SoftmaxCrossEntropy(class_weights=[1, 2, 3])
    trainer = small.trainer(backend="numba", optimizer=Adam(0.01), loss=loss, ema=0.9, progress=False)
    trainer.fit(X, Y, 1)
    joblib.dump(trainer, tmp_path / "trainer")
    before = (tmp_path / "trainer").read_bytes()
    others = [joblib.load(tmp_path / "trainer", mmap_mode=mode) for _ in range(2)]
    for one in (trainer, *others):
        one.fit(X, Y, 1)
    assert {one.model.weights_sha256() for one in others} == {trainer.model.weights_sha256()}
    assert (tmp_path / "trainer").read_bytes() == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("norm", "loss"), [(BatchNorm(), None), (GroupNorm(1), None), (BatchNorm(), BinaryCrossEntropy())], ids=str
)
def test_divergence_is_told_where_warnings_are_errors(norm, loss):
    """As test suites have it; nor does NumPy warn of it beforehand elsewhere."""
    model = Model(
        Sequential(Conv2d(3, 3), norm, Flatten(), Dense(3)), (1, 8, 8), head="regressor" if loss else "classifier"
    )
    trainer = Trainer(model, backend="numpy", optimizer=SGD(1e30), loss=loss, progress=False)
    with pytest.raises(NonFiniteError):
        trainer.fit(X, np.eye(3, dtype=np.float32)[Y] if loss else Y, 9)


def test_an_epoch_that_a_callback_refused_begins_again_and_says_so(capsys):
    class Pruned(Callback):
        def on_epoch_end(self, trainer, record):
            raise KeyError

    trainer = small.trainer(callbacks=[Pruned()])
    with pytest.raises(KeyError):
        trainer.fit(X, Y, 1)
    trainer.callbacks, trainer.progress = [], Lines()
    assert trainer.fit(X, Y, 1)["epoch"] == [1]
    assert "the epoch that was interrupted begins again, with the weights as they are" in capsys.readouterr().err


class Keep(Callback):
    def __init__(self, copied):
        self.copied, self.copies = copied, {}

    def on_epoch_end(self, trainer, record):
        self.copies["epoch"] = self.copied(trainer)

    def on_train_end(self, trainer, history):
        self.copies["end"] = self.copied(trainer)


def pickled(trainer):
    return pickle.loads(pickle.dumps(trainer))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_copies_made_between_own_steps_go_on(copied):
    trainer = small.trainer(schedule=Constant(), backend="numba")
    for _ in range(3):  # the third repeats a recording
        trainer.train_step(X[:16], Y[:16])
    other = copied(trainer)
    assert trainer.train_step(X[:16], Y[:16]) == other.train_step(X[:16], Y[:16])
    assert trainer.model.weights_sha256() == other.model.weights_sha256()


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_copies_made_in_callbacks_go_on(copied, capsys):
    keep = Keep(copied)
    trainer, copies = small.trainer(callbacks=[keep]), keep.copies
    trainer.fit(X, Y, 1)
    for one in (trainer, *copies.values()):
        one.callbacks, one.progress = [], Lines()
    copies["end"].fit(X, Y, 1)
    assert "begins again" not in capsys.readouterr().err
    copies["epoch"].fit(X, Y, 1)  # its history has no epoch yet
    assert "the epoch that was interrupted begins again" in capsys.readouterr().err
    trainer.fit(X, Y, 1)
    assert copies["end"].model.weights_sha256() == trainer.model.weights_sha256()
    assert [len(one.history) for one in copies.values()] == [1, 2]


def test_a_trainer_with_a_bar_can_be_copied():
    """As every trainer in a terminal has one; in a callback, where the bar is drawn, too."""
    copies = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer, step):
            copies.append(copy.deepcopy(trainer.progress))

    trainer = small.trainer(progress=Bar(), callbacks=[Keep()])
    trainer.fit(X, Y, 1)
    trainer.callbacks = []
    for other in (pickle.loads(pickle.dumps(trainer)), copy.deepcopy(trainer)):
        other.progress = copies[-1]
        other.fit(X, Y, 1)
        assert other.history.last["epoch"] == 2


def test_an_error_before_the_bar_is_the_one_that_is_told(monkeypatch, tmp_path):
    def full(*_):
        raise DataError("no room")

    monkeypatch.setattr("gpucnn.training.run.RunFolder.write_config", full)
    with pytest.raises(DataError, match="no room"):
        small.trainer(progress=Bar(), run=tmp_path / "run").fit(X, Y, 1)


@pytest.mark.parametrize("stream", ["None", "open(os.devnull)", "Writer()"])
def test_stderr_that_is_no_usual_stream(stream):
    """As services have it: None, closed, or an object that only writes."""
    code = f"""
import os, sys
class Writer:
    write = flush = lambda *_: None
sys.stderr = {stream}
if hasattr(sys.stderr, "close"):
    sys.stderr.close()
from tests.training import small
small.trainer(progress=None).fit(*small.data(), 1)
print("trained")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert run.stdout == "trained\n", run.stderr


def test_quiet_says_nothing(capsys):
    small.trainer(progress=False).fit(X, Y, 1)
    assert capsys.readouterr() == ("", "")


class Once(Callback):
    """Does something to the trainer after the first epoch."""

    def __init__(self, change):
        self.change = change

    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 1:
            self.change(trainer)


@pytest.mark.parametrize(
    "name", ["loss", "optimizer", "batch_size", "shift", "lr_factors", "augment", "ema", "model", "run"]
)
def test_a_trainer_stays_as_it_is_while_it_trains(name):
    trainer = small.trainer(callbacks=[Once(lambda trainer: setattr(trainer, name, getattr(trainer, name)))])
    with pytest.raises(ConfigurationError, match=f"a Trainer's {name} cannot be changed while it trains; change"):
        trainer.fit(X, Y, 2)
    if name in ("batch_size", "run"):
        setattr(trainer, name, getattr(trainer, name))
    else:
        with pytest.raises(ConfigurationError, match=f"a Trainer's {name} cannot be changed; make another Trainer, or"):
            setattr(trainer, name, getattr(trainer, name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda trainer: setattr(trainer, "batch_size", 0), "batch_size is 0; give a positive integer"),
        (lambda trainer: setattr(trainer, "schedule", SGD()), "schedule is .*; give one of gpucnn.schedules"),
        (lambda trainer: setattr(trainer, "callbacks", [1]), "each of callbacks is 1"),
        (lambda trainer: setattr(trainer.optimizer, "lr", -1), "lr is -1; give a number of 0 or more"),
        (lambda trainer: setattr(trainer.optimizer, "lr", "x"), "lr is 'x' of type str"),
        (lambda trainer: setattr(trainer.optimizer, "momentum", 1), "momentum is 1; give"),
        (lambda trainer: setattr(trainer.loss, "label_smoothing", 1), "label_smoothing is 1; give"),
        (
            lambda trainer: setattr(trainer.loss, "class_weights", [1, 2, 3]),
            "class_weights of a SoftmaxCrossEntropy cannot be changed; make another SoftmaxCrossEntropy",
        ),
    ],
)
def test_what_is_changed_is_checked_as_what_is_made(change, words):
    with pytest.raises(ConfigurationError, match=words):
        change(small.trainer())


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), Huber()])
def test_settings_of_a_loss_take_effect_in_the_next_step(loss):
    """In the middle of an epoch, whose loss is then a mean of both kinds."""
    changed = {"label_smoothing": 0.3} if isinstance(loss, SoftmaxCrossEntropy) else {"delta": 0.05}
    targets = Y if isinstance(loss, SoftmaxCrossEntropy) else np.eye(3, dtype=np.float32)[Y]
    head = "classifier" if isinstance(loss, SoftmaxCrossEntropy) else "regressor"

    class Change(Callback):
        def on_train_batch_begin(self, trainer, step):
            if step == 3:
                setattr(trainer.loss, *next(iter(changed.items())))

    def losses(loss, steps, callbacks=()):
        """Of 9 images in one step, seen again and again by weights that stay."""
        model = Model(Sequential(Flatten(), Dense(3)), (1, 8, 8), head=head)
        trainer = Trainer(
            model, backend="numpy", loss=loss, optimizer=SGD(0), batch_size=9, callbacks=callbacks, progress=False
        )
        return trainer.fit_batches([(X[:9], targets[:9])] * steps, 1)["loss"][0]

    plain, other = losses(type(loss)(), 1), losses(type(loss)(**changed), 1)
    assert losses(loss, 4, [Change()]) == pytest.approx((plain + other) / 2) and abs(plain - other) > 0.001


@pytest.mark.parametrize("factor", [-1, None, np.ones(2), float("nan")], ids=str)
def test_what_is_no_factor_of_the_rate_is_refused(factor):
    class Odd(Constant):
        def __call__(self, step, steps, epoch):
            return 1 if step < 2 else factor

    trainer = small.trainer(schedule=Odd())
    with pytest.raises(ConfigurationError, match="the factor that Odd returned is .*give a number of 0 or more"):
        trainer.fit(X, Y, 1)


class Stop(Layer):
    """Its own thread waits, in the middle of a training step, until another one has predicted and evaluated."""

    beside = None

    def __call__(self, x):
        if self.beside:
            beside, self.beside = self.beside, None
            thread = threading.Thread(target=beside)
            thread.start()
            thread.join()
        return x, lambda dy: dy


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_another_thread_predicts_in_the_middle_of_a_step(backend):
    """Batch norm and dropout behind the place see training as before, and the other thread does not."""

    def train(beside):
        stop = Stop()
        model = Model(Sequential(Flatten(), stop, Dense(5), BatchNorm(), Dropout(0.5), Dense(3)), (1, 8, 8))
        trainer = small.trainer(model=model, backend=backend, shift=0)
        seen = []

        def work():
            seen.append(np.array_equal(model.predict(X[:7]), model.predict(X)[:7]))
            trainer.evaluate(X, Y)

        stop.beside = work if beside else None
        trainer.fit(X, Y, 1)
        assert seen == [True] * beside
        return model.weights_sha256()

    assert train(True) == train(False)
