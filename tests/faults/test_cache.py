"""Compiled kernels are run: they are taken from nobody else, and garbage among them is compiled anew."""

import errno
import hashlib
import itertools
import os
import pickle
import stat
import threading
import time
from pathlib import Path

import pytest

from gpucnn import cache, storage
from gpucnn.cli import output
from gpucnn.errors import BackendError, ConfigurationError
from tests.backends.test_kernel_cache import HEAD, MAPS, NAMES, TAIL
from tests.processes import finish, start

POSIX = pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720])
def test_a_folder_that_others_can_write_to(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    kernels = cache.Kernels("numba")
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba").chmod(mode)
    for use in (lambda: kernels.read("relu"), lambda: kernels.write("relu", b"code")):
        with pytest.raises(BackendError, match="since others than you can write to it: run `chmod go-w"):
            use()
    (tmp_path / "numba").chmod(0o755)
    kernels.write("relu", b"code")
    assert kernels.read("relu") == b"code" and kernels.read("tanh") is None


@POSIX
def test_a_folder_above_that_others_can_write_to(tmp_path, monkeypatch):
    """They could put another one in its place; not in a folder like /tmp, where each may remove his own alone."""
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(BackendError):
        cache.Kernels("cuda").read("relu")
    (tmp_path / "open").chmod(0o1777)
    assert cache.Kernels("cuda").read("relu") is None


@POSIX
def test_a_file_that_others_could_write_to(tmp_path, monkeypatch):
    """As one that was put there before its folder was closed, or written where no umask was set: it is made anew."""
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    kernels, before = cache.Kernels("numba"), os.umask(0)
    try:
        kernels.write("relu", b"code")
        file = tmp_path / "numba" / "relu"
        assert kernels.read("relu") == b"code" and stat.S_IMODE(file.stat().st_mode) == 0o644
        for mode in (0o666, 0o664):
            file.chmod(mode)
            assert kernels.read("relu") is None
            kernels.write("relu", b"code")
            assert kernels.read("relu") == b"code"
        if os.geteuid() == 0:
            os.chown(file, 4321, -1)
            assert kernels.read("relu") is None
    finally:
        os.umask(before)


@POSIX
@pytest.mark.parametrize("use", [cache.refusal, lambda: cache.Kernels("numba").read("relu")], ids=["looked at", "read"])
def test_a_cache_that_is_made_where_no_umask_is_set(tmp_path, monkeypatch, use):
    """As some containers start programs: it was made for others to write to, and its kernels were refused then."""
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "above" / "own"))
    before = os.umask(0)
    try:
        use()
        kernels = cache.Kernels("numba")
        kernels.write("relu", b"code")
        assert kernels.read("relu") == b"code"
        assert [stat.S_IMODE((tmp_path / made).stat().st_mode) for made in ("above", "above/own")] == [0o755] * 2
    finally:
        os.umask(before)


@POSIX
def test_a_folder_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    cache.Kernels("numba").write("relu", b"code")
    cache._refuse_shared.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if os.stat(tmp_path).st_uid == 0:
        assert cache.Kernels("numba").read("relu") == b"code", "the system's own are trusted"
    else:
        with pytest.raises(BackendError):
            cache.Kernels("numba").read("relu")
    cache._refuse_shared.cache_clear()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """Each start compiles again, which is said once instead of promised otherwise."""
    for place, kept in ((tmp_path / "cache", True), (tmp_path / "file" / "cache", False)):
        (tmp_path / "file").touch()
        monkeypatch.setenv("GPUCNN_CACHE", str(place))
        output._kept.cache_clear()
        output._compiling("relu")
        output._compiling("tanh")
        lines = capsys.readouterr().err.splitlines()
        if kept:
            assert lines == [f"compiling {name}; kept for later runs" for name in ("relu", "tanh")]
        else:
            first = f"compiled kernels are not kept for later runs: {place} cannot be written (Not a directory)"
            assert lines == [f"{first}; set GPUCNN_CACHE to a folder of your own", "compiling relu", "compiling tanh"]
    output._kept.cache_clear()


def test_who_compiles_a_kernel_is_waited_for_but_not_for_long(tmp_path, monkeypatch):
    """It may have been stopped."""
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_LONGEST_WAIT", 1.0)
    kernels, done = cache.Kernels("numba"), []

    def another(name: str) -> float:
        def wait() -> None:
            with kernels.turn(name):
                done.append(time.monotonic() - begun)

        begun, thread = time.monotonic(), threading.Thread(target=wait)
        thread.start()
        thread.join(10)
        return done.pop()

    with kernels.turn("relu"):
        assert another("tanh") < 1.0 <= another("relu") < 8
    monkeypatch.setattr(cache, "_LONGEST_WAIT", 60.0)
    with kernels.turn("relu"):
        kernels.write("relu", b"code")
        assert another("relu") < 5, "it is there"
    assert [path.name for path in (tmp_path / "numba").iterdir()] == ["relu"]


def test_kernels_are_compiled_where_no_file_can_be_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(storage, "_try", refuse)
    begun = time.monotonic()
    with cache.Kernels("numba").turn("relu"):
        assert time.monotonic() - begun < 5
    assert not list((tmp_path / "numba").iterdir())


def test_a_user_without_a_home_folder(tmp_path, monkeypatch, capsys):
    """As a container's user that is a number alone: `~` stays as it is, and would be a folder of that name."""
    monkeypatch.chdir(tmp_path)
    for name in ("GPUCNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    output._kept.cache_clear()
    output._compiling("relu")
    reason = "~/.cache/gpucnn: there is no such home folder; set HOME, or GPUCNN_CACHE to a folder of your own"
    assert capsys.readouterr().err == f"compiled kernels are not kept for later runs: {reason}\ncompiling relu\n"
    output._kept.cache_clear()
    kernels = cache.Kernels("numba")
    kernels.write("relu", b"code")
    assert kernels.read("relu") is None and list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match=reason):
        cache.folder("data")


def test_a_home_folder_in_the_variable(monkeypatch):
    """Containers, services and batch systems set variables as they stand."""
    monkeypatch.setenv("GPUCNN_CACHE", "~/kernels")
    assert cache.folder("numba") == Path("~/kernels/numba").expanduser()


def test_a_relative_place_of_caches_is_ignored(tmp_path, monkeypatch):
    """The variable's specification has it so: it would be another cache in each folder."""
    monkeypatch.delenv("GPUCNN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder("numba") == tmp_path / "gpucnn" / "numba"
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert cache.folder("numba") == Path("~/.cache/gpucnn/numba").expanduser()


@pytest.mark.slow
def test_the_right_digest_over_garbage(tmp_path):
    """No kernel, pickles of something else, and no pickle at all."""
    code, settings = HEAD + MAPS + TAIL, {"GPUCNN_CACHE": str(tmp_path)}
    first = finish(start(code, **settings))
    assert first["compiled"] == NAMES
    files = sorted((tmp_path / "numba").iterdir())
    good = files[0].read_bytes()[32:]
    contents = itertools.cycle((b"garbage", pickle.dumps((1, 2)), good[: len(good) // 2]))
    for file, content in zip(files, contents, strict=False):
        file.write_bytes(hashlib.sha256(content).digest() + content)
    again = finish(start(code, **settings))
    assert again == first
    assert finish(start(code, **settings))["compiled"] == []
