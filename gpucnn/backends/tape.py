"""A list of calls to replay: records a step where there is no CUDA graph."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gpucnn.errors import BackendError


class Tape(threading.local):
    """Records the calls that a thread makes; each thread has its own recording, or none."""

    _calls: list[tuple[Callable, tuple]] | None = None
    _keep: Callable[[Any], Any]

    def call(self, function: Callable, *arguments) -> None:
        """Call `function` now, and if this thread is recording, again at each replay."""
        function(*arguments)
        if self._calls is not None:
            self._calls.append((function, tuple(map(self._keep, arguments))))

    @property
    def is_recording(self) -> bool:
        return self._calls is not None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within it calls are made, and not recorded."""
        calls, self._calls = self._calls, None
        try:
            yield
        finally:
            self._calls = calls

    def entries(self, step: Callable[[], None], keep: Callable[[Any], Any]) -> list[tuple[Callable, tuple]]:
        """Run `step`; returns the functions called, with what `keep` makes of their arguments."""
        if self._calls is not None:
            raise BackendError("a capture inside a capture: capture the whole step once")
        calls = self._calls = []
        self._keep = keep
        try:
            step()
        finally:
            self._calls = None
        return calls

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step` and return a function that repeats its calls."""
        calls = self.entries(step, lambda argument: argument)

        def replay() -> None:
            for function, arguments in calls:
                function(*arguments)

        return replay
