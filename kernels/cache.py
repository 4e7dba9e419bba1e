"""Compiled kernels on disk: one file per key, under a temporary name until complete, its digest in front, so that
a truncated file counts as absent."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Where compiled kernels of one kind are kept: in $GPUCNN_CACHE, else in the user's cache folder."""
    base = os.environ.get("GPUCNN_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "gpucnn")
    return Path(base) / kind


def file_name(name: str, key: object) -> str:
    """A file's name from a kernel's name and from all that decides what it is compiled to."""
    stem = "".join(c if c.isalnum() else "-" for c in name)[:60]
    return f"{stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"


def load(path: Path) -> bytes | None:
    """The stored payload; None if there is none or it is damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, payload = stored[:32], stored[32:]
    return payload if hashlib.sha256(payload).digest() == digest else None


def store(path: Path, payload: bytes) -> None:
    """Store the payload; on a full disk or in a read-only home the next run compiles again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # only its owner may write there
        handle, beside = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
            raise
