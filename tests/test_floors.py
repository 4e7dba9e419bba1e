"""The structure: imports point down only, and each library is imported where it may be. Read from the sources with ast.

    0 errors, arguments, storage, schema, cache, interrupts, terminal, geometry, resampling, arithmetic, recordable,
      own_code, extras; kernels, that import nothing of gpucnn
    1 inference, backends, parallel
    2 functional, layers, losses, metrics, optimizers, schedules, initializers
    3 models, data, gradients, layouts, explain, figures
    4 training
    5 check, throughput, summary, show, sweep
    6 explore, cli

A module may import its own floor and those below. The package's root, which offers names from every floor at their
first use, stands above all: inside the package nobody takes anything from it but its version.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FLOORS = {
    "errors": 0,
    "arguments": 0,
    "targets": 0,
    "storage": 0,
    "schema": 0,
    "cache": 0,
    "interrupts": 0,
    "terminal": 0,
    "geometry": 0,
    "recordable": 0,
    "own_code": 0,
    "resampling": 0,
    "arithmetic": 0,
    "extras": 0,
    "kernels": 0,
    "inference": 1,
    "backends": 1,
    "parallel": 1,
    "emulation": 1,
    "functional": 2,
    "layers": 2,
    "losses": 2,
    "metrics": 2,
    "optimizers": 2,
    "schedules": 2,
    "initializers": 2,
    "models": 3,
    "data": 3,
    "gradients": 3,
    "layouts": 3,
    "explain": 3,
    "figures": 3,
    "training": 4,
    "check": 5,
    "throughput": 5,
    "summary": 5,
    "show": 5,
    "sweep": 5,
    "explore": 6,
    "cli": 6,
    "__main__": 6,
}

# Where a library may be imported at all: modules whose name starts with one of these.
HOMES = {
    # The Numba-CUDA backend's arrays are CuPy's: Numba has kernels, but no array module for the device.
    "cupy": ("gpucnn.backends.cuda.cupy_", "gpucnn.backends.numba_cuda.base"),
    "numba": ("gpucnn.backends.numba", "gpucnn.kernels.numba"),  # and numba_cuda
    "onnx": ("gpucnn.models.onnx_export",),  # layers describe themselves without it
    "torch": ("gpucnn.models.pytorch", "gpucnn.throughput.pytorch"),
}

# What `import gpucnn` must not import: each costs a tenth of a second or more.
HEAVY = ["numba", "sklearn", "matplotlib", "rich", "typer", "scipy"]


def imports(source, module, is_package=False):
    """The full name of everything that a source imports anywhere in it, inside functions too."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source, module, is_package=False):
    """What a module imports that it must not, one sentence each."""
    part = module.split(".")[1] if "." in module else None
    for name in imports(source, module, is_package):
        top, _, rest = name.partition(".")
        if top in HOMES and not module.startswith(HOMES[top]):
            yield f"{module} imports {name}, which belongs to {', '.join(HOMES[top])}"
        if top != "gpucnn":
            continue
        other = rest.split(".")[0]
        if part is None or other == "__version__":
            continue
        if part == "kernels":
            if other != "kernels":
                yield f"{module} imports {name}: kernels import nothing of gpucnn"
        elif other not in FLOORS:
            yield f"{module} imports {name}, which has no floor: import from the module that defines it"
        elif other == "kernels" and part not in ("backends", "emulation"):
            yield f"{module} imports {name}: only backends import kernels"
        elif part not in FLOORS:
            yield f"{module} has no floor: give {part} one in this test"
        elif FLOORS[other] > FLOORS[part]:
            yield f"{module} on floor {FLOORS[part]} imports {name} on floor {FLOORS[other]}"


def modules():
    """(path, module name, is it a package) of every source: gpucnn/, and kernels/ as gpucnn.kernels."""
    roots = {name: Path(importlib.import_module(name).__file__).parent for name in ("gpucnn", "gpucnn.kernels")}
    for root, folder in roots.items():
        for path in sorted(folder.rglob("*.py")):
            names = [root, *path.relative_to(folder).with_suffix("").parts]
            is_package = names[-1] == "__init__"
            yield path, ".".join(names[:-1] if is_package else names), is_package


ALL = list(modules())
NAMES = {module for _, module, _ in ALL}


def at_import(path, module, is_package):
    """The package's own modules that a module imports when it is itself imported: not within functions."""

    def statements(nodes):
        for node in nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield node
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from statements(ast.iter_child_nodes(node))

    found = ast.Module(list(statements(ast.parse(path.read_text(encoding="utf-8")).body)), [])
    for name in imports(ast.unparse(found), module, is_package):
        while name not in NAMES and "." in name:
            name = name.rpartition(".")[0]
        if name in NAMES and not module.startswith(name):  # a module's own packages are imported before it
            yield name


def circle(graph):
    """The first cycle of modules that import one another; None if there is none."""
    done, way = set(), []

    def walk(module):
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return None
        way.append(module)
        found = next(filter(None, map(walk, graph[module])), None)
        way.pop()
        done.add(module)
        return found

    return next(filter(None, map(walk, graph)), None)


@pytest.mark.parametrize(("path", "module", "is_package"), ALL, ids=[module for _, module, _ in ALL])
def test_imports_point_down(path, module, is_package):
    assert list(violations(path.read_text(encoding="utf-8"), module, is_package)) == []


def test_no_modules_import_one_another():
    assert circle({module: set(at_import(path, module, package)) for path, module, package in ALL}) is None


def test_the_check_itself_finds_a_circle():
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


def test_the_sources_were_found():
    found = {module for _, module, _ in ALL}
    assert {"gpucnn", "gpucnn.geometry", "gpucnn.backends.numpy.fast", "gpucnn.kernels.numba.conv"} <= found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gpucnn.geometry", "from gpucnn.backends import get_backend"),
        ("gpucnn.backends.numpy.fast", "import gpucnn.layers.conv"),
        ("gpucnn.layers.conv", "def f():\n    from gpucnn.training import Trainer"),
        ("gpucnn.layers.conv", "from ..models.lenet import lenet5"),
        ("gpucnn.layers", "from gpucnn import functional, models"),
        ("gpucnn.models.lenet", "from gpucnn import Trainer"),
        ("gpucnn.models.lenet", "import gpucnn"),
        ("gpucnn.layers.conv", "from gpucnn.kernels.numba import conv"),
        ("gpucnn.cli", "import gpucnn.kernels"),
        ("gpucnn.kernels.numba.conv", "from gpucnn.geometry import Window"),
        ("gpucnn.kernels.numba.conv", "from gpucnn import errors"),
        ("gpucnn.backends.numpy.fast", "import numba"),
        ("gpucnn.backends.numba.backend", "from cupy import ndarray"),
        ("gpucnn.layers.conv", "if False:\n    import numba.core as c"),
        ("gpucnn.newcomer", "from gpucnn.errors import ShapeError"),
        ("gpucnn.geometry", "from gpucnn.newcomer import x"),
    ],
)
def test_the_check_itself_finds_a_forbidden_import(module, source):
    assert len(list(violations(source, module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gpucnn.backends.numba.backend", "import numba\nfrom gpucnn.kernels.numba import conv\nimport numpy"),
        ("gpucnn.kernels.numba.conv", "from numba import njit\nfrom gpucnn.kernels.numba.simd import Vec"),
        ("gpucnn.layers.conv", "from gpucnn.layers.base import Layer\nfrom .base import Layer\nfrom .. import losses"),
        ("gpucnn.training.trainer", "from gpucnn import __version__, arithmetic"),
        ("gpucnn.cli.train", "from gpucnn.training import Trainer\nimport typer"),
    ],
)
def test_the_check_itself_lets_imports_down_pass(module, source):
    assert list(violations(source, module)) == []


@pytest.mark.parametrize(
    "statement", ["import gpucnn", "import gpucnn; gpucnn.functional, gpucnn.models, gpucnn.Trainer"]
)
def test_importing_the_package_loads_nothing_heavy(statement):
    code = f"import sys; {statement}; print(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
