"""Stopping a process at each thing that it does to files: before it, after it, and in the middle of a write.

Processes are forked, so that a thousand of them take minutes. What is patched are the functions of the system that
gpucnn calls; how often they are called is counted, not assumed.
"""

import builtins
import contextlib
import errno
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

CALLS = ("fsync", "replace", "unlink", "mkdir", "ftruncate", "write")  # of the module os; open and write of files too


class Points:
    """Counts calls, and at number `stop` dies ("before", "after", "half" of a write) or raises an OSError ("error")."""

    def __init__(self, stop: int | None = None, how: str = "before", code: int = errno.ENOSPC):
        self.count, self.names, self._stop, self._how, self._code = 0, [], stop, how, code

    def __call__(self, name: str, function: Callable[..., Any], *arguments, **settings):
        self.count += 1
        self.names.append(name)
        here = self.count == self._stop
        if here and self._how == "error":
            raise OSError(self._code, os.strerror(self._code))
        if here and self._how != "after":
            if self._how == "half" and name == "write":
                function(arguments[0][: len(arguments[0]) // 2])
                with contextlib.suppress(AttributeError):
                    function.__self__.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **settings)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def patch(self) -> None:
        """From here on this process goes through the points."""
        from gpucnn import storage

        for name in CALLS:
            setattr(os, name, self._patched(name, getattr(os, name)))

        def opened(path, mode="r", *arguments, **settings):
            file = self("open", builtins.open, path, mode, *arguments, **settings)
            return _Watched(file, self) if "x" in mode else file

        storage.open = opened

    def _patched(self, name: str, function):
        if name == "write":  # standard error has the numbers 1 and 2
            return lambda handle, data: (
                function(handle, data) if handle < 3 else self(name, _Handle(handle, function), data)
            )
        return lambda *arguments, **settings: self(name, function, *arguments, **settings)


class _Handle:
    """os.write to one file, as a method of it."""

    def __init__(self, handle: int, function):
        self._handle, self._function = handle, function

    def __call__(self, data: bytes) -> int:
        return self._function(self._handle, data)


class _Watched:
    """An open file whose writes are points."""

    def __init__(self, file, points: Points):
        self._file, self._points = file, points

    def write(self, data: bytes) -> int:
        return self._points("write", self._file.write, data)

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *about):
        self._file.close()


def forked(function: Callable[[], Any]) -> tuple[int, Any]:
    """(status, result) of `function` in a process of its own; the result goes through JSON, None if it was killed.

    The status is that of the process as subprocess tells it: below 0 the signal that ended it, 70 after an exception,
    whose traceback is then the result.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        plain = os.write  # not one that `function` patches
        try:
            plain(write, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:
            plain(write, json.dumps(traceback.format_exc()).encode())
            os._exit(70)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(said) if said else None
