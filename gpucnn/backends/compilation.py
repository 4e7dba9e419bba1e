"""Announcing that kernels are being compiled: this can take seconds, and silence looks like a hang."""

import contextlib
from collections.abc import Callable, Iterator

listeners: list[Callable[[str], None]] = []
_counters: list[Callable[[int], None]] = []
_silent: list[bool] = []


def announce(kernel: str) -> None:
    """Tell all listeners that this kernel is about to be compiled; kernels loaded from the cache are not announced."""
    if not _silent:
        for listener in listeners:
            listener(kernel)


def count(left: int) -> None:
    """Tell all counters how many of the kernels that are waited for are left."""
    for counter in list(_counters):
        counter(left)


@contextlib.contextmanager
def counting(counter: Callable[[int], None]) -> Iterator[None]:
    """Within it `counter` is told how many kernels are left, time and again while several are compiled."""
    _counters.append(counter)
    try:
        yield
    finally:
        _counters.remove(counter)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Within it nothing is announced: all of it was at once."""
    _silent.append(True)
    try:
        yield
    finally:
        _silent.pop()
