"""A list of calls to repeat: how a step is recorded where no CUDA graph does it."""

import threading
from collections.abc import Callable

from gpucnn.errors import BackendError


class Tape(threading.local):
    """What a thread calls while it records; each thread has its own recording, or none."""

    _calls: list[tuple[Callable, tuple]] | None = None

    def call(self, function: Callable, *arguments) -> None:
        """Call it now, and again at each replay of the recording that this thread is making, if it is making one."""
        function(*arguments)
        if self._calls is not None:
            self._calls.append((function, arguments))

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Run `step` and return what repeats its calls on the same arguments."""
        if self._calls is not None:
            raise BackendError("a capture inside a capture: capture the whole step once")
        calls = self._calls = []
        try:
            step()
        finally:
            self._calls = None

        def replay() -> None:
            for function, arguments in calls:
                function(*arguments)

        return replay
