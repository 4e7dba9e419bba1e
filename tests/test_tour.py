"""docs/tour.md contains the text that docs/tour.py computes, and shows pictures that exist."""

import importlib.util
import re
from pathlib import Path

import pytest

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
    for picture in tmp_path.iterdir():  # and it draws what the text shows
        assert f"(tour/{picture.name})" in TEXT


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
