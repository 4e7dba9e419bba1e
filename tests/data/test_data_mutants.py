"""A wrong line is noticed: each change below, made to a module's source, must make a test of this folder fail."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from gpucnn.data import drawing, parts, tables
from tests.data import test_drawing, test_parts, test_tables

CHANGES = [
    (drawing, "np.quantile(off, _EVEN)", "np.quantile(off, 0.98)", "light_of_a_photo"),
    (drawing, "departure = drawing - surface @ weights", "departure = drawing - _paper(drawing)", "light_of_a_photo"),
    (drawing, "- max(4 * grain, _FAINT), 0)", "- _FAINT, 0)", "light_of_a_photo"),
    (drawing, "_stroke(part)) / 2))", "_stroke(part)) / 8))", "thin_pen"),
    (drawing, "return 2 * float(ink.sum() / outline)", "return float(ink.sum() / outline)", "thin_pen"),
    (drawing, "abs(box.longest - self.longest) <= _ALIKE * self.longest", "True", "looks_like"),
    (drawing, "if not _repeats(grey[None], self.block):", "if False:", "looks_like"),
    (drawing, "!= (self.paper > middle)", "!= (self.paper >= -1)", "other_ink"),
    (drawing, "self.blank >= _BLANK and ", "", "other_ink"),
    (drawing, " and self.moved <= _STEADY", "", "colours_and_places"),
    (drawing, " and self.coloured <= _FEW", "", "colours_and_places"),
    (parts, "size // 8 + 1, (len(some), 2)", "size // 2 + 1, (len(some), 2)", "where_each"),
    (parts, ">= size * _FAR).any(axis=1)", ">= 0).any(axis=1)", "where_each"),
    (parts, "(far, len(dataset.classes))", "(far, dataset.labels[some])", "where_each"),
    (tables, "column = _label_column(names, file) if names else 0", "column = 0", "csv_is_read"),
    (tables, "skiprows=skipped", "skiprows=1", "csv_is_read"),
    (tables, "values = values / np.float32(255)", "pass", "csv_is_read"),
    (tables, "for c in (1, 3) if", "for c in (1,) if", "colour"),
    (tables, "and values.min() >= 0", "", "negative"),
]
TESTS = {drawing: (test_drawing, "Style"), parts: (test_parts, "with_parts"), tables: (tables, "load")}


def changed(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """The module with one piece of its source changed."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant_of_data", loader=None))
    sys.modules[made.__name__] = made  # dataclasses look their module up
    exec(compile(source.replace(old, new), module.__file__, "exec"), made.__dict__)
    return made


def comparisons(which: str, folder: Path) -> None:
    """What must hold, for the change at hand."""
    if which == "light_of_a_photo":
        for share in (0.05, 0.25):
            test_drawing.test_the_light_of_a_photo_is_no_ink(share)
    elif which == "thin_pen":
        for wide in (2, 5, 12):
            test_drawing.test_a_thin_pen_is_widened_to_that_of_the_training_images(wide)
    elif which == "looks_like":
        test_drawing.test_what_looks_like_a_training_image_is_known()
    elif which == "other_ink":
        test_drawing.test_other_ink_than_the_training_images_is_said()
    elif which == "colours_and_places":
        test_drawing.test_colours_and_places_that_tell_something_are_kept(folder)
    elif which == "where_each":
        test_parts.test_where_each_window_lies()
    elif which == "csv_is_read":
        for number, settings in enumerate(({}, {"column": 16}, {"header": False})):
            (folder / str(number)).mkdir(parents=True)
            test_tables.test_a_csv_is_read(folder / str(number), settings, False)
    elif which == "colour":
        test_tables.test_colour_and_numbers_that_are_no_bytes(folder)
    else:
        test_tables.test_whole_numbers_that_are_no_bytes(folder)


@pytest.mark.parametrize("which", sorted({change[3] for change in CHANGES}))
def test_the_comparisons_hold(which, tmp_path):
    comparisons(which, tmp_path)


@pytest.mark.parametrize(("module", "old", "new", "which"), CHANGES, ids=[change[2] for change in CHANGES])
def test_a_wrong_line_is_noticed(monkeypatch, tmp_path, module, old, new, which):
    where, name = TESTS[module]
    monkeypatch.setattr(where, name, getattr(changed(module, old, new), name))
    with pytest.raises((AssertionError, ValueError, IndexError)):
        comparisons(which, tmp_path)
