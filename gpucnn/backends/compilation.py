"""Telling whoever listens that a kernel is being compiled: the first time takes seconds,
and silence looks like a fault.
"""

from collections.abc import Callable

listeners: list[Callable[[str], None]] = []


def tell(kernel: str) -> None:
    """A kernel of this name is about to be compiled; those that come from the cache are not told of."""
    for listener in listeners:
        listener(kernel)
