"""Whether the text in a picture is readable."""

import io
import itertools

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def visible_words(figure):
    """(text, box) of all text, in pixels: titles, labels, numbers at the axes, text in them, legends."""
    texts = list(figure.texts) + [text for legend in figure.legends for text in _legend(legend)]
    if figure._suptitle is not None and figure._suptitle not in texts:
        texts.append(figure._suptitle)
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        texts += [*axes.texts, axes.title, axes._left_title, axes._right_title]
        texts += _legend(axes.get_legend()) if axes.get_legend() else []
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                texts += [axis.label, *(t for tick in axis._update_ticks() for t in (tick.label1, tick.label2))]
    renderer = figure.canvas.get_renderer()
    for text in texts:
        if text.get_visible() and text.get_text().strip():
            yield text.get_text(), text.get_window_extent(renderer)


def _legend(legend):
    return [*legend.get_texts(), legend.get_title()]


def unreadable(figure) -> list[str]:
    """Words that overlap others or reach beyond the picture."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    words = list(visible_words(figure))
    faults = [f"{t!r} is cut off" for t, b in words if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    for (a, first), (b, second) in itertools.combinations(words, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        if wide > 1.5 and high > 1.5:
            faults.append(f"{a!r} overlaps {b!r}")
    return faults


class Drawn:
    """The pictures written: `figure`, the last one, and `check`, that it is complete and readable."""

    def __init__(self):
        self.figure = None

    def check(self, path, words: bool = True) -> Image.Image:
        content = path.read_bytes()
        assert content.startswith(PNG)
        assert [file.name for file in path.parent.iterdir() if file.name.endswith(".tmp")] == []
        if words:
            assert unreadable(self.figure) == []
        picture = Image.open(io.BytesIO(content))
        picture.load()
        return picture.convert("RGB")
