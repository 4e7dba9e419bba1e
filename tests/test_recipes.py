"""docs/recipes.md: each recipe runs, its blocks in their order, in an empty folder of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
# The text under each heading of the second level.
RECIPES = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path) -> dict[str, str]:
    """The environment of a shell in which `gpucnn` and `python` are those under test."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("gpucnn", " -m gpucnn"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{module} "$@"\n')
        (programs / name).chmod(0o755)
    settings = environment()
    return {**settings, "PATH": f"{programs}:{settings['PATH']}"}


@pytest.mark.parametrize(("heading", "text"), RECIPES, ids=[heading for heading, _ in RECIPES])
def test_a_recipe_runs(heading, text, shell, tmp_path):
    found, empty = blocks(text), tmp_path / "empty"
    empty.mkdir()
    assert found, "a recipe without anything to run"
    for language, code in found:
        command = {"python": [sys.executable, "-c", code], "sh": ["sh", "-e", "-c", code]}[language]
        run = subprocess.run(command, cwd=empty, env=shell, capture_output=True, text=True, timeout=600, check=False)
        assert run.returncode == 0, f"{code}\n{run.stdout}\n{run.stderr}"


def test_no_heading_occurs_twice():
    headings = [heading for heading, _ in RECIPES]
    assert len(headings) == len(set(headings)) > 0
