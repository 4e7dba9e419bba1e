"""The user's cache folder: compiled kernels, and data sets that were fetched.

Compiled kernels are run, so they are taken only from folders and files that nobody else can write to. One file a key,
its digest in front: a file that was cut short counts as absent.
"""

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from gpucnn.errors import BackendError, ConfigurationError
from gpucnn.storage import locked, make_folder, open_regular, unwritable, write_file

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_WAIT = 20.0  # seconds, for a kernel that another process compiles: it may have been stopped


def folder(kind: str) -> Path:
    """The folder for one kind of things: in $GPUCNN_CACHE, else in gpucnn's part of the user's cache.

    Raises ConfigurationError for a user without a home folder, as in a container that knows a number alone.
    """
    base = os.environ.get("GPUCNN_CACHE")
    if not base:
        above = os.environ.get("XDG_CACHE_HOME", "")
        base = os.path.join(above if os.path.isabs(above) else "~/.cache", "gpucnn")  # as its specification has it
    base = os.path.expanduser(base)
    if base.startswith("~"):
        raise ConfigurationError(
            f"{base}: there is no such home folder; set HOME, or GPUCNN_CACHE to a folder of your own"
        )
    return Path(base) / kind


def make() -> None:
    """Make the cache's folder if it is not there, for others to read at most: no umask may be set. Raises OSError."""
    make_folder(folder(""), 0o755)


def refusal() -> str | None:
    """Why nothing can be kept in the cache, and what to do; None where it can."""
    try:
        with contextlib.suppress(OSError):
            make()
        reason = unwritable(base := folder(""))
    except ConfigurationError as error:
        return str(error)
    return reason and f"{base} cannot be written ({reason}); set GPUCNN_CACHE to a folder of your own"


class Kernels:
    """The compiled kernels of one kind, by name."""

    def __init__(self, kind: str):
        self._kind = kind

    @property
    def folder(self) -> Path:
        """Where they lie; made if it is not there and can be made. Raises BackendError where others may write to it,
        and what `folder` raises.
        """
        path = folder(self._kind)
        with contextlib.suppress(OSError):
            make()
            make_folder(path, 0o700)
        _refuse_shared(path)
        return path

    def read(self, name: str) -> bytes | None:
        """What `write` kept; None if that is not there, damaged, or a file that others could write to."""
        try:
            with open_regular(self.folder / name, ConfigurationError) as file:
                stored = file.read() if is_own(os.fstat(file.fileno())) else b""
        except (OSError, ConfigurationError):
            return None
        digest, content = stored[:32], stored[32:]
        return content if hashlib.sha256(content).digest() == digest else None

    def write(self, name: str, content: bytes) -> None:
        """Keep `content`. A full disk or a read-only home costs the next run its compile time, nothing else."""
        with contextlib.suppress(ConfigurationError):
            write_file(self.folder / name, hashlib.sha256(content).digest() + content, without=_OTHERS)

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Within it no other process makes what is to be kept as `name`: who comes later waits, and finds it. Nobody
        waits for long, nor where files cannot be locked; who finds nothing afterwards makes it without a lock.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, ConfigurationError):
                place, lock = self.folder / name, self.folder / f"{name}.lock"
                if not place.exists():
                    try:
                        stack.enter_context(locked(lock, place, "wait"))
                    except ConfigurationError:
                        with locked(lock, place, "wait", _LONGEST_WAIT):
                            pass
                    if place.exists():
                        stack.close()  # others wait too
            yield


def is_own(found: os.stat_result) -> bool:
    """Whether a file or folder is this user's or the system's, and nobody else can write to it."""
    return os.name == "nt" or (found.st_uid in (os.geteuid(), 0) and not found.st_mode & _OTHERS)


@functools.cache  # once a process: it was the user's own then, and only its owner could change that
def _refuse_shared(path: Path) -> None:
    if os.name == "nt":
        return
    try:
        found, above = os.stat(path), os.stat(path.parent).st_mode
    except OSError:  # there is none: nothing is taken from it
        return
    replaceable = above & stat.S_IWOTH and not above & stat.S_ISVTX
    if not is_own(found) or replaceable:
        both = " ".join(quote(str(one)) for one in (path.parent, path))
        raise BackendError(
            f"compiled kernels are not taken from {path}, since others than you can write to it: run "
            f"`chmod go-w {both}` if they are yours, or set GPUCNN_CACHE to a folder of your own"
        )
