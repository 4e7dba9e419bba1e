"""Whose turn it is to train the weights that one model has, or several."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid
from threading import RLock

from gpucnn.backends.protocol import Backend
from gpucnn.errors import ConfigurationError


class Turn:
    """Who trains some weights: one thread at a time, on one backend."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = getpid(), RLock()
        self._backend: Backend | None = None

    def _leave_parent(self) -> None:
        """The thread that had it is not in a child."""
        if self._process != getpid():
            self._begin()

    @contextmanager
    def taken(self, backend: Backend) -> Iterator[None]:
        """Within it this thread trains them on `backend`. Raises ConfigurationError where another thread does, or this
        one already on another backend.
        """
        self._leave_parent()
        lock = self._lock
        if not lock.acquire(blocking=False):
            raise ConfigurationError(
                "another thread is training this model's weights; give each thread a model of its own, such as "
                "copy.deepcopy(model)"
            )
        before = self._backend
        try:
            self.check(backend)
            self._backend = backend
            yield
        finally:
            self._backend = before
            lock.release()

    def check(self, backend: Backend) -> None:
        """Raises ConfigurationError where they are being trained on another backend than this one."""
        self._leave_parent()
        if self._backend not in (None, backend):
            raise ConfigurationError(
                f"this model is being trained, on another backend object than this {backend.name}; to use it there "
                "meanwhile take a copy: copy.deepcopy(model)"
            )
