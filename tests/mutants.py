"""Wrong programs made from the right one: a copy of the package with one line changed, imported or tested beside it."""

import importlib.util
import inspect
import itertools
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import checkout, environment

TESTS = Path(__file__).resolve().parent

_numbers = itertools.count()


@contextmanager
def _other_package(root: Path):
    """Within it, `import gpucnn...` takes the package under `root`; Numba and NumPy stay loaded."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "gpucnn"]

    kept = {name: sys.modules.pop(name) for name in ours()}
    folder = root / "gpucnn"
    spec = importlib.util.spec_from_file_location(
        "gpucnn", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = sys.modules["gpucnn"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(package)
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(kept)


def mutant(tmp_path: Path, backend: str, file: str, old: str, new: str) -> type:
    """The class of `backend` ("numpy" or "numba") where `old` in `file` reads `new`. A file without `old` fails."""
    root = checkout(tmp_path / f"mutant{next(_numbers)}", {file: (old, new)})
    with _other_package(root):
        if backend == "numba":
            from gpucnn.backends.numba.backend import NumbaBackend as Mutant
        else:
            from gpucnn.backends.numpy.exact import NumpyExact as Mutant
        assert Path(inspect.getfile(Mutant)).is_relative_to(root)
    return Mutant


def run_tests(root: Path, tests: str, chosen: str = "") -> subprocess.CompletedProcess:
    """The file `tests` of this checkout, run on the package of the copy at `root`; with `chosen` only those tests."""
    # The copy stands before this checkout on the path, and pytest, which would put the tests' in front, appends it.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--import-mode=append"]
    command += [str(TESTS / tests), *(["-k", chosen] if chosen else [])]
    # Loading plugins takes longer than most of these tests.
    settings = {"PYTHONPATH": os.pathsep.join((str(root), str(TESTS.parent))), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env = environment(root, **settings)
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=900, check=False)


def parameters(names: Iterable[str], at_length: set[str]) -> list:
    """The names of a table of planted errors as parameters; those `at_length` are for long runs."""
    names = list(names)
    assert at_length <= set(names)
    return [pytest.param(name, marks=[pytest.mark.long] * (name in at_length)) for name in names]


def assert_noticed(tmp_path: Path, file: str, old: str, new: str, tests: str, chosen: str = "") -> None:
    """A test fails, and by an assertion of its own, where `old` in `file` reads `new`."""
    run = run_tests(checkout(tmp_path / "mutant", {file: (old, new)}), tests, chosen)
    assert run.returncode == 1, f"exit code {run.returncode}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    assert "1 failed" in run.stdout and "error" not in run.stdout.splitlines()[-1]
