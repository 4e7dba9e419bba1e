"""Announcing that a kernel is being compiled: this can take seconds, and silence looks like a hang."""

from collections.abc import Callable

listeners: list[Callable[[str], None]] = []


def announce(kernel: str) -> None:
    """Tell all listeners that this kernel is about to be compiled; kernels loaded from the cache are not announced."""
    for listener in listeners:
        listener(kernel)
