"""The package list in pyproject.toml, the README's commands and .ci/run match the files."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import gpucnn
from gpucnn.extras import PACKAGES, install

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def test_every_package_is_listed():
    found = {
        ".".join(("gpucnn.kernels", *init.parent.relative_to(ROOT).parts[1:]))
        if init.is_relative_to(ROOT / "kernels")
        else ".".join(init.parent.relative_to(ROOT).parts)
        for folder in ("gpucnn", "kernels")
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(found) == PROJECT["tool"]["setuptools"]["packages"]


def test_type_checkers_see_the_public_names():
    """Which are imported at first use; what `gpucnn/py.typed` promises would be Any without imports for them."""
    tree = ast.parse((ROOT / "gpucnn" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: (line.module, alias.name) for line in block.body for alias in line.names}
    modules = {name: ("gpucnn", name) for name in gpucnn._MODULES}
    assert seen == {name: (module, name) for name, module in gpucnn._PUBLIC.items()} | modules


def test_what_messages_advise_to_install_is_what_the_extras_name():
    """And none names an extra of gpucnn, which is on no index: pip would find nothing."""
    extras = PROJECT["project"]["optional-dependencies"]
    for extra, packages in PACKAGES.items():
        assert sorted(packages) == sorted(requirement.partition(">")[0] for requirement in extras[extra])
    assert install("cuda12") == "pip install cupy-cuda12x 'cuda-core[cu12]' 'numba-cuda[cu12]'"
    for file in (ROOT / "gpucnn").rglob("*.py"):
        if file.name != "extras.py":
            assert "gpucnn[" not in file.read_text().replace("\\", ""), file


@pytest.mark.parametrize("layout", ["as here", "checkout", "installation"])
def test_the_package_is_gpucnn_and_its_kernels_alone(layout, tmp_path):
    """What else is in the checkout is no part of it, however the package is found. The README's command for the tests
    installs it editable: that is "as here".
    """
    root, paths = ROOT, sys.path
    if layout == "installation":
        root, skip = tmp_path / "site", shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "gpucnn", root / "gpucnn", ignore=skip)
        shutil.copytree(ROOT / "kernels", root / "gpucnn" / "kernels", ignore=skip)
    if layout != "as here":
        paths = [str(root), *(path for path in sys.path if not (Path(path) / "gpucnn").is_dir())]
    code = """
import importlib, json
import gpucnn
for name in ("tests", "bench", "docs", "kernels.numpy", "pyproject"):
    try:
        importlib.import_module(f"gpucnn.{name}")
    except ModuleNotFoundError as error:
        assert error.name == f"gpucnn.{name}", error.name
    else:
        raise AssertionError(f"gpucnn.{name} can be imported")
import gpucnn.kernels.elementary
assert gpucnn.kernels is sys.modules["gpucnn.kernels"]
print(json.dumps([gpucnn.__file__, gpucnn.kernels.elementary.__file__]))
"""
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {paths!r}\n{code}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    package, kernel = (Path(file) for file in json.loads(run.stdout))
    if layout != "as here":
        assert package == root / "gpucnn" / "__init__.py"
        assert kernel.parent == (root / "kernels" if layout == "checkout" else root / "gpucnn" / "kernels")


def test_the_version_is_written_once():
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gpucnn.__version__"}
    assert f"\nversion: {gpucnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow  # builds in a fresh environment, which pip fills with setuptools
@pytest.mark.parametrize("form", ["wheel", "sdist"])
def test_what_is_built_is_complete(form, tmp_path):
    """The files that are no Python modules, and the version, in the archives that an index would get."""
    source = tmp_path / "source"
    skip = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "runs", "tests")
    shutil.copytree(ROOT, source, ignore=skip)
    out = tmp_path / "out"
    out.mkdir()
    pip = [sys.executable, "-m", "pip"]
    if form == "wheel":
        commands = [[*pip, "wheel", "-q", "--no-deps", "--wheel-dir", str(out), "."]]
    else:
        # pip builds no sdist: its back end is called with the versions that the project asks for, whatever is installed
        requires, backend = PROJECT["build-system"]["requires"], PROJECT["build-system"]["build-backend"]
        tools = str(tmp_path / "tools")
        code = f"import sys; sys.path.insert(0, {tools!r}); import {backend} as build; build.build_sdist({str(out)!r})"
        commands = [[*pip, "install", "-q", "--target", tools, *requires], [sys.executable, "-c", code]]
    for command in commands:
        run = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=600, check=False)
        assert run.returncode == 0, run.stderr
    (archive,) = out.iterdir()
    assert archive.name.startswith(f"gpucnn-{gpucnn.__version__}")
    if form == "wheel":
        names = set(zipfile.ZipFile(archive).namelist())
    else:
        with tarfile.open(archive) as members:
            names = {name.partition("/")[2] for name in members.getnames()}
    kernels = "gpucnn/kernels" if form == "wheel" else "kernels"
    expected = {"gpucnn/py.typed", "gpucnn/check/hashes.json", "gpucnn/emulation/cuda_host.h", f"{kernels}/CONTRACT.md"}
    expected |= {f"{kernels}/{file.relative_to(ROOT / 'kernels')}" for file in (ROOT / "kernels").rglob("*.cu*")}
    expected |= {f"{kernels}/{file.relative_to(ROOT / 'kernels')}" for file in (ROOT / "kernels").rglob("*.py")}
    assert expected <= names, expected - names
    check_installed(archive, tmp_path)


def check_installed(archive, tmp_path):
    """What pip makes of the archive trains in an empty folder; what it depends on is this environment's."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(archive)]
    train = ["train", "--model", "mlp", "--hidden", "8", "--epochs", "1", "--backend", "numpy", "--json"]
    run = {"cwd": empty, "capture_output": True, "text": True, "timeout": 600}
    run["env"] = {**os.environ, "PYTHONPATH": str(site)}
    for command in (install, [sys.executable, "-m", "gpucnn", *train]):
        done = subprocess.run(command, check=False, **run)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1 and len(list(empty.glob("runs/*/checkpoint.safetensors"))) == 1
    where = [sys.executable, "-c", "import gpucnn, gpucnn.kernels as k; print(gpucnn.__file__); print(k.__file__)"]
    found = subprocess.run(where, check=False, **run).stdout.split()
    assert len(found) == 2 and all(Path(file).is_relative_to(site) for file in found)


def test_package_data_exists():
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        parts = package.split(".")
        folder = ROOT.joinpath(*(parts[1:] if parts[1:2] == ["kernels"] else parts))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: {pattern} matches nothing"


def test_readme_has_the_two_commands_and_ci_runs_the_second():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("gpucnn train")
    assert " -m pytest " in commands[1]
    pattern = re.search(r"grep -m 1 -x '([^']*)'", (ROOT / ".ci" / "run").read_text()).group(1)
    assert re.findall(f"^{pattern}$", README, re.MULTILINE) == commands[1:]


def test_ci_runs_every_stage_in_order():
    text = (ROOT / ".ci" / "run").read_text()
    steps = [
        "set -euo pipefail",
        "apt-get install -y -q g++",
        "pip install -q -e '.[test,dev]'",
        "ruff check .",
        "ruff format --check .",
        "clang-format --dry-run -Werror",
        "bin/mypy",
        'eval "$command"',
        'pytest -n auto -m "slow and not long"',
        "pip install -q 'torch==2.13.0'",
        "pytest -n auto -m pytorch",
    ]
    places = [text.find(step) for step in steps]
    assert -1 not in places and places == sorted(places), dict(zip(steps, places, strict=True))
    assert "index-url" not in text and "://" not in text
    syntax = subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], capture_output=True, text=True, check=False)
    assert syntax.returncode == 0, syntax.stderr


def test_pre_commit_takes_everything_from_the_environment():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (\S+)", text) == ["local"] and "://" not in text
    assert text.count("language: system") == text.count("- id:") == 4


def test_import_is_light():
    code = "import gpucnn, gpucnn.data, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"numba", "sklearn", "matplotlib", "rich", "typer", "safetensors", "PIL", "scipy"}
    assert heavy.isdisjoint(run.stdout.split())


@pytest.mark.parametrize("name", ["losses", "metrics", "optimizers", "schedules", "training", "explain", "show"])
def test_a_module_is_there_before_anything_else_has_imported_it(name):
    code = f"import gpucnn; print(gpucnn.{name}.__name__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"gpucnn.{name}"


def test_readme_example_runs(tmp_path):
    code = README.split("```python")[1].split("```")[0].replace("epochs=10", "epochs=1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "of the test images are recognized" in run.stdout
    assert (tmp_path / "digits.safetensors").is_file()
