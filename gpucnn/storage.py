"""The one place that opens files: writing them whole, and reading those that anybody may have written.

A file is written beside its place, flushed to the disk and renamed, so a name never holds half a file, whatever kills
the process. Only regular files are read or replaced: a pipe would block, and a device must not become a file.
"""

import contextlib
import errno
import os
import platform
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from gpucnn.errors import ConfigurationError, GpucnnError

# Windows has no such flags, and opens files as text unless told otherwise.
_READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"))
_WRITE = os.O_RDWR | os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"))
_PATIENCE = 1.0  # seconds, with another program that has a file open on Windows
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # of file systems that cannot flush a folder


def as_path(path) -> Path:
    """`path` as a Path; raises ConfigurationError for what names no file."""
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ConfigurationError(f"a path is of type {type(path).__name__}; give a str or a pathlib.Path")
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:  # half a surrogate pair
        name = b""
    if not name or b"\0" in name:
        raise ConfigurationError(f"a path is {text!r:.80}; give the name of a file or folder")
    if re.match(r"[A-Za-z][\w+.-]+:/", text):  # pathlib takes a slash away
        raise ConfigurationError(
            f"a path is {text!r:.80}, an address; give a file or folder of this machine, and copy it to or from there"
        )
    if re.match(r"~(/|\\|$)", text):  # a folder of that name would be made here
        raise ConfigurationError(
            f"a path is {text!r:.80}, whose ~ no shell has replaced, as in --run=~/x or in a string; give the folder's "
            "whole name, in Python os.path.expanduser(path)"
        )
    return Path(text)


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(what) -> Iterator[None]:
    """Within it, an error of the system becomes a ConfigurationError: "cannot write `what`"."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot write {what}: {error.strerror or error}") from error


def write_file(path, content: bytes, without: int = 0) -> None:
    """Put `content` at `path` all at once; a link is followed, and a file that is there keeps its permissions, but
    never those of the bits `without`.

    Raises ConfigurationError where that is impossible, or where something else than a regular file has that name.
    """
    path = as_path(path)
    with writing(path):
        place = Path(os.path.realpath(path))
        there = os.stat(place) if place.exists() else None
        if there is not None:
            _refuse_special(path, there, ConfigurationError)
        beside = place.with_name(_beside(place.name, secrets.token_hex(8)))
        try:
            with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o666 & ~without)) as file:
                if there is not None:
                    os.chmod(beside, stat.S_IMODE(there.st_mode) & ~without)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _replace(beside, place)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        _flush_folder(place.parent)


def drop_half_line(path: Path) -> None:
    """Cut off what follows the last newline: somebody died, or the disk was full, while a line was appended."""
    whole = path.read_bytes()
    if end := len(whole) - whole.rfind(b"\n") - 1:
        os.truncate(path, len(whole) - end)


def refuse_input(out, *inputs) -> None:
    """Raises ConfigurationError where writing to `out` would replace one of the files `inputs`, or one in the folders
    in these, whatever name it is given by; None and what is no path are passed over.
    """
    if not os.path.exists(out):
        return
    for path in (Path(given) for given in inputs if given is not None and os.path.exists(given)):
        for file in path.rglob("*/*") if path.is_dir() else (path,):
            if file.exists() and file.samefile(out):
                raise ConfigurationError(
                    f"{out} is what is to be read, {file}; choose another name for what is written"
                )


def is_beside(name: str, of: tuple[str, ...]) -> bool:
    """Whether `name` is what `write_file` calls a file of one of the names `of` before it is whole."""
    token = re.search(r"\.([0-9a-f]{16})\.tmp$", name)
    return token is not None and any(name == _beside(one, token[1]) for one in of)


def _beside(name: str, token: str) -> str:
    return f".{name[:50]}.{token}.tmp"  # names end at 255 bytes, of which a sign has up to four


def open_part(path: Path, keep: bool) -> BinaryIO:
    """The file at `path` for bytes that arrive bit by bit, at its end if what is there is kept, else emptied.

    Links are not followed. Raises OSError, or ConfigurationError for what is no regular file.
    """
    handle = os.open(path, _WRITE | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        _refuse_special(path, os.fstat(handle), ConfigurationError)
        if not keep:
            os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_END)
        return os.fdopen(handle, "wb")
    except BaseException:
        os.close(handle)
        raise


def finish_part(part: Path, place: Path) -> None:
    """Give what `open_part` made whole its name. Raises OSError."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    _replace(part, place)
    _flush_folder(place.parent)


def _replace(beside: Path, place: Path) -> None:
    """os.replace. On Windows it fails while another program, such as a virus scanner, reads the file: then again."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.replace(beside, place)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
            time.sleep(0.01)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make the folder and those above it that are missing, each with `mode`. Raises OSError."""
    if path.is_dir():
        return
    try:
        for missing in reversed([above for above in path.parents if not above.exists()]):
            missing.mkdir(mode, exist_ok=True)
        path.mkdir(mode, exist_ok=True)
    except FileExistsError as error:  # also of a link to a disk that is not there
        link = next((one for one in (path, *path.parents) if one.is_symlink() and not one.exists()), None)
        if link is None:
            raise
        reason = f"{link} is a link to {os.readlink(link)}, which is not there"
        raise OSError(errno.ENOENT, reason, str(link)) from error


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into the folder, which is made if it can be; None where something can."""
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))  # a full disk may have room for a name
    except OSError as error:
        return error.strerror or str(error)
    return None


def _flush_folder(folder: Path) -> None:
    """Keep the renaming itself from being lost with the power."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def decoding(path, kind: type[GpucnnError], what: str) -> Iterator[None]:
    """Within it, whatever goes wrong becomes a `kind` in one sentence about the file at `path`.

    Decoders raise anything on damaged bytes, a MemoryError for absurd sizes too. `what` is what the file should be.
    """
    try:
        yield
    except GpucnnError:
        raise
    except FileNotFoundError as error:
        raise kind(f"there is no file {path}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the system's; decoders raise some of their own
            raise kind(f"cannot read {path}: {error.strerror}") from error
        raise kind(f"{path} cannot be read: cut short, altered, or no {what} ({first_line(error)})") from error


@contextlib.contextmanager
def reading(path, kind: type[GpucnnError], what: str) -> Iterator[BufferedReader]:
    """The regular file at `path`, open for reading; errors as in `decoding`."""
    with decoding(path, kind, what), open_regular(path, kind) as file:
        yield file


def open_regular(path, kind: type[GpucnnError]) -> BufferedReader:
    """The file at `path` for reading, never waiting; raises OSError, or `kind` for what is no regular file."""
    handle = os.open(as_path(path), _READ)
    try:
        _refuse_special(path, os.fstat(handle), kind)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_file(path, kind: type[GpucnnError], what: str, most: int = 1 << 30) -> bytes:
    """All of the file at `path`; raises `kind` where it cannot be read or has more than so many bytes."""
    with reading(path, kind, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise kind(f"{path} has {size:,} bytes, more than {most:,}: that is no {what} of use here")
        return file.read()


def first_line(error: BaseException) -> str:
    """What an exception says, without its further lines and without what it quotes at length."""
    said = getattr(error, "strerror", None) or str(error)
    line = next(iter(said.strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= 200 else line[:197] + "..."


def _refuse_special(path, found: os.stat_result, kind: type[GpucnnError]) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise kind(f"{path} is {what}; give the name of a file")


# ---- a folder for one process ----------------------------------------------------------------------------------------

_held: set[int] = set()


@contextlib.contextmanager
def locked(file: Path, folder, instead: str, patience: float = 0.0) -> Iterator[Callable[[], bool]]:
    """Within it, no other process or thread gets the lock `file`. The system releases it when the process dies. What it
    gives says whether another one has the file of that name by now, whose folder was moved or removed and made anew.

    Raises ConfigurationError where another one has it for `patience` seconds, with its number; `instead` says what to
    do.
    """
    until = time.monotonic() + patience
    try:
        while (handle := _lock(file)) is None and time.monotonic() < until:
            time.sleep(0.05)
    except OSError as error:
        raise ConfigurationError(f"cannot lock {folder} with {file.name}: {error.strerror or error}") from error
    if handle is None:
        raise ConfigurationError(f"{folder} is in use by {_holder(file)}; {instead}")
    owner = os.getpid()
    _held.add(handle)
    try:
        yield lambda: _is_another(handle, file)
    finally:
        if os.getpid() == owner:  # a forked process has left it
            _held.discard(handle)
            with contextlib.suppress(OSError):
                if not _is_another(handle, file):
                    file.unlink()  # before it is released: whoever waits with it open sees that it has no name
            os.close(handle)
            if os.name == "nt":  # where an open file keeps its name
                with contextlib.suppress(OSError):
                    file.unlink()


def _is_another(handle: int, file: Path) -> bool:
    """Whether there is a file of this name, and it is not the open one."""
    with contextlib.suppress(OSError):
        return not os.path.samestat(os.fstat(handle), os.stat(file))
    return False


def _lock(file: Path) -> int | None:
    """A locked handle of `file`, with this process's number in it; None if another has locked it."""
    while True:
        handle = os.open(file, _WRITE, 0o666)
        try:
            _refuse_special(file, os.fstat(handle), ConfigurationError)
            if not _try(handle):
                os.close(handle)
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(file)):
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
                    return handle
            os.close(handle)  # the one who had it has removed it meanwhile
        except BaseException as error:
            with contextlib.suppress(OSError):
                if isinstance(error, OSError) and not os.fstat(handle).st_size:  # nobody can lock it, or we have it
                    file.unlink()
            with contextlib.suppress(OSError):
                os.close(handle)
            raise


def _try(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # beyond the text, which others read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows has them
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _holder(file: Path) -> str:
    try:
        with open_regular(file, ConfigurationError) as opened:
            text = opened.read(200).decode(errors="replace").strip()
    except (OSError, GpucnnError):
        text = ""
    return text.removesuffix(f" on {platform.node()}") or "another process"


def is_locked(file: Path) -> bool:
    """Whether a process of this machine that still runs says in the lock `file` that it has it.

    The lock itself is not tried: that would refuse it to whoever takes it at this moment.
    """
    if os.name == "nt":  # a file that is open cannot be removed
        try:
            file.unlink(missing_ok=True)
        except OSError:
            return True
        return False
    owner = re.fullmatch(r"process ([1-9]\d{0,8})", _holder(file))
    if owner is None:
        return False
    with contextlib.suppress(OSError):  # Linux tells who has locks: the number may be another process's by now
        return any(line.split()[4:5] == [owner[1]] for line in Path("/proc/locks").read_text().splitlines())
    try:
        os.kill(int(owner[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _leave_locks() -> None:
    """In a forked process: the lock is its parent's alone, and must not outlive it here."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)
