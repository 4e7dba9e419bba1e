"""Makes the tour, its pages, pictures and notebooks: python docs/tour.py

Takes about a minute on two cores. docs/tour_source/ has the texts and what is computed for them; tests/test_tour.py
runs it and compares.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from tour_source.notebook import notebook
from tour_source.pages import Page, markdown
from tour_source.steps import QUICK, TRAINED

HERE = Path(__file__).resolve().parent
FILES = {"english": "tour", "korean": "tour.ko"}


def shrink(picture: Path) -> None:
    """Reduce a picture to 256 colors: a third of the size, and no visible difference."""
    with Image.open(picture) as opened:
        small = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> None:
    """Write the pages, the notebooks and the pictures."""
    argparse.ArgumentParser(
        description="Rewrite docs/tour.md, docs/tour.ko.md, their notebooks and the pictures in docs/tour/."
    ).parse_args()
    folder = HERE / "tour"
    folder.mkdir(exist_ok=True)
    page = Page(folder)
    page.make(1 + len(QUICK))
    print("training LeNet-5", file=sys.stderr)
    page.make(len(TRAINED))
    for picture in folder.glob("*.png"):
        shrink(picture)
    for language, name in FILES.items():
        sections = page.sections[language]
        (HERE / f"{name}.md").write_text(markdown(sections), encoding="utf-8")
        (HERE / f"{name}.ipynb").write_text(notebook(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
