"""The kernels under AddressSanitizer and UBSan, in a process that was started with the sanitizer's library."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpucnn.backends.cuda.launcher import SOURCES
from tests.cuda.emulated import needs_emulation
from tests.processes import environment

pytestmark = [needs_emulation, pytest.mark.slow]

EVERY_OPERATION = """
import collections
from gpucnn.backends import get_backend
from gpucnn.check.cases import all_cases
from gpucnn.emulation import get_emulated_backend

emulated, specification = get_emulated_backend(sanitize=True), get_backend("numpy", "exact")
seen = collections.Counter()
for case in all_cases():
    seen[case.operation] += 1
    if seen[case.operation] in (3, 5):
        got = case.run(emulated)
        for name, want in case.run(specification).items():
            assert want.tobytes() == got[name].tobytes(), (str(case), name)
print(len(seen), "operations ran clean")
"""

PAST_THE_END = """
import sys
from pathlib import Path
import numpy as np
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.emulation.launcher import EmulatedLauncher

b = CudaBackend(EmulatedLauncher(sanitize=True, folder=Path(sys.argv[1])))
b.update_running(b.zeros((300,)), b.zeros((300,)), 0.5)
print("ran clean")
"""


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("emulation: g++ comes without libasan.so")
    settings = environment(LD_PRELOAD=library, ASAN_OPTIONS="detect_leaks=0")
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600, check=False)


def test_every_operation_runs_clean():
    run = _run(EVERY_OPERATION)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "ran clean" in run.stdout


def test_a_read_past_the_end_is_found(tmp_path):
    shutil.copytree(SOURCES, tmp_path / "cuda")
    source = tmp_path / "cuda" / "optimizers.cu"
    text = source.read_text()
    assert "if (i < size) running[i] =" in text
    source.write_text(text.replace("if (i < size) running[i] =", "if (i <= size) running[i] ="))
    run = _run(PAST_THE_END, str(tmp_path / "cuda"))
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
    assert "optimizers.cu" in run.stderr
