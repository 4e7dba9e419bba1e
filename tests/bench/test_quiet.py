"""Whether the machine is quiet: measured by what other processes used, and said."""

from types import SimpleNamespace

import pytest

from gpucnn.throughput import quiet, timing


def clocks(monkeypatch, busy: list, own: list, wall: list) -> None:
    """What the three clocks say, one reading after the other, on two processors."""
    readings = iter(busy)
    monkeypatch.setattr(timing, "busy_seconds", lambda: next(readings))
    time = SimpleNamespace(
        process_time=iter(own).__next__, perf_counter=iter(wall).__next__, sleep=lambda seconds: None
    )
    monkeypatch.setattr(timing, "time", time)
    monkeypatch.setattr(quiet, "time", time)
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 2)


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [([10, 10.5], [0, 0.1], 0.4), ([10, 10], [0, 0], 0), ([10, 10], [0, 0.25], 0), ([None, None], [0, 0], None)],
)
def test_the_share_of_others(monkeypatch, busy, own, share):
    clocks(monkeypatch, busy, own, [3, 3.5])
    assert quiet.others_now() == (share if share is None else pytest.approx(share))


def test_the_warning():
    assert quiet.warning(None) is None and quiet.warning(0.079) is None
    assert "other processes use 40% of its processors" in quiet.warning(0.4)
