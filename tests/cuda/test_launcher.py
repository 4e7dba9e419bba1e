"""The launcher's own work: packing arguments, guard pages, errors that name thread and block, and what is missing."""

import ctypes
import struct

import numpy as np
import pytest

from gpucnn.backends.cuda.launcher import Arguments
from gpucnn.errors import BackendError, ConfigurationError
from tests.cuda.emulated import needs_emulation


def _read(arguments: Arguments, index: int) -> bytes:
    pointer = ctypes.cast(arguments.address, ctypes.POINTER(ctypes.c_void_p))[index]
    return ctypes.string_at(pointer, arguments.sizes[index])


def test_arguments_are_laid_out_as_c_does():
    array = np.zeros(3, np.float32)
    given = array, None, np.int32(-2), (np.int64(5), np.int32(6), np.int32(7), np.int32(8)), np.float64(0.5)
    packed = Arguments(given, lambda a: a.ctypes.data)
    assert packed.sizes == [8, 8, 4, 24, 8]
    assert _read(packed, 0) == struct.pack("P", array.ctypes.data)
    assert _read(packed, 1) == bytes(8)
    assert _read(packed, 2) == struct.pack("i", -2)
    assert _read(packed, 3) == struct.pack("qiii4x", 5, 6, 7, 8)
    assert _read(packed, 4) == struct.pack("d", 0.5)


@needs_emulation
@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("size", [1, 4, 1024, 5000])
def test_guarded_arrays_lie_at_the_edge(front, size):
    from gpucnn.emulation.memory import guarded

    array = guarded((size,), np.float32, front)
    assert np.isnan(array).all()
    edge = array.ctypes.data if front else array.ctypes.data + -(-array.nbytes // 16) * 16
    assert edge % 4096 == 0
    assert array.ctypes.data % 16 == 0
    array[...] = 1
    assert array.sum() == size


def _launcher(tmp_path, body: str, **options):
    from gpucnn.emulation.launcher import EmulatedLauncher

    (tmp_path / "k.cu").write_text('#include "common.cuh"\n' + body)
    (tmp_path / "common.cuh").write_text("#pragma once\n")
    return EmulatedLauncher(folder=tmp_path, **options)


@needs_emulation
def test_an_error_names_the_thread_and_the_block(tmp_path):
    launcher = _launcher(tmp_path, "__global__ void k(float* x) { x[blockIdx.x * 1024 + threadIdx.x] = 1; }")
    x = launcher.empty((1024,))
    with pytest.raises(BackendError, match=r"k: illegal address 0x\w+; thread \(0, 0, 0\) of block \(1, 0, 0\)"):
        launcher.launch(launcher.kernel("k.cu", "k"), (2,), (32,), x)
    launcher.launch(launcher.kernel("k.cu", "k"), (1,), (32,), x)
    assert x[:32].tolist() == [1] * 32


@needs_emulation
def test_barriers_that_differ_are_told_apart(tmp_path):
    body = "__global__ void k() { if (threadIdx.x) __syncthreads();\nelse __syncthreads(); }"
    launcher = _launcher(tmp_path, body)
    with pytest.raises(BackendError, match="different __syncthreads"):
        launcher.launch(launcher.kernel("k.cu", "k"), (1,), (64,))


@needs_emulation
def test_wrong_arguments_are_refused(tmp_path):
    launcher = _launcher(tmp_path, "__global__ void k(float* x, int n) { x[0] = n; }")
    kernel, x = launcher.kernel("k.cu", "k"), launcher.empty((4, 4))
    with pytest.raises(BackendError, match="bytes"):
        launcher.launch(kernel, (1,), (1,), x, np.int64(1))
    with pytest.raises(BackendError, match=r"k got 1, a Python int, .*; pass a NumPy scalar .* np\.float32\(1\)"):
        launcher.launch(kernel, (1,), (1,), x, 1)
    with pytest.raises(BackendError, match="strided"):
        launcher.launch(kernel, (1,), (1,), x.T, np.int32(1))
    with pytest.raises(BackendError, match="bad launch"):
        launcher.launch(kernel, (1,), (2048,), x, np.int32(1))


@needs_emulation
def test_settings_are_checked():
    from gpucnn.emulation import get_emulated_backend

    with pytest.raises(ConfigurationError, match="order"):
        get_emulated_backend("backwards")
    with pytest.raises(ConfigurationError, match="guard"):
        get_emulated_backend(guard="both")


def test_a_machine_without_a_compiler_says_so(monkeypatch):
    from gpucnn.emulation import compiler

    monkeypatch.setattr(compiler, "_compiler", lambda: "g++-that-is-not-there")
    compiler.why_not.cache_clear()
    try:
        reason = compiler.why_not()
        assert reason is not None
        assert "g++" in reason or "Linux" in reason
    finally:
        compiler.why_not.cache_clear()
