"""Where pictures go, and the test of readability itself."""

import os
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.font_manager import fontManager

from gpucnn import figures
from gpucnn.errors import ConfigurationError, DataError
from tests.show.readable import unreadable


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        figure = figures.new_figure(3, 2)
        figure.subplots().plot([1, 3, 2])
        figures.save(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png"]


def _written(**texts) -> bytes:
    figure = figures.new_figure(3, 2)
    axes = figure.subplots()
    axes.set(**texts)
    return figures.png(figure)


def test_a_dollar_sign_begins_no_formula():
    """The same letters in a picture whose texts Matplotlib is told to take as they are."""
    texts = {"title": "$5$ or $x_$", "xlabel": r"$\q$", "xticks": [0, 1], "xticklabels": ["$10", "20$"]}
    with matplotlib.rc_context({"text.parse_math": False}):
        plain = _written(**texts)
    assert _written(**texts) == plain
    assert _written(yscale="log", ylim=(1, 100)) != _written(ylim=(1, 100)), "and powers of ten stay powers"


def test_names_that_are_no_utf8():
    """Python keeps such bytes of a file's name as halves of a surrogate pair."""
    assert _written(title=os.fsdecode(b"\xe4.png")) == _written(title="\ufffd.png")


def test_a_letter_that_no_font_has_is_a_box_and_no_warning(recwarn):
    assert _written(title="\U0001f351\U00012000") != _written(title="")
    assert not recwarn.list


def test_letters_that_the_usual_font_lacks(monkeypatch):
    """A class called 개 is no box, where a font is installed that has it; beside it stay the usual letters."""
    fonts = [font for font in fontManager.ttflist if "Nanum" not in font.name or font.name == "NanumGothic"]
    if all(font.name != "NanumGothic" for font in fonts):
        pytest.skip("no Korean font here")
    monkeypatch.setattr(fontManager, "ttflist", fonts)
    monkeypatch.setattr(figures, "_fonts_with", figures._fonts_with.__wrapped__)  # what was found before is not asked
    with matplotlib.rc_context({"font.family": ["sans-serif", "NanumGothic"]}):
        plain = _written(title="개 or dog")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib's, of a letter without a picture
        assert _written(title="개 or dog") == plain
    assert _written(title="dog") != plain


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("picture.jpg", "must end in .png"),
        ("picture", "must end in .png"),
        ("missing/picture.png", "there is no folder missing"),
        ("folder.png", "it is a folder"),
    ],
)
def test_paths_that_can_hold_no_picture(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigurationError, match=words):
        figures.check_path(path)


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ConfigurationError, match="nothing may be written"):
        figures.check_path(tmp_path / "a.png")


def test_an_upper_case_ending_is_one(tmp_path):
    assert figures.check_path(tmp_path / "A.PNG").name == "A.PNG"


def test_values_that_have_no_color():
    values = np.zeros((2, 3))
    values[1, 2] = np.inf
    with pytest.raises(DataError, match=r"1 values that are NaN or infinite, the first at \(1, 2\)"):
        figures.check_finite("the filters", values)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-1.0, "\N{MINUS SIGN}1"), (7 / 9, "0.78"), (-0.111, "\N{MINUS SIGN}0.11"), (12.0, "12")],
)
def test_numbers_in_cells(value, text):
    assert figures.number(value) == text


def test_the_readability_test_notices():
    figure = figures.new_figure(3, 2, layout=None)
    figure.text(0.3, 0.5, "one word")
    assert unreadable(figure) == []
    figure.text(0.35, 0.52, "another")
    assert unreadable(figure) == ["'one word' overlaps 'another'"]
    figure.text(0.95, 0.1, "too far to the right")
    assert unreadable(figure)[0] == "'too far to the right' is cut off"
