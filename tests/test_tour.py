"""The tour: its pages and notebooks are what docs/tour.py makes, in both languages; its commands give its numbers."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

import tour_source.steps
from tests.processes import environment
from tour_source.notebook import notebook
from tour_source.pages import Page, Part, markdown
from tour_source.steps import QUICK, TRAINED

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parent.parent / "docs"
FILES = {"english": "tour", "korean": "tour.ko"}
TEXTS = {language: (DOCS / f"{name}.md").read_text(encoding="utf-8") for language, name in FILES.items()}
TEXT = TEXTS["english"]
PNG = b"\x89PNG\r\n\x1a\n"
COMMAND = re.compile(r"^    (gpucnn .+)$", re.MULTILINE)
PICTURE = re.compile(r"!\[[^]]+\]\(([a-z]+/[a-z0-9-]+\.png)\)")


def compare(page: Page) -> None:
    """What the page has so far is how the files begin; if not, show the missing lines."""
    for language, text in TEXTS.items():
        made = markdown(page.sections[language])
        assert [line for line in made.splitlines() if line not in text.splitlines()] == []
        assert text.startswith(made.rstrip("\n"))


def test_the_whole_tour_is_the_programs(tmp_path):
    page = Page(tmp_path)
    page.make(1 + len(QUICK) + len(TRAINED))
    compare(page)
    pictures = list(tmp_path.iterdir())
    assert pictures
    for picture in pictures:  # it draws what the text shows, or what its commands take
        assert f"(tour/{picture.name})" in TEXT or f" docs/tour/{picture.name} " in TEXT
    for language, name in FILES.items():
        assert markdown(page.sections[language]) == TEXTS[language]
        assert notebook(page.sections[language]) == (DOCS / f"{name}.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "changed"),
    [("DIAGONAL", [[1, -1, -1], [-1, 1, -1], [-1, -1, -1]]), ("BLOCKS", [[32, 10, 11, 17], *[[4, 14, 9, 20]] * 3])],
)
def test_a_changed_number_is_noticed(monkeypatch, name, changed):
    monkeypatch.setattr(tour_source.steps, name, changed)
    page = Page(None)
    page.make(1 + len(QUICK))
    with pytest.raises(AssertionError):
        compare(page)


def test_a_changed_block_is_noticed():
    """Of what a block prints, each character stands in the page."""
    page = Page(None)
    page.make(1 + len(QUICK))
    code = next(i for i, part in enumerate(page.sections["english"][3]) if part.code)
    part = page.sections["english"][3][code]
    page.sections["english"][3][code] = Part(part.text, True, part.output.replace("9.", "8.", 1))
    with pytest.raises(AssertionError):
        compare(page)


def test_the_notebooks_first_cell_may_run_again(monkeypatch):
    """As "Run all" in a kernel that has run it before."""
    for name in ("IPython", "IPython.display"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(Image=None, display=None))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.chdir(DOCS)
    cell = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))["cells"][0]
    names: dict = {}
    for _ in range(2):
        exec("".join(cell["source"]), names)
        assert Path.cwd() == names["folder"] and (names["folder"] / "docs" / "tour").is_dir()
    shutil.rmtree(names["folder"])


# ---- two languages ---------------------------------------------------------------------------------------------------


def described(text: str) -> list[dict]:
    """What must be the same in all languages, heading by heading."""
    result = []
    for section in re.split(r"^(?=##+ )", text, flags=re.MULTILINE):
        blocks = re.findall(r"^```.*?^```$", section, re.MULTILINE | re.DOTALL)
        prose = re.sub(r"^```.*?^```$", "", section, flags=re.MULTILINE | re.DOTALL)
        prose = re.sub(r"\]\([^)]*\)", "]", prose)  # addresses are compared as links and pictures
        result.append(
            {
                "level": len(section) - len(section.lstrip("#")),
                "blocks": blocks,
                "commands": COMMAND.findall(section),
                "pictures": PICTURE.findall(section),
                "numbers": Counter(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?%?", prose)),
                "code": Counter(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)),
            }
        )
    return result


def test_the_languages_say_the_same():
    english, korean = (described(text) for text in TEXTS.values())
    assert len(english) == 1 + len(QUICK) + len(TRAINED)
    for one, other in zip(english, korean, strict=True):
        assert one == other


def test_the_korean_page_is_in_korean():
    prose = re.sub(r"```.*?```|`[^`]*`|^    .*$", "", TEXTS["korean"], flags=re.MULTILINE | re.DOTALL)
    for paragraph in prose.split("\n\n"):
        if re.search(r"[A-Za-z]{3}", paragraph):
            assert re.search(r"[가-힣]", paragraph), paragraph


def test_a_different_number_or_picture_in_one_language_is_noticed():
    for old, new in (("7/9 = 0.7778", "7/9 = 0.7787"), ("tour/match.png", "tour/flip.png"), ("## ", "### ")):
        assert described(TEXT.replace(old, new, 1)) != described(TEXT)


# ---- pictures, commands, notebook ------------------------------------------------------------------------------------


def test_every_picture_is_there_and_small_and_every_file_is_shown():
    shown = {name for name in PICTURE.findall(TEXT) if name.startswith("tour/")}
    shown |= set(re.findall(r"docs/(tour/[a-z-]+\.png)", TEXT))  # what commands take
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
    for line in COMMAND.findall(TEXT):
        words = shlex.split(line)[1:]
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
    for line in COMMAND.findall(TEXT):
        if line != "gpucnn check":
            results[line] = gpucnn(line, tmp_path)

    def of(start: str) -> dict:
        return next(result for line, result in results.items() if line.startswith(f"gpucnn {start}"))

    cross, strokes = of("show match docs/tour/cross"), of("show match docs/tour/colours")
    assert f"scores {cross['score']:g} at" in words and f"({cross['row']}, {cross['column']})" in words
    assert len(cross["scores"]) == 7
    assert f"On the red stroke it scores {strokes['score']:.2f}" in words
    assert f"= {strokes['scores'][1][6]:.2f}. The green stroke scores {strokes['scores'][1][11]:.2f}" in words
    bare, two, padded, total = (
        next(result for line, result in results.items() if line.endswith(end))
        for end in ("--kernel 3", "--stride 2", "--padding 1", "gpucnn summary")
    )
    assert f"has {bare['output'][0]}x{bare['output'][1]} places" in words
    assert f"used {bare['smallest']} time, as part" in words and f"is used {bare['largest']} times" in words
    assert f"{two['output'][0]}x{two['output'][1]} places, 9 instead of 25" in words
    assert f"a corner is used {padded['smallest']} times" in words
    assert f"{total['total']['parameters']:,} weights and biases" in words
    trained, confusion = of("train --shift"), of("show confusion")
    assert f"the hash {trained['weights_sha256'][:16]}... on any machine" in words
    assert f"Of {confusion['images']} it classifies {confusion['right']} correctly" in words
    assert (worst := of("show mistakes")["mistakes"][0]) and f"image {worst['image']}: a {worst['true']}" in words
    maps = of("show maps")
    assert f"it predicts {maps['class']}, with {maps['probability']:.1%}" in words
    page = of("show scores")
    assert f"It finds {page['right']} of the {page['digits']} digits" in words
    assert f"and {len(page['found']) - page['right']} that are none or another" in words


@pytest.fixture
def opened():
    """The notebooks, valid and without output."""
    nbformat = pytest.importorskip("nbformat")
    found = {}
    for language, name in FILES.items():
        found[language] = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
        nbformat.validate(found[language])
        assert not any(cell.get("outputs") for cell in found[language].cells)
    return found


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_have_the_same_code(opened):
    english, korean = ([cell.source for cell in code_of(opened[language])] for language in ("english", "korean"))
    assert english == korean
    commands = [line for source in english for line in re.findall(r"^!(.+)$", source, re.MULTILINE)]
    assert commands == COMMAND.findall(TEXT)


@pytest.mark.long  # its commands are the page's, which a test above runs
def test_the_notebook_runs_and_prints_what_the_page_shows(opened, tmp_path, monkeypatch):
    """Every cell but the longest trainings, in Jupyter's own kernel; a command that fails ends it."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gpucnn").write_text(f'#!/bin/sh\nexec {sys.executable} -m gpucnn "$@"\n')
    (programs / "gpucnn").chmod(0o755)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{programs}:{environment()['PATH']}")
    english, commands = opened["english"], COMMAND.findall(TEXT)
    code = code_of(english)
    for cell in code:
        cell.source = cell.source.replace("digits+parts --epochs 20", "digits+parts --epochs 1")
        cell.source = cell.source.replace("!gpucnn check", "!gpucnn check --help")
        cell.source = re.sub(r"^(!.+)$", r"\1\nassert _exit_code == 0", cell.source, flags=re.MULTILINE)
    client = nbclient.NotebookClient(
        english, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(DOCS)}}
    )
    client.execute()
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in code]
    pages = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert [text for text in printed if text in pages] == pages
    shown = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(shown) == sum("gpucnn show" in command for command in commands)


def test_help_writes_nothing():
    before = (DOCS / "tour.md").stat().st_mtime_ns
    command = [sys.executable, str(DOCS / "tour.py"), "--help"]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert "Rewrite docs/tour.md" in run.stdout
    assert (DOCS / "tour.md").stat().st_mtime_ns == before
