"""Running a few lines of Python in a separate process, in this checkout or in an edited copy of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gpucnn.kernels

import gpucnn

PACKAGE = Path(gpucnn.__file__).parent


def environment(root: Path | None = None, **settings: str) -> dict[str, str]:
    """This process's environment with the package findable under `root` (None: the one under test) and `settings`."""
    paths = [str(root or PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), **settings}


def start(code: str, root: Path | None = None, **settings: str) -> subprocess.Popen:
    """Python running `code` with these environment variables, in the folder that holds the package."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    folder = root or PACKAGE.parent  # python -c looks there first
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment(root, **settings), **pipes)


def finish(process: subprocess.Popen, timeout: float = 600):
    """The JSON that it printed last; AssertionError with its stderr if it failed."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"exit code {process.returncode}: {err[-3000:]}"
    return json.loads(out.splitlines()[-1])


def checkout(folder: Path, edits: dict[str, tuple[str, str]] | None = None) -> Path:
    """A copy of the package and its kernels as a bare checkout; `edits` maps a file to (old text, new text).

    AssertionError if a file does not hold the old text: the edit would be none.
    """
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "gpucnn", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copytree(Path(gpucnn.kernels.__file__).parent, folder / "kernels", ignore=skip)
    for name, (old, new) in (edits or {}).items():
        text = (folder / name).read_text()
        assert old in text, f"{name} no longer contains {old!r}: update the edit"
        (folder / name).write_text(text.replace(old, new))
    return folder
