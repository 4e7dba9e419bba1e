"""Writes docs/operations.md: which results of which operation were compared with the specification, on which backend.

    python tests/operations_table.py

A run of `gpucnn check`'s cases, bit by bit. cupy and numba-cuda run on the GPU where there is one; elsewhere cupy's
kernels run under the emulation, which needs g++, and numba-cuda's in the simulator, where only the smallest cases fit.
It takes a minute or two, and fails if a bit differs or a backend is missing. The package must be installed, as the
README does.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.check.cases import Case, all_cases, small_cases
from gpucnn.check.comparison import differing
from gpucnn.errors import BackendError

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "operations.md"

# {operation: {"forward" or "backward": [values compared, values that differ]}}
Counts = dict[str, dict[str, list[int]]]


def count(chosen: Iterable[Case], backend) -> Counts:
    specification = get_backend("numpy", "exact")
    found: Counts = {}
    for case in chosen:
        row = found.setdefault(case.operation, {})
        got = case.run(backend)
        for label, want in case.run(specification).items():
            numbers = row.setdefault("backward" if label in case.gradients else "forward", [0, 0])
            numbers[0] += want.size
            numbers[1] += len(differing(want, got[label]))
    return found


def on_cupy() -> tuple[str, Counts]:
    try:
        backend = get_backend("cupy")
        return f"cupy, {backend.device}", count(all_cases(), backend)
    except BackendError:
        from gpucnn.emulation import get_emulated_backend

        return "cupy, emulated", count(all_cases(), get_emulated_backend())


def on_numba_cuda() -> tuple[str, Counts]:
    try:
        backend = get_backend("numba-cuda")
        return f"numba-cuda, {backend.device}", count(all_cases(), backend)
    except BackendError:
        settings = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
        run = subprocess.run([sys.executable, __file__, "--simulate"], env=settings, stdout=subprocess.PIPE, check=True)
        return "numba-cuda, simulated", json.loads(run.stdout)


def cell(numbers: list[int] | None) -> str:
    if numbers is None:
        return ""
    values, wrong = numbers
    return f"**{wrong:,} of {values:,} differ**" if wrong else f"equal, {values:,}"


def write(columns: list[tuple[str, Counts]]) -> bool:
    """Whether every bit is equal."""
    operations = list(dict.fromkeys(case.operation for case in all_cases()))
    headings = [f"{title}: {way}" for title, _ in columns for way in ("forward", "backward")]
    lines = ["| operation | " + " | ".join(headings) + " |", "|---|" + "---|" * len(headings)]
    wrong = 0
    for operation in operations:
        cells = []
        for _, counts in columns:
            row = counts[operation]
            wrong += sum(numbers[1] for numbers in row.values())
            cells += [cell(row.get(way)) for way in ("forward", "backward")]
        lines.append(f"| {operation} | " + " | ".join(cells) + " |")
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    about = (
        "Made by a test run, `python tests/operations_table.py`, on "
        f"{datetime.date.today().isoformat()} ({versions}, {platform.machine()}). A cell gives the number of values "
        "whose raw bits were compared with numpy's exact math, the specification, which `tests/backends` compares with "
        "loops over single numbers. A backward cell is empty where nothing is differentiated, and where the gradient "
        "is another row's operation: dropout's is dropout, a bias's is summed in the row of convolution. The cases "
        "are those of `gpucnn check`: ordinary, subnormal and cancelling numbers, odd batches, one to three axes. "
        "*Emulated*: the CUDA sources compiled for the CPU; *simulated*: numba-cuda's kernels in Numba's simulator, "
        "small cases only. numpy's fast math promises no bits; its tests compare it with float64 within derived "
        "bounds."
    )
    paragraph = textwrap.fill(about, 118, break_long_words=False, break_on_hyphens=False)
    TABLE.write_text("\n".join(["# Every operation on every backend", "", paragraph, "", *lines, ""]))
    return wrong == 0


def main() -> int:
    if "--simulate" in sys.argv:
        sys.setswitchinterval(1e-4)  # the simulator polls threads that wait at a barrier
        print(json.dumps(count(small_cases(), get_backend("numba-cuda"))))
        return 0
    columns = [("numba", count(all_cases(), get_backend("numba"))), on_cupy(), on_numba_cuda()]
    equal = write(columns)
    print(f"{TABLE}: " + ("every bit is equal" if equal else "RESULTS DIFFER"))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
