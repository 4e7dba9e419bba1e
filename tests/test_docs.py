"""The documentation: every path in it exists, what it quotes is in the file, its examples run."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gpucnn.check.cases import all_cases
from gpucnn.emulation import why_not
from tests.processes import environment

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "kernels").rglob("*.md")]
)
PAGE = ROOT / "docs" / "adding-an-operation.md"
# A path from the checkout's root, without a sentence's punctuation.
PATH = re.compile(r"(?<![\w./-])((?:gpucnn|kernels|tests|docs|bench|\.ci)/[\w./*-]*\w/?)")


def named(text: str) -> set[str]:
    """All paths from the root that a text names."""
    return set(PATH.findall(text))


def missing(text: str) -> list[str]:
    """Those of them that are not there; a * stands for one or more files."""
    return sorted(path for path in named(text) if not list(ROOT.glob(path.rstrip("/"))))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_exists(page):
    text = page.read_text()
    assert missing(text) == []
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_check_itself_finds_a_missing_path():
    assert missing("in `gpucnn/layers/norm.py`, `docs/none.md` and tests/cuda/.") == ["docs/none.md"]
    assert missing("`kernels/cuda/*.cu`, kernels/*.none") == ["kernels/*.none"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """(the info string after the backticks, text) of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def quoted(block: str, source: str) -> bool:
    """Whether the block's lines are consecutive lines of the source, at any common indentation."""
    expected = textwrap.dedent(block).strip("\n").splitlines()
    lines = source.splitlines()
    for start in range(len(lines) - len(expected) + 1):
        part = textwrap.dedent("\n".join(lines[start : start + len(expected)])).splitlines()
        if [line.rstrip() for line in part] == expected:
            return True
    return False


QUOTES = [(info.split()[1], text) for info, text in blocks(PAGE) if "/" in info]


@pytest.mark.parametrize(("file", "text"), QUOTES, ids=[file for file, _ in QUOTES])
def test_what_is_quoted_is_in_the_file(file, text):
    assert quoted(text, (ROOT / file).read_text()), f"{file} has changed; update the quotation in {PAGE.name}"


def test_the_check_itself_finds_a_wrong_quotation():
    assert len(QUOTES) >= 8
    file, text = QUOTES[-1]
    assert not quoted(text.replace("e", "z"), (ROOT / file).read_text())


def test_the_examples_run(tmp_path):
    """One after the other, as a reader would type them; and the table that is printed is the one on the page."""
    parts = [
        text for info, text in blocks(PAGE) if info == "python" or (info == "python emulated" and why_not() is None)
    ]
    command = [sys.executable, "-c", "\n".join(parts)]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    (table,) = (text for info, text in blocks(PAGE) if info == "text")

    def without_errors(text: str) -> str:
        """The worst errors differ from processor to processor."""
        return re.sub(r"\d\.\de-\d\d", "error", text)

    assert without_errors(table) == without_errors(run.stdout)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_examples_for_kernels_run(tmp_path):
    """With the kernel of the page's second example in the folder that it names."""
    folder = tmp_path / "my_kernels"
    folder.mkdir()
    shutil.copy(ROOT / "kernels" / "cuda" / "common.cuh", folder)
    index = "blockIdx.x * blockDim.x + threadIdx.x"
    kernel = f"__global__ void scale(float* x, float factor) {{ x[{index}] = __fmul_rn(x[{index}], factor); }}"
    (folder / "scale.cu").write_text(f'#include "common.cuh"\ntemplate <int N> {kernel}\n')
    examples = [text for info, text in blocks(ROOT / "docs" / "debugging-kernels.md") if info == "python"]
    program = "\n".join([*examples[:2], "assert (x == 2).all()"])  # the third needs NVRTC
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_your_own_runs(tmp_path):
    """docs/your-own.md from top to bottom, as a reader would type it."""
    text = "\n".join(text for info, text in blocks(ROOT / "docs" / "your-own.md") if info == "python")
    command = [sys.executable, "-c", text]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "passed: relative errors" in run.stdout
    assert "not recorded" not in run.stderr  # what is the reader's own runs anew within a recorded step
    assert "launched one by one" not in run.stderr


def test_tables_of_files_have_them_all():
    table = (ROOT / "kernels" / "cuda" / "README.md").read_text()
    assert [path.name for path in (ROOT / "kernels" / "cuda").glob("*.cu*") if f"| `{path.name}` |" not in table] == []
    table = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [path.parent.name for path in (ROOT / "gpucnn").glob("*/__init__.py")]
    assert len(packages) > 10 and [name for name in packages if f"`gpucnn/{name}`" not in table] == []


def test_the_table_of_operations_has_them_all():
    """Made by `python tests/operations_table.py`; an operation that was never compared must not hide."""
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert sorted(rows) == sorted({case.operation for case in all_cases()})
    assert "differ" not in text.split("| operation")[1]
