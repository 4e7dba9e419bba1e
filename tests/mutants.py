"""Wrong backends made from the right ones: a copy of the package with one line changed, imported alongside it."""

import importlib.util
import inspect
import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.processes import checkout

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
