"""The tour as a Jupyter notebook: Python blocks and commands become cells, without their output."""

import json
import re

from tour_source.pages import Part

# Commands write into a folder of their own, in which docs/tour/ is what it is in the checkout.
SETUP = """import os
import shutil
import sys
import tempfile
from pathlib import Path

from IPython.display import Image, display

if "folder" not in globals():  # this cell may run again
    folder = Path(tempfile.mkdtemp(prefix="tour-"))
    shutil.copytree("tour", folder / "docs" / "tour")
    os.chdir(folder)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
"""


def notebook(sections: list[list[Part]]) -> str:
    """The notebook's JSON (nbformat 4.5)."""
    cells = [("code", SETUP)]
    for parts in sections:
        for part in parts:
            if part.code:
                cells.append(("code", part.text))
                continue
            for piece in re.split(r"((?:^    gpucnn .*\n?)+)", part.text, flags=re.M):
                if piece.startswith("    gpucnn "):
                    cells.append(("code", "\n".join(map(_cell, piece.split("\n    ")))))
                elif piece.strip():
                    cells.append(("markdown", piece))
    content = {
        "cells": [_as_json(number, kind, text.strip()) for number, (kind, text) in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(command: str) -> str:
    """A line of a cell that runs the command and displays the picture that it draws."""
    command = command.strip()
    picture = re.match(r"gpucnn show ([a-z-]+)", command)
    return f"!{command}" + (f'\ndisplay(Image("{picture[1]}.png"))' if picture else "")


def _as_json(number: int, kind: str, text: str) -> dict:
    cell = {"cell_type": kind, "id": f"tour-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
