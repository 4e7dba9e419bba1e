"""What the tests of pictures share: the figure behind a picture."""

import warnings

import pytest

from gpucnn import figures
from tests.show.readable import Drawn


@pytest.fixture
def drawn(monkeypatch):
    """A Drawn that sees every figure; Matplotlib's warnings, of a layout that does not fit for one, are errors."""
    result, original = Drawn(), figures.png

    def png(figure, dpi=figures.DPI):
        result.figure = figure
        return original(figure, dpi)

    monkeypatch.setattr(figures, "png", png)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield result
