"""Wrong backends made from the right ones: a copy of the package with one line changed, imported beside it."""

import inspect
import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

from processes import checkout

_numbers = itertools.count()


@contextmanager
def _other_package(root: Path):
    """Within it, `import gpucnn...` takes the package under `root`; Numba and NumPy stay loaded."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "gpucnn"]

    kept = {name: sys.modules.pop(name) for name in ours()}
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
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
