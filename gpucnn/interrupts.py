"""Ctrl-C in the program: exit code 130, whenever and however often it comes.

Files are whole at any moment, so the process may end at any moment; the first Ctrl-C of a command only gives it the
chance to say how to go on. Nothing here touches a process that merely imports gpucnn.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

EXIT = 130


def leave_at_once() -> None:
    """From here on Ctrl-C ends the process: nothing has begun yet. Where it is ignored, as under nohup, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextlib.contextmanager
def one_chance() -> Iterator[None]:
    """Within it the first Ctrl-C raises KeyboardInterrupt; another one ends the process.

    So does the first where Python would drop the exception and go on: in a finalizer or a callback of C code.
    """
    before, report = signal.getsignal(signal.SIGINT), sys.unraisablehook
    mine = threading.current_thread() is threading.main_thread()
    if not mine or before not in (_leave, signal.default_int_handler):
        yield
        return

    def first(*_):
        signal.signal(signal.SIGINT, _leave)
        raise KeyboardInterrupt

    def dropped(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _leave()
        report(unraisable)

    signal.signal(signal.SIGINT, first)
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if sys.unraisablehook is dropped:
            sys.unraisablehook = report


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """Within it SIGTERM, and SIGHUP unless it is ignored as under nohup, raise SystemExit, for a process that has to
    end those that it started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [n for n in numbers if before[n] != signal.SIG_IGN or n == signal.SIGTERM]

    def end(number, _):
        for other in heeded:
            signal.signal(other, signal.SIG_IGN)  # a terminal that closes may send several
        sys.exit(128 + number)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number] or signal.SIG_DFL)


def no_more() -> None:
    """The exit code is settled: Python's own way out would die of another Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(*_) -> None:
    shown = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hides the cursor
    with contextlib.suppress(OSError):
        os.write(2, shown + b"gpucnn: interrupted\n")
    os._exit(EXIT)
