"""Downloading the known data sets: checked against their published digests, continued where they broke off."""

import contextlib
import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

from gpucnn import arguments, cache
from gpucnn.data.known import KNOWN, File, home
from gpucnn.errors import DataError
from gpucnn.storage import as_path, finish_part, locked, make_folder, open_part, open_regular

TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 4  # at one address, while each brings some bytes
_PIECE = 1 << 16

# progress(file name, bytes there, bytes in all)
Progress = Callable[[str, int, int], None]


def fetch(
    name: str, to: str | Path | None = None, *, progress: Progress | None = None, timeout: float = TIMEOUT
) -> Path:
    """Download the data set `name` (mnist, fashion-mnist, cifar-10, cifar-100); returns the folder that holds it.

    `to` is the folder (None: data/<name> in gpucnn's cache, where `load(name)` looks). A file that is there with the
    right digest is kept. Each is written as <file>.part beside its place and renamed when its digest is right; a .part
    that broke off is continued, from its beginning where the server cannot do better. `timeout` is in seconds without
    any byte. Nothing is unpacked.

    Raises DataError for an unknown name, a folder that cannot be written, a server that does not answer or breaks off
    (what came so far is kept, the same call continues), and for a wrong digest (what came is removed).
    """
    timeout = arguments.number("timeout", timeout, above=0)
    if not isinstance(name, str) or name not in KNOWN:
        raise DataError(f"there is no data set {arguments.shown(name)} to fetch; there are: {', '.join(KNOWN)}")
    folder = home() / name if to is None else as_path(to)
    command = f"gpucnn data fetch {name}" + ("" if to is None else f" --to {quote(str(to))}")
    progress = progress or (lambda *_: None)
    try:
        missing = [file for file in KNOWN[name].files if not _is_right(file, folder / file.name)]
        for file in KNOWN[name].files:
            if file not in missing:
                progress(file.name, file.size, file.size)
        if missing:
            if to is None:
                cache.make()
            make_folder(folder)
            with locked(folder / "fetch.lock", folder, "wait for it"):
                for file in missing:
                    _fetch(file, folder / file.name, progress, timeout, command)
    except OSError as error:
        raise DataError(f"cannot write into {folder}: {error.strerror or error}") from error
    return folder


class _Broken(Exception):
    """Why a download did not come to its end."""


class _Lost(Exception):
    """Why a connection ended; another one may go on."""


@contextlib.contextmanager
def _network(timeout: float) -> Iterator[None]:
    """Within it, whatever a server's answer leads to is a _Lost: libraries raise many kinds, for a malformed host a
    ValueError."""
    try:
        yield
    except Exception as error:
        raise _Lost(_reason(error, timeout)) from error


def _fetch(file: File, path: Path, progress: Progress, timeout: float, command: str) -> None:
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in file.urls:
        try:
            _download(file, url, part, progress, timeout)
        except _Broken as broken:
            reasons.append(f"{url}: {broken}")
            continue
        found = _digest(part, file.algorithm)
        if found == file.digest:
            finish_part(part, path)
            return
        part.unlink()
        reasons.append(f"{url}: wrong content, its {file.algorithm} digest is {found} and {file.digest} was published")
    kept = part.stat().st_size if part.is_file() else 0
    then = (
        f"{kept:,} of {file.size:,} bytes are kept: run `{command}` again to continue"
        if kept
        else f"nothing of it was kept: try again later, or put a file with that digest at {path}"
    )
    raise DataError(f"{file.name} could not be fetched ({'; '.join(reasons)}); {then}")


def _download(file: File, url: str, part: Path, progress: Progress, timeout: float) -> None:
    """Bring `part` to the file's size; raises _Broken. What another server began may be continued here: the digest
    tells, and a wrong whole made of two parts is fetched once more from its beginning."""
    begun = part.is_file() and part.stat().st_size > 0
    if begun and part.stat().st_size >= file.size:
        if _is_right(file, part):
            return
        part.unlink()
        begun = False
    _attempts(file, url, part, progress, timeout)
    if begun and _digest(part, file.algorithm) != file.digest:
        part.unlink()
        _attempts(file, url, part, progress, timeout)


def _attempts(file: File, url: str, part: Path, progress: Progress, timeout: float) -> None:
    for attempt in range(_ATTEMPTS):
        before = part.stat().st_size if part.is_file() else 0
        try:
            _once(file, url, part, progress, timeout)
        except _Lost as lost:
            after = part.stat().st_size if part.is_file() else 0
            if after <= before or attempt == _ATTEMPTS - 1:
                raise _Broken(str(lost)) from lost
            continue
        if part.stat().st_size >= file.size:
            return
        if part.stat().st_size <= before or attempt == _ATTEMPTS - 1:
            raise _Broken(f"broke off after {part.stat().st_size:,} of {file.size:,} bytes")


def _once(file: File, url: str, part: Path, progress: Progress, timeout: float) -> None:
    """One request for what `part` lacks; it may come to its end or break off."""
    start = part.stat().st_size if part.is_file() else 0
    # identity: a server that packs what it sends would give other bytes, of which a range means nothing
    headers = {"User-Agent": "gpucnn", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _network(timeout):
        try:
            answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:  # else the server has fewer bytes than we: what we have is not its file
                raise
            error.close()
            answer = None
    if answer is None:
        part.unlink()
        return _once(file, url, part, progress, timeout)
    with answer:
        continues = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        if answer.status == 206 and not continues:
            part.unlink(missing_ok=True)
            raise _Broken(f"sent another part than was asked for ({answer.headers.get('Content-Range')!r:.80})")
        with open_part(part, keep=continues) as out:
            done = start if continues else 0
            progress(file.name, done, file.size)
            while done <= file.size:  # a file that is too long is as wrong as any other: one byte too many tells
                with _network(timeout):
                    piece = answer.read1(_PIECE)
                if not piece:
                    break
                out.write(piece[: file.size + 1 - done])
                done = min(done + len(piece), file.size + 1)
                progress(file.name, min(done, file.size), file.size)


def _reason(error: Exception, timeout: float) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        return " ".join(f"the server says {error.code} {error.reason}"[:200].split())
    if isinstance(cause, TimeoutError):
        return f"no answer for {timeout:g} seconds"
    said = " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())
    return said if len(said) <= 200 else said[:197] + "..."


def _is_right(file: File, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == file.size and _digest(path, file.algorithm) == file.digest


def _digest(path: Path, algorithm: str) -> str:
    with open_regular(path, DataError) as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
