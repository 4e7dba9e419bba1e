"""Time measured by a GPU's clock."""

from collections.abc import Callable
from typing import Any

import cupy


def elapsed(work: Callable[[], Any], stream: cupy.cuda.Stream) -> float:
    """Seconds between two events on `stream`, one before and one after what `work` launches there; waits for it."""
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    stream.record(begin)
    work()
    stream.record(end)
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1e3  # from milliseconds
