"""Timing, with a clock that the test controls."""

import pytest

from gpucnn.throughput import timing
from gpucnn.throughput.timing import Contender, Slice, Timing, interleave, quartiles, ratio


class Clock:
    """Time that passes only when a contender works; `busy` grows with it, and with what others do."""

    def __init__(self):
        self.now, self.own, self.others = 0.0, 0.0, 0.0

    def work(self, seconds: float, others: float = 0.0) -> None:
        self.now += seconds
        self.own += seconds
        self.others += others


@pytest.fixture
def clock(monkeypatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(timing.time, "process_time", lambda: fake.own)
    monkeypatch.setattr(timing, "busy_seconds", lambda: fake.own + fake.others)
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 2)
    return fake


def test_medians_and_ratio(clock):
    timings = interleave(
        {"quick": Contender(lambda: clock.work(0.01)), "slow": Contender(lambda: clock.work(0.03))}, 2.0
    )
    assert timings["quick"].median == pytest.approx(0.01)
    assert timings["slow"].median == pytest.approx(0.03)
    result = ratio(timings["quick"], timings["slow"])
    assert result["ratio"] == pytest.approx(3)
    assert result["quiet"] is True
    assert result["rounds"] >= timing.ENOUGH


def test_each_has_its_time_and_they_take_turns(clock):
    order = []

    def contender(name, seconds):
        def call():
            clock.work(seconds)
            if order[-1:] != [name]:
                order.append(name)

        return Contender(call)

    timings = interleave({"a": contender("a", 0.01), "b": contender("b", 0.02)}, 2.0)
    assert {s.round for s in timings["a"].slices} == set(range(len(timings["a"].slices)))
    for timed in timings.values():
        assert 2.0 <= sum(map(sum, (s.seconds for s in timed.slices))) + 0.02 * len(timed.slices) < 2.4
    assert len(order) >= 8


def test_short_work_is_timed_in_groups(clock):
    calls = []

    def call():
        calls.append(1)
        clock.work(1e-6)

    timed = interleave({"a": Contender(call)}, 0.5)["a"]
    assert timed.median == pytest.approx(1e-6, rel=1e-3)
    assert len(calls) / len(timed.samples) > 1000


def test_waits_for_work_that_is_only_queued(clock):
    queue = []

    def wait():
        clock.work(0.01 * len(queue))
        queue.clear()

    timed = interleave({"a": Contender(lambda: queue.append(1), wait)}, 1.0)["a"]
    assert timed.median == pytest.approx(0.01)


def test_a_devices_own_clock_times_the_same_repetitions(clock):
    """The device needs 8 of each step's 10 milliseconds."""

    def elapsed(work):
        before = clock.now
        work()
        return 0.8 * (clock.now - before)

    timings = interleave(
        {"gpu": Contender(lambda: clock.work(0.01), elapsed=elapsed), "cpu": Contender(lambda: clock.work(0.01))}, 1.0
    )
    assert timings["gpu"].median == pytest.approx(0.01)
    assert timings["gpu"].device == pytest.approx(0.008)
    assert timings["cpu"].device is None


def test_disturbed_slices_are_counted_and_left_out_where_enough_are_quiet(clock):
    number = 0

    def call():
        nonlocal number
        number += 1
        disturbed = number % 60 < 12  # whole slices, nearly
        clock.work(0.05 if disturbed else 0.01, others=0.05 if disturbed else 0)

    timed = interleave({"a": Contender(call)}, 5.0)["a"]
    assert 0 < timed.quiet < len(timed.slices)
    assert timed.describe()["figures_from"] == "quiet slices"
    assert timed.describe()["slices"] == len(timed.slices)
    assert timed.median == pytest.approx(0.01)
    assert max(timed.samples) < 0.05 or timed.quartiles[1] < 0.05


def test_patience_ends(clock):
    timed = interleave({"a": Contender(lambda: clock.work(0.01, others=0.02))}, 1.0, patience=2.0)["a"]
    assert timed.quiet == 0
    assert timed.describe()["figures_from"] == "all slices"
    assert timed.median == pytest.approx(0.01)
    assert 2.0 <= clock.now < 2.5


def test_a_ratio_of_those_who_never_met_is_empty():
    assert ratio(Timing([Slice(0, [1.0], 0.0)]), Timing([Slice(1, [1.0], 0.0)])) == {}


def test_a_ratio_is_taken_within_rounds():
    """The machine halves its speed halfway: separate medians could give anything between 1 and 4."""
    speeds = [1.0] * 5 + [2.0] * 5
    mine = Timing([Slice(i, [1.0 * s], 0.0) for i, s in enumerate(speeds)])
    theirs = Timing([Slice(i, [2.0 * s], 0.0) for i, s in enumerate(speeds)])
    assert ratio(mine, theirs)["ratio"] == 2.0


def test_quartiles():
    assert quartiles([5, 1, 4, 2, 3]) == (2, 4)
    assert quartiles([7]) == (7, 7)


def test_contexts_surround_every_slice(clock):
    import contextlib

    inside = False

    @contextlib.contextmanager
    def context():
        nonlocal inside
        inside = True
        yield
        inside = False

    def call():
        assert inside
        clock.work(0.01)

    interleave({"a": Contender(call, context=context), "b": Contender(lambda: clock.work(0.01))}, 0.5)
    assert not inside


def test_busy_seconds_grow_or_are_unknown():
    before = timing.busy_seconds()
    sum(range(10_000_000))
    after = timing.busy_seconds()
    assert before is None or after - before > 0
