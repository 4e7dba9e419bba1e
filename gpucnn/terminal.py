"""The terminal on stderr, where somebody may watch; it may go away while a program runs, as with a lost connection."""

import contextlib
import sys
from typing import Any


def is_watched() -> bool:
    """Whether stderr is a terminal. Programs put anything in its place: closed files, objects that only write."""
    with contextlib.suppress(AttributeError, ValueError):
        return bool(sys.stderr.isatty())
    return False


def console(**options: Any):
    """A rich.Console on stderr. What it cannot write nobody would read, so that stops nothing."""
    from rich.console import Console

    return Console(file=_Lossy(sys.stderr), **options)  # type: ignore[arg-type]


class _Lossy:
    """A stream whose errors are passed over."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()
