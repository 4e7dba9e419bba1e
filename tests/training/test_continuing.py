"""Training that goes on: `fit` again, loops of one's own, averages of the weights."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpucnn
from gpucnn import Trainer, arithmetic
from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError, DataError, NonFiniteError, ShapeError
from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, Sequential
from gpucnn.losses import SoftmaxCrossEntropy
from gpucnn.models import Model, at_size
from gpucnn.models.files import read_tensors
from gpucnn.models.turn import Turn
from gpucnn.optimizers import SGD, Adam
from gpucnn.schedules import Constant, Cosine, OneCycle, Step
from gpucnn.training import Callback, load_run
from tests.training import small

X, Y = small.data()


def trainer(run=None, backend="numpy", **settings):
    return small.trainer(run, backend, **{"schedule": Constant(), **settings})


def state(model):
    return {name: value.tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [lambda: SGD(0.05), lambda: Adam(0.01)])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_two_fits_are_one(make, backend, tmp_path):
    whole, parts = (
        trainer(optimizer=make(), schedule=Step(2)),
        trainer(tmp_path, backend, optimizer=make(), schedule=Step(2)),
    )
    whole.fit(X, Y, 5, validation=(X, Y))
    for epochs in (2, 1, 2):
        history = parts.fit(X, Y, epochs, validation=(X, Y))
    assert state(parts.model) == state(whole.model)
    assert history["epoch"] == [1, 2, 3, 4, 5] and history["step"] == [3, 6, 9, 12, 15]
    assert history["learning_rate"] == whole.history["learning_rate"] and history["loss"] == whole.history["loss"]
    assert parts.restore_best() == whole.restore_best()
    again = trainer(tmp_path, optimizer=make(), schedule=Step(2))
    again.fit(X, Y, 6, validation=(X, Y), resume=True)
    whole_again = trainer(optimizer=make(), schedule=Step(2))
    whole_again.fit(X, Y, 6, validation=(X, Y))
    assert state(again.model) == state(whole_again.model)


def test_a_schedule_of_the_runs_length_starts_anew():
    parts = trainer(schedule=Cosine())
    parts.fit(X, Y, 2)
    rates = parts.fit(X, Y, 2)["learning_rate"]
    assert rates[:2] == rates[2:] and len(set(rates)) == 2


def test_a_schedule_of_the_runs_length_begins_with_each_fit():
    """Steps of before, in a loop of one's own or in an epoch that was interrupted, were counted as steps of the run,
    which went on beyond its end: a cosine rises there, and one cycle divided by zero.
    """

    class Rates(Callback):
        def on_train_batch_end(self, trainer, step):
            seen.append(float(trainer.optimizer.hyper[0]))
            if trainer is cut and step == 2:
                raise KeyboardInterrupt

    for make in (Cosine, lambda: OneCycle(rise=1.0)):
        seen: list[float] = []
        cut = None
        trainer(schedule=make(), callbacks=[Rates()]).fit(X, Y, 2)
        expected, own, cut = [*seen], trainer(callbacks=[Rates()]), trainer(schedule=make(), callbacks=[Rates()])
        steps(own, 4)
        own.schedule = make()
        seen.clear()
        own.fit(X, Y, 2)
        assert seen == expected and len(seen) == 6
        with pytest.raises(KeyboardInterrupt):
            cut.fit(X, Y, 2)
        seen.clear()
        cut.fit(X, Y, 2)
        assert seen == expected


def test_resume_before_the_first_checkpoint_says_with_which_weights_it_begins(tmp_path):
    """Those of the trainer, which an interrupted epoch has changed; a new one begins with the first ones."""
    said = []

    class Stop(Callback):
        def on_train_batch_end(self, trainer, step):
            if step == 2 and len(said) == 1:
                raise KeyboardInterrupt

    class Say(gpucnn.training.Quiet):
        def begin(self, title, epochs, images, done):
            said.append("begin")

        def say(self, text):
            said.append(text)

    one = trainer(tmp_path, "numba", callbacks=[Stop()], progress=Say())
    with pytest.raises(KeyboardInterrupt):
        one.fit(X, Y, 1)
    one.fit(X, Y, 1, resume=True)
    one.fit(X, Y, 2, resume=True)
    again = "the epoch that was interrupted begins again, with the weights as they are"
    assert said == ["begin", "begin", again, "begin"]


def test_patience_counts_from_the_call():
    parts = trainer(optimizer=SGD(1e-30, momentum=0), model=dense())  # nothing ever improves
    assert len(parts.fit(X, Y, 9, validation=(X, Y), patience=2)) == 3
    assert len(parts.fit(X, Y, 9, validation=(X, Y), patience=2)) == 5


def test_what_cannot_continue_is_refused():
    optimizer = SGD(0.05)
    one, other = trainer(optimizer=optimizer), trainer(optimizer=optimizer)
    one.fit(X, Y, 1, validation=0.2)
    with pytest.raises(ConfigurationError, match="validation or monitor are not those"):
        one.fit(X, Y, 1, validation=0.3)
    other.fit(X, Y, 1)
    with pytest.raises(ConfigurationError, match="used by another trainer since"):
        one.fit(X, Y, 1, validation=0.2)


def test_batches_are_validated_as_fit_is(tmp_path):
    """By images of which some count, the same in each call, which config.json tells."""
    one = trainer(tmp_path)
    one.fit_batches([(X, Y)], 1, validation=(X[:20], Y[:20]))
    validated = load_run(tmp_path, small.model()).config["validation"]
    for call in (
        lambda: one.fit_batches([(X, Y)], 1, validation=(X[20:], Y[20:])),
        lambda: one.fit_batches([(X, Y)], 1, validation=(X[:20], Y[:20]), monitor="accuracy"),
        lambda: one.fit(X, Y, 1, validation=0.2),
    ):
        with pytest.raises(ConfigurationError, match="validation or monitor are not those"):
            call()
    assert len(one.fit(X, Y, 1, validation=(X[:20], Y[:20]))) == 2
    assert load_run(tmp_path, small.model()).config["validation"] == validated
    ignoring = trainer(loss=SoftmaxCrossEntropy(ignore_index=-1))
    with pytest.raises(DataError, match="all validation labels are -1"):
        ignoring.fit_batches([(X, Y)], 1, validation=(X, np.full(len(X), -1)))


def test_resume_forgets_what_the_trainer_validated_before(tmp_path):
    one = trainer()
    one.fit(X, Y, 1, validation=0.2)
    one.run = tmp_path
    assert len(one.fit(X, Y, 1, resume=True)) == 1  # no run yet: from the first epoch
    with pytest.raises(ConfigurationError, match="no epoch is known as the best"):
        one.restore_best()
    one.fit(X, Y, 1, validation=0.3)
    assert one.restore_best() == 2


class Interrupt(Constant):
    """Ctrl-C in the second epoch, once."""

    left = 1

    def __call__(self, step, steps, epoch):
        if epoch == 1 and step == 4 and Interrupt.left:
            Interrupt.left -= 1
            raise KeyboardInterrupt
        return 1.0


def test_an_interrupted_epoch_is_said_and_resume_goes_back(tmp_path):
    said = []

    class Say(gpucnn.training.Quiet):
        def say(self, text):
            said.append(text)

    whole = trainer()
    whole.fit(X, Y, 3)
    for run in (None, tmp_path):
        Interrupt.left = 1
        one = trainer(run, schedule=Interrupt(), progress=Say())
        with pytest.raises(KeyboardInterrupt):
            one.fit(X, Y, 3)
        history = one.fit(X, Y, 2) if run is None else one.fit(X, Y, 3, resume=True)
        assert history["epoch"] == [1, 2, 3]
    assert state(one.model) == state(whole.model)
    mine = [text for text in said if "numpy" not in text]
    assert mine == ["the epoch that was interrupted begins again, with the weights as they are"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_loop_of_ones_own_is_a_fit(backend):
    whole, own = trainer(), trainer(backend=backend)
    history = whole.fit(X, Y, 2)
    for epoch in range(2):
        order = arithmetic.permutation(3, len(X), epoch)
        for start in range(0, len(X), 16):
            chosen = order[start : start + 16]
            record = own.train_step(X[chosen], Y[chosen])
            assert not own.model.mode.training
            assert own.predict(X[:3]).tobytes() == own.predict(X[:3]).tobytes()
    assert state(own.model) == state(whole.model)
    assert record["step"] == 6 and record["learning_rate"] == history.last["learning_rate"]
    whole.fit(X, Y, 1)
    own.history = whole.history  # its epochs have numbers
    larger = own.train_step(X, Y)  # more images than before
    assert larger["step"] == 7 and math.isfinite(larger["loss"])


def test_a_loop_of_batches_of_many_sizes_keeps_few_of_its_steps(monkeypatch):
    """A recorded step keeps memory for its images: only some of the sizes are recorded, and none changes a bit."""
    own, direct = trainer(backend="numba"), trainer()
    repeated = small.watched_steps(monkeypatch)
    monkeypatch.setattr("gpucnn.training.recording._MOST_BYTES", 8 * 300 * 120, raising=False)  # 300 numbers an image
    counts = [45, 44, 30, 20] * 4
    for count in counts:
        own.train_step(X[:count], Y[:count])
    assert repeated == [False] * 8 + [True, True, True, False] * 2  # recorded, proved, repeated; not beyond 120 images
    for count in counts:
        direct.train_step(X[:count], Y[:count])
    assert state(own.model) == state(direct.model)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_step_normalizes_as_the_model_now_says(backend):
    """Weights with a mean of their own may be loaded between two steps, by a callback in `fit`."""

    class Load(Callback):
        def on_epoch_end(self, trainer, record):
            trainer.model.mean, trainer.model.std = (0.25,), (0.5,)

    by_hand, own = trainer(shift=0), trainer(backend=backend, shift=0)
    for one in (by_hand, own):
        steps(one, 3)
    own.model.mean, own.model.std = (0.25,), (0.5,)
    by_hand.train_step((X - np.float32(0.25)) * np.float32(2), Y)
    own.train_step(X, Y)
    assert state(own.model) == state(by_hand.model)
    two, one = trainer(backend=backend, callbacks=[Load()]), trainer()
    two.fit(X, Y, 2, validation=(X, Y))
    one.fit(X, Y, 1, validation=(X, Y))
    one.model.mean, one.model.std = (0.25,), (0.5,)
    one.fit(X, Y, 1, validation=(X, Y))
    assert two.history["validation_loss"] == one.history["validation_loss"]


@pytest.mark.parametrize("again", ["fit", "fit_batches", "train_step"])
def test_a_trainer_trains_one_thing_at_a_time(again):
    """In a callback or another thread it would train on the same weights, in silence."""
    calls = {
        "fit": lambda one: one.fit(X, Y, 1),
        "fit_batches": lambda one: one.fit_batches([(X, Y)], 1),
        "train_step": lambda one: one.train_step(X, Y),
    }

    class Within(Callback):
        def on_train_batch_end(self, trainer, step):
            if step == 2:
                with ThreadPoolExecutor(1) as other:
                    for call in (calls[again], lambda one: other.submit(calls[again], one).result()):
                        with pytest.raises(ConfigurationError, match="this trainer is training already"):
                            call(trainer)

    plain, within = trainer(), trainer(callbacks=[Within()])
    for one in (plain, within):
        one.fit(X, Y, 1)
        calls[again](one)
    assert state(plain.model) == state(within.model)


def test_one_thread_at_a_time_trains_the_same_weights():
    """With a trainer each, their gradients would mix in the model's one array, in silence."""

    class Within(Callback):
        def on_train_batch_end(self, trainer, step):
            if step == 2:
                with ThreadPoolExecutor(1) as other:
                    for one in others:
                        with pytest.raises(ConfigurationError, match="another thread is training this model's weights"):
                            other.submit(one.train_step, X, Y).result()
                others[0].train_step(X, Y)  # here it is one after the other

    within = trainer(callbacks=[Within()])
    others = [trainer(model=model) for model in (within.model, at_size(within.model, within.model.input_shape))]
    within.fit(X, Y, 1)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(others[1].train_step, X, Y).result()["step"] == 1


def test_the_loss_of_a_step_is_that_before_it():
    own = trainer(shift=0, batch_size=45)
    model = own.model
    model.mode.training, model.mode.seed = True, 3
    logits = np.float64(model(X)[0].numpy())  # dropout as in step 0
    model.mode.training = False
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(Y)), Y])
    own.model.load_state_dict(small.model().initialize(3).state_dict())
    assert own.train_step(X, Y)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_an_image_that_batch_norm_cannot_do_with_alone_changes_nothing(backend):
    """The batch norms before it had moved their running statistics."""
    layers = Conv2d(2, 3), BatchNorm(), Flatten(), Dense(4), BatchNorm(), Dense(3)
    one = trainer(None, backend, model=Model(Sequential(*layers), (1, 8, 8)), schedule=Constant())
    before = state(one.model)
    with pytest.raises(ShapeError, match=r"^layer 4 \(BatchNorm\) cannot train on one value per channel"):
        one.train_step(X[:1], Y[:1])
    assert state(one.model) == before
    with pytest.raises(ShapeError, match=r"^batch 1 of the epoch: layer 4 \(BatchNorm\) cannot train on one value"):
        one.fit_batches([(X[:1], Y[:1])], 1)
    assert state(one.model) == before
    after = trainer(None, backend, model=Model(copy.deepcopy(one.model.layer), (1, 8, 8)), schedule=Constant())
    after.model.load_state_dict(one.model.state_dict())
    after.train_step(X[:16], Y[:16])
    with pytest.raises(ShapeError, match=r"^batch 2 of the epoch: layer 4"):
        one.fit_batches([(X[:16], Y[:16]), (X[:1], Y[:1])], 1)
    assert state(one.model) == state(after.model)


def test_a_step_refuses_what_only_a_run_knows():
    with pytest.raises(ConfigurationError, match="Cosine depends on the length"):
        trainer(schedule=Cosine()).train_step(X, Y)
    with pytest.raises(ConfigurationError, match="normalize needs all"):
        trainer(normalize=True).train_step(X, Y)
    huge = trainer(optimizer=SGD(1e38), model=dense())
    with pytest.raises(NonFiniteError, match="step"):
        steps(huge, 20)


def dense():
    return Model(Sequential(Flatten(), Dense(3)), (1, 8, 8))


def steps(trainer, count):
    for _ in range(count):
        trainer.train_step(X, Y)


def average_by_hand(decay, epochs):
    """The average from the weights after each step, which another trainer shows."""
    own = trainer()
    rest = np.float32(1 - decay)
    average = own.model.state_dict()
    for epoch in range(epochs):
        order = arithmetic.permutation(3, len(X), epoch)
        for start in range(0, len(X), 16):
            chosen = order[start : start + 16]
            own.train_step(X[chosen], Y[chosen])
            average = {n: arithmetic.fma(rest, v - average[n], average[n]) for n, v in own.model.state_dict().items()}
    return {name: value.tobytes() for name, value in average.items()}, state(own.model)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_average_by_hand(backend, tmp_path):
    average, last = average_by_hand(0.75, 3)
    one = trainer(tmp_path, backend, ema=0.75)
    history = one.fit(X, Y, 3, validation=(X, Y))
    assert state(one.model) == last
    loaded = load_run(tmp_path, small.model()).model
    assert state(loaded) == average
    one.restore_average()
    assert state(one.model) == average
    assert history.last["validation_loss"] == one.evaluate(X, Y)[0]  # validation is the average's
    best = load_run(tmp_path, small.model(), best=True)
    one.restore_best()
    assert state(best.model) == state(one.model)


def test_the_average_is_resumed(tmp_path):
    whole = trainer(tmp_path / "whole", ema=0.9)
    whole.fit(X, Y, 3)
    trainer(tmp_path / "cut", ema=0.9).fit(X, Y, 1)
    trainer(tmp_path / "cut", "numba", ema=0.9).fit(X, Y, 3, resume=True)
    ours, theirs = (read_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "cut"))
    assert {n: v.tobytes() for n, v in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}
    assert any(name.startswith("average.") for name in ours)
    with pytest.raises(gpucnn.errors.CheckpointError, match="ema was 0.9"):
        trainer(tmp_path / "cut", ema=0.8).fit(X, Y, 4, resume=True)
    with pytest.raises(ConfigurationError, match="no average yet"):
        trainer().restore_average()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_loop_goes_on_after_a_bad_step(backend):
    """From the weights and the state of before, to the bits of a loop that never took it."""
    plain = {"backend": backend, "shift": 0}  # nothing that depends on a step's number
    steady, shaken = (trainer(model=Model(Sequential(Flatten(), Dense(3)), (1, 8, 8)), **plain) for _ in range(2))
    for number, start in enumerate(range(0, 36, 9)):
        batch = X[start : start + 9], Y[start : start + 9]
        steady.train_step(*batch)
        if number == 2:
            weights, velocity = (
                shaken.model.state_dict(),
                shaken.backend.host(shaken.optimizer.state["velocity"]).copy(),
            )
            shaken.model.values[...] = np.nan
            for _ in range(2):
                with pytest.raises(NonFiniteError, match="the loss or a weight became infinite or NaN"):
                    shaken.train_step(*batch)
            shaken.model.load_state_dict(weights)
            shaken.backend.assign(shaken.optimizer.state["velocity"], velocity)
        shaken.train_step(*batch)
    assert shaken.model.weights_sha256() == steady.model.weights_sha256()


def test_weights_that_are_being_trained_stay_on_their_backend():
    """Moved by another trainer, the first went on with arrays that were no longer the model's, in silence."""

    class Within(Callback):
        def on_train_batch_end(self, trainer, step):
            if step == 2:
                model = trainer.model
                with ThreadPoolExecutor(1) as other:
                    for call in (lambda work: work(), lambda work: other.submit(work).result()):
                        for move in (lambda: model.place(elsewhere), lambda: Trainer(model, backend=elsewhere)):
                            with pytest.raises(ConfigurationError, match="is being trained, on another backend object"):
                                call(move)
                copy.deepcopy(model).place(elsewhere)

    elsewhere = get_backend("numba", threads=1)
    plain, within = trainer(), trainer(callbacks=[Within()])
    for one in (plain, within):
        one.fit(X, Y, 1)
    assert state(plain.model) == state(within.model)
    within.model.place(elsewhere)


def test_a_child_process_has_its_turn(monkeypatch):
    """The thread that trains in its parent is not there, and would hold the weights for ever."""
    turn, here = Turn(), get_backend("numpy")
    with ThreadPoolExecutor(1) as other, turn.taken(here):
        with pytest.raises(ConfigurationError, match="another thread"):
            other.submit(turn.taken(here).__enter__).result()
        monkeypatch.setattr("gpucnn.models.turn.getpid", lambda: -1)
        turn.check(get_backend("numpy", "fast"))
        with turn.taken(get_backend("numpy", "fast")):
            pass
        monkeypatch.undo()
