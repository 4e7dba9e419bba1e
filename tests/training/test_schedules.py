"""Schedules against torch.optim.lr_scheduler, in a trainer, and from the command line; formulas: test_optimizers.py."""

import json
import math

import numpy as np
import pytest

from gpucnn.cli.settings import make_schedule
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.schedules import Cosine, OneCycle, Schedule, Step, WarmUp
from gpucnn.training import Quiet
from tests.training import small

X, Y = small.data()


def factors(schedule, steps, an_epoch=10):
    return np.array([schedule(step, steps, step // an_epoch) for step in range(steps)])


def theirs(make, steps, every=1):
    """The factors of a PyTorch scheduler that is stepped after each `every` steps."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0 and step < steps:
            scheduler.step()
    return np.array(rates)


@pytest.mark.pytorch
def test_step_is_pytorchs_steplr():
    wanted = theirs(lambda s, o: s.StepLR(o, 3, 0.5), 100, every=10)
    assert np.array_equal(factors(Step(3, 0.5), 100), wanted)


@pytest.mark.pytorch
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_pytorchs_cosineannealinglr(final):
    wanted = theirs(lambda s, o: s.CosineAnnealingLR(o, 200, eta_min=final), 200)
    # PyTorch goes from step to step by a recurrence, 200 roundings of numbers up to 1, each a few times.
    assert np.abs(factors(Cosine(final), 200) - wanted).max() < 200 * 8 * 2.0**-53 / (1 - math.cos(math.pi / 200))


@pytest.mark.pytorch
def test_one_cycle_is_pytorchs_onecyclelr_but_for_a_step():
    """PyTorch turns one step before rise * steps and is through one step before the end:
    a half cosine's slope is pi / 2.
    """
    steps, rise = 1000, 0.3
    wanted = theirs(lambda s, o: s.OneCycleLR(o, 1.0, total_steps=steps, pct_start=rise), steps)
    assert np.abs(factors(OneCycle(rise), steps) - wanted).max() < math.pi / 2 * 2 / (rise * steps - 1)


def test_warm_up_reaches_what_follows_without_a_jump():
    got = factors(WarmUp(20, Cosine()), 100)
    alone = factors(Cosine(), 100)
    assert np.array_equal(got[20:], alone[20:])
    assert np.all(np.diff(got[:20]) > 0) and got[19] / alone[19] == 20 / 21 and got[0] == 1 / 21


@pytest.mark.parametrize(
    "schedule",
    [WarmUp(4, Cosine()), WarmUp(4), OneCycle(), Step(2)],
    ids=["warm-up, cosine", "warm-up", "one cycle", "step"],
)
def test_a_resumed_run_gets_the_same_rates(schedule, tmp_path):
    whole = small.trainer(tmp_path / "whole", schedule=schedule)
    history = whole.fit(X, Y, 4)

    class Stop(small.trainer().progress.__class__):
        def end_epoch(self, record):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.trainer(tmp_path / "cut", schedule=schedule, progress=Stop()).fit(X, Y, 4)
    resumed = small.trainer(tmp_path / "cut", schedule=schedule)
    again = resumed.fit(X, Y, 4, resume=True)
    assert [e["learning_rate"] for e in again.epochs] == [e["learning_rate"] for e in history.epochs]
    assert resumed.model.weights_sha256() == whole.model.weights_sha256()
    with pytest.raises(CheckpointError, match="schedule('s steps)? was"):
        small.trainer(tmp_path / "cut", schedule=WarmUp(5, schedule)).fit(X, Y, 4, resume=True)


def test_a_warm_up_that_outlasts_the_run_says_so():
    class Kept(Quiet):
        def __init__(self):
            self.sentences = []

        def say(self, text):
            self.sentences.append(text)

    told = {}
    for steps in (5, 6):  # of a run of two epochs of three steps
        told[steps] = Kept()
        small.trainer(schedule=WarmUp(steps), progress=told[steps], backend="numba").fit(X, Y, 2)
    assert told[5].sentences == []
    assert told[6].sentences == [
        "the warm-up of 6 steps is as long as the whole run of 6 or longer, so the learning rate never reaches its "
        "full value"
    ]
    assert WarmUp(1, WarmUp(9)).remark(5) and not WarmUp(1, Cosine()).remark(5)


def test_the_command_lines_warm_up():
    settings = {"schedule": "cosine", "warmup": 7, "epochs": 3}
    made = make_schedule(settings)
    assert made.settings() == WarmUp(7, Cosine()).settings()
    assert make_schedule({**settings, "warmup": 0}).settings() == Cosine().settings()
    assert make_schedule({**settings, "schedule": "step"}).settings() == WarmUp(7, Step(1)).settings()


def test_the_command_line_keeps_it_for_resume(tmp_path):
    from typer.testing import CliRunner

    from gpucnn.cli import app

    images, labels = np.random.default_rng(0).random((40, 1, 32, 32), np.float32), np.arange(40) % 3
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    common = [
        "train",
        "--data",
        str(tmp_path / "data.npz"),
        "--backend",
        "numpy",
        "--shift",
        "0",
        "--schedule",
        "constant",
    ]

    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    whole = run(*common, "--warmup", "3", "--epochs", "2", "--run", str(tmp_path / "whole"))
    run(*common, "--warmup", "3", "--epochs", "1", "--run", str(tmp_path / "cut"))
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["train"]["warmup"] == 3 and config["schedule"]["name"] == "WarmUp"
    resumed = run("train", "--resume", "--run", str(tmp_path / "cut"), "--epochs", "2", "--backend", "numpy")
    assert resumed["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("make", [lambda: WarmUp(5, "cosine"), lambda: Cosine("half"), lambda: Step(1, None)])
def test_what_is_no_schedule_or_number_is_refused(make):
    with pytest.raises(ConfigurationError, match="give a"):
        make()


@pytest.mark.parametrize(
    ("schedule", "name", "value", "words"),
    [
        (Step(2), "every", 0, "every is 0; give"),
        (Step(2), "factor", 2.0, "factor is 2.0; give a number from 0 to 1"),
        (Cosine(), "final", "low", "final is 'low' of type str"),
        (OneCycle(), "rise", -0.5, "rise is -0.5; give"),
        (WarmUp(3), "steps", 1.5, "steps is 1.5"),
    ],
)
def test_a_setting_is_checked_whenever_it_is_set(schedule, name, value, words):
    before = getattr(schedule, name)
    with pytest.raises(ConfigurationError, match=words):
        setattr(schedule, name, value)
    assert getattr(schedule, name) == before


class Falling(Schedule):
    """As people write it, without a declaration."""

    def __call__(self, step, steps, epoch):
        return 1 - step / steps


class InAList(Schedule):
    def __call__(self, step, total, epoch):
        return [1 - n / total for n in range(step + 1)][-1]


class Free(Schedule):
    def __call__(self, step, steps, epoch):
        return 0.5**epoch


class Declared(Falling):
    uses_steps = False  # its author knows better

    def __call__(self, step, steps, epoch):
        return min(1.0, steps)


def test_a_schedule_that_reads_the_length_of_the_run_depends_on_it(tmp_path):
    assert Falling.uses_steps and InAList.uses_steps and type("Heir", (Falling,), {}).uses_steps
    assert not Free.uses_steps and not Declared.uses_steps
    assert WarmUp(2, Falling()).uses_steps and not WarmUp(2, Free()).uses_steps
    it = small.trainer(tmp_path / "run", schedule=Falling())
    first = it.fit(X, Y, 2)["learning_rate"]
    assert it.fit(X, Y, 2)["learning_rate"] == first * 2  # anew, as Cosine()
    with pytest.raises(ConfigurationError, match="Falling depends on the length of the run, which train_step"):
        it.train_step(X[:9], Y[:9])
    small.trainer(tmp_path / "short", schedule=Falling()).fit(X, Y, 2)
    with pytest.raises(CheckpointError, match="epochs was 2 there and is 4 now"):
        small.trainer(tmp_path / "short", schedule=Falling()).fit(X, Y, 4, resume=True)
