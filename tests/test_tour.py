"""docs/tour.md contains the text that docs/tour.py computes, and shows pictures that exist."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = (DOCS / "tour.md").read_text(encoding="utf-8")
PNG = b"\x89PNG\r\n\x1a\n"


def program():
    spec = importlib.util.spec_from_file_location("tour", DOCS / "tour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tour = program()


def says(text: str) -> None:
    """Assert that the text is in tour.md, and if not, show the missing lines."""
    missing = [line for line in tour.lines(text).splitlines() if line not in TEXT.splitlines()]
    assert missing == []
    assert tour.lines(text) in TEXT


@pytest.mark.parametrize("step", tour.QUICK, ids=lambda step: step.__name__)
def test_the_text_of_the_quick_steps_is_the_programs(step, tmp_path):
    says(tour.HEAD)
    says(step(tmp_path))
    for picture in tmp_path.iterdir():  # and it draws what the text shows, or what its command takes
        assert f"(tour/{picture.name})" in TEXT or f" docs/tour/{picture.name} " in TEXT


@pytest.mark.slow
def test_the_text_of_the_trained_steps_is_the_programs():
    learned = tour.Learned()
    for step in tour.TRAINED:
        says(step(None, learned))


def test_a_changed_number_is_noticed(monkeypatch):
    monkeypatch.setattr(tour, "DIAGONAL", [[1, -1, -1], [-1, 1, -1], [-1, -1, -1]])
    with pytest.raises(AssertionError):
        says(tour.pattern(None))


def test_every_picture_is_there_and_small_and_every_file_is_shown():
    shown = set(re.findall(r"!\[[^]]+\]\((tour/[a-z0-9-]+\.png)\)", TEXT))
    shown |= set(re.findall(r"docs/(tour/[a-z]+\.png)", TEXT))  # what commands take
    files = {f"tour/{file.name}" for file in (DOCS / "tour").iterdir()}
    assert shown == files
    for name in shown:
        content = (DOCS / name).read_bytes()
        assert content.startswith(PNG)
        assert len(content) < 100_000


def test_the_commands_that_it_names_exist():
    from typer.main import get_command

    from gpucnn.cli import app

    group = get_command(app)
    for line in re.findall(r"^    gpucnn (.+)$", TEXT, re.MULTILINE):
        words = line.split()
        command = group.commands[words[0]]
        if words[0] == "show":
            command = command.commands[words[1]]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def gpucnn(line: str, folder: Path) -> dict:
    """The JSON object of a command of the tour, typed in `folder`."""
    command = [sys.executable, "-m", "gpucnn", *shlex.split(line)[1:], "--json"]
    run = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_its_commands_give_its_numbers(tmp_path):
    """All of them, in their order, typed in one folder."""
    (tmp_path / "docs").symlink_to(DOCS)
    words, results = " ".join(TEXT.split()), {}
    for line in re.findall(r"^    (gpucnn .+)$", TEXT, re.MULTILINE):
        if line != "gpucnn check":
            results[line] = gpucnn(line, tmp_path)

    def of(start: str) -> dict:
        return next(result for line, result in results.items() if line.startswith(f"gpucnn {start}"))

    cross = of("show match")
    assert f"scores {cross['score']:g} at" in words and f"({cross['row']}, {cross['column']})" in words
    assert len(cross["scores"]) == 7
    one, two, padded = (
        next(result for line, result in results.items() if line.endswith(end))
        for end in ("--stride 2", "--padding 1", "gpucnn summary")
    )
    assert f"{one['output'][0]}x{one['output'][1]} places, 9 instead of 25" in words
    assert f"a corner is used {two['smallest']} times" in words
    assert f"{padded['total']['parameters']:,} weights and biases" in words
    trained, confusion = of("train --shift"), of("show confusion")
    assert f"the hash {trained['weights_sha256'][:16]}... on any machine" in words
    assert f"Of {confusion['images']} it classifies {confusion['right']} correctly" in words
    assert (worst := of("show mistakes")["mistakes"][0]) and f"image {worst['image']}: a {worst['true']}" in words
    maps = of("show maps")
    assert f"it predicts {maps['class']}, with {maps['probability']:.1%}" in words
    page = of("show scores")
    assert f"It finds {page['right']} of the {page['digits']} digits" in words
    assert f"and {len(page['found']) - page['right']} that are none or another" in words


def test_help_writes_nothing():
    before = (DOCS / "tour.md").stat().st_mtime_ns
    command = [sys.executable, str(DOCS / "tour.py"), "--help"]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert "Rewrite docs/tour.md" in run.stdout
    assert (DOCS / "tour.md").stat().st_mtime_ns == before
