"""Shared set-up: enough threads to test two of them anywhere, and a skip for tests that need a GPU."""

import ctypes
import functools
import os
import signal
import sys
import threading

import pytest

# Read once, when Numba is imported. A machine with one core still has to show that two threads change no bit.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))

# Ctrl-C is ignored in what a shell starts in the background, and children inherit that: tests of it would never end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# glibc keeps what was freed for blocks up to a size that grows with use: a worker that has trained many networks would
# hold gigabytes. With fixed limits, buffers of a megabyte and more go back to the system when they are freed.
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    libc.mallopt(M_TRIM_THRESHOLD, 1 << 20)


def pytest_configure(config):
    # In several processes (pytest-xdist's -n) a file's tests share what is compiled and trained for them, so they stay
    # together; files are run in order, so that those that take minutes start early, although they have few tests.
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


@functools.cache
def _why_no_gpu() -> str | None:
    """Why no test can run on an NVIDIA GPU here; None if one is there."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) on this machine"
    count = ctypes.c_int()
    for code in (driver.cuInit(0), driver.cuDeviceGetCount(ctypes.byref(count))):
        if code:
            return f"the NVIDIA driver gave error {code}"
    return None if count.value else "the NVIDIA driver finds no GPU"


@pytest.fixture(autouse=True)
def _nothing_under_way():
    """No test finds kernels that an earlier one has ordered: it would run general ones in their place."""
    yield
    if made := sys.modules.get("gpucnn.backends.numba.later"):
        made.later.end()


def _required() -> bool:
    return os.environ.get("GPUCNN_REQUIRE_GPU", "") not in ("", "0")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and (reason := _why_no_gpu()):
        if _required():
            pytest.fail(f"GPUCNN_REQUIRE_GPU is set, but {reason}", pytrace=False)
        pytest.skip(f"gpu: {reason}")


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "gpu: " in str(r.longrepr)]
    if skipped:
        terminalreporter.write_sep("=", f"{len(skipped)} tests for a GPU were not run: {_why_no_gpu()}", yellow=True)
