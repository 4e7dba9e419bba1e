"""From a text with Python blocks and {expressions} to the page: its blocks run, their output and all numbers put in."""

import contextlib
import io
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tour_source.steps import QUICK, TRAINED

HERE = Path(__file__).resolve().parent
WIDTHS = {"english": 120, "korean": 75}  # a Korean letter is twice as wide


@dataclass(frozen=True)
class Part:
    """A piece of a page: Markdown text, or a Python block with what it prints."""

    text: str
    code: bool = False
    output: str = ""

    def __str__(self) -> str:
        if not self.code:
            return self.text
        output = f"\n\n```text\n{self.output}```" if self.output else ""
        return f"```python\n{self.text}```{output}"


def wrap(text: str, width: int) -> str:
    """The text with its paragraphs wrapped; blocks, headings, pictures and lists stay as they are."""
    parts = text.strip().split("\n\n")
    return "\n\n".join(p if re.match(r"    |#|!|\d\. ", p) else _paragraph(p, width) for p in parts)


def _paragraph(text: str, width: int) -> str:
    """Its lines; none begins with what Markdown would take for a list or a heading, such as the plus of a sum."""
    return re.sub(r"\n([-+*#>]|\d+\.) ", r" \1\n", textwrap.fill(text, width))


def fill(text: str, names: dict) -> str:
    """The text with each {expression} or {expression:format} replaced by its value."""

    def value(found: re.Match) -> str:
        return format(eval(found[1], names), found[2] or "")

    return re.sub(r"\{([^{}:]+)(?::([^{}]*))?\}", value, text)


class Page:
    """The page in all languages, made section by section: `sections[language]` is a list of lists of parts."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.names: dict = {}
        self.texts = {
            language: re.split(r"^(?=## )", (HERE / f"{language}.txt").read_text(encoding="utf-8"), flags=re.M)
            for language in WIDTHS
        }
        self.sections: dict[str, list[list[Part]]] = {language: [] for language in WIDTHS}
        steps = [None, *QUICK, *TRAINED]
        self.remaining = iter(list(zip(steps, *self.texts.values(), strict=True)))

    def make(self, count: int) -> None:
        """Make the next so many sections: run the English text's Python, then the step, and fill all languages in."""
        for _ in range(count):
            step, *texts = next(self.remaining)
            pieces = [re.split(r"^```python\n(.*?)^```$", text, flags=re.M | re.S) for text in texts]
            outputs = [self._run(code) for code in pieces[0][1::2]]
            if step is not None:
                self.names |= step(self.folder, self.names)
            for (language, width), split in zip(WIDTHS.items(), pieces):
                parts = []
                for i, piece in enumerate(split):
                    if i % 2:
                        parts.append(Part(piece, True, outputs[i // 2]))
                    elif piece.strip():
                        parts.append(Part(wrap(fill(piece, self.names), width)))
                self.sections[language].append(parts)

    def _run(self, code: str) -> str:
        """What the block prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "the tour", "exec"), self.names)
        return printed.getvalue()


def markdown(sections: list[list[Part]]) -> str:
    """The page as Markdown."""
    return "\n\n".join(str(part) for parts in sections for part in parts) + "\n"
